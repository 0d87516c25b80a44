"""Training of the conditional GAN that colours grayscale photos."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cgan")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"
