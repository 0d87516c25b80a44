"""Training of the conditional GAN that colours grayscale photos."""

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cgan")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"

# ONNX Runtime's telemetry is off: its thread delays the end of a process, and it writes into the user's cache. The
# variable is read when ONNX Runtime is imported; infer and export import cgan before that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Caches of other libraries belong in this project's cache. The variables are read when a library is imported or first
# used.
from cgan.user_folders import cache_folder

with suppress(RuntimeError):  # no home folder: a command that needs the cache raises it again
    for _name, _folder in (
        ("MPLCONFIGDIR", "matplotlib"),
        ("TORCHINDUCTOR_CACHE_DIR", "inductor"),  # code from torch.compile
        ("TRITON_CACHE_DIR", "triton"),
        ("CUDA_CACHE_PATH", "cuda"),  # kernels that the driver compiles for a newer GPU
    ):
        os.environ.setdefault(_name, str(cache_folder() / _folder))
