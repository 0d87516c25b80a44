"""Feature networks of FID and KID; `cgan.metrics.feature_cache` keeps features."""

import hashlib
import io
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cgan.config import INCEPTION
from cgan.efficientnet import PooledFeatures, load_weights
from cgan.errors import UserError
from cgan.extras import needed, onnx_runtime
from cgan.metrics.measurement import INCEPTION_SHA256
from cgan.onnx_file import read_onnx
from cgan.readers import read_limited
from cgan.text import counted

EFFICIENTNET = "efficientnet-lite2"
"""Name of EfficientNet-Lite2 as a feature network."""

INCEPTION_FEATURES = 2048
INCEPTION_CACHE_NAME = "inception_v3_google-0cc3c7bd.pth"
"""File name of torchvision's Inception v3 weights in torch's hub cache."""

MOST_WEIGHTS = 2**29
"""Largest file of Inception's weights in bytes; the published one has 109 MB."""

MOST_FEATURES = 8192
"""Most features of a network. The covariances of each set have their square in float64: 0.5 GB of 8,192."""

MOST_SIDE = 4096
"""Largest height and width that an ONNX file may fix for its pictures."""

PROBE_SIDES = (224, 448)
"""Sizes of pictures on which an extractor for any size is tested."""

FEATURE_BATCH = 16
"""Pictures in a batch; fixed, because the last bits of features can depend on it."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A feature network of FID and KID, with the fingerprint for its figures."""

    module: nn.Module
    """N x 3 x H x W in [0, 1] -> N x dimensions."""
    dimensions: int
    fingerprint: dict[str, Any]
    name: str | None = None
    """Name of its file; None for Inception with its published weights: only its distances are called FID and KID."""

    @torch.inference_mode()
    def extract(self, pictures: Tensor, device: torch.device) -> Tensor:
        """Return the features of pictures.

        Args:
            pictures: N x 3 x H x W float32 in [0, 1].
            device: where the network runs.

        Returns:
            N x dimensions, on that device, in the network's type.

        Raises:
            ValueError: another type, or a value outside [0, 1]; NaN is not detected.
        """
        if pictures.dtype != torch.float32 or bool(((pictures < 0) | (pictures > 1)).any()):
            raise ValueError(
                f"found {pictures.dtype} in [{pictures.min()}, {pictures.max()}], expected float32 in [0, 1]"
            )
        module = self.module.to(device).eval()
        return torch.cat([module(part.to(device)) for part in torch.split(pictures, FEATURE_BATCH)])


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries on which features and their distances depend."""
    return {"torch": str(torch.__version__), **{name: version(name) for name in ("torchvision", "torcheval")}}


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Make CUDA convolutions deterministic and exact float32, without TF32.

    The setting is global to the process: enter the block in one thread, around all threads that compute features.
    """
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False, fp32_precision="ieee"):
        yield


def load_features(inception_weights: Path | None = None, features: str | Path = INCEPTION) -> FeatureNetwork:
    """Load the feature network of a command.

    Args:
        inception_weights: a state dict of Inception v3; None for the one in torch's hub cache.
        features: "inception", "efficientnet-lite2", or the path of an ONNX feature extractor.

    Raises:
        UserError: weights of Inception were given for another network, or a file is missing or invalid.
    """
    if features == INCEPTION:
        return load_inception(inception_weights)
    if inception_weights:
        raise UserError(
            f"--inception-weights {inception_weights}: it has no effect beside --features {features}; leave one out"
        )
    return load_efficientnet() if features == EFFICIENTNET else load_onnx_features(Path(features))


def inception_path(weights: Path | None) -> Path:
    """Return the path of the weights of Inception v3, without loading them.

    Args:
        weights: a state dict file, or None for the copy in torch's hub cache (nothing is downloaded).

    Raises:
        UserError: there is no such file.
    """
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_CACHE_NAME
    if not path.is_file():
        raise UserError(
            f"FID and KID need Inception v3 weights, found no file {path}; give --inception-weights FILE, "
            'or download them once with python -c "from torchvision.models import inception_v3; '
            "inception_v3(weights='DEFAULT')\", or leave FID and KID out with --no-fid"
        )
    return path


def load_inception(weights: Path | None) -> FeatureNetwork:
    """Load torchvision's Inception v3 up to its 2,048 pooled features.

    Args:
        weights: as for `inception_path`.

    Raises:
        UserError: the weights are missing or not those of Inception v3, the ones in the hub cache are not the published
            ones, or torcheval is not installed.
    """
    fid = torcheval_fid()  # a missing package comes before missing weights, which it reads
    path = inception_path(weights)
    # torcheval's wrapper, so that figures are comparable with those of other users of torcheval: photos in [0, 1],
    # resized bilinearly. It sets transform_input only if it downloads the weights.
    wrapper = fid.FIDInceptionV3
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The default weight initialization of inception_v3", FutureWarning)
        network = wrapper(weights=None)
    network.model.transform_input = True
    try:
        content = read_limited(path, MOST_WEIGHTS)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        network.model.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    except Exception as error:  # torch raises many types for an invalid state dict
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not the weights of torchvision's Inception v3 ({reason}); give another file"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    published = digest.startswith(INCEPTION_SHA256)
    if weights is None and not published:
        raise UserError(
            f"{path}: found sha256 {digest[:16]}..., expected {INCEPTION_SHA256}... of the published weights; delete "
            "it and download it again, or give it with --inception-weights"
        )
    fingerprint = {
        "network": "torchvision inception_v3, 2048 pooled features, through torcheval",
        "weights_sha256": digest,
        "resize": "bilinear to 299 x 299",
    }
    return FeatureNetwork(network.eval(), INCEPTION_FEATURES, fingerprint, None if published else path.stem)


@cache
def torcheval_fid() -> Any:
    """Import torcheval's FID module without its deprecation warnings.

    Raises:
        UserError: torcheval is not installed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        with needed("measuring FID and KID", "train", "leave them out with --no-fid"):
            from torcheval.metrics.image import fid
    return fid


def load_efficientnet() -> FeatureNetwork:
    """Load EfficientNet-Lite2 up to its 1,280 pooled features.

    It is not the network of the projected discriminator, whose distances would flatter what it trained.

    Raises:
        UserError: timm or the weights are missing.
    """
    weights = load_weights("lite2", f"--features {EFFICIENTNET}")
    module = PooledFeatures(weights)
    fingerprint = {
        "network": f"EfficientNet-Lite2 of timm {version('timm')}, {PooledFeatures.DIMENSIONS} pooled features",
        "weights_sha256": weights.sha256,
        "resize": f"bilinear, antialiased, to {module.SIDE} x {module.SIDE}",
    }
    return FeatureNetwork(module.eval(), PooledFeatures.DIMENSIONS, fingerprint, EFFICIENTNET)


class OnnxFeatures(nn.Module):
    """An ONNX file as a feature network: N x 3 x H x W sRGB in [0, 1] to N x dimensions, float32.

    If the file fixes H and W, pictures are resized bilinearly. Other preprocessing, such as the subtraction of a mean,
    must be in its graph.

    Args:
        path: a self-contained ONNX file.

    Raises:
        UserError: it is not a feature extractor.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.size: list[int | str]
        try:
            self._content = read_onnx(path)
            self.sha256 = hashlib.sha256(self._content).hexdigest()
            (source,) = self._session(torch.device("cpu")).get_inputs()
            rank = len(source.shape)
            batch, channels, *self.size = source.shape if rank == 4 else (None, None)
            self.batch = batch if isinstance(batch, int) else None
            if rank != 4 or (isinstance(channels, int) and channels != 3) or source.type != "tensor(float)":
                raise ValueError(f"its input is {source.type} {source.shape}")
            if self.batch not in (None, 1):
                raise ValueError(f"it takes only batches of {self.batch}")
            sides = (1,) if self._fixed else PROBE_SIDES
            self._check_output()
            counts = {side: self(torch.zeros(1, 3, side, side)).shape[1] for side in sides}
            if len(set(counts.values())) > 1:
                found = " and ".join(f"{count} of {side} x {side} pixels" for side, count in counts.items())
                raise ValueError(f"its number of features depends on the picture's size: {found}")
        except Exception as error:  # ONNX Runtime has an exception type for each status code
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"--features {path}: found no usable feature extractor ({reason}); expected a "
                "self-contained ONNX file that takes float32 N x 3 x H x W in [0, 1]"
            ) from error
        self.dimensions = counts[sides[0]]
        self.resize = f"bilinear to {self.size[0]} x {self.size[1]}" if self._fixed else "none"

    @property
    def _fixed(self) -> bool:
        return all(isinstance(length, int) for length in self.size)

    def forward(self, pictures: Tensor) -> Tensor:
        """N x 3 x H x W float32 in [0, 1] -> N x dimensions float32, on the same device."""
        if self._fixed and list(pictures.shape[2:]) != self.size:
            size = [int(side) for side in self.size]
            pictures = nn.functional.interpolate(pictures, size, mode="bilinear", align_corners=False)
        session = self._session(pictures.device)
        name = session.get_inputs()[0].name
        parts = torch.split(pictures, self.batch or len(pictures))
        rows = [self._rows(session.run(None, {name: part.cpu().numpy()})[0], len(part)) for part in parts]
        return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(pictures.device)

    def _check_output(self) -> None:
        """Refuse, before the network runs, sizes and features that would need more memory than any extractor.

        Raises:
            ValueError: the graph names such a size or output.
        """
        if self._fixed and not all(0 < int(side) <= MOST_SIDE for side in self.size):
            raise ValueError(f"it takes pictures of {self.size} pixels, expected sides of at most {MOST_SIDE}")
        output = self._session(torch.device("cpu")).get_outputs()[0]
        if output.type not in ("tensor(float)", "tensor(float16)", "tensor(double)"):
            raise ValueError(f"its first output is {output.type}, expected numbers with a fraction")
        lengths = [length for length in output.shape[1:] if isinstance(length, int)]
        if len(lengths) == len(output.shape) - 1:
            _check_features((1, *lengths), 1)

    @staticmethod
    def _rows(output: Any, count: int) -> NDArray[np.generic]:
        _check_features(output.shape, count)
        rows: NDArray[np.generic] = output.reshape(count, -1)
        return rows

    def _session(self, device: torch.device) -> Any:
        """Return the session of a device, created at its first use."""
        ort = onnx_runtime()
        wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        with self._lock:
            if wanted not in self._sessions:
                options = ort.SessionOptions()
                options.log_severity_level = 4  # its errors are raised; what it prints is not ours to show
                ort.set_default_logger_severity(4)
                options.intra_op_num_threads = torch.get_num_threads()
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                own = {"use_tf32": "0"} if device.type == "cuda" else {}
                session = ort.InferenceSession(self._content, options, providers=[(wanted, own)])
                if (found := session.get_providers()[0]) != wanted:
                    raise UserError(
                        f"--features {self.path}: {wanted} is not available, found {found}; use --device cpu"
                    )
                self._sessions[wanted] = session
            return self._sessions[wanted]


def _check_features(shape: tuple[int, ...], count: int) -> None:
    """Check the shape of a network's output for `count` pictures.

    Raises:
        ValueError: it is not N x features, with 1 to MOST_FEATURES of them.
    """
    features = math.prod(shape[1:])
    if len(shape) < 2 or shape[0] != count or max(shape[1:]) != features or not 0 < features <= MOST_FEATURES:
        raise ValueError(
            f"its output is {' x '.join(map(str, shape))} for {counted(count, 'picture')}, expected N x features, 1 to "
            f"{MOST_FEATURES:,} of them"
        )


def load_onnx_features(path: Path) -> FeatureNetwork:
    """Load an ONNX feature extractor, see `OnnxFeatures`.

    Raises:
        UserError: the file is missing or not a feature extractor.
    """
    if not path.is_file():
        raise UserError(f"--features {path}: found no such file, expected {INCEPTION}, {EFFICIENTNET} or an ONNX file")
    module = OnnxFeatures(path)
    fingerprint = {
        "network": "ONNX feature extractor",
        "weights_sha256": module.sha256,
        "resize": module.resize,
        "onnxruntime": onnx_runtime().__version__,
    }
    return FeatureNetwork(module, module.dimensions, fingerprint, path.stem)
