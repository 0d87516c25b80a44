"""The command `cgan-infer info`: what a model is, for people and for programs."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgan.checkpoint_record import described
from cgan.hub import origin
from cgan.text import counted, print_json, print_result, shown
from infer.backends.cli_options import backend_option, device_option, provider_option
from infer.commands.coloring_options import MODEL
from infer.packaged import DEFAULT_MODEL, PACKAGED_MODELS

if TYPE_CHECKING:
    from cgan.spec import ModelSpec
    from infer.backends.base import Backend

COLUMN = 11
"""Width of the names of lines."""


@click.command()
@click.argument("model", type=MODEL, default=str(DEFAULT_MODEL))
@backend_option
@provider_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print all that is known, as JSON.")
def info(model: Path, backend: str, provider: str | None, device: str, as_json: bool) -> None:
    """Print what MODEL is and what runs it here.

    Without MODEL it is the packaged model flowers. With --json, "engine" is null for an engine that this machine cannot
    run, and "note" says why.
    """
    from infer.backends import open_model
    from infer.backends.base import UnsuitedMachineError

    opened = open_model(model, device, backend=backend, provider=provider)
    with ExitStack() as stack:
        try:
            spec, engine = stack.enter_context(opened).spec, opened.engine
            note = opened.note
        except UnsuitedMachineError as error:  # the sidecar has vouched for the file
            assert opened.sidecar is not None
            spec, engine = opened.sidecar.spec, None
            note = f"cannot run here: {error}"
        if as_json:
            print_json(_values(opened, spec, engine, note))
        else:
            print_result(*_lines(opened, spec, engine, note))
            if model == DEFAULT_MODEL:
                others = ", ".join(name for name, path in PACKAGED_MODELS.items() if path != model)
                print_result(f"{'beside it':<{COLUMN}} {others}; cgan-infer info MODEL describes another model")


def _values(opened: "Backend", spec: "ModelSpec", engine: str | None, note: str | None) -> dict[str, Any]:
    """Return all that is known of a model as JSON values."""
    return {
        "file": str(opened.path),
        "hub": origin(opened.path),
        "bytes": opened.path.stat().st_size if opened.path.is_file() else None,
        "engine": engine,
        "note": note,
        "fixed_size": opened.fixed_size,
        "checkpoint": opened.checkpoint or "unknown",
        "spec": spec.to_json(),
        "sidecar": opened.sidecar
        and {name: value for name, value in opened.sidecar.to_json().items() if name != "spec"},
    }


def _lines(opened: "Backend", spec: "ModelSpec", engine: str | None, note: str | None) -> list[str]:
    """Return a line for each property of a model: its name, and the value for people."""
    size = f", {opened.path.stat().st_size / 1e6:.1f} MB" if opened.path.is_file() else ""
    sides = "{} x {} pixels".format(*opened.fixed_size) if opened.fixed_size else "any sides from 32 on, in steps of 16"
    least, most = opened.batch_range
    versions = ", ".join(
        f"{name} {version}" for name, version in spec.created_with.items() if name in ("cgan", "torch")
    )
    texts = {
        "model": f"{spec.model} for colouring, {spec.precision}{size}",
        "file": str(opened.path),
        "from": origin(opened.path) or "",
        "network": f"width {spec.base_width}, {counted(spec.blocks, 'block')} a scale, {spec.parameters:,} parameters",
        "colours": f"predicted as {spec.color_space}, given as rgb"
        + (f"; input blurred, sigma {spec.input_blur:g}" if spec.input_blur else ""),
        "input": f"{sides}; batches of {least} to {most}" if most else f"{sides}; any batch size",
        "made from": described(opened.checkpoint) if opened.checkpoint else "not known",
        "made with": versions,
        "run": f"options {spec.config_sha256[:12]}, weights {spec.weights_sha256[:12]} (SHA-256)",
        **_verification(opened),
        "digest": f"{opened.digest[:12]}, unchanged since its export" if opened.sidecar else opened.digest[:12],
        "runs here": f"yes, {engine}" if engine else "no",
        "note": note or "",
    }
    return [f"{name:<{COLUMN}} {text}" for name, text in texts.items() if text]


def _verification(opened: "Backend") -> dict[str, str]:
    """Return how an artefact was compared with its model, and the result; anything can stand in a sidecar."""
    if opened.sidecar is None:
        artefact = opened.path.suffix in (".onnx", ".plan")
        return {
            "verified": "not known: there is no sidecar beside it" if artefact else "this is the trained model itself"
        }
    found = opened.sidecar.verification
    if found.get("verified") is not True:
        return {"verified": f"no: {shown(found['reason'])}" if "reason" in found else "no"}
    texts = {"min_psnr": "PSNR at least {:.1f} dB", "max_difference": "values at most {:.2g} off"}
    figures = [text.format(found[name]) for name, text in texts.items() if isinstance(found.get(name), float)]
    return {"verified": f"yes, against {found.get('reference')}", "agreement": ", ".join(figures)}
