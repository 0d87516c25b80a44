"""Folder runs under stress: memory, kills, files of a user, hostile files, a large photo.

    python -m benchmarks stress [--photos FOLDER] [--check memory] [--files N] [--kills N] [--json FILE] [--quick]

Each check runs `cgan-infer folder` in separate processes and prints one line; the exit code is 1 if one fails.

memory: peak memory over 20,000 files is at most a tenth above that over 1,000.
own: 40 random SIGKILLs while a user drops, replaces and edits files in OUTPUT; none of these files changes.
kills: random SIGKILLs, each followed by the same command; every output is whole, none is made twice or left over.
mixed: many formats and modes, one file in ten hostile; all good photos are coloured, all bad files are named.
mutated: 10,000 damaged photos of every kind, and bombs, by 8 workers; all are accounted for, within 1.5 GiB.
documents: 1,000 damaged models, sidecars, journals and other files of runs; every command refuses them in one line.
large: a colour JPEG of 100 megapixels within 3 GiB.

Without --photos, crops of the pictures in examples/ are used. Linux only, because of its unit of peak memory.
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from PIL import Image

from benchmarks.command import COUNTS, MOST, benchmark, existing_path
from benchmarks.dropped import Dropper
from benchmarks.hostile import make_mixed
from benchmarks.mutations import documents, mutated
from benchmarks.outputs import Outputs, digests, journalled, problem_of
from benchmarks.photos import make_photos
from benchmarks.records import json_option, record, write_record
from benchmarks.stress_runs import ROOT, Findings, Setup, run
from infer.packaged import DEFAULT_MODEL
from infer.photo.decode import use_own_pixel_limit

SOURCES = 50
"""Different photos behind the many of the memory check, which are links to them."""
MEMORY_RATIO = 1.10
LARGE_SIDE, QUICK_SIDE = 10_000, 2_500
LARGE_MIB = 3 * 1024
REACH = 3.0
"""Latest moment of a kill, in multiples of the time between kills that are spread evenly over a run. Each kill loses
the photos in progress, so later moments still leave photos for the last kill."""
START_EVERY = 5
"""One kill in this many comes before the first photo."""
SHOWN = 3
"""Number of problems of a check that are printed."""


def memory(setup: Setup) -> Findings:
    """Check that peak memory does not grow with the number of photos."""
    most = setup.count(20_000, 1_000)
    fewest = max(1, setup.files // 5) if setup.files else (200 if setup.quick else 1_000)
    sources = setup.folder / "sources"
    make_photos(setup.photos, sources, min(SOURCES, most))
    found = Findings()
    peaks: list[float] = []
    for count in (fewest, most):
        source = links(sources, setup.folder / f"in{count}", count)
        done = run(setup, source, setup.folder / f"out{count}")
        all_done = done.code == 0 and done.report.get("done") == count
        found.expect(all_done, f"{count} files: exit code {done.code}, {done.report.get('done')} done; {done.error}")
        peaks.append(done.peak_mib)
        found.figures[f"peak_rss_mib_over_{count}"] = round(done.peak_mib, 1)
        shutil.rmtree(setup.folder / f"out{count}", ignore_errors=True)
    ratio = peaks[1] / peaks[0]
    found.figures["ratio"] = round(ratio, 3)
    found.expect(ratio <= MEMORY_RATIO, f"peak memory grew by {ratio:.2f}, expected at most {MEMORY_RATIO}")
    found.line = f"{peaks[0]:.0f} MiB over {fewest:,} files, {peaks[1]:.0f} MiB over {most:,}, ratio {ratio:.2f}"
    return found


def links(sources: Path, target: Path, count: int) -> Path:
    """Make a folder of `count` hard links to the photos of another folder, and return it."""
    target.mkdir()
    paths = sorted(sources.iterdir())
    for i in range(count):
        path = paths[i % len(paths)]
        (target / f"{i:06d}{path.suffix}").hardlink_to(path)
    return target


def kills(setup: Setup) -> Findings:
    """Check that the same command continues after kills at random moments."""
    count = setup.count(1_000, 200)
    source, target = setup.folder / "in", setup.folder / "out"
    make_photos(setup.photos, source, count)
    before = digests(source)
    found = Findings()
    whole = run(setup, source, setup.folder / "whole")
    if whole.code != 0:
        found.problems.append(f"without a kill: exit code {whole.code}; {whole.error}")
        return found
    outputs = Outputs(target)
    landed = 0
    share, start = whole.report["seconds"] / (setup.kills + 1), whole.seconds - whole.report["seconds"]
    moments = random.Random(0)
    for number in range(setup.kills):
        among = number % START_EVERY > 0
        delay = moments.uniform(0, REACH * share if among else start)
        code = killed(setup, source, target, delay, among)
        found.expect(code in (0, -signal.SIGKILL), f"kill {number + 1}: the run had ended with exit code {code}")
        outputs.look()
        landed += code == -signal.SIGKILL and len(outputs.known) < count
    unfinished = count - len(outputs.known)
    last = run(setup, source, target)
    outputs.look()
    found.expect(last.code == 0, f"the last run: exit code {last.code}; {last.error}")
    found.problems += outputs.problems
    missing = len({path.name for path in source.iterdir()} - set(journalled(target).values()))
    found.expect(not missing, f"{missing} photos have no output")
    left = outputs.left_over()
    found.expect(not left, f"left over: {', '.join(left[:SHOWN])}")
    found.expect(digests(source) == before, "the input folder changed")
    found.expect(landed > setup.kills / 2, f"only {landed} kills landed among unfinished files; try more --files")
    found.figures = {"files": count, "kills": setup.kills, "landed": landed, "left_for_the_last_run": unfinished}
    found.figures |= {"missing": missing, "made_twice": outputs.made_twice, "left_over": len(left)}
    found.line = f"{count:,} files, {landed} of {setup.kills} kills landed among unfinished files, {unfinished} files "
    found.line += f"for the last run; {missing} missing, {outputs.made_twice} made twice, {len(left)} left over"
    return found


def own(setup: Setup) -> Findings:
    """Check that files which a user puts into OUTPUT at any moment survive kills and later runs unchanged."""
    count, kill_count = setup.count(600, 120), setup.kills + (0 if setup.quick else 10)
    sources, source, target = (setup.folder / name for name in ("sources", "in", "out"))
    make_photos(setup.photos, sources, count)
    for number, path in enumerate(sorted(sources.iterdir())):
        folder = source / str(number % 4)
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    found = Findings()
    whole = run(setup, source, setup.folder / "whole")
    found.expect(whole.code == 0, f"without a kill: exit code {whole.code}; {whole.error}")
    names = [str(path.relative_to(setup.folder / "whole")) for path in (setup.folder / "whole").glob("*/*.*")]
    chosen = random.Random(1).sample(sorted(set(names)), count // 4)
    dropper = Dropper(target, [name for name in chosen if not name.startswith(".")], setup.folder / "aside", seed=0)
    moments = random.Random(2)
    for _ in range(kill_count):
        with dropper:
            killed(setup, source, target, moments.uniform(0, 1.5 * whole.report["seconds"] / kill_count + 0.2), True)
        found.problems += dropper.problems()
    for options in ((), ("--resolution", "model")):
        last = run(setup, source, target, *options)
        found.problems += dropper.problems()
        failed = set(last.report["failures"])
        strangers = dropper.dropped.keys()
        # An edit that keeps the size goes unnoticed until the output would be replaced, which is early enough.
        noticed = strangers - failed <= (set() if options else dropper.edited) and failed <= strangers
        found.expect(noticed, f"{len(failed)} failed, expected the {len(strangers)} with files of the user")
        settled = last.report["done"] + last.report["skipped"] + len(failed)
        found.expect(settled == count, f"{settled} of {count} photos settled")
    dropped, edited, changed = len(dropper.dropped), len(dropper.edited), len(dropper.problems())
    found.figures = {"files": count, "kills": kill_count, "dropped": dropped, "edited": edited, "changed": changed}
    found.line = f"{count} files, {kill_count} kills, {dropped} files dropped, {edited} of them edited outputs; "
    found.line += f"{changed} changed"
    return found


def killed(setup: Setup, source: Path, target: Path, delay: float, begun: bool) -> int:
    """Kill the command and return its exit code.

    Args:
        setup: of the check.
        source: INPUT.
        target: OUTPUT.
        delay: seconds until the kill.
        begun: count from the first photo instead of the start of the process.
    """
    log = setup.folder / "log"
    with log.open("wb") as lines:
        command = setup.command(source, target, "--log-json")
        process = subprocess.Popen(command, cwd=ROOT, stdout=lines, stderr=subprocess.DEVNULL)
        while begun and process.poll() is None and not log.stat().st_size:
            time.sleep(0.002)
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
        return process.wait()


def mixed(setup: Setup) -> Findings:
    """Check that every good photo of many formats is coloured and every hostile file is named in report.json."""
    count = setup.count(2_000, 200)
    sources, source, target = (setup.folder / name for name in ("sources", "in", "out"))
    make_photos(setup.photos, sources, min(20, count))
    good, bad = make_mixed(sources, source, count)
    before = digests(source)
    done = run(setup, source, target)
    found = Findings()
    found.expect(done.code == 1, f"exit code {done.code}, expected 1; {done.error}")
    failures = done.report.get("failures", {})
    for name, reason in bad.items():
        given = failures.get(name, "not named")
        found.expect(reason in given.lower(), f"{name}: {given}; expected: {reason}")
    for name in sorted(failures.keys() - bad.keys()):
        found.problems.append(f"{name}: {failures[name]}")
    outputs = {name: output for output, name in journalled(target).items()}
    uncolored = 0
    for name, photo in good.items():
        problem = problem_of(target / outputs[name], photo.size, photo.has_tones) if name in outputs else "no output"
        uncolored += bool(problem)
        found.expect(not problem, f"{name}: {problem}")
    found.expect(digests(source) == before, "the input folder changed")
    named = len(bad.keys() & failures.keys())
    found.figures = {"files": count, "good": len(good), "colored": len(good) - uncolored}
    found.figures |= {"hostile": len(bad), "named": named, "exit_code": done.code}
    found.line = f"{len(good) - uncolored:,} of {len(good):,} good files coloured, {named} of {len(bad)} hostile named"
    return found


def large(setup: Setup) -> Findings:
    """Check the peak memory for a photo of 100 megapixels, which is below the default of --max-pixels."""
    side = QUICK_SIDE if setup.quick else LARGE_SIDE
    sources, source, target = (setup.folder / name for name in ("sources", "in", "out"))
    make_photos(setup.photos, sources, 1)
    source.mkdir()
    with Image.open(next(sources.iterdir())) as image:
        image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(source / "large.jpg", quality=95)
    done = run(setup, source, target)
    found = Findings()
    found.expect(done.code == 0, f"exit code {done.code}; {done.error}")
    problem = problem_of(target / "large.jpg", (side, side)) if done.code == 0 else ""
    found.expect(not problem, f"large.jpg: {problem}")
    found.expect(done.peak_mib <= LARGE_MIB, f"peak memory of {done.peak_mib:.0f} MiB, expected at most {LARGE_MIB}")
    found.figures = {"megapixels": side * side / 1e6, "peak_rss_mib": round(done.peak_mib, 1)}
    found.figures["seconds"] = round(done.seconds, 1)
    found.line = f"{side * side / 1e6:.0f} megapixels, {done.peak_mib:.0f} MiB, {done.seconds:.1f} s"
    return found


CHECKS: dict[str, Callable[[Setup], Findings]] = {
    "memory": memory,
    "kills": kills,
    "own": own,
    "mixed": mixed,
    "mutated": mutated,
    "documents": documents,
    "large": large,
}


def check_all(names: Iterable[str], setup: Setup) -> dict[str, dict[str, Any]]:
    """Run checks, each in an empty folder, print a line for each and return the figures by name of the check."""
    use_own_pixel_limit()
    figures = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = CHECKS[name](replace(setup, folder=Path(folder)))
        print(f"{name}: {'FAILED' if found.problems else 'ok'}; {found.line}", flush=True)
        for problem in found.problems[:SHOWN]:
            print(f"  {problem}")
        if len(found.problems) > SHOWN:
            print(f"  and {len(found.problems) - SHOWN} more")
        figures[name] = {"passed": not found.problems, **found.figures, "problems": found.problems}
    return figures


@benchmark
@click.option("--photos", type=existing_path(resolve=True), help="Folder of photos, copied and repeated.")
@click.option(
    "--model",
    type=existing_path(resolve=True),
    default=DEFAULT_MODEL,
    help="Model file.  [default: the packaged model]",
)
@click.option(
    "--check",
    "checks",
    type=click.Choice(list(CHECKS)),
    multiple=True,
    help="Check to run; repeatable.  [default: all]",
)
@click.option(
    "--files",
    type=click.IntRange(10, MOST),
    help="Photos of each check; the memory check compares a fifth of them.",
)
@click.option("--kills", "kill_count", type=COUNTS, help="Number of kills.  [default: 30, with --quick 5]")
@json_option
@click.option("--quick", is_flag=True, help="Fewer files and kills, a photo of 6 megapixels.")
def main(
    photos: Path | None,
    model: Path,
    checks: tuple[str, ...],
    files: int | None,
    kill_count: int | None,
    json_file: Path | None,
    quick: bool,
) -> None:
    """Check folder runs under stress.

    Prints a line for each check. The exit code is 1 if one fails.
    """
    setup = Setup(
        folder=Path(), photos=photos, model=model, files=files, kills=kill_count or (5 if quick else 30), quick=quick
    )
    found = check_all(checks or CHECKS, setup)
    write_record(json_file, record(checks=found))
    sys.exit(0 if all(figures["passed"] for figures in found.values()) else 1)
