"""The command line of the benchmarks: `python -m benchmarks NAME`."""

import sys
from importlib import import_module

import click

from cgan.command import run_command

COMMANDS = {
    "ablation": "Experiments of the original report, each a run of cgan-train.",
    "codec": "CPU time of colouring one photo against its JPEG codec alone.",
    "color-photos": "Error rates of telling colour photos from toned gray ones, by threshold.",
    "folder": "Speed of folder runs against a bare ONNX Runtime loop and other ways to colour a folder.",
    "gates": "Exports that the gates of `cgan-infer parity` pass, and spoiled ones that they catch.",
    "int8": "Accuracy and speed of int8 models by their float convolutions and calibration photos.",
    "latency": "Latency and accuracy of models by backend and batch size.",
    "parity": "Time of `cgan-infer parity --no-fid` against the inference runs that it contains.",
    "quality": "Colour quality of models on photos that they were not trained on.",
    "scale": "Time and memory of planning, of an idle rerun and of merging shards at very many names.",
    "serve": "The server under load and against a folder run: right answers, memory, its end in the middle, and speed.",
    "sharing": "Speed of one folder run, of two shards at once and of two actors of a Ray cluster on one machine.",
    "stress": "Folder runs under stress: memory, kills, files of a user, hostile files, a large photo.",
    "training": "Speed of the training step against the same step with the padding and concatenation of torch.",
}
"""One line for each command. It is also the first line of the docstring of the command's module."""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called: `--help` needs no numpy and no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"benchmarks.{cmd_name.replace('-', '_')}").main
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """Measure speed, quality and reliability. `python -m benchmarks NAME --help` describes one benchmark."""


def main(arguments: list[str] | None = None) -> None:
    """Run a benchmark as a program: it prints, writes its record and exits."""
    run_command(group, arguments, "python -m benchmarks")


if __name__ == "__main__":
    main(sys.argv[1:])
