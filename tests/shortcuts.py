"""Slow steps that many tests repeat, done once for all workers of a test run."""

import atexit
import copy
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

MEMORY = Path("/dev/shm")


def keep_in_memory() -> None:
    """Have pytest make its temporary folders in memory, in a folder of this test run, where there is room.

    Everything that the project writes is flushed to disk, which takes half the time of the smallest trainings.
    """
    if {"PYTEST_XDIST_WORKER", "PYTEST_DEBUG_TEMPROOT"} & os.environ.keys():
        return  # a worker gets a folder below that of the main process
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 * 2**30:
        folder = tempfile.mkdtemp(prefix="cgan-tests-", dir=MEMORY)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder that all workers of this test run share."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock that other workers wait for."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a shared folder that `make` filled, in whichever worker came first."""
    folder, records = shared_folder(factory, name), shared_folder(factory, "made")
    with held(records / f"{name}.lock"):
        if not (records / name).exists():
            make(folder)
            (records / name).touch()
    return folder


def remember_exports(export: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Return `torch.onnx.export` that traces each architecture once and puts the weights of each network in.

    Tracing takes some 5 seconds. Everything behind it (metadata, checker, quantisation, verification) still runs.
    """

    def call(network: Any, *arguments: Any, **options: Any) -> Any:
        import onnx
        import torch

        if arguments or not {"kwargs", "dynamic_shapes"} <= options.keys():
            return export(network, *arguments, **options)
        stand_in = copy.deepcopy(network)  # of other weights: equal ones would become one constant
        random = torch.Generator().manual_seed(0)
        for weight in stand_in.parameters():
            torch.nn.init.uniform_(weight, -0.1, 0.1, generator=random)
        digest = hashlib.sha256(f"{network!r}{options['dynamic_shapes']!r}".encode())
        with torch.no_grad():  # colour space, blur and whatever else no module's text shows
            ramps = {name: torch.linspace(0, 1, x.numel()).view_as(x) for name, x in options["kwargs"].items()}
            shown = stand_in(**ramps)
        for tensor in (*stand_in.buffers(), *stand_in.parameters(), *ramps.values(), shown):
            digest.update(f"{tensor.dtype}{tensor.shape}".encode() + tensor.detach().numpy().tobytes())
        path = folder / f"{digest.hexdigest()}.onnx"
        with held(path.with_suffix(".lock")):
            if not path.exists():
                program = export(stand_in, **options)
                path.write_bytes(program.model_proto.SerializeToString())
        model = onnx.load_model(path)
        weights = dict(network.named_parameters())
        for tensor in model.graph.initializer:
            if (weight := weights.pop(tensor.name, None)) is not None:
                tensor.CopyFrom(onnx.numpy_helper.from_array(weight.detach().numpy(), tensor.name))
        assert not weights, "the exporter left out weights"
        return SimpleNamespace(model_proto=model)

    return call
