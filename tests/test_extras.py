"""Optional packages: each command that needs one that is missing says so in one line, with the extra to install."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cgan.errors import UserError
from cgan.extras import BUILDS, onnx_runtime
from tests.test_packaging import BLOCKER, ROOT

EXPORT = ["export", "RUN", "--out", "TMP/models"]
EVALUATE = ["infer", "evaluate", "RUN", "PHOTOS"]
PARITY = ["infer", "parity", "ONNX", "--reference", "RUN", "--data", "PHOTOS"]
TRAIN = ["cgan", "PHOTOS", "--out", "TMP/run"]
FOLDER = ["infer", "folder", "PHOTOS", "TMP/colored"]
INIT = [*TRAIN, "--no-fid", "--init", "ONNX", "--width", "4", "--size", "32"]

COMMANDS = {
    "torch": {
        "train": [
            TRAIN,
            [*TRAIN, "--no-fid"],
            EVALUATE,
            PARITY,
            [*FOLDER, "--check-parity", "RUN"],
            ["infer", "info", "RUN"],
            [*FOLDER, "--model", "RUN"],
        ],
        "export": [EXPORT, ["export", "--inspect", "ONNX"], ["export", "RUN", "--verify", "ONNX"]],
    },
    "safetensors": {
        "train": [
            [*TRAIN, "--no-fid"],
            [*EVALUATE, "--no-fid"],
            [*PARITY, "--no-fid"],
            ["infer", "info", "RUN"],
            [*FOLDER, "--check-parity", "RUN"],
            [*FOLDER, "--model", "RUN"],
        ],
        "export": [EXPORT],
    },
    "torchvision": {"train": [["cgan", "flowers102", "--out", "TMP/run", "--no-fid"], TRAIN, EVALUATE, PARITY]},
    "torcheval": {"train": [TRAIN, EVALUATE, PARITY]},
    "tensorboard": {"train": [TRAIN, [*TRAIN, "--no-fid"]]},
    "matplotlib": {"train": [TRAIN, [*TRAIN, "--no-fid"]]},
    "jinja2": {"train": [[*PARITY, "--no-fid", "--html", "TMP/page.html"]]},
    "onnx": {"export": [EXPORT, INIT, ["export", "--inspect", "ONNX"], ["export", "RUN", "--verify", "ONNX"]]},
    "onnxscript": {"export": [EXPORT]},
    "onnxruntime": {"cpu": [EXPORT, FOLDER, ["infer", "info"], [*PARITY, "--no-fid"]]},
    "openvino": {"openvino": [["infer", "info", "--backend", "openvino"], [*FOLDER, "--backend", "openvino"]]},
    "fsspec": {
        "remote": [["infer", "folder", "memory://in", "TMP/colored"], ["infer", "folder", "PHOTOS", "s3://x/y"]]
    },
    "huggingface_hub": {"hub": [["infer", "info", "hf://a/b"], [*EXPORT, "--push", "hf://a/b"]]},
    **{
        name: {"serve": [["infer", "serve"]]}
        for name in ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
    },
    "mlflow": {"mlflow": [[*TRAIN, "--no-fid", "--track", "mlflow"]]},
    "wandb": {"wandb": [[*TRAIN, "--no-fid", "--track", "wandb"]]},
    "tensorrt": {"tensorrt": [[*EXPORT, "--format", "tensorrt"]]},
    "tensorrt_rtx": {"tensorrt-rtx": [[*EXPORT, "--format", "tensorrt-rtx"]]},
}
"""By the missing package: the extra that has it, and the commands that name it."""

RUN_ALL = """
import contextlib, importlib, io, json, traceback
ended = []
for package, *arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module(f"{package}.cli").main(arguments)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    ended.append([code, err.getvalue()])
print(json.dumps(ended))
"""


@pytest.mark.parametrize("package", COMMANDS)
@pytest.mark.slow
def test_a_missing_package_is_one_line_that_names_its_extra(
    package: str, trained_run: Path, exported_onnx: Path, photo_folder: Path, tmp_path: Path
) -> None:
    paths = {"RUN": str(trained_run), "ONNX": str(exported_onnx), "PHOTOS": str(photo_folder)}
    expected = [(command, extra) for extra, commands in COMMANDS[package].items() for command in commands]
    arguments = [[paths.get(part, part).replace("TMP", str(tmp_path)) for part in command] for command, _ in expected]
    program = BLOCKER.format(blocked=(package,)) + RUN_ALL
    result = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    for (command, extra), (code, error) in zip(expected, json.loads(result.stdout.splitlines()[-1]), strict=True):
        lines = [line for line in error.splitlines() if not line.startswith("note: ")]
        assert (code, len(lines)) == (2, 1), f"{command}: {code} {error}"
        assert f"pip install 'cgan[{extra}]'" in lines[0], f"{command}: {error}"
    assert not list(tmp_path.rglob("*.*"))


def test_two_builds_of_onnx_runtime_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for build in BUILDS:
        folder = tmp_path / f"{build.replace('-', '_')}-9.9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {build}\nVersion: 9.9\n")
    with pytest.raises(UserError, match=r"found onnxruntime and onnxruntime-gpu.*pip uninstall -y onnxruntime onnx"):
        onnx_runtime()
