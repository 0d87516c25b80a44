"""What a figure was measured on, for the records of benchmarks."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from infer.backends.base import available_cores

PACKAGES = (
    "cgan",
    "numpy",
    "pillow",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "torch",
    "tensorrt",
    "tensorrt-rtx-cu13",
)


def machine() -> dict[str, object]:
    """Processor, cores, GPU and driver, Python and the packages that count, as JSON values."""
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "gpu": gpu_and_driver(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def arguments() -> list[str]:
    """The command's arguments; of paths the last part, since the rest says something of this machine alone."""
    return [Path(part).name if "/" in part else part for part in sys.argv[1:]]


def cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def has_bf16() -> bool:
    """Return True unless Linux says that the processor does not compute in bf16."""
    info = Path("/proc/cpuinfo")
    return not info.exists() or "bf16" in info.read_text()


def gpu_and_driver() -> str | None:
    """Name, driver and memory of the first NVIDIA GPU, None where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return lines[0] if lines else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
