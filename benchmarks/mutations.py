"""Checks of `python -m benchmarks stress` on damaged files: photos in a folder run, and files that commands read."""

import io
import json
import os
import random
import shutil
import signal
import struct
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms

from benchmarks.hostile import PHOTOS
from benchmarks.photo_kinds import kinds
from benchmarks.photos import make_photos
from benchmarks.stress_runs import Findings, Setup, run
from cgan.spec import sidecar_path

PEAK_MIB = 1536
WORKERS = 8
SIDE = 96
"""Longest side of the photo of the bombs."""
SECONDS = 60
"""Longest time of a photo, and of a command on damaged files."""
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ODD_VALUES: tuple[Any, ...] = (None, True, -1, 2**63, 1e308, float("nan"), "", "\x1b[31m\u202e", [], {}, [[]] * 9)
KNOWN_CONTROLS = "\n\t"
REASONS = ("error: ", "failed: ", "fail ")
"""Beginnings of lines that tell why a command or a photo failed, also in a dry run."""
HEAVY: tuple[str, ...] = (
    "onnx",
    "onnxruntime.quantization",
    "torch.onnx",
    "torch._dynamo",
    "tensorboard.summary",
    "matplotlib.figure",
)
HEAVY += ("cgan.training.loop", "export.artefact", "infer.folder.folder_run")
"""Modules that the commands import."""


def damage(content: bytes, draw: random.Random) -> bytes:
    """Return the content after one to three changes: bits, runs of bytes, integers, cuts, repetitions."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place, length = draw.randrange(len(data) + 1), draw.choice((1, 2, 4, 16, 256))
        match draw.randrange(6):
            case 0:
                for _ in range(draw.randint(1, 8)):
                    if data:
                        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            case 1:
                data[place : place + length] = draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length)))
            case 2:
                del data[place : place + length * draw.choice((1, 64))]
            case 3:
                data[place:place] = data[place : place + length] * draw.choice((1, 20))
            case 4:
                size = draw.choice((1, 2, 4))
                number = draw.choice(EXTREMES) & ((1 << 8 * size) - 1)
                data[place : place + size] = number.to_bytes(size, draw.choice(("big", "little")))
            case _:
                del data[place:]
    return bytes(data)


def damage_json(content: bytes, draw: random.Random) -> bytes:
    """Return a document with one value replaced by an odd one, nested deeply, or damaged as bytes."""
    kind = draw.randrange(6)
    if kind == 0:
        return damage(content, draw)
    if kind == 1:
        return b"[" * 100_000
    lines = content.splitlines() or [b"{}"]
    number = draw.randrange(len(lines)) if _is_json(lines[0]) else 0
    value = json.loads(lines[number] if _is_json(lines[0]) else content)
    parents = [value]
    for parent in parents:
        children = parent.values() if isinstance(parent, dict) else parent
        parents += [child for child in children if isinstance(child, dict | list) and child]
    parent = draw.choice(parents)
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    key = draw.choice(keys)
    if kind == 2 and isinstance(parent, dict):
        del parent[key]
    else:
        parent[key] = draw.choice(ODD_VALUES)
    changed = json.dumps(value).encode()
    return b"\n".join([*lines[:number], changed, *lines[number + 1 :]]) if _is_json(lines[0]) else changed


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _thin_png() -> bytes:
    """Return a PNG of 50,000,000 x 1 pixels in 49 KB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000_000, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + 50_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _many_scans(gray: Image.Image) -> bytes:
    """Return a progressive JPEG whose last scan is repeated 20,000 times."""
    content = PHOTOS["progressive.jpg"](gray)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 20_000 + content[-2:]


def _long_comment(gray: Image.Image) -> bytes:
    """Return a PGM with a comment of 64 MiB."""
    return b"P5\n#" + b" " * 2**26 + f"\n{gray.width} {gray.height} 255\n".encode() + gray.tobytes()


def _large_profile(gray: Image.Image) -> bytes:
    """Return a TIFF with an ICC profile of 20 MiB; it can be coloured."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    gray.convert("RGB").save(file, "TIFF", icc_profile=profile + bytes(20 * 2**20))
    return file.getvalue()


BOMBS: dict[str, Callable[[Image.Image], bytes]] = {
    "thin.png": lambda _: _thin_png(),
    "scans.jpg": _many_scans,
    "comment.pgm": _long_comment,
}
"""Photos that cannot be coloured within the limits."""


def mutated(setup: Setup) -> Findings:
    """Check a folder run by 8 workers over damaged photos and bombs: all accounted for, in bounded memory and time."""
    count = setup.count(10_000, 200)
    sources, source, target = (setup.folder / name for name in ("sources", "in", "out"))
    make_photos(setup.photos, sources, 1)
    with Image.open(next(sources.iterdir())) as image:
        gray = image.convert("L")
    gray.thumbnail((SIDE, SIDE))
    whole = [(kind.name, bytes(kind.make())) for kind in kinds()]
    for i in range(count):
        name, content = whole[i % len(whole)]
        path = source / str(i % 20) / f"{i:06d}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damage(content, random.Random(i)))
    bombs = source / "bombs"
    bombs.mkdir()
    for name, make in BOMBS.items():
        (bombs / name).write_bytes(make(gray))
    for i in range(4 if setup.quick else 40):
        (bombs / f"profile-{i}.tif").write_bytes(_large_profile(gray))
    total = sum(path.is_file() for path in source.rglob("*"))
    limit = 120 + total / 10
    done = run(setup, source, target, "--workers", str(WORKERS), "--timeout", str(SECONDS), seconds=limit)
    found = Findings()
    found.expect(done.code == 1, f"exit code {done.code}, expected 1; {done.error}")
    settled = done.report.get("done", 0) + done.report.get("failed", 0)
    found.expect(settled == total, f"{settled} of {total} files are done or failed")
    failures: dict[str, str] = done.report.get("failures", {})
    for name in BOMBS:
        found.expect(f"bombs/{name}" in failures, f"bombs/{name} was coloured")
    found.expect("Traceback" not in done.said, "a traceback on standard error")
    found.problems += controls(done.said)
    found.expect(done.peak_mib <= PEAK_MIB, f"peak memory of {done.peak_mib:.0f} MiB, expected at most {PEAK_MIB}")
    found.figures = {"files": total, "done": done.report.get("done"), "failed": len(failures), "workers": WORKERS}
    found.figures |= {"peak_rss_mib": round(done.peak_mib, 1), "seconds": round(done.seconds, 1)}
    found.line = (
        f"{total:,} files, {len(failures):,} failed with a reason, {done.peak_mib:.0f} MiB with {WORKERS} workers"
    )
    return found


def controls(said: str) -> list[str]:
    """Return a problem for a text for a terminal that holds control characters."""
    raw = sorted({hex(ord(c)) for c in said if (ord(c) < 32 and c not in KNOWN_CONTROLS) or 0x7F <= ord(c) < 0xA0})
    return [f"control characters on the terminal: {', '.join(raw)}"] if raw else []


@dataclass(frozen=True)
class Ended:
    """End of a command that ran in a fork of this process."""

    code: int
    """Exit code, or the negative number of the signal that ended it."""
    said: str
    """Standard output and standard error."""
    seconds: float
    peak_mib: float

    def problems(self) -> list[str]:
        """Return what a command must not do on a damaged file."""
        found = controls(self.said)
        if self.code not in (0, 1, 2):
            found.append(f"exit code {self.code}")
        if "Traceback" in self.said:
            found.append(self.said.strip().splitlines()[-1])
        elif self.code and not any(line.startswith(REASONS) for line in self.said.splitlines()):
            found.append(f"exit code {self.code} without a reason, but {self.said[-200:]!r}")
        if self.seconds > SECONDS:
            found.append(f"{self.seconds:.0f} s")
        if self.peak_mib > PEAK_MIB:
            found.append(f"{self.peak_mib:.0f} MiB")
        return found


def fork(main: Callable[[list[str]], object], arguments: list[str], log: Path) -> Ended:
    """Run a command in a fork, which has imported torch already, for at most SECONDS."""
    began = time.perf_counter()
    pid = os.fork()
    if not pid:
        signal.alarm(SECONDS + 5)
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 0
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            code = 99
            traceback.print_exc()
        os._exit(code)
    _, status, usage = os.wait4(pid, 0)
    said = log.read_text(errors="backslashreplace")
    return Ended(os.waitstatus_to_exitcode(status), said, time.perf_counter() - began, usage.ru_maxrss / 1024)


@dataclass(frozen=True)
class Case:
    """A file to be damaged and the commands that read it. Names in braces are folders of `_prepared`."""

    file: str
    commands: tuple[tuple[str, ...], ...]


INFO = ("infer", "info")
TRAIN = ("train", "{photos}", "--epochs", "2", "--quiet")
TINY = ("--width", "4", "--size", "32", "--batch-size", "4", "--device", "cpu", "--precision", "fp32", "--no-fid")
RESUME = (*TRAIN, "--out", "{work}/run", "--resume")
INIT = (*TRAIN, *TINY, "--out", "{work}/new", "--init")
COLOR = ("infer", "folder", "{photos}", "{work}/out", "--quiet", "--device", "cpu")
VERIFY = ("export", "{work}/run", "--verify", "{work}/model.onnx", "--quiet")

CASES = (
    Case("model.onnx", ((*INFO, "{file}"), (*COLOR, "--model", "{file}"), (*INIT, "{file}"), VERIFY)),
    Case("model.onnx.json", ((*INFO, "{work}/model.onnx"), (*COLOR, "--model", "{work}/model.onnx"), VERIFY)),
    Case("run/config.json", (RESUME, (*INFO, "{work}/run"))),
    Case("run/split.json", (RESUME,)),
    Case("run/metrics.jsonl", (RESUME, (*INFO, "{work}/run"))),
    Case("run/.written", (RESUME,)),
    Case("run/held-out.npy", (VERIFY,)),
    Case("run/checkpoints/last.safetensors", (RESUME, (*INFO, "{file}"), (*INIT, "{file}"))),
    Case("run/checkpoints/best.safetensors", ((*INFO, "{work}/run"), VERIFY)),
    Case("run/checkpoints/last.training.safetensors", (RESUME,)),
    Case("out/report.json", (COLOR,)),
    Case("out/.cgan/journal.sqlite", (COLOR, (*COLOR, "--dry-run"))),
)


def documents(setup: Setup) -> Findings:
    """Check that commands take or refuse damaged models, sidecars, journals and files of runs, in one line each."""
    from cgan.cli import main as train
    from export.cli import main as export
    from infer.cli import main as infer

    for module in HEAVY:  # once, and not in each fork
        import_module(module)
    mains: dict[str, Callable[[list[str]], object]] = {"train": train, "export": export, "infer": infer}
    base, work, log = setup.folder / "base", setup.folder / "work", setup.folder / "log"
    os.environ["CGAN_CACHE"] = str(setup.folder / "cache")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = Findings()
    photos = setup.folder / "photos"
    make_photos(setup.photos, photos, 8)

    def call(command: tuple[str, ...], file: str = "") -> Ended:
        names = {"photos": str(photos), "work": str(work), "file": str(work / file)}
        return fork(mains[command[0]], [part.format(**names) for part in command[1:]], log)

    work.mkdir()
    shutil.copy(setup.model, work / "model.onnx")
    shutil.copy(sidecar_path(setup.model), sidecar_path(work / "model.onnx"))
    first: tuple[tuple[str, ...], ...] = ((*TRAIN[:2], "--epochs", "1", *TINY, "--out", "{work}/run"), COLOR)
    for command in first:
        ended = call(command)
        found.expect(ended.code == 0, f"before any damage: {ended.said}")
    work.rename(base)
    if found.problems:
        return found
    count = setup.count(1_000, 60)
    codes = [0, 0, 0]
    slowest = peak = 0.0
    for i in range(count):
        case = CASES[i % len(CASES)]
        draw = random.Random(i)
        shutil.copytree(base, work, symlinks=True)
        path = work / case.file
        change = damage_json if path.suffix in (".json", ".jsonl") else damage
        path.write_bytes(change(path.read_bytes(), draw))
        command = draw.choice(case.commands)
        ended = call(command, case.file)
        found.problems += [f"{case.file}, seed {i}, {' '.join(command)}: {problem}" for problem in ended.problems()]
        if ended.code in (0, 1, 2):
            codes[ended.code] += 1
        slowest, peak = max(slowest, ended.seconds), max(peak, ended.peak_mib)
        shutil.rmtree(work)
    found.figures = {"files": count, "exit_codes": codes, "slowest_seconds": round(slowest, 1)}
    found.figures |= {"peak_rss_mib": round(peak, 1)}
    found.line = f"{count:,} files; {codes[0]} taken, {codes[1]} failed, {codes[2]} refused; at most {slowest:.1f} s, "
    found.line += f"{peak:.0f} MiB"
    return found
