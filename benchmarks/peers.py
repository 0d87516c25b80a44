"""Other ways to colour a folder of photos, as people write them, for `python -m benchmarks folder`.

Each loads the ONNX model for a number of threads and returns a function that writes a JPEG of the size of the photo for
every photo of a folder. PyTorch runs the same architecture with random weights, which take the same time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgan.spec import ModelSpec

Colouring = Callable[[Path, Path], None]
"""Colours the photos of a folder into another folder."""

Peer = Callable[[Path, int], Colouring]
"""Makes a `Colouring` from an ONNX file and a number of threads."""

BATCH = 4
"""Photos in a batch of the peers that batch; the default of a folder run on a CPU."""


def pytorch_loop(model: Path, threads: int) -> Colouring:
    """PyTorch eager in fp32: read, colour, write, one photo after the other."""
    import torch

    network, size = _generator(model), _spec(model).render_size
    torch.set_num_threads(threads)

    def color(source: Path, target: Path) -> None:
        with torch.inference_mode():
            for path in sorted(source.iterdir()):
                gray = Image.open(path).convert("L")
                rgb = network(torch.from_numpy(_input(gray, size)[None]))[0].numpy()
                _save(gray, rgb, target / path.name)

    return color


def pytorch_batches(model: Path, threads: int) -> Colouring:
    """PyTorch channels-last in bf16, with a DataLoader that decodes in a worker process, and batches."""
    import torch
    from torch.utils.data import DataLoader

    size = _spec(model).render_size
    network = _generator(model).to(memory_format=torch.channels_last)
    torch.set_num_threads(threads)

    def color(source: Path, target: Path) -> None:
        # One worker that reads ahead: more would only take the model's cores.
        files: Any = _Files(source, size)  # all that a data set needs, but torch's class comes with torch
        loader: Any = DataLoader(files, batch_size=BATCH, num_workers=1, collate_fn=list)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for items in loader:
                gray = torch.from_numpy(np.stack([item[1] for item in items]))
                colors = network(gray.contiguous(memory_format=torch.channels_last)).float().numpy()
                for (path, _, photo), rgb in zip(items, colors, strict=True):
                    _save(Image.fromarray(photo), rgb, target / path.name)

    return color


def onnx_loop(model: Path, threads: int) -> Colouring:
    """One ONNX Runtime session with default settings, one photo after the other, as in the folder mode of rembg."""
    import onnxruntime as ort  # after cgan, which disables its telemetry

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    size = _spec(model).render_size

    def color(source: Path, target: Path) -> None:
        for path in sorted(source.iterdir()):
            gray = Image.open(path).convert("L")
            _save(gray, session.run(None, {"gray": _input(gray, size)[None]})[0][0], target / path.name)

    return color


def openvino_loop(model: Path, threads: int) -> Colouring:
    """OpenVINO in the default precision of the processor (bf16 where supported), one photo after the other."""
    from infer.backends.ov import load_openvino

    core = load_openvino().Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": threads})
    size = _spec(model).render_size

    def color(source: Path, target: Path) -> None:
        for path in sorted(source.iterdir()):
            gray = Image.open(path).convert("L")
            _save(gray, next(iter(compiled(_input(gray, size)[None]).values()))[0], target / path.name)

    return color


PEERS: dict[str, Peer] = {
    "PyTorch fp32, one by one": pytorch_loop,
    "PyTorch bf16 channels-last, DataLoader": pytorch_batches,
    "ONNX Runtime, one by one": onnx_loop,
    "OpenVINO, one by one": openvino_loop,
}
"""Peers by name."""

NEEDED: dict[Peer, str] = {pytorch_loop: "torch", pytorch_batches: "torch", openvino_loop: "openvino"}
"""Packages that peers need; those that are not named need none."""


class _Files:
    """Photos of a folder as a map-style data set for PyTorch."""

    def __init__(self, source: Path, size: int) -> None:
        self.paths = sorted(source.iterdir())
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, np.ndarray, np.ndarray]:
        gray = Image.open(self.paths[index]).convert("L")
        return self.paths[index], _input(gray, self.size), np.asarray(gray)


def _input(gray: Image.Image, size: int) -> np.ndarray:
    return np.asarray(gray.resize((size, size), Image.Resampling.BICUBIC), np.float32)[None] / 255


def _save(gray: Image.Image, rgb: np.ndarray, target: Path) -> None:
    """Save the colours, enlarged to the size of the photo, with the luma of the photo."""
    colors = Image.fromarray((rgb.transpose(1, 2, 0) * 255 + 0.5).clip(0, 255).astype(np.uint8))
    _, cb, cr = colors.resize(gray.size, Image.Resampling.BICUBIC).convert("YCbCr").split()
    Image.merge("YCbCr", (gray, cb, cr)).convert("RGB").save(target, quality=95)


def _spec(model: Path) -> ModelSpec:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return ModelSpec.from_metadata(session.get_modelmeta().custom_metadata_map, model)


def _generator(model: Path) -> Any:
    from cgan.networks import Generator, GrayToRGB

    spec = _spec(model)
    return GrayToRGB(Generator.of(spec), spec.color_space).eval()
