"""The server under load and against a folder run: right answers, memory, its end in the middle, and speed.

    python -m benchmarks serve [--requests 2000] [--clients 32] [--photos FOLDER] [--json FILE]

Good requests and bad ones of all kinds of benchmarks/serve_clients.py come from many clients at once. Each picture must
be that of `cgan-infer folder`, byte for byte; each bad request must get its 4xx and a reason. Then the server is told
to end under load: each answer that began must be whole. For the speed the server and a folder run take turns on the
same photos; clients and server share the cores, and a folder run needs no clients.
"""

import http.client
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from queue import SimpleQueue

import click

from benchmarks.command import COUNTS, benchmark, existing_path
from benchmarks.folder_contestants import CORES, FOLDER, Contestant
from benchmarks.photos import make_photos
from benchmarks.records import json_option, record, write_record
from benchmarks.rounds import rounds_of_turns, summary
from benchmarks.serve_clients import BAD, SLOW, Bad, Client, Server, form, waited
from benchmarks.stress_runs import Setup
from infer.packaged import DEFAULT_MODEL

KINDS = 10
"""Different photos among the good requests."""

SIDES = {256: 256, 1024: 96}
"""Photos of a turn, by their side in pixels."""

MEMORY_EVERY = 250
"""Requests between two measurements of memory."""


@dataclass
class Load:
    """Requests that were made, and those that went wrong."""

    port: int
    photos: list[bytes]
    pictures: list[bytes]
    """The right answers to `photos`."""
    requests: int
    done: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    _begun: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> int | None:
        """Return the number of the next request, None if there is none."""
        with self._lock:
            if self._begun == self.requests:
                return None
            self._begun += 1
            return self._begun - 1

    def note(self, answer: str, problem: str = "") -> None:
        """Count an answer, and keep a problem."""
        with self._lock:
            self.done += 1
            self.answers[answer] += 1
            self.problems += [problem] * bool(problem)

    def client(self) -> None:
        """Make requests until there are none: one of four is bad."""
        client = Client(self.port)
        bad = [*BAD.items()]
        while (number := self.next()) is not None:
            if number % 4:
                self.good(client, number)
            else:
                self.bad(*bad[number // 4 % len(bad)])
        client.close()

    def good(self, client: Client, number: int) -> None:
        """Post a photo, every second one in a form."""
        photo, picture = self.photos[number % KINDS], self.pictures[number % KINDS]
        answer = client.post(*(form(photo) if number % 2 else (photo, "image/png")))
        right = answer.status == 200 and answer.body == picture
        self.note(f"good: {answer.status}", "" if right else f"request {number}: {answer.status} {answer.reason}")

    def bad(self, kind: str, request: Bad) -> None:
        """Make a bad request."""
        answer = request.send(self.port, self.photos[0])
        right = answer.status == request.status and bool(answer.reason) == bool(answer.status)
        self.note(f"{kind}: {answer.status}", "" if right else f"{kind}: {answer.status} {answer.reason}")

    def until_end(self) -> None:
        """Post photos until the server takes none."""
        client = Client(self.port)
        while True:
            try:
                self.good(client, self.done)
            except (OSError, http.client.HTTPException) as error:
                self.answers[f"at the end: {type(error).__name__}"] += 1
                return
            if "good: 503" in self.answers:
                return


@benchmark
@click.option("--requests", type=COUNTS, default=2000, show_default=True, help="Requests of the load.")
@click.option("--clients", type=COUNTS, default=32, show_default=True, help="Clients at a time.")
@click.option("--photos", type=existing_path(), help="Folder of photos, copied and repeated.")
@click.option("--model", type=existing_path(), default=DEFAULT_MODEL, help="ONNX file.  [default: the packaged model]")
@click.option("--rounds", type=COUNTS, default=6, show_default=True, help="Turns of each in the comparison of speed.")
@json_option
def main(requests: int, clients: int, photos: Path | None, model: Path, rounds: int, json_file: Path | None) -> None:
    """Check answers, memory and end of the server under load, and compare its speed with that of a folder run.

    Exit code 1: an answer was wrong.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load, figures = under_load(folder, model, photos, requests, clients)
        figures["speed"] = {side: speeds(folder, model, photos, side, clients, rounds) for side in SIDES}
    write_record(json_file, record(figures=figures, problems=load.problems))
    for problem in load.problems:
        print(f"problem: {problem}")
    raise SystemExit(bool(load.problems))


def photos_and_pictures(folder: Path, model: Path, photos: Path | None) -> tuple[list[bytes], list[bytes]]:
    """Return photos and what a folder run makes of them."""
    make_photos(photos, folder / "in", KINDS, 256)
    command = Setup(folder=folder, model=model).command(folder / "in", folder / "out")
    subprocess.run(command, check=True)
    names = sorted(path.name for path in (folder / "in").iterdir())
    return [(folder / "in" / name).read_bytes() for name in names], [
        (folder / "out" / name).read_bytes() for name in names
    ]


def under_load(
    folder: Path, model: Path, photos: Path | None, requests: int, clients: int
) -> tuple[Load, dict[str, object]]:
    """Make the requests, then end the server while more come; return the load and figures."""
    contents = photos_and_pictures(folder, model, photos)
    with Server(model) as server:
        load = Load(server.port, *contents, requests)
        slow = [partial(load.bad, *each) for each in SLOW.items() for _ in range(clients // 4)]
        begun = time.monotonic()
        threads = started([load.client] * clients, slow)
        rss: dict[int, float] = {}
        while load.done < requests:
            waited(lambda: load.done >= min(len(rss) * MEMORY_EVERY, requests))
            rss[load.done] = server.rss_mib()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - begun
        print(f"{load.done} requests of {clients} clients and {len(slow)} slow ones in {seconds:.0f} s")
        for answer, count in sorted(load.answers.items()):
            print(f"  {count:5d}  {answer}")
        print("memory: " + ", ".join(f"{mib:.0f} MiB after {count}" for count, mib in rss.items()))
        end = Load(server.port, *contents, requests)
        threads = started([end.until_end] * clients)
        waited(lambda: end.done >= 2 * clients)
        stopped = time.monotonic()
        server.stop()
        code, said = server.ended()
        seconds = time.monotonic() - stopped
        for thread in threads:
            thread.join()
        load.problems += end.problems + [f"the server ended with {code}"] * bool(code)
        print(f"end: code {code} after {seconds:.1f} s; {dict(end.answers)}; it said: {said.strip()}")
    return load, {"answers": load.answers, "rss_mib": rss, "end": {"seconds": seconds, "answers": end.answers}}


def started(*calls: Sequence[Callable[[], None]]) -> list[threading.Thread]:
    """Start a thread for each call;"""
    threads = [threading.Thread(target=call) for call in chain(*calls)]
    for thread in threads:
        thread.start()
    return threads


def speeds(
    folder: Path, model: Path, photos: Path | None, side: int, clients: int, rounds: int
) -> dict[str, list[float]]:
    """Let the server and a folder run take turns, print both, and return images a second."""
    place = folder / str(side)
    place.mkdir()
    make_photos(photos, place / "in", SIDES[side], side)
    make_photos(photos, place / "few", 8, side)
    contents = [path.read_bytes() for path in sorted((place / "in").iterdir())]
    found: dict[str, list[float]] = {"serve": [], FOLDER: []}
    with Server(model) as server, Contestant(FOLDER, place, model, 4, CORES) as contestant:
        turn(server.port, contents, clients)  # warms it up
        for number, names in rounds_of_turns(list(found), rounds):
            for name in names:
                speed = turn(server.port, contents, clients) if name == "serve" else contestant.turn().images_per_second
                found[name].append(speed)
            both = ", ".join(f"{name} {values[-1]:.1f}" for name, values in found.items())
            print(f"{side} px, round {number + 1}, images/s: {both}", flush=True)
    ratios = [one / other for one, other in zip(*found.values(), strict=True)]
    print(f"{side} px: serve / {FOLDER} = {summary(ratios)}")
    return found


def turn(port: int, photos: list[bytes], clients: int) -> float:
    """Post all photos from several clients, and return images a second."""
    waiting: SimpleQueue[bytes | None] = SimpleQueue()
    for each in (*photos, *[None] * clients):
        waiting.put(each)

    def post() -> None:
        client = Client(port)
        while (photo := waiting.get()) is not None:
            if (answer := client.post(photo)).status != 200:
                raise SystemExit(f"found {answer.status}: {answer.reason}")
        client.close()

    begun = time.perf_counter()
    for thread in started([post] * clients):
        thread.join()
    return len(photos) / (time.perf_counter() - begun)
