"""The command cgan-train. Nothing heavy is imported before the options are known to be right."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cgan.config import DEVICE_CHOICES, DISCRIMINATOR_CHOICES, PRECISION_CHOICES, TrainConfig
from cgan.spec import UserError, exit_on_user_error

PLAIN_SECONDS = 30
"""Where there is no terminal, a line of progress is printed this often."""

DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}


def _option(name: str, help_text: str, **kwargs: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option of a TrainConfig field of the same name, with its default."""
    default = DEFAULTS[name]
    flag = f"--{name.replace('_', '-')}"
    if isinstance(default, bool):
        flag = f"{flag}/--no-{name}"
    return click.option(flag, name, default=default, show_default=True, help=help_text, **kwargs)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@_option("discriminator", "Network that judges the colours.", type=click.Choice(DISCRIMINATOR_CHOICES))
@_option("l1_weight", "Weight of the L1 term beside the adversarial term.")
@_option("label_smoothing", "The discriminator's target for real photos.")
@_option("width", "Channels of the first convolution block.")
@_option("size", "Photos are resized to this height and width.")
@_option("epochs", "Passes over the training photos.")
@_option("warmup_epochs", "First epochs with L1 alone, without the discriminator.")
@_option("batch_size", "Photos in a step.")
@_option("lr", "Adam's learning rate.")
@_option("seed", "Seed of split, weights and order.")
@_option("test_fraction", "Share of the photos held out.")
@_option("flip", "Mirror training photos at random.")
@_option("precision", "auto: fp16 on CUDA, bf16 on CPUs that have it, else fp32.", type=click.Choice(PRECISION_CHOICES))
@_option("device", "Where to compute.", type=click.Choice(DEVICE_CHOICES))
@_option("fid", "Measure FID on the held-out photos after each epoch.")
@click.option(
    "--inception-weights",
    type=click.Path(path_type=Path),
    help="Inception v3 state dict for FID; default: the one in torch's hub cache.",
)
@click.option("--resume", is_flag=True, help="Go on after the last finished epoch of the run in --out.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and touch nothing.")
@click.option("--quiet", is_flag=True, help="No progress, only warnings and errors.")
@click.version_option(package_name="cgan")
def command(
    data: Path,
    out: Path,
    inception_weights: Path | None,
    resume: bool,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train the colouring GAN on the photos in the folder DATA (searched recursively)."""
    config = TrainConfig(**options)
    try:
        from cgan import dataset, metrics, training
        from cgan.run_folder import RunFolder
    except ModuleNotFoundError as error:
        raise UserError(
            f"training needs the package {error.name}; install it with pip install 'cgan[train]'"
        ) from error
    config = training.resolve(config)
    paths = dataset.scan(data)
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"--out {out}: found it inside {data}, where its samples would become photos; choose another")
    if not resume:
        RunFolder(out).check_free()
    if dry_run:
        print(json.dumps({"photos": len(paths), "out": str(out), **config.to_json()}, indent=2))
        return
    inception = metrics.load_inception(inception_weights) if config.fid else None
    try:
        with _Progress(config.epochs, quiet) as progress:
            photos = dataset.prepare(data, config.size, progress=progress.prepared)
            for name, reason in photos.unreadable.items():
                print(f"warning: passed over {name}: {reason}", file=sys.stderr)
            run = training.setup(out, config, photos, resume)
            progress.say(
                f"{len(run.split.train)} photos train, {len(run.split.test)} are held out; "
                f"{config.device}, {config.precision}"
            )
            progress.epoch = len(run.history)
            training.fit(run, inception, progress.step, progress.epoch_done)
            progress.say(f"done: {out} holds {len(run.history)} epochs")
    except KeyboardInterrupt:
        print(f"interrupted; go on with --resume --out {out}", file=sys.stderr)
        sys.exit(130)


class _Progress:
    """tqdm bars on a terminal, otherwise a line each PLAIN_SECONDS and after each epoch."""

    def __init__(self, epochs: int, quiet: bool) -> None:
        self.epochs = epochs
        self.epoch = 0
        self.quiet = quiet
        self.terminal = sys.stderr.isatty()
        self.bar: tqdm[Any] | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def say(self, line: str) -> None:
        """A line on stderr, unless --quiet."""
        if not self.quiet:
            self._close()
            print(line, file=sys.stderr, flush=True)

    def prepared(self, done: int, total: int) -> None:
        """Progress of decoding photos into the cache."""
        self._update("preparing photos", done, total, {})

    def step(self, done: int, total: int, losses: dict[str, Any]) -> None:
        """Progress within an epoch."""
        self._update(f"epoch {self.epoch + 1}/{self.epochs}", done, total, losses)

    def epoch_done(self, metrics: dict[str, Any]) -> None:
        """The line that stays after an epoch."""
        self.epoch = metrics["epoch"]
        fid = f"  FID {metrics['test_fid']['value']:.2f}" if "test_fid" in metrics else ""
        self.say(
            f"epoch {self.epoch}/{self.epochs}  {metrics['images_per_second']:.1f} images/s  "
            f"L1 {metrics['train_l1']:.4f} (held out {metrics['test_l1']:.4f})  "
            f"PSNR {metrics['test_psnr']:.2f} dB (gray {metrics['test_gray_psnr']:.2f})  "
            f"colourfulness {metrics['test_colorfulness']:.1f} (real {metrics['test_real_colorfulness']:.1f})  "
            f"D accuracy {metrics['test_discriminator_accuracy']:.0%}{fid}"
        )

    def _update(self, label: str, done: int, total: int, losses: dict[str, Any]) -> None:
        if self.quiet:
            return
        if done < (self.bar.n if self.bar else 0) or (self.bar is None and done < total):
            self._close()
            self.bar = tqdm(total=total, desc=label, unit="img", disable=not self.terminal, leave=False)
        if self.bar and self.terminal:
            self.bar.set_postfix({name: f"{float(value):.3f}" for name, value in losses.items()}, refresh=False)
            self.bar.update(done - self.bar.n)
        elif time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.monotonic()
            text = "  ".join(f"{name} {float(value):.4f}" for name, value in losses.items())
            print(f"{label}  {done}/{total}  {text}", file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self.bar:
            self.bar.close()
            self.bar = None


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-train."""
    with exit_on_user_error():
        command(arguments, prog_name="cgan-train")
