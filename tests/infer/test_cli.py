"""cgan-infer as a command: every option changes something, bad requests are one line, info tells the contract."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cgan.photo_limits import MAX_PIXELS, MAX_SECONDS
from infer.backends import BACKENDS, ort
from infer.backends.base import CPU_BATCH, GPU_BATCH
from infer.backends.cli_options import BACKEND_CHOICES, PROVIDER_CHOICES
from infer.backends.ort import PROVIDERS, gpu_present
from infer.cli import command, main
from infer.commands.coloring_options import FORMAT_CHOICES
from infer.folder import report
from infer.photo.formats import WRITE_FORMATS

Call = Callable[..., Any]
cpu_only = pytest.mark.skipif(gpu_present(), reason="a GPU is here")


@pytest.fixture
def photos(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    return gray_photos(tmp_path / "photos")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_choices_are_those_that_the_code_knows() -> None:
    assert ("same", *WRITE_FORMATS) == FORMAT_CHOICES
    assert ("auto", *BACKENDS) == BACKEND_CHOICES
    assert tuple(PROVIDERS) == PROVIDER_CHOICES
    options = {option.name: option for option in command.commands["folder"].params}
    assert str(MAX_PIXELS) in str(getattr(options["max_pixels"], "help", ""))
    assert f"default: {MAX_SECONDS:g}]" in str(getattr(options["timeout"], "help", ""))
    assert f"{CPU_BATCH}, on a GPU {GPU_BATCH}" in str(getattr(options["batch_size"], "help", ""))


def test_folder_with_the_model_in_the_package(photos: Path, out: Path, invoke: Call) -> None:
    result = invoke(main, "folder", photos, out)
    assert result.code == 0
    assert "done 3  skipped 0  failed 0" in result.err
    assert "flowers.onnx on ONNX Runtime" in result.err
    assert "no sidecar" not in result.err
    report = json.loads((out / "report.json").read_text())
    assert (report["photos"], report["done"], report["failed"], report["not_begun"]) == (3, 3, 0, 0)
    assert report["model"]["spec"]["model"] == "unet"
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert image.mode == "RGB"


def test_failures_are_named_and_exit_code_is_1(photos: Path, out: Path, color: Call) -> None:
    (photos / "bad.jpg").write_bytes(b"no photo")
    ran = color(photos, out, "--quiet")
    assert ran.code == 1
    assert ran.err.splitlines() == ["failed: bad.jpg: not an image, or of a format that is not known; expected JPEG"]
    assert ran.report["failures"] == {"bad.jpg": "not an image, or of a format that is not known; expected JPEG"}
    assert ran.counts == (3, 0, 1)


# An option, what the report has for it under "options", and what it has without it.
RECORDED: list[tuple[list[object], str, object, object]] = [
    (["--batch-size", 2], "batch_size", 2, 1),
    (["--workers", 3], "workers", 3, 5),
    (["--workers", 3], "streams", 4, 6),
    (["--format", "jpg"], "format", "jpg", "same"),
    (["--quality", 50], "quality", 50, 96),
    (["--resolution", "model"], "resolution", "model", "original"),
    (["--render-size", 48], "render_longest", 48, None),
    (["--no-mark"], "mark", False, True),
    (["--overwrite"], "overwrite", True, False),
    (["--checksum"], "checksum", True, False),
    (["--max-failures", 7], "max_failures", 7, None),
    (["--max-pixels", 10_000], "max_pixels", 10_000, MAX_PIXELS),
    (["--timeout", 0], "timeout", 0, MAX_SECONDS),
]


@pytest.mark.parametrize(("options", "name", "value", "default"), RECORDED)
def test_options_are_in_the_report(
    photos: Path, out: Path, color: Call, tinted: Any, options: list[object], name: str, value: object, default: object
) -> None:
    tinted.fixed_size = None
    assert color(photos, out, "--workers", 5, *options).report["options"][name] == value
    assert color(photos, out, "--workers", 5).report["options"][name] == default


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--device", "cpu"], ("flowers.onnx", "cpu", "auto", None)),
        (["--backend", "ort"], ("flowers.onnx", "auto", "ort", None)),
        (["--provider", "cuda"], ("flowers.onnx", "auto", "auto", "cuda")),
        (["--model", "x.onnx"], ("x.onnx", "auto", "auto", None)),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_options_reach_the_model(
    photos: Path, out: Path, color: Call, tinted: Any, options: list[str], expected: tuple[object, ...], dry_run: bool
) -> None:
    color(photos, out, *options, *["--dry-run"] * dry_run)
    (model, device, _), chosen = tinted.opened
    assert (model.name, device, chosen["backend"], chosen["provider"]) == expected


def test_what_the_options_do_to_the_pictures(photos: Path, tmp_path: Path, color: Call, tinted: Any) -> None:
    def picture(number: int, name: str, *options: object) -> tuple[str | None, tuple[int, int], int]:
        path = color(photos, tmp_path / str(number), *options).target / name
        with Image.open(path) as image:
            return image.format, image.size, path.stat().st_size

    assert picture(0, "000.png")[:2] == ("PNG", (40, 30))
    assert picture(1, "000.png", "--resolution", "model")[:2] == ("PNG", (32, 32))
    for number, (name, format_) in enumerate(WRITE_FORMATS.items()):
        assert picture(2 + number, f"000.{name}", "--format", name)[:2] == (format_, (40, 30))
    small = picture(6, "000.jpg", "--format", "jpg", "--quality", 10)
    assert small[2] < picture(7, "000.jpg", "--format", "jpg")[2]
    for number, (options, expected) in enumerate({(): True, ("--no-mark",): False}.items()):
        picture(9 + number, "000.png", *options)
        content = (tmp_path / str(9 + number) / "000.png").read_bytes()
        assert (b"compositeWithTrainedAlgorithmicMedia" in content) == expected
    tinted.fixed_size, tinted.batches = None, []
    picture(8, "000.png", "--render-size", 64)
    assert {shape[2:] for shape in tinted.batches} == {(48, 64)}


def test_what_the_options_do_to_the_run(photos: Path, tmp_path: Path, color: Call, tinted: Any) -> None:
    color(photos, tmp_path / "1", "--batch-size", 3)
    assert [shape[0] for shape in tinted.batches] == [3]
    for number in range(3, 6):
        (photos / f"{number:03d}.png").write_bytes(b"")
    assert color(photos, tmp_path / "2", "--max-failures", 2).report["stopped"] == "more than 2 files failed"
    assert color(photos, tmp_path / "3", "--max-failures", 3).report["stopped"] is None
    assert color(photos, tmp_path / "4", "--max-pixels", 40 * 30 - 1).counts == (0, 0, 6)
    report = tmp_path / "r.json"
    color(photos, tmp_path / "5", "--report", report)
    assert json.loads(report.read_text())["done"] == 3
    assert not (tmp_path / "5" / "report.json").exists()


def test_defaults_are_printed(photos: Path, out: Path, invoke: Call) -> None:
    result = invoke(main, "folder", photos, out, "--device", "cpu")
    cores = len(os.sched_getaffinity(0))
    assert f"batch {min(CPU_BATCH, -(-3 // cores))}, {cores} workers" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["folder", "{photos}", "{photos}"], "could overwrite the inputs"),
        (["folder", "{photos}", "{photos}/.."], "could overwrite the inputs"),
        (["folder", "{photos}", "file://{photos}"], "could overwrite the inputs"),
        (["folder", "{photos}/none", "out"], "found nothing there, expected a photo or a folder"),
        (["folder", "{photos}/empty", "out"], "found no photos in it"),
        (["folder", "{photos}/notes.txt", "out"], "notes.txt: expected a photo (.bmp"),
        (["folder", "{photos}/pipe.png", "out"], "found something else, expected a photo or a folder"),
        (["folder", "{photos}/0.png", "{photos}"], "one of the input files"),
        (["folder", "{photos}/0.png", "out", "--watch"], "expected a folder to watch"),
        (["folder", "{photos}", "out", "--model", "none.onnx"], "found no such file"),
        (["folder", "{photos}", "out", "--model", "{photos}/0.png"], "expected one of .onnx"),
        (["folder", "{photos}", "out", "--backend", "tensorrt"], "use --backend ort"),
        (["folder", "{photos}", "out", "--dry-run", "--watch"], "leave one out"),
        (["folder", "{photos}", "out", "--dry-run", "--report", "r.json"], "--report: it has no effect with --dry-run"),
        (["folder", "{photos}", "out", "--render-size", "96"], "takes only 64 x 64 pixels"),
        (["folder", "{photos}", "{photos}/0.png"], "found a file, expected a folder"),
        (["folder", "nope://x", "out"], "Protocol not known: nope"),
        (["folder", "{photos}", "nope://x"], "Protocol not known: nope"),
        (["info", "none.onnx"], "found no such file"),
    ],
)
def test_bad_requests_are_one_line_exit_2_and_write_nothing(
    photos: Path,
    tmp_path: Path,
    invoke: Call,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    (photos / "empty").mkdir()
    (photos / "notes.txt").write_text("no photo")
    os.mkfifo(photos / "pipe.png")
    (photos / "0.png").write_bytes((photos / "000.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = invoke(main, *(argument.format(photos=photos) for argument in arguments))
    assert message in result.error(2)
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["--render-size", 64], "takes only 32 x 32 pixels"),
        ({"fixed_size": None}, ["--render-size", 50], "expected a multiple of 16"),
        ({"fixed_size": None}, ["--render-size", 100_000], "expected at most 4096"),
        ({"fixed_size": None, "size_range": (32, 64)}, ["--render-size", 96], "expected 32 to 64"),
        ({"batch_range": (1, 4)}, ["--batch-size", 5], "expected at most 4, which tinted.onnx was built for"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    photos: Path,
    out: Path,
    color: Call,
    tinted: Any,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    options: list[object],
    message: str,
) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(type(tinted), name, value)
    assert message in color(photos, out, *options).result.error(2)
    assert message in color(photos, out, *options, "--dry-run").result.error(2)
    assert not out.exists()


def test_a_batch_within_the_model_s_range_is_chosen(
    photos: Path, out: Path, color: Call, tinted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tinted), "batch_range", (1, 1))
    assert color(photos, out).report["options"]["batch_size"] == 1
    monkeypatch.setattr(type(tinted), "on_gpu", True)
    monkeypatch.setattr(type(tinted), "batch_range", (1, None))
    report = color(photos, out, "--overwrite").report
    assert (report["options"]["batch_size"], report["options"]["streams"]) == (GPU_BATCH, 2)


@cpu_only
def test_cuda_without_a_gpu_is_refused(photos: Path, out: Path, invoke: Call) -> None:
    error = invoke(main, "folder", photos, out, "--device", "cuda").error(2)
    assert error.startswith("error: --device cuda: found no NVIDIA GPU or no driver for it here")
    assert not out.exists()


def test_a_report_that_cannot_be_written_is_said_before_the_first_photo(photos: Path, out: Path, color: Call) -> None:
    ran = color(photos, out, "--report", out.parent / "none" / "r.json")
    assert "none/r.json: found no folder" in ran.result.error(2)
    assert list(out.glob("*.png")) == []


def test_a_report_that_cannot_be_written_in_the_end_is_exit_code_1(
    photos: Path, out: Path, color: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_document", full)
    ran = color(photos, out)
    assert "report.json: the report cannot be written ([Errno 28] No space left on device)" in ran.result.error(1)
    assert len(list(out.glob("*.png"))) == 3


def test_a_folder_that_cannot_be_read_is_a_failure(
    photos: Path, out: Path, color: Call, unsearchable: Callable[[Path], None]
) -> None:
    unsearchable(photos / "closed")
    ran = color(photos, out, "--quiet")
    assert ran.code == 1
    assert ran.err == "failed: closed: folder cannot be read: Permission denied\n"
    assert (ran.report["done"], ran.report["failed"], ran.report["not_begun"]) == (3, 1, 0)


def test_names_cannot_forge_lines(photos: Path, out: Path, color: Call) -> None:
    (photos / "x\nerror: gone.png").write_bytes(b"")
    ran = color(photos, out, "--quiet")
    assert ran.code == 1
    assert ran.err == "failed: x\\nerror: gone.png: the file is empty\n"


@cpu_only
def test_a_gpu_that_cannot_be_used_is_noted_everywhere(
    photos: Path, out: Path, invoke: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "gpu_present", lambda: True)
    assert "going on with the CPU" in json.loads(invoke(main, "info", "--json").out)["note"]
    result = invoke(main, "folder", photos, out, "--quiet")
    assert result.code == 0
    assert "going on with the CPU" in result.err
    assert "going on with the CPU" in json.loads((out / "report.json").read_text())["model"]["note"]


def test_a_model_that_nothing_vouches_for_is_said(
    photos: Path, out: Path, color: Call, tinted: Any, tmp_path: Path
) -> None:
    assert "its content cannot be verified" not in color(photos, out).err
    tinted.path = tmp_path / "model.onnx"
    tinted.path.write_bytes(b"x")
    assert "note: no model.onnx.json beside the model, so its content cannot be verified" in color(photos, out).err
    assert color(photos, out).counts == (0, 3, 0)


def test_control_c_before_the_run_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("infer.folder.folder_run.run_folder", interrupt)
    with pytest.raises(SystemExit) as end:
        main(["folder", "in", "out"])
    assert end.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_an_empty_path_is_not_the_current_folder(photos: Path, tmp_path: Path, color: Call) -> None:
    for given in (("", tmp_path / "out"), (photos, ""), (photos, tmp_path / "out", "--model", "")):
        assert "found an empty argument" in color(*given).result.error(2)


# options of absurd size


@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [
        ("--batch-size", 2**63, "1<=x<=65536"),
        ("--batch-size", 0, "1<=x<=65536"),
        ("--workers", 10**6, "1<=x<=1024"),
        ("--quality", 101, "1<=x<=100"),
        ("--max-failures", 10**22, "0<=x<=1000000000000"),
        ("--max-pixels", 10**22, "1<=x<=1000000000000"),
        ("--timeout", 10**400, "0<=x<=1000000000000"),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_limit(
    option: str, value: int, limit: str, gray_photos: Callable[..., Path], tmp_path: Path, invoke: Call
) -> None:
    photos = gray_photos(tmp_path / "in", 1)
    result = invoke(main, "folder", photos, tmp_path / "out", option, value)
    assert result.code == 2
    assert option in result.err.splitlines()[-1] and limit in result.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    if option in ("--batch-size", "--workers"):
        for command in (["evaluate", "x", "y"], ["parity", "x", "--reference", "y", "--data", "z"]):
            assert limit in invoke(main, *command, option, value).err
