"""The import rules of CONTRIBUTING.md, that the commands start quickly, and what is packaged."""

import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from infer.backends.flavours import FLAVOURS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TORCH_FREE = {
    f"cgan.{name}"
    for name in (
        "bmp_runs",
        "command",
        "completeness",
        "config",
        "cores",
        "checkpoint_record",
        "documents",
        "errors",
        "extras",
        "files",
        "formats",
        "hub",
        "jpeg_decoder",
        "jpeg_scans",
        "libtiff_messages",
        "onnx_file",
        "options_file",
        "packaged",
        "photo_limits",
        "progress",
        "readers",
        "spec",
        "text",
        "user_folders",
    )
}
"""Modules of cgan that infer may import."""

HEAVY = ("torch", "torchvision", "torcheval", "onnx", "onnxscript", "tensorrt", "tensorrt_rtx", "cuda", "safetensors")

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str, *arguments: str, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter where the blocked packages look as if they were not installed."""
    program = BLOCKER.format(blocked=blocked) + code
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_the_modules_of_the_engines_count_as_heavy() -> None:
    assert {flavour.module for flavour in FLAVOURS.values()} <= set(HEAVY)


def test_loading_infer_loads_nothing_of_cgan_but_those() -> None:
    code = """
import importlib, pkgutil
import infer
for module in pkgutil.walk_packages(infer.__path__, "infer.", onerror=print):
    if not module.name.startswith("infer.quality") or module.name == "infer.quality.cli":
        importlib.import_module(module.name)
print(*(name for name in sys.modules if name.split(".")[0] in ("cgan", "export")))
"""
    result = run_python(code, blocked=HEAVY)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) <= {"cgan", *TORCH_FREE}


def test_folder_run_works_where_torch_is_not_installed(tmp_path: Path) -> None:
    code = "from infer.cli import main; main(sys.argv[1:])"
    result = run_python(
        code, "folder", "examples", str(tmp_path / "out"), "--device", "cpu", blocked=(*HEAVY, "fsspec")
    )
    assert result.returncode == 0, result.stderr
    outputs = {path.name for path in (tmp_path / "out").iterdir()} - {"report.json", ".cgan"}
    beside = {"README.md", "kserve_client.py", "__pycache__"}
    assert outputs == {path.name for path in (ROOT / "examples").iterdir()} - beside


@pytest.mark.parametrize("command", ["cgan", "export", "infer"])
def test_help_needs_no_heavy_package(command: str) -> None:
    result = run_python(
        f"from {command}.cli import main; main(['--help'])", blocked=(*HEAVY, "numpy", "PIL", "onnxruntime")
    )
    assert result.returncode == 0, result.stderr
    assert "Usage: cgan-" in result.stdout


@pytest.mark.parametrize(
    ("command", "arguments", "extra"),
    [
        ("cgan", ["examples", "--out", "x", "--no-fid"], "train"),
        ("export", ["x", "--out", "y"], "export"),
        ("infer", ["parity", "x.onnx", "--reference", "y", "--data", "z"], "train"),
    ],
)
def test_a_missing_extra_is_named(command: str, arguments: list[str], extra: str) -> None:
    result = run_python(f"from {command}.cli import main; main({arguments!r})", blocked=HEAVY)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"cgan[{extra}]" in result.stderr


def test_help_of_infer_takes_little_cpu_time() -> None:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(3):
        before = used()
        subprocess.run(
            [sys.executable, "-c", "from infer.cli import main; main(['--help'])"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        times.append(used() - before)
    assert min(times) < 0.4


NO_TELEMETRY = """
import importlib, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            assert os.environ.get("ORT_DISABLE_TELEMETRY"), "ONNX Runtime would report to its vendor"

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
import onnxruntime
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


@pytest.mark.parametrize("module", ["cgan", "infer", "export.artefact", "benchmarks.folder", "benchmarks.latency"])
@pytest.mark.slow
def test_onnx_runtime_reports_to_nobody(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    done = run_python(NO_TELEMETRY, module)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_who_wants_onnx_runtime_to_report_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert run_python(NO_TELEMETRY, "infer").stdout == "0\n"


@pytest.mark.parametrize("package", ["cgan", "export", "infer"])
def test_type_checkers_are_told_of_the_types(package: str) -> None:
    assert (ROOT / package / "py.typed").read_bytes() == b""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"][package]


def test_onnx_runtime_is_chosen_by_an_extra() -> None:
    """A dependency could not be replaced, and its two packages overwrite each other's files."""
    extras = PROJECT["optional-dependencies"]
    others = [name for name in extras if name not in ("cpu", "gpu")]
    required = [*PROJECT["dependencies"], *(package for name in others for package in extras[name])]
    assert not [package for package in required if package.startswith("onnxruntime")]
    assert [package.partition(">")[0] for package in extras["cpu"]] == ["onnxruntime"]
    assert [package.partition(">")[0] for package in extras["gpu"]] == ["onnxruntime-gpu", "onnxruntime"]


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize(("name", "extra"), [("Dockerfile", "cpu"), ("Dockerfile.cuda", "gpu")])
def test_images_install_a_runtime_and_run_without_privileges(name: str, extra: str) -> None:
    text = (ROOT / name).read_text()
    assert f'"/source[{extra}]"' in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["cgan"]
    assert 'ENTRYPOINT ["cgan-infer"]' in text
    assert text.index("USER cgan") < text.index("ENTRYPOINT")


def test_the_source_distribution_names_every_file_at_the_top() -> None:
    """What MANIFEST.in lacks would be missing for those who test or build from it."""
    manifest = (ROOT / "MANIFEST.in").read_text()
    kept = {"LICENSE", "README.md", "pyproject.toml", "MANIFEST.in"}  # setuptools adds these
    for path in ROOT.glob("*.*"):
        if path.suffix in (".md", ".yml", ".cff", ".cuda") and path.name not in kept:
            assert f" {path.name}" in f" {manifest}".replace("\n", " "), path.name
