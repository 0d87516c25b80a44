"""cgan-infer info: a dozen lines for people, all values for programs, engines that cannot run here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgan.spec import sidecar_path
from infer.backends.flavours import find_gpu
from infer.cli import main

Call = Callable[..., Any]


def test_people_are_told_in_a_dozen_short_lines(invoke: Call, exported_onnx: Path) -> None:
    lines = invoke(main, "info", exported_onnx).out.splitlines()
    assert len(lines) <= 12
    assert max(len(line) for line in lines if str(exported_onnx) not in line) <= 80
    told = {line[:11].strip(): line[12:] for line in lines}
    assert told["file"] == str(exported_onnx)
    assert told["model"].startswith("unet for colouring, fp32, ")
    assert told["made from"].startswith("best.safetensors, epoch ")
    assert told["verified"].startswith("yes, against PyTorch")
    assert told["agreement"].startswith("PSNR at least ")
    assert told["digest"].endswith(", unchanged since its export")
    assert told["runs here"].startswith("yes, ONNX Runtime")


def test_people_are_told_what_is_not_known(invoke: Call, model: Path, trained_run: Path) -> None:
    sidecar_path(model).unlink()
    out = invoke(main, "info", model).out
    assert "verified    not known: there is no sidecar beside it" in out
    assert "made from   not known" in out
    out = invoke(main, "info", trained_run, "--device", "cpu").out
    assert "runs here   yes, PyTorch" in out and "made from   best.safetensors, epoch" in out


def test_info_prints_the_contract(invoke: Call) -> None:
    result = invoke(main, "info", "--json")
    values = json.loads(result.out)
    assert result.code == 0
    assert values["fixed_size"] == [64, 64]
    assert values["spec"]["input"]["name"] == "gray"
    assert values["sidecar"]["verification"]["verified"] is True
    assert "Provider" in values["engine"]


def test_info_takes_what_folder_takes(tmp_path: Path, invoke: Call) -> None:
    assert "CPUExecutionProvider" in json.loads(invoke(main, "info", "--provider", "cpu", "--json").out)["engine"]
    assert "use --backend ort" in invoke(main, "info", "--backend", "torch").error(2)


@pytest.mark.skipif(find_gpu() is not None, reason="a GPU is here")
def test_info_describes_an_engine_that_cannot_run_here(
    stub_plan: Path, write_record: Callable[..., None], invoke: Call
) -> None:
    write_record(stub_plan)
    result = invoke(main, "info", stub_plan, "--json")
    assert result.code == 0
    values = json.loads(result.out)
    assert values["engine"] is None
    assert values["note"].startswith("cannot run here: ")
    assert values["fixed_size"] == [32, 32]
    assert values["spec"] == values["spec"] | {"base_width": 4, "model": "unet"}
    assert values["sidecar"]["build"]["flavour"] == "tensorrt-rtx"
    lines = invoke(main, "info", stub_plan).out.splitlines()
    assert "runs here   no" in lines and "verified    no" in lines
    assert lines[-1].startswith("note        cannot run here: ")
    stub_plan.write_bytes(b"another plan")
    assert "changed since its export" in invoke(main, "info", stub_plan).error(2)


@pytest.mark.parametrize(
    "changes",
    [
        *({"profiles": []}, {"profiles": [{"min": [1, 1, -32, 32], "opt": [1], "max": 3}]}, {"profiles": "x"}),
        *({"tensorrt_version": "x"}, {"tensorrt_version": None}, {"compute_capabilities": [8.6]}, {"flags": {}}),
        *({"flags": {"version_compatible": 1, "strip_weights": "no"}}, {"platform": 5}, {"gpu": 7}),
    ],
)
def test_a_damaged_build_record_is_refused(
    changes: dict[str, Any], stub_plan: Path, write_record: Callable[..., None], invoke: Call
) -> None:
    write_record(stub_plan, **changes)
    assert "its sidecar cannot be used (" in invoke(main, "info", stub_plan).error(2)
