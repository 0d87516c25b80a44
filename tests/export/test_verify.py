"""The gate: what it compares, what passes and what does not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cgan.checkpoint import load_generator, save_generator
from cgan.config import TrainConfig
from cgan.spec import GateError, UserError, sidecar_path
from export.verify import BATCH_SIZES, Tolerance, checkpoint_reference, natural_images, random_images, verify


def changed(source: Path, target: Path, change: Callable[[ModelProto], None]) -> Path:
    """A copy of an ONNX file, without a sidecar, after `change` of its graph."""
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def edit(ending: str, function: Callable[[np.ndarray], np.ndarray]) -> Callable[[ModelProto], None]:
    """A change of the one initializer whose name ends so."""

    def apply(model: ModelProto) -> None:
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith(ending)]
        tensor.CopyFrom(numpy_helper.from_array(function(numpy_helper.to_array(tensor).copy()), tensor.name))

    return apply


def swap_channels(model: ModelProto) -> None:
    """Red and blue trade places at the output."""
    for ending in ("head.weight", "head.bias"):
        edit(ending, lambda values: np.ascontiguousarray(values[[2, 1, 0]]))(model)


def add(amount: float) -> Callable[[ModelProto], None]:
    return edit("head.bias", lambda values: values + np.float32(amount))


# the images


@pytest.mark.parametrize("images", [natural_images, random_images])
def test_images_are_seeded_gray_in_0_to_1(images: Callable[[int, int, int], np.ndarray]) -> None:
    found = images(3, 48, 1)
    assert found.shape == (3, 1, 48, 48)
    assert found.dtype == np.float32
    assert 0 <= found.min() < 0.01
    assert 0.99 < found.max() <= 1
    assert np.array_equal(found, images(3, 48, 1))
    assert not np.array_equal(found, images(3, 48, 2))
    assert not np.array_equal(found[0], found[1])


def spectrum_slope(images: np.ndarray) -> float:
    """Slope of the mean amplitude over the frequency, both as logarithms."""
    size = images.shape[-1]
    amplitudes = np.abs(np.fft.fft2(images[:, 0].astype(np.float64))).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    inside = (radius > 0) & (radius < 0.5)
    return float(np.polyfit(np.log(radius[inside]), np.log(amplitudes[inside]), 1)[0])


def test_natural_images_have_the_spectrum_of_photos() -> None:
    assert spectrum_slope(natural_images(40, 64, 0)) == pytest.approx(-1, abs=0.1)
    assert spectrum_slope(random_images(40, 64, 0)) == pytest.approx(0, abs=0.1)


def test_natural_images_span_the_whole_range() -> None:
    found = natural_images(5, 32, 0)
    assert np.array_equal(found.min(axis=(1, 2, 3)), np.zeros(5))
    assert np.array_equal(found.max(axis=(1, 2, 3)), np.ones(5))


# the verdict


def test_a_faithful_export_passes_with_its_numbers(exported_onnx: Path, trained_run: Path) -> None:
    numbers = verify(exported_onnx, checkpoint_reference(trained_run))
    assert numbers["verified"] is True
    assert (numbers["atol"], numbers["rtol"]) == (1e-4, 0)
    assert numbers["reference"].startswith(f"PyTorch {torch.__version__}, fp32")
    assert "CPUExecutionProvider" in numbers["engine"]
    assert [(c["batch_size"], c["images"]) for c in numbers["comparisons"]] == [
        (size, images) for size in BATCH_SIZES for images in ("natural", "random")
    ]
    differences = [c["max_difference"] for c in numbers["comparisons"]]
    assert numbers["max_difference"] == max(differences) < 1e-5
    assert all(0 <= c["mean_difference"] <= c["max_difference"] for c in numbers["comparisons"])


@pytest.mark.parametrize(
    "change",
    [
        add(0.05),
        swap_channels,
        edit("head.weight", lambda values: values * np.float32(1.1)),
        edit("bottleneck.0.weight", lambda values: -values),
    ],
)
def test_a_changed_graph_fails(
    exported_onnx: Path, trained_run: Path, tmp_path: Path, change: Callable[[ModelProto], None]
) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", change)
    with pytest.raises(GateError, match=r"model\.onnx is not the trained model.*do not ship it") as caught:
        verify(artefact, checkpoint_reference(trained_run))
    assert caught.value.exit_code == 1


def test_the_measured_difference_is_the_difference(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", add(0.05))
    numbers = verify(artefact, checkpoint_reference(trained_run), tolerance=Tolerance(atol=0.5))
    # the sigmoid is flatter than 1/4 and its input moves by 0.05 everywhere
    assert 0.001 < numbers["max_difference"] <= 0.05 / 4
    assert numbers["atol"] == 0.5
    worst = numbers["max_difference"]
    assert verify(artefact, checkpoint_reference(trained_run), tolerance=Tolerance(atol=worst * 1.001))["verified"]
    with pytest.raises(GateError, match="is not the trained model"):
        verify(artefact, checkpoint_reference(trained_run), tolerance=Tolerance(atol=worst * 0.999))


def test_the_worst_comparison_decides(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", edit("head.weight", lambda values: values * 2))
    found = sorted(c["max_difference"] for c in verify(artefact, checkpoint_reference(trained_run), tolerance=Tolerance(atol=1))["comparisons"])
    assert found[0] < found[-1]
    with pytest.raises(GateError, match=f"by up to {found[-1]:.3g}, allowed is"):
        verify(artefact, checkpoint_reference(trained_run), tolerance=Tolerance(atol=(found[-2] + found[-1]) / 2))


def test_either_tolerance_may_let_it_pass(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", add(0.05))
    with pytest.raises(GateError):
        verify(artefact, checkpoint_reference(trained_run), rtol=1e-4)
    # sigmoid(x + d) / sigmoid(x) is below e^d
    assert verify(artefact, checkpoint_reference(trained_run), tolerance=Tolerance(atol=0, rtol=0.0513))["rtol"] == 0.0513


def test_a_graph_that_gives_no_numbers_fails(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", add(float("nan")))
    with pytest.raises(GateError, match=r"^model\.onnx cannot be run.*not finite"):
        verify(artefact, checkpoint_reference(trained_run), tolerance=Tolerance(atol=0.5))


def test_a_graph_of_another_size_fails(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    def enlarge(model: ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[2].dim_value = 48
        del model.graph.value_info[:]

    artefact = changed(exported_onnx, tmp_path / "model.onnx", enlarge)
    with pytest.raises(GateError, match=r"^model\.onnx cannot be run.*\(48, 32\)"):
        verify(artefact, checkpoint_reference(trained_run))


@pytest.mark.parametrize("position", [100, -100])
def test_a_changed_byte_fails_where_a_sidecar_vouches(
    exported_onnx: Path, trained_run: Path, tmp_path: Path, position: int
) -> None:
    artefact = Path(shutil.copy(exported_onnx, tmp_path))
    shutil.copy(sidecar_path(exported_onnx), tmp_path)
    assert verify(artefact, checkpoint_reference(trained_run))["verified"]
    content = bytearray(artefact.read_bytes())
    content[position] ^= 1
    artefact.write_bytes(content)
    with pytest.raises(GateError, match="changed since its export") as caught:
        verify(artefact, checkpoint_reference(trained_run))
    assert caught.value.exit_code == 1


def test_the_artefact_of_another_training_fails(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    generator, spec = load_generator(run)
    with torch.no_grad():
        generator.body.head.bias += 1e-7  # far below the tolerance: it is the origin that is compared
    save_generator(run / "checkpoints" / "last.safetensors", generator, TrainConfig(width=4, size=32, device="cpu"))
    with pytest.raises(GateError, match=rf"comes from other weights \({spec.weights_sha256[:16]}.*export it again"):
        verify(exported_onnx, checkpoint_reference(run))


def test_a_checkpoint_altered_on_disk_fails(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copy(trained_run / "checkpoints" / "last.safetensors", tmp_path))
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(checkpoint)
    tensors["body.head.bias"][0] += 1e-3
    save_file(tensors, checkpoint, metadata)
    with pytest.raises(GateError, match="changed after training"):
        verify(exported_onnx, checkpoint_reference(checkpoint))


def test_a_file_of_another_make_is_refused(trained_run: Path, exported_onnx: Path, tmp_path: Path) -> None:
    def forget(model: ModelProto) -> None:
        del model.metadata_props[:]

    with pytest.raises(UserError, match="this project did not write it") as caught:
        verify(changed(exported_onnx, tmp_path / "model.onnx", forget), checkpoint_reference(trained_run))
    assert caught.value.exit_code == 2
    (tmp_path / "broken.onnx").write_bytes(exported_onnx.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load it"):
        verify(tmp_path / "broken.onnx", checkpoint_reference(trained_run))
    with pytest.raises(UserError, match="found no such file"):
        verify(tmp_path / "nothing.onnx", checkpoint_reference(trained_run))
    (tmp_path / "model.bin").write_bytes(exported_onnx.read_bytes())
    with pytest.raises(UserError, match=r"\.bin"):
        verify(tmp_path / "model.bin", checkpoint_reference(trained_run))


def test_a_file_under_a_temporary_name_is_taken_for_what_it_will_be(
    trained_run: Path, exported_onnx: Path, tmp_path: Path
) -> None:
    shutil.copy(exported_onnx, tmp_path / ".cgan-123.tmp")
    assert verify(tmp_path / ".cgan-123.tmp", checkpoint_reference(trained_run), name="model.onnx")["verified"]
    changed(exported_onnx, tmp_path / ".cgan-123.tmp", swap_channels)
    with pytest.raises(GateError, match=r"^model\.onnx is not the trained model"):
        verify(tmp_path / ".cgan-123.tmp", checkpoint_reference(trained_run), name="model.onnx")
