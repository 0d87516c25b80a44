"""Fixtures of export: a verified fp16 file, an exporter and a builder that do next to nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cgan.files import file_sha256
from cgan.spec import ModelSpec
from export import artefact as pipeline
from export.artefact import ExportOptions, make_onnx
from export.build_record import EnginePrecision, EngineRecord, NetworkPrecision
from export.engine import flags_of
from export.engine_options import EngineOptions
from export.engine_precision import FROM_NETWORK
from export.tolerance import Tolerance
from export.verify import Comparison, Verification


@pytest.fixture(autouse=True)
def quick(no_curves: None, remembered_exports: object) -> None:
    """Draw no curves, trace each architecture once."""


@pytest.fixture(scope="session")
def half_onnx(tmp_path_factory: pytest.TempPathFactory, trained_run: Path, remembered_exports: object) -> Path:
    """`trained_run` as a verified fp16 file."""
    return make_onnx(trained_run, tmp_path_factory.mktemp("half"), ExportOptions(precision="fp16")).path


@pytest.fixture
def stub_export(monkeypatch: pytest.MonkeyPatch, exported_onnx: Path) -> Callable[[float], None]:
    """`stub_export(amount)`: the exporter writes `exported_onnx` with so much more in the last layer's bias."""

    def use(amount: float = 0.0) -> None:
        def write(generator: Any, spec: ModelSpec, path: Path, *_: object) -> None:
            model = onnx.load(exported_onnx)
            (bias,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("head.bias")]
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(amount), bias.name))
            onnx.helper.set_model_props(model, spec.to_metadata())
            onnx.save(model, path)

        monkeypatch.setattr(pipeline, "export_onnx", write)

    return use


@pytest.fixture
def passed() -> Verification:
    """A comparison that passed, of one batch."""
    comparison = Comparison("photos", 1, 32, 32, 0.0, 0.0, None, 0.0, 0.0)
    return Verification(
        reference="stub",
        checkpoint=None,
        engine="stub",
        photos=1,
        tolerance=Tolerance(),
        comparisons=(comparison,),
    )


def engine_record(options: EngineOptions, onnx: Path) -> EngineRecord:
    """The build record of an engine that was not built."""
    layers = NetworkPrecision(1.0, 0.0, {})
    return EngineRecord(
        flavour=options.flavour,
        tensorrt_version="1.7",
        compute_capabilities=["8.0+"],
        gpu=None,
        platform="linux-x86_64",
        onnx_sha256=file_sha256(onnx),
        profiles=[],
        flags=flags_of(options),
        plan_bytes=6,
        bytes_per_parameter=0.0,
        precision=EnginePrecision(1.0, FROM_NETWORK, layers, None),
        warnings=[],
    )


@pytest.fixture
def stub_build(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`stub_build(error=None)`: a builder that writes a few bytes, then fails where told to."""

    def use(error: Exception | None = None) -> None:
        def build(onnx: Path, spec: Any, options: Any, target: Path, progress: Any = None) -> EngineRecord:
            target.write_bytes(b"a plan")
            if error:
                raise error
            return engine_record(options, onnx)

        monkeypatch.setattr(pipeline, "build_engine", build)

    return use
