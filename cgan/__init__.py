"""Training of the conditional GAN that colours grayscale photos."""

import os
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cgan")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"

# ONNX Runtime reports to its vendor from a thread of its own, which a process that ends may wait for, and keeps what it
# will report in the user's cache. It reads this when it is imported, which is after this: infer and export import cgan.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
