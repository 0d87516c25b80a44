"""The machine that a benchmark runs on, as its record describes it."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cgan.cores import available_cores

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
"""Packages whose versions a record names."""


def machine() -> dict[str, object]:
    """Return the processor, cores, GPU and driver, Python and the versions of PACKAGES, as JSON values."""
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "gpu": gpu_and_driver(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def cpu_name() -> str:
    """Return the name of the processor; outside Linux, of its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def has_bf16() -> bool:
    """Return True unless Linux reports a processor without bf16."""
    info = Path("/proc/cpuinfo")
    return not info.exists() or "bf16" in info.read_text()


def gpu_and_driver() -> str | None:
    """Return the name, driver and memory of the first NVIDIA GPU, None where there is none."""
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
