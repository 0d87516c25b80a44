"""Colouring of grayscale photos with an exported model; needs neither torch nor the training code."""

import cgan.spec  # noqa: F401  (before anything imports ONNX Runtime)
