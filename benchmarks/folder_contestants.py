"""Contestants of `python -m benchmarks folder`: processes that colour the photos of a folder when it is their turn."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.peers import PEERS
from cgan.cores import available_cores
from infer.backends import open_model
from infer.backends.base import Backend
from infer.folder.journal import Journal
from infer.folder.local_folder import LocalFolder
from infer.folder.options import FolderOptions
from infer.folder.pipeline import Pipeline
from infer.folder.plan import make_plan
from infer.photo.decode import decode, model_input

BARE_SECONDS = 1.5
"""Length of a turn of the bare loop."""
CORES = available_cores()
FOLDER, BARE = "cgan-infer folder", "bare ONNX Runtime, no files"
LEAST_PATIENCE, PATIENCE = 120.0, 5.0
"""Seconds for loading, and for each photo of a turn. A process that takes longer is killed and reported."""

Run = Callable[[Path, Path], int]
"""Colours the photos of a folder into an empty folder and returns their number."""


@dataclass
class Measured:
    """Figures of one turn of one contestant."""

    images_per_second: float
    cpu_use: float
    """Processor time as a share of the time of all cores, 0 to 1."""
    peak_rss_mib: float


class Contestant:
    """A process that takes turns; each contestant has its own, so that none inherits memory or threads of another."""

    def __init__(self, name: str, folder: Path, model: Path, batch_size: int, workers: int) -> None:
        self.name = name
        self._patience = LEAST_PATIENCE + PATIENCE * len(list((folder / "in").iterdir()))
        options = ["--turn", name, "--folder", folder, "--model", model, "--batch-size", batch_size]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "folder", *map(str, options), "--workers", str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # as `cgan-infer folder` sets it
        )

    def __enter__(self) -> Self:
        """Wait until the process is ready: one that is still loading would slow the turns of others."""
        try:
            self._answer("while it loaded")
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        try:
            self._process.communicate(timeout=self._patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise SystemExit(f"{self.name} did not end within {self._patience:g} s: while it exited") from error
        if error is None and self._process.returncode:
            raise SystemExit(f"{self.name} failed with exit code {self._process.returncode}")

    def turn(self) -> Measured:
        """Have the process colour the photos once.

        Raises:
            SystemExit: the process failed or hangs.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended, which _answer reports
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return Measured(**json.loads(self._answer("at work")))

    def _answer(self, where: str) -> str:
        assert self._process.stdout is not None
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            self._process.kill()

        late = threading.Timer(self._patience, give_up)
        late.daemon = True
        late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            late.cancel()
        if line:
            return line
        code = self._process.wait()
        reason = f"did not answer within {self._patience:g} s" if hung.is_set() else f"failed with exit code {code}"
        raise SystemExit(f"{self.name} {reason}: {where}")


def take_turns(name: str, folder: Path, model: Path, batch_size: int, workers: int) -> None:
    """Serve as the process of a contestant: load the model, print "ready", then take a turn for each line of stdin.

    A turn colours the photos of folder/in and prints its `Measured` as JSON. The photos of folder/few are for warm-up.

    Args:
        name: contestant.
        folder: holds the folders `in` and `few`; outputs are written into temporary folders in it.
        model: ONNX file.
        batch_size: photos in a batch.
        workers: threads for decoding and encoding.
    """
    # Libraries print to standard output; that must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answers, ExitStack() as stack:
        color = prepared(stack, name, folder / "few", model, batch_size, workers)
        with tempfile.TemporaryDirectory(dir=folder) as target:
            color(folder / "few", Path(target))
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            with tempfile.TemporaryDirectory(dir=folder) as target:
                clock = Clock()
                images = color(folder / "in", Path(target))
                measured = clock.measured(images)
            print(json.dumps(asdict(measured)), file=answers, flush=True)


class Clock:
    """Wall-clock and processor time since this object was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()

    def measured(self, images: int) -> Measured:
        """Return the figures of a turn of this many images."""
        wall, cpu = time.perf_counter() - self.wall, cpu_seconds() - self.cpu
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Measured(images / wall, cpu / wall / CORES, rss)


def cpu_seconds() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def prepared(stack: ExitStack, name: str, few: Path, model: Path, batch_size: int, workers: int) -> Run:
    """Return the turn of a contestant, with its model loaded; `stack` releases the model."""
    if name == BARE:
        return bare_loop(model, few, batch_size)
    if name.startswith(FOLDER):
        backend = name.removeprefix(FOLDER).rpartition(" ")[2] or "auto"
        opened = stack.enter_context(open_model(model, "cpu", max(1, CORES // workers), backend=backend))
        return folder_run(opened, FolderOptions(batch_size=batch_size, workers=workers, streams=workers + 1))
    color = PEERS[name](model, CORES)

    def run(source: Path, target: Path) -> int:
        color(source, target)
        return len(list(target.iterdir()))

    return run


def folder_run(backend: Backend, options: FolderOptions) -> Run:
    """Return a turn of the pipeline of `cgan-infer folder`; a photo that fails ends the process."""

    def run(source: Path, target: Path) -> int:
        inputs, outputs = LocalFolder(source), LocalFolder(target)
        plan = make_plan(inputs, outputs)
        with closing(Journal(target / "journal.sqlite")) as journal:
            outcome = Pipeline(inputs, outputs, backend, options, journal, "benchmark").color(plan.jobs)
        if outcome.done != len(plan.jobs):
            raise SystemExit(f"{len(outcome.failed)} files failed: {outcome.failed}")
        return outcome.done

    return run


def bare_loop(model: Path, photos: Path, batch_size: int) -> Run:
    """Return a turn of ONNX Runtime with defaults except the number of threads, over one batch in memory."""
    import onnxruntime as ort  # after cgan, which disables its telemetry

    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[2:]
    paths = sorted(photos.iterdir())
    batch = np.stack([model_input(decode(paths[i % len(paths)]), height, width) for i in range(batch_size)])

    def run(_source: Path, _target: Path) -> int:
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < BARE_SECONDS:
            session.run(None, {"gray": batch})
            done += batch_size
        return done

    return run
