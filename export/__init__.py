"""Export of a trained generator to ONNX files and engines, each compared with it before it gets its name.

Nothing here trains or colours photos: see `cgan` and `infer`.
"""

import cgan.spec  # noqa: F401  (before anything imports ONNX Runtime)
