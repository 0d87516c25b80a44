"""Model repositories for Triton: their config as Triton's own message, their files, and what they replace."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from cgan.errors import GateError, UserError
from cgan.files import file_sha256
from cgan.spec import Sidecar, read_sidecar, write_sidecar
from export import repository
from export.artefact import ExportOptions
from export.build_record import Profile
from export.choices import TRITON_BATCHES, Sizes
from export.cli import main
from export.engine_options import EngineOptions
from export.repository import make_repository
from export.triton_config import triton_config
from infer.backends import open_model
from infer.backends.trt import check_sidecar, sealed
from tests.export.conftest import engine_record
from tests.triton_message import TYPE_FP32, kind, parsed

OPTIONS = ExportOptions(batch_sizes=TRITON_BATCHES)


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sidecar_of(path: Path) -> Sidecar:
    sidecar = read_sidecar(path)
    assert sidecar is not None
    return sidecar


@pytest.fixture
def plan(tmp_path: Path, exported_onnx: Path) -> Callable[..., Path]:
    """`plan(**options)`: a file that stands for a verified engine of TensorRT, with its sidecar."""

    def make(flavour: Any = "tensorrt", batch: Sizes = (1, 16, 64), **options: Any) -> Path:
        path = tmp_path / "given.plan"
        path.write_bytes(b"a plan")
        record = engine_record(EngineOptions(flavour=flavour, **options), exported_onnx)
        shapes = [[count, 1, 32, 32] for count in batch]
        record = replace(record, profiles=[Profile(*shapes)], tensorrt_version="10.12.0", gpu="NVIDIA L4")
        of_onnx = sidecar_of(exported_onnx)
        write_sidecar(path, sealed(replace(of_onnx, file_sha256=file_sha256(path), build=record.to_json())))
        return path

    return make


def test_a_repository_holds_the_file_that_an_export_to_onnx_makes(
    invoke: Callable[..., Any], trained_run: Path, exported_onnx: Path, tmp_path: Path
) -> None:
    result = invoke(main, trained_run, "--out", tmp_path, "--format", "triton")
    assert result.code == 0, result.err
    assert f"next: tritonserver --model-repository {tmp_path}" in result.err
    name = exported_onnx.stem
    assert contents(tmp_path).keys() == {
        f"{name}/{file}" for file in ("config.pbtxt", "1/model.onnx", "1/model.onnx.json")
    }
    model = tmp_path / name / "1" / "model.onnx"
    assert onnx.load(model).graph == onnx.load(exported_onnx).graph
    assert sidecar_of(model).verification["verified"] is True
    assert sidecar_of(model).build["repository"] == {"config.pbtxt": file_sha256(tmp_path / name / "config.pbtxt")}
    with open_model(model, "cpu") as backend:
        assert backend.spec == sidecar_of(exported_onnx).spec


def test_the_config_is_one_that_triton_reads_and_describes_the_file(exported_onnx: Path, tmp_path: Path) -> None:
    folder = make_repository(exported_onnx, tmp_path, OPTIONS).path
    config = parsed((folder / "config.pbtxt").read_text())
    assert (config.name, config.platform, config.backend) == (folder.name, "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    tensors = [(config.input[0], session.get_inputs()[0]), (config.output[0], session.get_outputs()[0])]
    for given, found in tensors:
        assert (given.name, given.data_type) == (found.name, TYPE_FP32)
        assert list(given.dims) == found.shape[1:]
    (warm_up,) = config.model_warmup
    assert warm_up.batch_size == 1
    zeros = warm_up.inputs["gray"]
    assert (list(zeros.dims), zeros.zero_data, zeros.data_type) == ([1, 32, 32], True, TYPE_FP32)


@pytest.mark.parametrize(
    ("build", "expected"),
    [({}, "KIND_AUTO"), ({"int8_target": "cpu"}, "KIND_CPU"), ({"int8_target": "tensorrt"}, "KIND_AUTO")],
)
def test_int8_for_cpus_runs_on_a_cpu(exported_onnx: Path, build: dict[str, Any], expected: str) -> None:
    config = parsed(triton_config("a", replace(sidecar_of(exported_onnx), build=build), (1, 4, 16)))
    assert [group.kind for group in config.instance_group] == [kind(expected)]


def test_sides_of_a_dynamic_size_are_open(exported_onnx: Path) -> None:
    sidecar = sidecar_of(exported_onnx)
    config = parsed(triton_config("a", replace(sidecar, spec=replace(sidecar.spec, dynamic_size=True)), (1, 4, 16)))
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([1, -1, -1], [3, -1, -1])
    assert list(config.model_warmup[0].inputs["gray"].dims) == [1, 32, 32]


def test_a_plan_runs_on_a_gpu_in_the_batches_of_its_profile(plan: Callable[..., Path], tmp_path: Path) -> None:
    made = make_repository(plan(batch=(1, 8, 24), version_compatible=True), tmp_path / "out", OPTIONS)
    config = parsed((made.path / "config.pbtxt").read_text())
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.instance_group[0].kind == kind("KIND_GPU")
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (24, [8, 24])
    assert check_sidecar(sidecar_of(made.path / "1" / "model.plan"), made.path)["repository"].keys() == {"config.pbtxt"}
    assert [note.split(" ")[:3] for note in made.notes] == [
        ["the", "server", "needs"],
        ["start", "tritonserver", "with"],
    ]
    assert "TensorRT 10.12.0 and a GPU like the NVIDIA L4" in made.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavour": "tensorrt-rtx"}, "found an engine of TensorRT for RTX, expected one of TensorRT"),
        ({"strip_weights": True}, "found an engine without weights"),
        ({"batch": (4, 8, 16)}, "found batches of 4 to 16, expected 1 or more"),
    ],
)
def test_plans_that_triton_cannot_run_are_refused(
    plan: Callable[..., Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_repository(plan(**options), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_what_was_not_compared_is_refused(plan: Callable[..., Path], tmp_path: Path) -> None:
    path = plan()
    write_sidecar(path, sealed(replace(sidecar_of(path), verification={"verified": False, "reason": "no GPU here"})))
    with pytest.raises(UserError, match="found it no GPU here, expected one that was compared with its model"):
        make_repository(path, tmp_path / "out", OPTIONS)
    assert make_repository(path, tmp_path / "out", replace(OPTIONS, verify=False)).path.is_dir()


def test_a_file_that_differs_is_not_shipped(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, stub_export: Callable[[float], None]
) -> None:
    stub_export(0.05)
    assert "is not the trained model" in invoke(main, trained_run, "--out", tmp_path, "--format", "triton").error(1)
    assert contents(tmp_path) == {}


def test_a_file_that_changes_while_it_is_copied_is_not_shipped(
    exported_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: Path(target).write_bytes(b"another"))
    with pytest.raises(GateError, match="changed while it was copied"):
        make_repository(exported_onnx, tmp_path, OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_an_unchanged_export_is_replaced(exported_onnx: Path, tmp_path: Path) -> None:
    folder = make_repository(exported_onnx, tmp_path, OPTIONS).path
    make_repository(exported_onnx, tmp_path, replace(OPTIONS, batch_sizes=(1, 2, 3)))
    assert parsed((folder / "config.pbtxt").read_text()).max_batch_size == 3
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("change", ["config.pbtxt", "1/model.onnx", "1/labels.txt", "2/model.onnx"])
def test_a_folder_with_anything_else_in_it_stays(exported_onnx: Path, tmp_path: Path, change: str) -> None:
    folder = make_repository(exported_onnx, tmp_path, OPTIONS).path
    (folder / change).parent.mkdir(exist_ok=True)
    (folder / change).write_text("somebody else's")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=f"{folder}: found something else of that name"):
        make_repository(exported_onnx, tmp_path, replace(OPTIONS, overwrite=True))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_names_of_others_stay(exported_onnx: Path, tmp_path: Path, kind: str) -> None:
    out, target = tmp_path / "out", tmp_path / "out" / exported_onnx.stem
    out.mkdir()
    if kind == "file":
        target.write_text("somebody else's")
    elif kind == "link":
        target.symlink_to(tmp_path)
    else:
        (target / "1").mkdir(parents=True)
    with pytest.raises(UserError, match="found something else of that name"):
        make_repository(exported_onnx, out, replace(OPTIONS, overwrite=True))
    assert list(out.iterdir()) == [target]


def test_an_export_of_other_weights_is_replaced_only_if_asked(exported_onnx: Path, tmp_path: Path) -> None:
    folder = make_repository(exported_onnx, tmp_path, OPTIONS).path
    path = folder / "1" / "model.onnx"
    sidecar = sidecar_of(path)
    write_sidecar(path, replace(sidecar, spec=replace(sidecar.spec, weights_sha256="0" * 64)))
    with pytest.raises(UserError, match="found something else of that name"):
        make_repository(exported_onnx, tmp_path, OPTIONS)
    make_repository(exported_onnx, tmp_path, replace(OPTIONS, overwrite=True))
    assert sidecar_of(path).spec == sidecar.spec


def test_what_comes_into_the_folder_at_the_last_moment_stays(
    exported_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_repository(exported_onnx, tmp_path, OPTIONS).path
    write = repository._write

    def write_while_another_file_comes(*arguments: Any) -> Sidecar:
        (folder / "note.txt").write_text("somebody else's")
        return write(*arguments)

    monkeypatch.setattr(repository, "_write", write_while_another_file_comes)
    with pytest.raises(UserError, match="found something else of that name"):
        make_repository(exported_onnx, tmp_path, OPTIONS)
    assert (folder / "note.txt").read_text() == "somebody else's"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep-failed"], "--keep-failed: no effect beside --format triton"),
        (["--push", "hf://a/b"], "--push: no effect beside --format triton"),
        (["--atol", "1"], "--atol: no effect beside a file as SOURCE"),
        (["--strip-weights"], "--strip-weights: no effect without --format tensorrt"),
    ],
)
def test_options_without_an_effect_are_refused(
    invoke: Callable[..., Any], exported_onnx: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in invoke(main, exported_onnx, "--out", tmp_path, "--format", "triton", *options).error(2)


def test_the_batches_of_a_plan_are_its_own(
    invoke: Callable[..., Any], plan: Callable[..., Path], tmp_path: Path
) -> None:
    command = [plan(), "--out", tmp_path / "out", "--format", "triton"]
    assert "--batch: no effect beside an engine" in invoke(main, *command, "--batch", "1,2,3").error(2)
    assert invoke(main, *command).code == 0
