"""Training of the conditional GAN that colours grayscale photos."""

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cgan")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"

# ONNX Runtime reports to its vendor from a thread of its own, which a process that ends may wait for, and keeps what it
# will report in the user's cache. It reads this when it is imported, which is after this: infer and export import cgan.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# What else libraries keep between processes belongs in this project's cache, not in folders of their own. They read
# this when they are imported or first used.
from cgan.user_folders import cache_folder

with suppress(RuntimeError):  # no home folder: there is no cache, and a command that needs one says so
    for _name, _folder in (
        ("MPLCONFIGDIR", "matplotlib"),
        ("TORCHINDUCTOR_CACHE_DIR", "inductor"),  # what torch.compile made
        ("TRITON_CACHE_DIR", "triton"),
        ("CUDA_CACHE_PATH", "cuda"),  # kernels that the driver made for a newer GPU
    ):
        os.environ.setdefault(_name, str(cache_folder() / _folder))
