"""From a trained run to a verified file, in every colour space and precision; and what failures leave behind."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from cgan.cli import main as train
from cgan.config import TrainConfig
from cgan.errors import GateError, UserError
from cgan.networks import build_generator
from cgan.spec import COLOR_SPACES, ModelSpec, Precision, generator_parameters, read_sidecar, sidecar_path
from cgan.training.checkpoint import HELD_OUT_FILE, held_out_photos, load_generator, save_generator
from export import artefact as pipeline
from export.artefact import Artefact, ExportOptions, artefact_name, make_onnx
from export.calibration import DEFAULT_LIMIT, calibration_batches, with_sharper_copies
from export.choices import Format
from export.comparison_photos import COMPARED_PHOTOS
from export.publish import FAILED_SUFFIX
from export.tolerance import TOLERANCES, Tolerance
from export.verify import Verification, natural_images
from infer.backends import open_model

BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
NAMES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-cpu"}

Make = Callable[..., Artefact]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, trained_run: Path, photo_folder: Path, tiny_options: tuple[str, ...]
) -> Callable[[str], Path]:
    """`runs(color_space)`: a run folder, trained on the first call."""
    made = {"rgb": trained_run}

    def run(color_space: str) -> Path:
        if color_space not in made:
            folder = tmp_path_factory.mktemp(color_space) / "run"
            options = (*tiny_options, "--color-space", color_space, "--epochs", "2", "--lr", "0.005")
            with suppress(SystemExit):
                train([str(photo_folder), "--out", str(folder), *options])
            made[color_space] = folder
        return made[color_space]

    return run


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory, runs: Callable[[str], Path], photo_folder: Path, exported_onnx: Path
) -> Callable[[str, Precision], Artefact]:
    """`exports(color_space, precision)`: a verified file, made on the first call."""
    sidecar = read_sidecar(exported_onnx)
    assert sidecar is not None
    made: dict[tuple[str, Precision], Artefact] = {("rgb", "fp32"): Artefact(exported_onnx, sidecar)}

    def export(color_space: str, precision: Precision) -> Artefact:
        if (color_space, precision) not in made:
            calibration = photo_folder if precision == "int8" else None
            options = ExportOptions(precision=precision, calibration=calibration)
            made[color_space, precision] = make_onnx(runs(color_space), tmp_path_factory.mktemp("out"), options)
        return made[color_space, precision]

    return export


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("color_space", COLOR_SPACES)
@pytest.mark.slow
def test_a_trained_run_passes_the_gate_on_photos(
    exports: Callable[[str, Precision], Artefact], runs: Callable[[str], Path], color_space: str, precision: Precision
) -> None:
    artefact = exports(color_space, precision)
    assert artefact.path.name == f"unet-w4-{color_space}-32-{NAMES[precision]}.onnx"
    assert set(files(artefact.path.parent)) == {artefact.path.name, f"{artefact.path.name}.json"}
    assert read_sidecar(artefact.path) == artefact.sidecar
    numbers, spec = artefact.sidecar.verification, artefact.sidecar.spec
    assert numbers["verified"] is True
    assert numbers["reference"].startswith("PyTorch") and "fp32" in numbers["reference"]
    assert Tolerance(**numbers["tolerance"]) == TOLERANCES[precision]
    on_photos = [c for c in numbers["comparisons"] if c["images"] == "photos"]
    assert [c["batch_size"] for c in on_photos] == [1, 3, 8]
    assert (spec.color_space, spec.precision) == (color_space, precision)
    assert spec.weights_sha256 == load_generator(runs(color_space))[1].weights_sha256
    assert {"onnx", "onnxscript", "torch", "cgan"} <= spec.created_with.keys()
    # The quantiser is part of ONNX Runtime.
    assert spec.created_with.get("onnxruntime") == (onnxruntime.__version__ if precision == "int8" else None)
    with open_model(artefact.path, "cpu") as backend:
        rgb = backend.run(natural_images(2, 32, 5))
    assert rgb.min() >= 0 and rgb.max() <= 1 and rgb.std() > 0.01


@pytest.mark.parametrize(
    "color_space", ["rgb", *(pytest.param(name, marks=pytest.mark.slow) for name in COLOR_SPACES if name != "rgb")]
)
def test_sizes_fall_with_the_precision(exports: Callable[[str, Precision], Artefact], color_space: str) -> None:
    sizes = {}
    for precision, per_parameter in BYTES.items():
        artefact = exports(color_space, precision)
        sizes[precision] = artefact.path.stat().st_size
        facts = artefact.sidecar.build["onnx"]
        assert facts["file_bytes"] == sizes[precision]
        assert sum(facts["initializer_bytes"].values()) < 1.25 * per_parameter * artefact.sidecar.spec.parameters
    assert sizes["fp32"] > 1.7 * sizes["fp16"] > 1.7 * sizes["int8"]
    assert exports(color_space, "fp16").sidecar.build["onnx"]["weight_share"] == {"float16": 1.0}
    assert exports(color_space, "int8").sidecar.build["onnx"]["weight_share"]["int8"] > 0.9


def test_precisions_are_as_close_as_they_should_be(exports: Callable[[str, Precision], Artefact]) -> None:
    psnr = [exports("rgb", p).sidecar.verification["min_psnr"] for p in ("fp32", "fp16", "int8")]
    assert psnr == sorted(psnr, reverse=True)
    assert psnr[0] > 110 and 60 < psnr[1] < 110 and 40 < psnr[2] < 60


def test_the_sidecar_of_int8_says_how_it_was_calibrated(
    exports: Callable[[str, Precision], Artefact],
    stub_export: Callable[..., None],
    trained_run: Path,
    photo_folder: Path,
    tmp_path: Path,
) -> None:
    build = exports("rgb", "int8").sidecar.build
    assert (build["int8_target"], build["calibration_photos"]) == ("cpu", 12)
    assert "int8_target" not in exports("rgb", "fp16").sidecar.build
    stub_export()
    options = ExportOptions(precision="int8", int8_target="tensorrt", calibration=photo_folder, tolerance=Tolerance())
    other = make_onnx(trained_run, tmp_path, options)
    assert other.path.name == "unet-w4-rgb-32-int8-tensorrt.onnx"
    assert other.sidecar.build["int8_target"] == "tensorrt"
    assert other.sidecar.file_sha256 != exports("rgb", "int8").sidecar.file_sha256


def test_int8_needs_photos_before_anything_is_read(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "load_checkpoint", lambda source: pytest.fail("the source was read"))
    with pytest.raises(UserError, match="--precision int8: found no --calibration FOLDER") as caught:
        make_onnx(trained_run, tmp_path / "out", ExportOptions(precision="int8"))
    assert caught.value.exit_code == 2
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes_and_sidecar(
    exports: Callable[[str, Precision], Artefact],
    trained_run: Path,
    photo_folder: Path,
    tmp_path: Path,
    precision: Precision,
) -> None:
    before = exports("rgb", precision).path
    calibration = photo_folder if precision == "int8" else None
    after = make_onnx(trained_run, tmp_path, ExportOptions(precision=precision, calibration=calibration)).path
    assert after.read_bytes() == before.read_bytes()
    assert sidecar_path(after).read_bytes() == sidecar_path(before).read_bytes()


@pytest.mark.slow
def test_a_dynamic_size_is_compared_and_named(trained_run: Path, tmp_path: Path) -> None:
    artefact = make_onnx(trained_run, tmp_path, ExportOptions(dynamic_size=True))
    assert artefact.path.name == "unet-w4-rgb-32-dynamic-fp32.onnx"
    last = artefact.sidecar.verification["comparisons"][-1]
    assert (last["height"], last["width"]) == (80, 112)
    with open_model(artefact.path, "cpu") as backend:
        assert backend.spec.dynamic_size and backend.fixed_size is None
        assert backend.run(natural_images(1, 48, 0, 64)).shape == (1, 3, 48, 64)


@pytest.mark.parametrize(
    ("changes", "format_", "name"),
    [
        ({}, "onnx", "unet-w4-rgb-32-fp32.onnx"),
        ({"base_width": 32, "color_space": "ycbcr", "render_size": 128}, "onnx", "unet-w32-ycbcr-128-fp32.onnx"),
        ({"blocks": 2, "precision": "fp16"}, "onnx", "unet-w4b2-rgb-32-fp16.onnx"),
        ({"precision": "int8"}, "onnx", "unet-w4-rgb-32-int8-tensorrt.onnx"),
        ({"precision": "int8"}, "tensorrt-rtx", "unet-w4-rgb-32-int8-tensorrt-rtx.plan"),
        ({"precision": "fp16", "dynamic_size": True}, "tensorrt", "unet-w4-rgb-32-dynamic-fp16-tensorrt.plan"),
    ],
)
def test_the_name_says_what_it_is(
    exports: Callable[[str, Precision], Artefact], changes: dict[str, Any], format_: Format, name: str
) -> None:
    color_space, width = changes.get("color_space", "rgb"), changes.get("base_width", 4)
    changes = {**changes, "parameters": generator_parameters(color_space, width, changes.get("blocks", 1))}
    assert artefact_name(replace(exports("rgb", "fp32").sidecar.spec, **changes), format_, "tensorrt") == name


# what is compared


@pytest.fixture
def compared(
    monkeypatch: pytest.MonkeyPatch, stub_export: Callable[..., None], passed: Verification
) -> list[dict[str, Any]]:
    """Photos and batch sizes that the gate was given."""
    calls: list[dict[str, Any]] = []

    def verify(artefact: Path, reference: Any, photos: Any, tolerance: Any, batch_sizes: Any, **_: Any) -> Any:
        calls.append({"photos": photos, "batch_sizes": batch_sizes, "tolerance": tolerance})
        return passed

    stub_export()
    monkeypatch.setattr(pipeline, "verify", verify)
    return calls


def test_photos_come_from_the_calibration_folder(
    compared: list[dict[str, Any]], trained_run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    make_onnx(trained_run, tmp_path, ExportOptions(calibration=photo_folder))
    found, folder = compared[0]["photos"], calibration_batches(photo_folder, 32, 64).gray
    assert sorted(p.tobytes() for p in found) == sorted(p.tobytes() for p in folder)


@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.slow
def test_photos_that_calibrate_are_not_those_that_are_compared(
    blur: float,
    compared: list[dict[str, Any]],
    trained_run: Path,
    make_photos: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[np.ndarray] = []

    def quantize(full: Path, spec: ModelSpec, gray: np.ndarray, engine: str, path: Path) -> None:
        shown.append(gray)
        shutil.copy(full, path)

    monkeypatch.setattr(pipeline, "quantize_int8", quantize)
    source = trained_run
    if blur:
        source = tmp_path / "blurred.safetensors"
        config = TrainConfig(width=4, size=32, device="cpu", input_blur=blur)
        save_generator(source, build_generator(config), config)
    folder = make_photos(tmp_path / "photos", DEFAULT_LIMIT + COMPARED_PHOTOS)
    make_onnx(source, tmp_path / "out", ExportOptions(precision="int8", calibration=folder))
    calibrated, others = (
        {photo.tobytes() for photo in photos} for photos in (shown[0][:DEFAULT_LIMIT], compared[0]["photos"])
    )
    assert (len(calibrated), len(others)) == (DEFAULT_LIMIT, COMPARED_PHOTOS)
    assert np.array_equal(shown[0], with_sharper_copies(shown[0][:DEFAULT_LIMIT], bool(blur)))
    assert calibrated.isdisjoint(others)


def test_else_photos_are_those_that_the_run_held_out(
    compared: list[dict[str, Any]], trained_run: Path, tmp_path: Path
) -> None:
    for source in (trained_run, trained_run / "checkpoints" / "last.safetensors"):
        make_onnx(source, tmp_path, ExportOptions())
        held_out = np.load(trained_run / HELD_OUT_FILE)
        assert held_out.shape == (3, 1, 32, 32)
        assert np.array_equal(compared[-1]["photos"], held_out.astype(np.float32) / 255)
        photos = held_out_photos(source, 32)
        assert photos is not None and np.array_equal(photos, compared[-1]["photos"])


def test_else_there_are_none(compared: list[dict[str, Any]], trained_run: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copy(trained_run / "checkpoints" / "last.safetensors", tmp_path)
    make_onnx(Path(checkpoint), tmp_path / "out", ExportOptions())
    assert compared[0]["photos"] is None


def test_the_sidecar_says_which_photos(
    stub_export: Callable[..., None], trained_run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    stub_export()
    checkpoint = Path(shutil.copy(trained_run / "checkpoints" / "last.safetensors", tmp_path))
    for source, folder, photos in (
        (trained_run, photo_folder, 12),
        (trained_run, None, 3),
        (checkpoint, None, "noise with the spectrum of photos"),
    ):
        artefact = make_onnx(source, tmp_path / "out", ExportOptions(calibration=folder))
        assert artefact.sidecar.verification["photos"] == photos


def test_batch_sizes_and_tolerance_reach_the_gate(
    compared: list[dict[str, Any]], trained_run: Path, tmp_path: Path
) -> None:
    make_onnx(trained_run, tmp_path, ExportOptions(batch_sizes=(2, 2, 5), tolerance=Tolerance(atol=0.5)))
    assert (compared[0]["batch_sizes"], compared[0]["tolerance"]) == ((2, 2, 5), Tolerance(atol=0.5))
    make_onnx(trained_run, tmp_path, ExportOptions())
    assert (compared[1]["batch_sizes"], compared[1]["tolerance"]) == ((1, 3, 8), None)


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((0, 1, 32, 32), np.uint8),
        np.zeros((3, 1, 48, 48), np.uint8),
        np.zeros(3, np.uint8),
    ],
)
def test_held_out_photos_of_another_shape_are_refused(
    stub_export: Callable[..., None], trained_run: Path, tmp_path: Path, content: np.ndarray
) -> None:
    stub_export()
    run = shutil.copytree(trained_run, tmp_path / "run")
    np.save(run / HELD_OUT_FILE, content)
    with pytest.raises(UserError, match=HELD_OUT_FILE):
        make_onnx(run, tmp_path / "out", ExportOptions())


def test_held_out_photos_that_the_run_did_not_keep_are_refused(trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    photos = np.load(run / HELD_OUT_FILE)
    assert held_out_photos(run, 32) is not None
    np.save(run / HELD_OUT_FILE, np.zeros_like(photos))
    with pytest.raises(UserError, match=f"{HELD_OUT_FILE}: not the photos that the run kept; restore the file"):
        held_out_photos(run, 32)


def test_held_out_photos_that_cannot_be_read_are_named(trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    (run / HELD_OUT_FILE).write_bytes(b"nonsense")
    with pytest.raises(UserError, match=f"{HELD_OUT_FILE}: not readable.*give --calibration FOLDER"):
        make_onnx(run, tmp_path / "out", ExportOptions())


# what a failure leaves


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.slow
def test_a_failure_leaves_the_earlier_file_and_at_most_the_failed_one(
    stub_export: Callable[..., None], trained_run: Path, tmp_path: Path, keep: bool
) -> None:
    stub_export()
    good = make_onnx(trained_run, tmp_path, ExportOptions()).path
    before = files(tmp_path)
    stub_export(0.05)
    with pytest.raises(GateError, match="is not the trained model"):
        make_onnx(trained_run, tmp_path, ExportOptions(keep_failed=keep))
    after = files(tmp_path)
    assert (after.pop(good.name + FAILED_SUFFIX, None) is not None) == keep
    assert after == before
    assert read_sidecar(good) is not None


def test_a_failed_file_is_opened_by_no_command(
    stub_export: Callable[..., None], invoke: Callable[..., Any], trained_run: Path, tmp_path: Path
) -> None:
    from export.cli import main
    from infer.cli import main as infer

    stub_export(0.05)
    with pytest.raises(GateError):
        make_onnx(trained_run, tmp_path, ExportOptions(keep_failed=True))
    (failed,) = tmp_path.iterdir()
    assert failed.name == "unet-w4-rgb-32-fp32.onnx.failed"
    assert ".failed file" in invoke(main, trained_run, "--verify", failed).error(2)
    assert ".failed file" in invoke(main, "--inspect", failed).error(2)
    assert ".failed" in invoke(infer, "info", failed).error(2)
    invoke(main, failed, "--out", tmp_path / "out", "--format", "tensorrt-rtx").error(2)


def test_a_name_that_is_taken_by_a_folder_leaves_no_sidecar(
    stub_export: Callable[..., None], trained_run: Path, tmp_path: Path
) -> None:
    stub_export()
    (tmp_path / "unet-w4-rgb-32-fp32.onnx").mkdir()
    with pytest.raises(UserError, match="found a folder of that name"):
        make_onnx(trained_run, tmp_path, ExportOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["unet-w4-rgb-32-fp32.onnx"]


def test_no_verify_says_so_in_the_sidecar(stub_export: Callable[..., None], trained_run: Path, tmp_path: Path) -> None:
    stub_export(0.05)
    path = make_onnx(trained_run, tmp_path, ExportOptions(verify=False)).path
    assert json.loads(sidecar_path(path).read_text())["verification"] == {
        "verified": False,
        "reason": "not verified: --no-verify",
    }
