"""The command cgan-train. For a new run, heavy packages are imported after the options are checked."""

import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from cgan.checkpoint_record import best_epoch
from cgan.command import run_command
from cgan.config import RECIPES, TrainConfig, flag, options
from cgan.data.download import FLOWERS102
from cgan.data.scan import check_folder
from cgan.documents import check_document, write_document
from cgan.errors import UserError
from cgan.extras import needed
from cgan.options_file import config_option, is_options, options_toml
from cgan.packaged import model_path
from cgan.text import counted, print_json, say
from cgan.training.console import TrainingConsole

if TYPE_CHECKING:
    from cgan.data.prepared import Photos
    from cgan.metrics.features import FeatureNetwork
    from cgan.training.distributed import World
    from cgan.training.run_state import Run, Start
    from cgan.training.trackers import Tracker

TRACKER_CHOICES = ("tensorboard", "mlflow", "wandb")

NOT_WRITTEN = frozenset({"resume", "dry_run", "write_config", "quiet"})
"""Options that --write-config leaves out: they say what to do now, not how to train."""

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
    metavar="MODEL",
    help="Begin with the generator of this run, checkpoint, exported fp32 .onnx or packaged model (flowers) instead of "
    "random weights, and take its colour space, width, blocks, blur and size.",
)
@click.option(
    "--inception-weights",
    type=click.Path(path_type=Path),
    help="Inception v3 state dict for FID and KID; default: the one in torch's hub cache.",
)
@click.option(
    "--track",
    multiple=True,
    type=click.Choice(TRACKER_CHOICES),
    default=["tensorboard"],
    show_default=True,
    help="Record the epochs in RUN/tensorboard, MLflow or Weights & Biases; repeatable.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in --out after its last finished epoch, with its options; only --epochs may differ.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved configuration and the memory that it needs; write nothing."
)
@click.option(
    "--write-config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Write the options of this command to FILE.toml, for --config, and train nothing.",
)
@config_option
@click.option("--quiet", is_flag=True, help="Print only warnings and errors.")
@click.version_option(package_name="cgan")
def command(
    data: str,
    out: Path,
    init: str | None,
    inception_weights: Path | None,
    track: tuple[str, ...],
    resume: bool,
    dry_run: bool,
    write_config: Path | None,
    quiet: bool,
    **values: Any,
) -> None:
    """Train the colouring GAN on the photos in the folder DATA and its subfolders.

    DATA can also be flowers102, the data set of that name, which torchvision downloads. Under torchrun all processes
    train one model together.
    """
    recipe = {} if resume else _recipe(values)
    if not resume and init is None:
        TrainConfig(**values | recipe)  # errors in the options are reported before slow imports
    source = _checked_source(data, init, write_config)
    with needed("training", "train"):
        import matplotlib  # noqa: F401  # needed at the end of an epoch: report now if they are missing
        import tensorboard  # noqa: F401

        from cgan.metrics.features import load_features
        from cgan.training import distributed, run_folder
        from cgan.training.memory import check_memory
        from cgan.training.run_state import load_start, with_frozen_weights
        from cgan.training.trackers import TRACKERS
    trackers = {name: TRACKERS[name]() for name in dict.fromkeys(track) if name in TRACKERS}
    start = load_start(source, init or "") if source else None
    adopted = start.adopted(_given(values)) if start and not resume else {}
    made = {"init_sha256": start.sha256} if start else {}
    resumed = run_folder.RunFolder(out).resumed(_given(values) | made) if resume else None
    config = TrainConfig(**(resumed or values | recipe | adopted | made))
    if inception_weights and not config.fid:
        raise UserError(f"--inception-weights {inception_weights}: it has no effect without FID; leave it out")
    if write_config:
        _write_config(write_config, config, quiet)
        return
    config = with_frozen_weights(_resolved(config, resume))
    memory = check_memory(config)
    features = load_features(inception_weights, config.features) if config.fid else None
    try:
        with (
            distributed.joined(config.device) as world,
            TrainingConsole(config.epochs, quiet or not world.main) as console,
        ):
            if source:
                console.say(f"--init {init}: {_taken(source, adopted)}")
            if recipe:
                console.say(f"--discriminator {config.discriminator}: takes {_flags(recipe)}")
            work = _Work(data, out, config, start, features, "tensorboard" in track, trackers)
            _train(work, world, console, resume, memory if dry_run else None)
    except KeyboardInterrupt:
        if (world := distributed.this_process()).main:
            again = {"init": (init,), "inception_weights": (inception_weights,), "track": track}
            say(f"interrupted; {_how_to_go_on(data, out, _given(again), world.size)}")
        sys.exit(130)


def _checked_source(data: str, init: str | None, write_config: Path | None) -> Path | None:
    """Return the path of --init, once DATA is known to be there if it is needed: before anything slow is imported."""
    if data != FLOWERS102 and not write_config:
        check_folder(Path(data))
    return None if init is None else model_path(init)


def _taken(source: Path, options: Mapping[str, Any]) -> str:
    """Describe what a run takes from the model that it begins with: weights and options, by field."""
    from cgan.checkpoint_record import described
    from cgan.training.checkpoint import load_checkpoint

    taken = f"takes its weights {_flags(options)}".rstrip()
    if not source.is_dir():
        return taken
    record = load_checkpoint(source).record
    return "; ".join(filter(None, (described(record.to_json()), record.note, taken)))


def _flags(options: Mapping[str, Any]) -> str:
    return " ".join(f"{flag(name)} {value}" for name, value in options.items())


def _recipe(values: dict[str, Any]) -> dict[str, Any]:
    """Return the discriminator's own defaults of the options that the user did not give."""
    given = _given(values)
    recipe = RECIPES.get(values["discriminator"], {})
    return {name: value for name, value in recipe.items() if name not in given}


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


def _how_to_go_on(data: str, out: Path, options: Mapping[str, tuple[object, ...]], processes: int) -> str:
    """Return advice after Ctrl-C, with the values of options that a resumed run needs again, by parameter."""
    if not (out / "config.json").exists():
        return "the run has not begun; give the same command again"
    given = [part for name, values in options.items() for value in values for part in (flag(name), str(value))]
    under = "" if processes == 1 else f", under torchrun with {processes} processes again"
    return f"go on with {shlex.join(['cgan-train', data, '--out', str(out), '--resume', *given])}{under}"


@dataclass(frozen=True)
class _Work:
    """A training, with its options checked."""

    data: str
    out: Path
    config: TrainConfig
    start: "Start | None"
    features: "FeatureNetwork | None"
    tensorboard: bool
    trackers: Mapping[str, "Tracker"]


def _train(work: _Work, world: "World", console: TrainingConsole, resume: bool, dry_run: dict[str, Any] | None) -> None:
    """Prepare the photos and train, in each process of the world.

    With `dry_run`, the estimate of the memory, only print the configuration.
    """
    from cgan.data import download, prepared
    from cgan.data.scan import scan
    from cgan.training import loop as training
    from cgan.training.run_folder import RunFolder

    data, out, config = work.data, work.out, work.config
    run_folder = RunFolder(out)
    if not resume and world.main:
        run_folder.check_free()
    if dry_run is not None:
        folder, count = download.planned_folder(data)
        if world.main:
            plan = {"folder": str(folder), "photos": count, "out": str(out), "memory_bytes": dry_run}
            print_json({**plan, **config.to_json()})
            if count is None:
                console.say(f"note: {data} is missing; a run downloads it into {folder.parent}")
        return
    with world.main_of_machine_first():
        folder = download.source_folder(data)
        paths = scan(folder)
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--out {out}: found it inside {folder}, where samples would be taken for photos; choose another"
            )
        photos = prepared.prepare(folder, config.size, progress=console.prepared, paths=paths)
    _warn(photos, world)
    with run_folder.locked() if world.main else nullcontext():
        generator = work.start.generator if work.start else None
        run = training.setup(out, config, photos, resume, world, generator, work.tensorboard)
        parts = run.split
        console.say(
            f"training on {counted(len(parts.train), 'photo')}, {len(parts.test)} held out; {config.device}, "
            f"{config.precision}" + (f", {world.size} processes" if world.size > 1 else "")
        )
        if len(parts.test) < FEW_PHOTOS and not resume:
            console.say(
                f"note: figures of {counted(len(parts.test), 'held-out photo')} are unreliable, and so is the best "
                "epoch; raise --test-fraction"
            )
        _fit(run, work, console)


def _fit(run: "Run", work: _Work, console: TrainingConsole) -> None:
    """Train, tell the console and the trackers, and say what to do next."""
    from cgan.training import loop as training
    from cgan.training.events import scalars
    from cgan.training.trackers import tracking

    trackers = work.trackers if run.world.main else {}
    with tracking(trackers, work.out.resolve().name, work.config.to_json()) as log:

        def epoch_done(metrics: dict[str, Any]) -> None:
            console.epoch_done(metrics)
            log(metrics["epoch"], scalars(metrics), run.folder.sample_files(metrics["epoch"]))

        for metrics in run.history:  # of a resumed run: what a tracker records is whole
            log(metrics["epoch"], scalars(metrics), ())
        console.begin(len(run.history))
        training.fit(run, work.features, console, epoch_done)
    best = best_epoch(run.history, work.config.best_by)
    console.say(
        f"done: {work.out} holds {counted(len(run.history), 'epoch')}, the best by {work.config.best_by} is {best}",
        f"next: {shlex.join(['cgan-export', str(work.out), '--out', 'models'])}",
    )


def _warn(photos: "Photos", world: "World") -> None:
    """Say what is wrong with the photos."""
    if photos.note:
        say(f"warning: {photos.note}")
    if world.main:
        for name, reason in photos.unreadable.items():
            say(f"warning: passed over {name}: {reason}")
        if photos.near_gray:
            say(f"warning: {len(photos.near_gray)} of {counted(len(photos.names), 'photo')} are near gray")


def _write_config(path: Path, config: TrainConfig, quiet: bool) -> None:
    """Write the options of this command as a file for --config, and say so unless quiet.

    Raises:
        UserError: it cannot be written, or something else is there.
        GateError: the disk is full.
    """
    context = click.get_current_context()
    values = {name: value for name, value in context.params.items() if name not in NOT_WRITTEN}
    content = options_toml(context.command, {**values, **config.to_json()}).encode()
    check_document(path, is_options, "--write-config")
    write_document(path, content, is_options)
    if not quiet:
        say(f"wrote {path}; to use it: --config {path}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-train."""
    run_command(command, arguments, "cgan-train")
