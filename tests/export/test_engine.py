"""Engines that are really built: TensorRT for RTX does so without a GPU."""

import hashlib
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from cgan.color import COLOR_TARGETS
from cgan.errors import GateError, UserError
from cgan.networks import Generator, count_parameters
from cgan.spec import ColorSpaceName, ModelSpec
from export.engine import build_engine
from export.engine_options import EngineOptions
from export.engine_precision import FROM_NETWORK, LEAST_SHARE
from export.onnx_model import export_onnx
from infer.backends.flavours import find_gpu

SIZE, WIDTH = 32, 4
NO_GPU = find_gpu() is None
MakeOnnx = Callable[..., tuple[Path, ModelSpec]]
RTX = EngineOptions(flavour="tensorrt-rtx", batch=(1, 4, 8))


@pytest.fixture(scope="module")
def make_onnx(tmp_path_factory: pytest.TempPathFactory, exported_onnx: Path) -> MakeOnnx:
    """`make_onnx(precision, color_space, dynamic, width)`: an ONNX file and its contract, made once."""
    folder = tmp_path_factory.mktemp("onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(exported_onnx).metadata_props}
    fp32 = ModelSpec.from_metadata(metadata, exported_onnx)

    @cache
    def make(
        precision: str = "fp16", color_space: ColorSpaceName = "rgb", dynamic: bool = False, width: int = WIDTH
    ) -> tuple[Path, ModelSpec]:
        if precision == "fp32":
            return exported_onnx, fp32
        if precision == "int8":
            return quantize(exported_onnx, folder / "int8.onnx"), replace(fp32, precision="int8")
        path = folder / f"{color_space}-{dynamic}-{width}.onnx"
        torch.manual_seed(0)
        generator = Generator(COLOR_TARGETS[color_space].channels, width).eval()
        changes: dict[str, Any] = {"color_space": color_space, "base_width": width, "dynamic_size": dynamic}
        spec = replace(fp32, precision="fp16", parameters=count_parameters(generator), **changes)
        export_onnx(generator, spec, path)
        return path, spec

    return make


def quantize(path: Path, target: Path) -> Path:
    """Static Q/DQ with symmetric INT8, which is what TensorRT takes."""

    class Noise(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([{"gray": np.random.default_rng(0).random((2, 1, SIZE, SIZE), np.float32)}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    quantize_static(
        path,
        target,
        Noise(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options=symmetric,
    )
    return target


def options(**changes: Any) -> EngineOptions:
    return EngineOptions(**{"flavour": "tensorrt-rtx", "batch": (1, 4, 8), **changes})


def plan_bytes(onnx_file: Path, spec: ModelSpec, folder: Path, **changes: Any) -> np.ndarray:
    build_engine(onnx_file, spec, options(**changes), folder / "model.plan")
    return np.frombuffer((folder / "model.plan").read_bytes(), np.uint8)


def differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Return True if two plans differ by more than the few dozen bytes that differ between equal builds."""
    return len(first) != len(second) or int((first != second).sum()) > 1000


def test_an_fp16_engine_is_built_without_a_gpu_and_its_record_is_complete(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    import tensorrt_rtx

    path, spec = make_onnx()
    record = build_engine(path, spec, RTX, tmp_path / "model.plan").to_json()
    size = (tmp_path / "model.plan").stat().st_size
    assert record == json.loads(json.dumps(record))
    assert record["flavour"] == "tensorrt-rtx"
    assert record["tensorrt_version"] == tensorrt_rtx.__version__
    assert record["compute_capabilities"] == ["8.0+"]
    assert record["gpu"] is None
    assert record["onnx_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["profiles"] == [{"min": [1, 1, SIZE, SIZE], "opt": [4, 1, SIZE, SIZE], "max": [8, 1, SIZE, SIZE]}]
    assert record["flags"] == {
        "strongly_typed": True,
        "version_compatible": False,
        "hardware_compatible": False,
        "strip_weights": False,
        "detailed_profiling": False,
        "optimization_level": None,
        "workspace_mib": None,
        "timing_cache": False,
    }
    assert record["plan_bytes"] == size > 2 * spec.parameters
    assert record["bytes_per_parameter"] == pytest.approx(size / spec.parameters, abs=1e-3)
    assert record["precision"]["fp16_share"] == 1
    if NO_GPU:
        assert record["precision"]["found_by"] == FROM_NETWORK
    layers = record["precision"]["network"]["layers"]
    assert layers["HALF"] > 40
    assert layers["FLOAT"] == 1  # the cast of the output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.plan"]


@pytest.mark.slow
def test_the_conversion_to_rgb_may_stay_fp32_and_a_large_plan_has_two_bytes_a_parameter(
    make_onnx: MakeOnnx, tmp_path: Path
) -> None:
    record = build_engine(*make_onnx("fp16", "hsv", width=32), RTX, tmp_path / "model.plan").to_json()
    network = record["precision"]["network"]
    assert network["layers"]["FLOAT"] > 10
    assert network["fp16_share"] == 1
    assert 2 < record["bytes_per_parameter"] < 2.3


@pytest.mark.slow
def test_an_fp32_file_does_not_become_an_fp16_engine(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    (fp32_file, fp32), (fp16_file, fp16), (_, int8) = make_onnx("fp32"), make_onnx("fp16"), make_onnx("int8")
    target = tmp_path / "model.plan"
    with pytest.raises(GateError, match=r"not fp16: found 0% of its layers in FP16.*expected at least 90%"):
        build_engine(fp32_file, fp16, RTX, target)
    with pytest.raises(GateError, match=r"not fp32: found 100% of its layers in FP16"):
        build_engine(fp16_file, fp32, RTX, target)
    with pytest.raises(GateError, match=r"not int8: found no layer with quantised input"):
        build_engine(fp32_file, int8, RTX, target)
    record = build_engine(fp32_file, fp32, RTX, target).to_json()
    assert record["precision"]["fp16_share"] == 0


@pytest.mark.slow
def test_an_int8_engine_has_quantised_layers(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    record = build_engine(*make_onnx("int8"), RTX, tmp_path / "model.plan").to_json()
    assert record["precision"]["network"]["int8_share"] == 1
    assert record["precision"]["network"]["layers"]["INT8"] > 15


@pytest.mark.slow
def test_batches_and_sizes_go_into_profile_and_plan(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    path, spec = make_onnx()
    base = plan_bytes(path, spec, tmp_path)
    assert differ(base, plan_bytes(path, spec, tmp_path, batch=(1, 1, 1)))
    path, spec = make_onnx(dynamic=True)
    record = build_engine(path, spec, options(sizes=(16, 48, 64)), tmp_path / "model.plan").to_json()
    assert record["profiles"] == [{"min": [1, 1, 16, 16], "opt": [4, 1, 48, 48], "max": [8, 1, 64, 64]}]
    wide = np.frombuffer((tmp_path / "model.plan").read_bytes(), np.uint8)
    assert differ(wide, plan_bytes(path, spec, tmp_path, sizes=(32, 32, 32)))


@pytest.mark.slow
def test_workspace_and_targets_change_the_plan(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    path, spec = make_onnx()
    base = plan_bytes(path, spec, tmp_path)
    assert not differ(base, plan_bytes(path, spec, tmp_path))
    assert differ(base, plan_bytes(path, spec, tmp_path, workspace_mib=64))
    assert differ(base, plan_bytes(path, spec, tmp_path, compute_capabilities=("7.5",)))
    with pytest.raises(GateError, match=r"cannot build the engine \(IBuilder.*workspace"):
        plan_bytes(path, spec, tmp_path, workspace_mib=1)
    record = build_engine(path, spec, options(workspace_mib=64), tmp_path / "model.plan").to_json()
    assert record["flags"]["workspace_mib"] == 64


@pytest.mark.slow
def test_detailed_profiling_is_noted_in_the_plan(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    path, spec = make_onnx()
    plain = [plan_bytes(path, spec, tmp_path) for _ in range(2)]
    detailed = [plan_bytes(path, spec, tmp_path, detailed_profiling=True) for _ in range(2)]
    agreed = (plain[0] == plain[1]) & (detailed[0] == detailed[1])
    assert (agreed & (plain[0] != detailed[0])).any()
    record = build_engine(path, spec, options(detailed_profiling=True), tmp_path / "model.plan").to_json()
    assert record["flags"]["detailed_profiling"] is True


@pytest.mark.parametrize("targets", [("8.6",), ("7.5", "8.6", "12.0")])
def test_compute_capabilities_are_chosen(make_onnx: MakeOnnx, tmp_path: Path, targets: tuple[str, ...]) -> None:
    record = build_engine(*make_onnx(), options(compute_capabilities=targets), tmp_path / "model.plan").to_json()
    assert record["compute_capabilities"] == list(targets)


def test_an_unknown_compute_capability_is_refused_with_the_known_ones(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    known = r"--compute-capability: found 9\.0, 86, expected some of 7\.5, 8\.0, 8\.6, 8\.9, 12\.0"
    with pytest.raises(UserError, match=known):
        build_engine(*make_onnx(), options(compute_capabilities=("8.6", "9.0", "86")), tmp_path / "model.plan")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not NO_GPU, reason="a GPU is here")
def test_stripping_weights_needs_a_gpu(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--strip-weights: found no NVIDIA GPU.*expected one"):
        build_engine(*make_onnx(), options(strip_weights=True), tmp_path / "model.plan")


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_a_stripped_engine_is_much_smaller(
    needs: Callable[[str], None], make_onnx: MakeOnnx, tmp_path: Path, flavour: str
) -> None:
    needs(flavour)
    path, spec = make_onnx("fp16", "hsv", width=32)
    whole = plan_bytes(path, spec, tmp_path, flavour=flavour)
    assert len(plan_bytes(path, spec, tmp_path, flavour=flavour, strip_weights=True)) < len(whole) / 4


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="needs an NVIDIA GPU")
def test_the_engine_inspector_finds_fp16_layers(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    wanted = options(flavour="tensorrt", detailed_profiling=True)
    fp16 = build_engine(*make_onnx(), wanted, tmp_path / "fp16.plan").to_json()["precision"]
    fp32 = build_engine(*make_onnx("fp32"), wanted, tmp_path / "fp32.plan").to_json()["precision"]
    assert fp16["engine"]["fp16_share"] >= max(LEAST_SHARE.values()) > 0 == fp32["engine"]["fp16_share"]


@pytest.mark.parametrize("damage", ["empty", "junk", "half", "operator", "types", "names", "shape", "absent"])
def test_a_broken_file_is_refused_in_one_line(
    make_onnx: MakeOnnx,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    path, spec = make_onnx()
    broken = tmp_path / "broken.onnx"
    content, model = path.read_bytes(), onnx.load(path)
    if damage in ("empty", "junk", "half"):
        broken.write_bytes({"empty": b"", "junk": b"not a model", "half": content[: len(content) // 2]}[damage])
    elif damage != "absent":
        if damage == "operator":
            model.graph.node[3].op_type = "NoSuchOperator"
        elif damage == "types":
            weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("stem.0.weight"))
            values = onnx.numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        elif damage == "names":
            model.graph.output[0].name = model.graph.node[-1].output[0] = "color"
        else:
            model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2 * SIZE
        onnx.save_model(model, broken)
    reason = {
        **dict.fromkeys(("empty", "junk", "half"), "not an ONNX file, or a damaged one"),
        "absent": "cannot be read",
        "operator": "at NoSuchOperator .*Plugin not found",
        "types": "must be of same type",
        "names": "found inputs and outputs .*color.*expected gray and rgb",
        "shape": r"found an input of \[-1, 1, 64, 32\], expected \[-1, 1, 32, 32\]",
    }.get(damage, "tensorrt_rtx cannot read it")
    with pytest.raises(UserError, match=rf"broken\.onnx: .*{reason}.*export it again") as refused:
        build_engine(broken, spec, RTX, tmp_path / "model.plan")
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 800
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.slow
def test_sizes_have_to_fit_the_model(make_onnx: MakeOnnx, tmp_path: Path) -> None:
    for dynamic, sizes, found in [
        (False, (32, 32, 32), r"--size: found \(32, 32, 32\) for a model of fixed size 32"),
        (True, None, "--size: found none for a model of dynamic size"),
        (True, (16, 24, 64), r"--size: found \(16, 24, 64\), expected multiples of 16"),
    ]:
        path, spec = make_onnx(dynamic=dynamic)
        with pytest.raises(UserError, match=found):
            build_engine(path, spec, options(sizes=sizes), tmp_path / "model.plan")
    path, spec = make_onnx(dynamic=True)
    fixed = make_onnx()[1]
    with pytest.raises(UserError, match=r"found an input of \[-1, 1, -1, -1\], expected \[-1, 1, 32, 32\]"):
        build_engine(path, fixed, RTX, tmp_path / "model.plan")


def test_progress_is_told_and_nothing_is_printed(
    make_onnx: MakeOnnx, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, int, int]] = []
    build_engine(*make_onnx(), RTX, tmp_path / "model.plan", lambda *step: told.append(step))
    assert told[0] == ("Building engine", 0, told[0][2])
    assert told[-1] == ("Building engine", told[0][2], told[0][2])
    last = {phase: (done, steps) for phase, done, steps in told}
    assert len(last) > 3
    assert all(done == steps for done, steps in last.values())
    assert all(0 <= done <= steps for _, done, steps in told)
    assert capfd.readouterr() == ("", "")


def test_what_progress_raises_ends_the_build(
    make_onnx: MakeOnnx, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*step: object) -> None:
        raise LookupError("no terminal")

    def interrupt(*step: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(LookupError, match="no terminal"):
        build_engine(*make_onnx(), RTX, tmp_path / "model.plan", fail)
    with pytest.raises(KeyboardInterrupt):
        build_engine(*make_onnx(), RTX, tmp_path / "model.plan", interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "model.plan").exists()
