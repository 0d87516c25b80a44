"""The command cgan-train. For a new run, heavy packages are imported after the options are checked."""

import math
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from cgan.command import run_command
from cgan.config import TrainConfig, options
from cgan.errors import UserError
from cgan.extras import needed
from cgan.progress import Progress
from cgan.text import counted, print_json, say

if TYPE_CHECKING:
    from cgan.metrics.features import FeatureNetwork
    from cgan.networks import Generator
    from cgan.training.distributed import World

FEW_PHOTOS = 10
"""With fewer held-out photos, a note says that their figures are unreliable."""

F = TypeVar("F", bound=Callable[..., Any])


def _config_options(function: F) -> F:
    """Add an option for each field that TrainConfig describes, with its default, choices and bounds."""
    for option in reversed(options()):
        names = f"{option.flag}/--no-{option.flag[2:]}" if isinstance(option.default, bool) else option.flag
        function = click.option(
            names,
            option.name,
            default=option.default,
            show_default=True,
            type=click.Choice(option.choices) if option.choices else None,
            help=option.help,
        )(function)
    return function


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@_config_options
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Begin with the generator of this run, checkpoint or exported fp32 .onnx instead of random weights.",
)
@click.option(
    "--inception-weights",
    type=click.Path(path_type=Path),
    help="Inception v3 state dict for FID and KID; default: the one in torch's hub cache.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in --out after its last finished epoch, with its options; only --epochs may differ.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved configuration and the memory that it needs; write nothing."
)
@click.option("--quiet", is_flag=True, help="Print only warnings and errors.")
@click.version_option(package_name="cgan")
def command(
    data: str,
    out: Path,
    init: Path | None,
    inception_weights: Path | None,
    resume: bool,
    dry_run: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Train the colouring GAN on the photos in the folder DATA and its subfolders.

    DATA can also be flowers102, the data set of that name, which torchvision downloads. Under torchrun all processes
    train one model together.
    """
    if not resume:
        TrainConfig(**values)  # errors in the options are reported before slow imports
    with needed("training", "train"):
        import matplotlib  # noqa: F401  # needed at the end of an epoch: report now if they are missing
        import tensorboard  # noqa: F401

        from cgan.metrics.features import load_inception
        from cgan.training import distributed, run_folder
        from cgan.training.memory import check_memory
        from cgan.training.run_state import begin_with
    config = TrainConfig(**(run_folder.RunFolder(out).resumed(_given(values)) if resume else values))
    if inception_weights and not config.fid:
        raise UserError(f"--inception-weights {inception_weights}: it has no effect without FID; leave it out")
    config = _resolved(config, resume)
    memory = check_memory(config)
    config, start = begin_with(config, init)
    if init is not None and init.is_dir() and not quiet:
        say(f"--init {init}: {_checkpoint(init)}")
    features = load_inception(inception_weights) if config.fid else None
    try:
        with (
            distributed.joined(config.device) as world,
            _TrainingProgress(config.epochs, quiet or not world.main) as progress,
        ):
            _train(data, out, config, start, features, world, progress, resume, memory if dry_run else None)
    except KeyboardInterrupt:
        world = distributed.this_process()
        if world.main:
            say(f"interrupted; {_how_to_go_on(data, out, init, inception_weights, world.size)}")
        sys.exit(130)


def _checkpoint(run: Path) -> str:
    """Describe the checkpoint that stands for a run."""
    from cgan.checkpoint_record import described
    from cgan.training.checkpoint import load_checkpoint

    record = load_checkpoint(run).record
    return "; ".join(filter(None, (described(record.to_json()), record.note)))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the options that the command line names."""
    context = click.get_current_context()
    return {
        name: value for name, value in values.items() if context.get_parameter_source(name) != ParameterSource.DEFAULT
    }


def _resolved(config: TrainConfig, resume: bool) -> TrainConfig:
    """Return the configuration for this machine; a resumed run has one already, which may not suit the machine."""
    from cgan.training.run_state import resolve

    try:
        return resolve(config)
    except UserError as error:
        if not resume:
            raise
        raise UserError(
            f"--resume: the run computes on {config.device} in {config.precision}, which this machine does not "
            "support; resume it where it began, or begin a new run with --init"
        ) from error


def _how_to_go_on(data: str, out: Path, init: Path | None, inception_weights: Path | None, processes: int) -> str:
    """Return advice after Ctrl-C, with --init and --inception-weights, which a resumed run may need again."""
    if not (out / "config.json").exists():
        return "the run has not begun; give the same command again"
    options = {"--init": init, "--inception-weights": inception_weights}
    given = [part for name, value in options.items() if value for part in (name, str(value))]
    under = "" if processes == 1 else f", under torchrun with {processes} processes again"
    return f"go on with {shlex.join(['cgan-train', data, '--out', str(out), '--resume', *given])}{under}"


def _train(
    data: str,
    out: Path,
    config: TrainConfig,
    start: "Generator | None",
    features: "FeatureNetwork | None",
    world: "World",
    progress: "_TrainingProgress",
    resume: bool,
    dry_run: dict[str, Any] | None,
) -> None:
    """Prepare the photos and train, in each process of the world; the options are checked already.

    With `dry_run`, the estimate of the memory, only print the configuration.
    """
    from cgan.data import download, prepared
    from cgan.data.scan import scan
    from cgan.training import loop as training
    from cgan.training.run_folder import RunFolder

    run_folder = RunFolder(out)
    if not resume and world.main:
        run_folder.check_free()
    if dry_run is not None:
        folder, count = download.planned_folder(data)
        if world.main:
            plan = {"folder": str(folder), "photos": count, "out": str(out), "memory_bytes": dry_run}
            print_json({**plan, **config.to_json()})
            if count is None:
                progress.say(f"note: {data} is missing; a run downloads it into {folder.parent}")
        return
    with world.main_of_machine_first():
        folder = download.source_folder(data)
        paths = scan(folder)
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--out {out}: found it inside {folder}, where samples would be taken for photos; choose another"
            )
        photos = prepared.prepare(folder, config.size, progress=progress.prepared, paths=paths)
    if photos.note:
        say(f"warning: {photos.note}")
    if world.main:
        for name, reason in photos.unreadable.items():
            say(f"warning: passed over {name}: {reason}")
        if photos.near_gray:
            say(f"warning: {len(photos.near_gray)} of {counted(len(photos.names), 'photo')} are near gray")
    with run_folder.locked() if world.main else nullcontext():
        run = training.setup(out, config, photos, resume, world, start)
        parts = run.split
        progress.say(
            f"training on {counted(len(parts.train), 'photo')}, {len(parts.test)} held out; {config.device}, "
            f"{config.precision}" + (f", {world.size} processes" if world.size > 1 else "")
        )
        if len(parts.test) < FEW_PHOTOS and not resume:
            progress.say(
                f"note: figures of {counted(len(parts.test), 'held-out photo')} are unreliable, and so is the best "
                "epoch; raise --test-fraction"
            )
        training.fit(run, features, progress.step, progress.epoch_done)
        progress.say(f"done: {out} holds {counted(len(run.history), 'epoch')}")


class _TrainingProgress:
    """Progress of a training run, and a line after each epoch."""

    def __init__(self, epochs: int, quiet: bool) -> None:
        self.epochs = epochs
        self.quiet = quiet
        self._progress = Progress(quiet)

    def __enter__(self) -> "_TrainingProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()

    def say(self, line: str) -> None:
        """Print a line to standard error, unless --quiet."""
        if not self.quiet:
            self._progress.close()
            say(line)

    def prepared(self, done: int, total: int) -> None:
        """Show how many photos are decoded into the cache."""
        label = "preparing photos"
        self._progress.update(done, total, f"{label}  {done}/{total}", label)

    def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
        """Show how far an epoch is, and its mean losses."""
        label = f"epoch {epoch}/{self.epochs}"
        text = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        beside = {name: f"{value:.3f}" for name, value in losses.items()}
        self._progress.update(done, total, f"{label}  {done}/{total}  {text}", label, beside)

    def epoch_done(self, metrics: dict[str, Any]) -> None:
        """Print the line that stays after an epoch."""
        found = metrics.get("test_fid") or metrics.get("test_frechet_distance")
        fid = f"  {found['metric']} {found['value']:.2f}" if found else ""
        accuracy = metrics.get("test_discriminator_accuracy")
        discriminator = "" if accuracy is None else f"discriminator accuracy {accuracy:.0%}"
        shares = ", ".join(f"{name} {share:.0%}" for name, share in metrics["time_shares"].items())
        self.say(
            f"epoch {metrics['epoch']}/{self.epochs}  {metrics['images_per_second']:.1f} images/s  "
            f"L1 {metrics['train_l1']:.4f} (held out {metrics['test_l1']:.4f})  "
            f"PSNR {_decibels(metrics['test_psnr'])} (gray {_decibels(metrics['test_gray_psnr'])})  "
            f"colourfulness {metrics['test_colorfulness']:.1f} (real {metrics['test_real_colorfulness']:.1f})  "
            f"{discriminator}{fid}  time: {shares}"
        )


def _decibels(psnr: float) -> str:
    """Return a PSNR as text; equal pictures have no finite one."""
    return f"{psnr:.2f} dB" if math.isfinite(psnr) else "none"


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-train."""
    run_command(command, arguments, "cgan-train")
