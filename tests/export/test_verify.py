"""The gate: what it compares, what passes and what does not."""

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper

from cgan.errors import GateError, UserError
from cgan.spec import ModelSpec, Precision, generator_parameters
from export import verify as gate
from export.choices import ONNX_BATCHES
from export.tolerance import TOLERANCES, Tolerance
from export.verify import (
    LEVEL,
    Reference,
    Verification,
    checkpoint_reference,
    natural_images,
    random_images,
    verify,
)


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


@pytest.fixture(scope="module")
def reference(trained_run: Path) -> Reference:
    return checkpoint_reference(trained_run)


def with_gray(operation: str, *constants: float) -> Callable[[ModelProto], None]:
    """Feed the network operation(gray, constant), or operation(constant, gray) for Sub."""

    def apply(model: ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            node.input[:] = ["luma" if name == "gray" else name for name in node.input]
        graph.initializer.extend(
            numpy_helper.from_array(np.array(c, np.float32), f"c{i}") for i, c in enumerate(constants)
        )
        others = [f"c{i}" for i in range(len(constants))]
        inputs = [*others, "gray"] if operation == "Sub" else ["gray", *others]
        graph.node.insert(0, helper.make_node(operation, inputs, ["luma"]))

    return apply


def one_weight(values: np.ndarray) -> np.ndarray:
    values.flat[values.size // 2] += np.float32(0.1)
    return values


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


def test_a_faithful_export_passes_with_its_numbers(exported_onnx: Path, reference: Reference) -> None:
    numbers = verify(exported_onnx, reference).to_json()
    assert numbers["verified"] is True
    assert numbers["tolerance"] == {"atol": 1e-4, "rtol": 0, "min_psnr": None, "max_off": None}
    assert numbers["photos"] == "noise with the spectrum of photos"
    assert numbers["reference"].startswith(f"PyTorch {torch.__version__}, fp32")
    assert "CPUExecutionProvider" in numbers["engine"]
    assert [(c["batch_size"], c["images"]) for c in numbers["comparisons"]] == [
        (size, images) for size in ONNX_BATCHES for images in ("natural", "random")
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
        edit("head.weight", one_weight),
        with_gray("Sub", 1.0),  # luma from the wrong channel: its negative, ...
        with_gray("Mul", 0.587),  # ... the green part of it alone, ...
        with_gray("Add", 16 / 255),  # ... and studio range
    ],
)
def test_a_changed_graph_fails(
    exported_onnx: Path, reference: Reference, tmp_path: Path, change: Callable[[ModelProto], None]
) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", change)
    with pytest.raises(GateError, match=r"model\.onnx is not the trained model.*do not ship it") as caught:
        verify(artefact, reference)
    assert caught.value.exit_code == 1


def test_the_measured_difference_is_the_difference(exported_onnx: Path, reference: Reference, tmp_path: Path) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", add(0.05))
    numbers = verify(artefact, reference, tolerance=Tolerance(atol=0.5)).to_json()
    # the sigmoid is flatter than 1/4 and its input moves by 0.05 everywhere
    assert 0.001 < numbers["max_difference"] <= 0.05 / 4
    assert numbers["tolerance"]["atol"] == 0.5
    worst = numbers["max_difference"]
    assert isinstance(verify(artefact, reference, tolerance=Tolerance(atol=worst * 1.001)), Verification)
    with pytest.raises(GateError, match="is not the trained model"):
        verify(artefact, reference, tolerance=Tolerance(atol=worst * 0.999))


def test_the_worst_comparison_decides(exported_onnx: Path, reference: Reference, tmp_path: Path) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", edit("head.weight", lambda values: values * 2))
    numbers = verify(artefact, reference, tolerance=Tolerance(atol=1)).to_json()
    found = sorted(c["max_difference"] for c in numbers["comparisons"])
    assert found[0] < found[-1]
    with pytest.raises(GateError, match=f"by up to {found[-1]:.3g}, PSNR .* allowed is max"):
        verify(artefact, reference, tolerance=Tolerance(atol=(found[-2] + found[-1]) / 2))


def test_either_tolerance_may_let_it_pass(exported_onnx: Path, reference: Reference, tmp_path: Path) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", add(0.05))
    with pytest.raises(GateError):
        verify(artefact, reference, tolerance=Tolerance(atol=0, rtol=1e-4))
    # sigmoid(x + d) / sigmoid(x) is below e^d
    numbers = verify(artefact, reference, tolerance=Tolerance(atol=0, rtol=0.0513)).to_json()
    assert (numbers["verified"], numbers["tolerance"]["rtol"]) == (True, 0.0513)


def test_a_graph_that_gives_no_numbers_fails(exported_onnx: Path, reference: Reference, tmp_path: Path) -> None:
    artefact = changed(exported_onnx, tmp_path / "model.onnx", add(float("nan")))
    with pytest.raises(GateError, match=r"^model\.onnx cannot be run.*not finite"):
        verify(artefact, reference, tolerance=Tolerance(atol=0.5))


def test_a_graph_of_another_size_fails(exported_onnx: Path, reference: Reference, tmp_path: Path) -> None:
    def enlarge(model: ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[2].dim_value = 48
        del model.graph.value_info[:]

    artefact = changed(exported_onnx, tmp_path / "model.onnx", enlarge)
    with pytest.raises(UserError, match=r"48, 32.*expected by its contract gray, float32 N x 1 x 32 x 32"):
        verify(artefact, reference)


def test_a_file_under_a_temporary_name_is_taken_for_what_it_will_be(
    reference: Reference, exported_onnx: Path, tmp_path: Path
) -> None:
    shutil.copy(exported_onnx, tmp_path / ".cgan-123.tmp")
    assert isinstance(verify(tmp_path / ".cgan-123.tmp", reference, name="model.onnx"), Verification)
    changed(exported_onnx, tmp_path / ".cgan-123.tmp", swap_channels)
    with pytest.raises(GateError, match=r"^model\.onnx is not the trained model"):
        verify(tmp_path / ".cgan-123.tmp", reference, name="model.onnx")


# the numbers, in closed form

Difference = Callable[[np.ndarray], np.ndarray | float]

PHOTOS = np.linspace(0, 1, 4 * 16 * 16, dtype=np.float32).reshape(4, 1, 16, 16)
SPEC = ModelSpec(
    model="unet",
    color_space="rgb",
    render_size=16,
    base_width=1,
    parameters=generator_parameters("rgb", 1, 1),
    config_sha256="",
    weights_sha256="0",
)


@pytest.fixture
def numbers_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`numbers_of(difference, ...)`: verify an artefact of that difference from a reference that is 0.5 all over."""

    def call(difference: Difference, spec: ModelSpec = SPEC, expected: float = 0.5, **options: Any) -> dict[str, Any]:
        class Artefact:
            engine = "stub"

            def __enter__(self) -> "Artefact":
                self.spec = spec
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def run(self, gray: np.ndarray) -> np.ndarray:
                return half(gray) + np.asarray(difference(gray), np.float32)

        def half(gray: np.ndarray) -> np.ndarray:
            return np.full((len(gray), 3, *gray.shape[2:]), expected, np.float32)

        monkeypatch.setattr(gate, "open_model", lambda *_, **__: Artefact())
        return verify(Path("model.onnx"), Reference(half, SPEC, "stub", Path("run")), **options).to_json()

    return call


def on_share(amount: float, every: int) -> Difference:
    """A difference in one of so many values."""

    def difference(gray: np.ndarray) -> np.ndarray:
        values = np.zeros((len(gray), 3, *gray.shape[2:]), np.float32)
        values.flat[::every] = amount
        return values

    return difference


FP16, INT8 = (replace(SPEC, precision=precision) for precision in ("fp16", "int8"))


@pytest.mark.parametrize(
    ("amount", "every", "off"), [(2**-7, 16, 1 / 16), (-(2**-7), 16, 1 / 16), (2**-8, 2, 0), (0.25, 1, 1)]
)
def test_the_numbers_have_their_closed_forms(
    numbers_of: Callable[..., Any], amount: float, every: int, off: float
) -> None:
    assert 2**-8 < LEVEL < 2**-7
    found = numbers_of(on_share(amount, every), FP16, photos=PHOTOS, tolerance=Tolerance(min_psnr=0, max_off=1))
    for numbers in found["comparisons"]:
        assert numbers["max_difference"] == abs(amount)
        assert numbers["mean_difference"] == pytest.approx(abs(amount) / every)
        assert numbers["psnr"] == pytest.approx(-10 * math.log10(amount**2 / every))
        assert numbers["off"] == off
    assert found["max_difference"] == abs(amount)
    assert found["min_psnr"] == pytest.approx(-10 * math.log10(amount**2 / every))
    assert found["max_off"] == off


def test_no_difference_has_no_psnr(numbers_of: Callable[..., Any]) -> None:
    found = numbers_of(lambda gray: 0.0, FP16, photos=PHOTOS)
    assert (found["verified"], found["max_difference"], found["min_psnr"], found["max_off"]) == (True, 0, None, 0)
    assert [c["psnr"] for c in found["comparisons"]] == [None] * 3


EIGHTH = on_share(2**-7, 8)  # PSNR 42.14 + 9.03 dB


@pytest.mark.parametrize(
    ("passing", "failing"),
    [
        ({"atol": 2**-7}, {"atol": 2**-7 * 0.999}),
        ({"atol": 0, "rtol": 2**-6}, {"atol": 0, "rtol": 2**-6 * 0.999}),
        ({"atol": 2**-8, "rtol": 2**-7}, {"atol": 2**-8, "rtol": 2**-7 * 0.99}),
        ({"min_psnr": 51.17}, {"min_psnr": 51.18}),
        ({"max_off": 1 / 8}, {"max_off": 0.124}),
    ],
)
def test_each_limit_alone_decides(
    numbers_of: Callable[..., Any], passing: dict[str, float], failing: dict[str, float]
) -> None:
    loose = {"atol": 1, "min_psnr": 0, "max_off": 1}
    for others in ({}, loose):
        tolerance = Tolerance(**(others | passing))
        assert numbers_of(EIGHTH, INT8, photos=PHOTOS, tolerance=tolerance)["verified"]
        held_to = Tolerance(**({"min_psnr": 40.0, "max_off": 0.6} | others | failing))
        with pytest.raises(GateError, match=re.escape(f"allowed is {held_to};")):
            numbers_of(EIGHTH, INT8, photos=PHOTOS, tolerance=Tolerance(**(others | failing)))


def test_a_limit_that_is_left_open_is_the_precision_s_own(numbers_of: Callable[..., Any]) -> None:
    given = Tolerance(min_psnr=30)
    found = numbers_of(EIGHTH, INT8, photos=PHOTOS, tolerance=given)
    assert Tolerance(**found["tolerance"]) == replace(TOLERANCES["int8"], min_psnr=30)
    with pytest.raises(GateError, match=r"PSNR 42\.14 dB, 100% of .* PSNR at least 30 dB, at most 60\.0% more"):
        numbers_of(on_share(2**-7, 1), INT8, photos=PHOTOS, tolerance=given)


@pytest.mark.parametrize(
    ("precision", "passing", "failing"),
    [
        ("fp32", on_share(0.99e-4, 1), on_share(1.01e-4, 1000)),
        ("fp16", on_share(0.99e-3, 1), on_share(1.01e-3, 1)),  # 60 dB
        ("fp16", on_share(2**-7, 1100), on_share(2**-7, 990)),  # 0.1 % off, at 72 dB
        ("int8", on_share(0.00390, 1), on_share(0.5, 2100)),  # 48 dB, 39 dB
        ("int8", on_share(2**-7, 2), on_share(2**-7, 1)),  # 50 % and all off, at 45 and 42 dB
    ],
)
def test_each_precision_has_its_own_limits(
    numbers_of: Callable[..., Any], precision: Precision, passing: Difference, failing: Difference
) -> None:
    spec = replace(SPEC, precision=precision)
    found = numbers_of(passing, spec, photos=PHOTOS, batch_sizes=(8,))
    assert Tolerance(**found["tolerance"]) == TOLERANCES[precision]
    with pytest.raises(GateError, match="is not the trained model"):
        numbers_of(failing, spec, photos=PHOTOS, batch_sizes=(8,))


def test_photos_are_the_ones_given_and_repeated_where_they_are_few(numbers_of: Callable[..., Any]) -> None:
    seen: list[np.ndarray] = []

    def difference(gray: np.ndarray) -> float:
        seen.append(gray)
        return 0.0

    found = numbers_of(difference, FP16, photos=PHOTOS, batch_sizes=(1, 2, 9))
    assert found["photos"] == 4
    assert [(c["images"], c["batch_size"]) for c in found["comparisons"]] == [("photos", n) for n in (1, 2, 9)]
    assert np.array_equal(np.concatenate(seen), PHOTOS[np.arange(12) % 4])


@pytest.mark.parametrize("worst", [1, 3, 8])
def test_every_batch_size_counts(numbers_of: Callable[..., Any], worst: int) -> None:
    with pytest.raises(GateError, match=f"on photos images at batch {worst}, 16 x 16"):
        numbers_of(lambda gray: 0.1 if len(gray) == worst else 0.0, FP16, photos=PHOTOS)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_dynamic_size_is_compared_at_a_second_one(numbers_of: Callable[..., Any], precision: Precision) -> None:
    spec = replace(SPEC, precision=precision)
    assert {c["height"] for c in numbers_of(lambda gray: 0.0, spec)["comparisons"]} == {16}
    dynamic = replace(spec, dynamic_size=True)
    last = numbers_of(lambda gray: 0.0, dynamic)["comparisons"][-1]
    assert (last["batch_size"], last["height"], last["width"]) == (2, 80, 112)
    with pytest.raises(GateError, match="80 x 112"):
        numbers_of(lambda gray: 0.1 if gray.shape[2] == 80 else 0.0, dynamic)


def test_fp32_is_held_to_noise_too(numbers_of: Callable[..., Any]) -> None:
    def difference(gray: np.ndarray) -> float:
        return 0.0 if any(np.array_equal(photo, known) for photo in gray for known in PHOTOS) else 0.01

    with pytest.raises(GateError, match="on random images"):
        numbers_of(difference, photos=PHOTOS)
    assert numbers_of(difference, FP16, photos=PHOTOS)["verified"]


@pytest.mark.parametrize(("spec", "limit"), [(SPEC, {"atol": 1}), (FP16, {"min_psnr": 0})], ids=["atol", "psnr"])
def test_a_reference_that_is_no_number_passes_nothing(
    numbers_of: Callable[..., Any], spec: ModelSpec, limit: dict[str, float]
) -> None:
    with pytest.raises(GateError):
        numbers_of(lambda gray: 0.0, spec, expected=math.nan, tolerance=Tolerance(**limit))
