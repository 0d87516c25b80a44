"""Feature networks of FID and KID, and a cache of features."""

import hashlib
import io
import sqlite3
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cgan.errors import UserError
from cgan.extras import needed
from cgan.files import json_sha256
from cgan.metrics.measurement import INCEPTION_SHA256
from cgan.onnx_file import read_onnx

INCEPTION_FEATURES = 2048
INCEPTION_CACHE_NAME = "inception_v3_google-0cc3c7bd.pth"
"""File name of torchvision's Inception v3 weights in torch's hub cache."""

CACHE_NAME = "features.sqlite"
TABLE = "sealed_features"
"""Not the name in earlier versions, whose rows had no digest."""
CACHE_TIMEOUT = 60.0
"""Seconds that a process waits for another one to write."""

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


def load_features(inception_weights: Path | None = None, features: Path | None = None) -> FeatureNetwork:
    """Load the feature network of a command.

    Args:
        inception_weights: a state dict of Inception v3; None for the one in torch's hub cache.
        features: an ONNX feature extractor to use instead.

    Raises:
        UserError: both were given, or the file is missing or invalid.
    """
    if features is None:
        return load_inception(inception_weights)
    if inception_weights:
        raise UserError(
            f"--inception-weights {inception_weights}: it has no effect beside --features {features}; leave one out"
        )
    return load_onnx_features(features)


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
        content = path.read_bytes()
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
        rows = [session.run(None, {name: part.cpu().numpy()})[0].reshape(len(part), -1) for part in parts]
        return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(pictures.device)

    def _session(self, device: torch.device) -> Any:
        """Return the session of a device, created at its first use."""
        import onnxruntime as ort

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


def load_onnx_features(path: Path) -> FeatureNetwork:
    """Load an ONNX feature extractor, see `OnnxFeatures`.

    Raises:
        UserError: the file is missing or not a feature extractor.
    """
    if not path.is_file():
        raise UserError(f"--features {path}: found no such file, expected an ONNX feature extractor")
    module = OnnxFeatures(path)
    import onnxruntime as ort

    fingerprint = {
        "network": "ONNX feature extractor",
        "weights_sha256": module.sha256,
        "resize": module.resize,
        "onnxruntime": ort.__version__,
    }
    return FeatureNetwork(module, module.dimensions, fingerprint, path.stem)


class FeatureCache:
    """A cache of features on disk; the key is the content of the picture and the fingerprint of the network.

    Several threads and processes can use it at once, and it can be deleted at any time. If it cannot be read or
    written, features are computed without it, and `note` says so. Each row has a digest of itself and its key; a
    damaged row is computed again.

    Args:
        folder: folder of the file CACHE_NAME.
        network: the feature network.
        device: where the network runs. Features of CPU and GPU differ in their last bits and have different keys.
    """

    def __init__(self, folder: Path, network: FeatureNetwork, device: torch.device) -> None:
        self.path = folder / CACHE_NAME
        self.network = network
        self.device = device
        self.hits = 0
        """Number of pictures found in the cache."""
        self.note: str | None = None
        """A note if features are not kept, or if some were damaged."""
        self._damaged = 0
        where = {"versions": library_versions(), "device": device.type}
        self._prefix = bytes.fromhex(json_sha256({**network.fingerprint, **where}))
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=CACHE_TIMEOUT, check_same_thread=False)
            self._database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (key BLOB PRIMARY KEY, row BLOB, sha256 BLOB)")
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._database:
            self._database.close()

    def extract(self, pictures: Tensor) -> Tensor:
        """Return features as `FeatureNetwork.extract` does, but on the CPU in float32, from the cache if possible."""
        prefix = self._prefix + repr(tuple(pictures.shape[1:])).encode()
        keys = [hashlib.sha256(prefix + picture.contiguous().numpy().tobytes()).digest() for picture in pictures]
        rows = self._find(keys)
        missing = [i for i, row in enumerate(rows) if row is None]
        if missing:
            found = self.network.extract(pictures[missing], self.device).float().cpu()
            for i, row in zip(missing, found, strict=True):
                rows[i] = row
            self._keep([keys[i] for i in missing], found)
        return torch.stack([row for row in rows if row is not None])

    def _find(self, keys: Sequence[bytes]) -> list[Tensor | None]:
        def row(database: sqlite3.Connection, key: bytes) -> Tensor | None:
            found = database.execute(f"SELECT row, sha256 FROM {TABLE} WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            content, sha256 = found
            if not isinstance(content, bytes) or sha256 != _row_digest(key, content):
                self._damaged += 1
                return None
            return torch.from_numpy(np.frombuffer(content, np.float32).copy())

        with self._lock:
            try:
                rows = [row(self._database, key) if self._database else None for key in keys]
            except sqlite3.Error as error:
                self._give_up(error)
                rows = [None] * len(keys)
            self.hits += sum(row is not None for row in rows)
            if self._damaged and self._database:
                self.note = f"{self.path}: {self._damaged} features were damaged and computed again"
        return rows

    def _keep(self, keys: Sequence[bytes], features: Tensor) -> None:
        rows = [row.numpy().tobytes() for row in features]
        values = [(key, row, _row_digest(key, row)) for key, row in zip(keys, rows, strict=True)]
        with self._lock:
            if self._database is None:
                return
            try:
                with self._database:
                    self._database.executemany(f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?)", values)
            except sqlite3.Error as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Continue without the cache."""
        self.close()
        self._database = None
        self.note = (
            f"{self.path}: features are not kept there ({error}), so the next command computes them again; "
            "delete the file, make room or permission there, or set CGAN_CACHE to another folder"
        )


def _row_digest(key: bytes, row: bytes) -> bytes:
    return hashlib.sha256(key + row).digest()
