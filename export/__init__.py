"""Export of a trained generator to the files that people deploy, each proved equal to it first."""

import cgan.spec  # noqa: F401  (before anything imports ONNX Runtime)
