"""Single photos on the command line: beside themselves, into a named file, from lists and streams; completion."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import BashComplete
from PIL import Image

from infer.cli import command, main

Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gray_photos: Callable[..., Path], tinted: Any) -> Path:
    """The working folder, with 000.png, 001.png and the photo a.jpg; `tinted` is the model."""
    monkeypatch.chdir(tmp_path)
    folder = gray_photos(tmp_path, 2)
    with Image.open("000.png") as image:
        image.save("a.jpg", quality=95)
    return folder


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], io.BytesIO]:
    """`streams(content)`: make it standard input, and return what standard output gets."""

    def replace(content: bytes) -> io.BytesIO:
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
        return out

    return replace


def names() -> set[str]:
    return {path.name for path in Path().iterdir()}


# beside the photo


def test_a_photo_is_coloured_beside_itself_as_a_folder_run_would(photos: Path, invoke: Call, color: Call) -> None:
    before = Path("a.jpg").read_bytes()
    result = invoke(main, "a.jpg")
    assert (result.code, result.out, result.err) == (0, "", "a.jpg -> a-color.jpg\n")
    assert names() == {"000.png", "001.png", "a.jpg", "a-color.jpg"}
    assert Path("a.jpg").read_bytes() == before
    color(photos, "out")
    assert Path("a-color.jpg").read_bytes() == Path("out/a.jpg").read_bytes()


def test_options_are_those_of_a_folder_run_and_may_come_first(invoke: Call) -> None:
    assert invoke(main, "--format", "png", "--no-mark", "a.jpg", "--resolution", "model", "--quiet").err == ""
    with Image.open("a-color.png") as image:
        assert (image.format, image.size) == ("PNG", (32, 32))
    assert b"compositeWithTrainedAlgorithmicMedia" not in Path("a-color.png").read_bytes()
    assert invoke(main, "color", "a.jpg", "--timeout", 0).code == 0
    assert b"compositeWithTrainedAlgorithmicMedia" in Path("a-color.jpg").read_bytes()


def test_nothing_is_replaced_but_what_cgan_has_marked(invoke: Call) -> None:
    invoke(main, "a.jpg")
    first = Path("a-color.jpg").read_bytes()
    result = invoke(main, "a.jpg", "--quality", 50)
    assert result.code == 0
    assert result.err == "passed over: a.jpg: its output is there; to make it anew, give --overwrite\n"
    assert Path("a-color.jpg").read_bytes() == first
    assert invoke(main, "a.jpg", "--quality", 50, "--overwrite").code == 0
    assert len(Path("a-color.jpg").read_bytes()) < len(first)
    Path("a-color.jpg").write_bytes(b"something of the user's")
    result = invoke(main, "a.jpg", "--overwrite")
    assert (result.code, Path("a-color.jpg").read_bytes()) == (1, b"something of the user's")
    assert "a-color.jpg is there and has no mark of cgan in its XMP; move it away" in result.err
    Path("a-color.jpg").unlink()
    Path("a-color.jpg").symlink_to("001.png")
    assert invoke(main, "a.jpg", "--overwrite").code == 1
    assert Path("a-color.jpg").is_symlink()


def test_notes_on_photos_and_the_model_are_printed(invoke: Call, tinted: Any, tmp_path: Path) -> None:
    tinted.said = "going on with the CPU"
    tinted.path = tmp_path / "model.onnx"
    tinted.path.write_bytes(b"x")
    Path("cut.png").write_bytes(Path("000.png").read_bytes()[:-12])
    lines = invoke(main, "cut.png").err.splitlines()
    assert "note: going on with the CPU" in lines
    assert "note: no model.onnx.json beside the model, so its content cannot be verified" in lines
    assert "cut.png -> cut-color.png  (the end marker is missing; every pixel is there)" in lines
    assert invoke(main, "cut.png", "--overwrite", "--quiet").err == "note: going on with the CPU\n"


def test_a_file_that_appears_meanwhile_stays(invoke: Call, tinted: Any) -> None:
    tinted.before = lambda gray: Path("a-color.jpg").write_bytes(b"other")
    result = invoke(main, "a.jpg")
    assert (result.code, Path("a-color.jpg").read_bytes()) == (1, b"other")
    assert "failed: a.jpg: found another file there" in result.err
    assert names() == {"000.png", "001.png", "a.jpg", "a-color.jpg"}


def test_bad_files_are_named_and_the_others_are_coloured(invoke: Call) -> None:
    Path("bad.png").write_bytes(b"no photo")
    Path("notes.txt").write_text("no photo")
    Path("x.psd").write_bytes(b"8BPS")
    result = invoke(main, "000.png", "bad.png", "notes.txt", "gone.jpg", "x.psd", "memory://x.jpg", "a.jpg")
    assert result.code == 1
    lines = result.err.splitlines()
    assert lines[:2] == ["000.png -> 000-color.png", "a.jpg -> a-color.jpg"]
    assert "failed: bad.png: not an image, or of a format that is not known; expected PNG" in lines
    assert "failed: gone.jpg: No such file or directory" in lines
    assert "failed: x.psd: a picture in PSD, which is not read; convert it" in lines
    assert any(line.startswith("failed: notes.txt: expected a photo (.bmp") for line in lines)
    assert "failed: memory://x.jpg: found a URL, expected a file; write cgan-infer folder URL OUTPUT" in lines
    assert lines[-1] == "done 2  skipped 0  failed 5"


def test_the_same_glob_again_does_not_colour_outputs(invoke: Call) -> None:
    everything = sorted(map(str, Path().glob("*.*g")))
    assert invoke(main, *everything).code == 0
    found = names()
    again = sorted(map(str, Path().glob("*.*g")))
    result = invoke(main, *again)
    assert (result.code, names()) == (0, found)
    assert [line.split(": ")[0] for line in result.err.splitlines()] == [
        "passed over",
        "passed over",
        "done 0  skipped 6  failed 0",
    ]
    Path("b-color.jpg").write_bytes(Path("a.jpg").read_bytes())  # a photo of the user's
    assert invoke(main, "b-color.jpg").err == "b-color.jpg -> b-color-color.jpg\n"


def test_photos_of_one_stem_get_outputs_of_their_own(invoke: Call) -> None:
    with Image.open("000.png") as image:
        image.save("000.gif")
    Path("sub").mkdir()
    Path("001.png").rename("sub/001.png")
    assert invoke(main, "000.gif", "000.png", "./000.png", "sub/001.png", "--quiet").code == 0
    assert {"000-color.png", "000.gif-color.png"} <= names()
    assert Path("sub/001-color.png").exists()


def test_colour_photos_are_copied_or_skipped(invoke: Call) -> None:
    Image.effect_noise((40, 30), 90).convert("L").save("g.png")
    Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256))]).save(
        "c.gif"
    )
    assert invoke(main, "c.gif", "g.png", "--color-photos", "skip", "--quiet").code == 0
    assert {"g-color.png"} == {name for name in names() if "-color" in name}
    assert (
        invoke(main, "c.gif", "--color-photos", "copy").err
        == "c.gif -> c-color.gif  (a colour photo, copied unchanged)\n"
    )
    assert Path("c-color.gif").read_bytes() == Path("c.gif").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sub"], "sub is a folder; to colour it: cgan-infer folder sub OUTPUT"),
        (["a.jpg", "sub"], "sub is a folder"),
        (["--quiet"], "found no photos, expected one or more"),
        (["-", "a.jpg"], "expected it alone"),
        (["--files-from", "empty.txt"], "--files-from empty.txt: found no names in it"),
        (["--files-from", "none.txt"], "--files-from none.txt: cannot be read (No such file or directory)"),
        (["a.jpg", "--null"], "--null: it has no effect without --files-from"),
        (["-", "--color-photos", "skip"], "there must be an output"),
        (["folder", "sub"], "expected INPUT and OUTPUT: cgan-infer folder sub OUTPUT"),
        (["folder", "-", "out"], "found standard input, expected files and folders"),
        (["folder", "a.jpg", "b.gif"], "found a format that is not written"),
        (["folder", "a.jpg", "b.png", "--format", "jpg"], "--format jpg: b.png is the name of a PNG"),
        (["folder", "a.jpg", "no/b.png"], "no/b.png: found no folder no"),
        (["folder", "a.jpg", "b.png", "--manifest"], "--manifest: it has no effect with a file as OUTPUT"),
        (["folder", "a.jpg", "b.png", "--dry-run"], "--dry-run: it has no effect with a file as OUTPUT"),
        (["folder", "a.jpg", "sub", "."], "outputs there could overwrite the inputs"),
        (["folder", "a.jpg", "000.png", "."], "this output is one of the input files"),
        (["folder", "a.jpg", "memory://x", "out"], "memory://x: found a URL among several inputs"),
        (["folder", "a.jpg", "000.png", "out.png"], "expected a folder for the output"),
    ],
)
def test_bad_requests_are_one_line_exit_2_and_write_nothing(
    invoke: Call, streams: Callable[[bytes], io.BytesIO], arguments: list[str], message: str
) -> None:
    Path("sub").mkdir()
    Path("sub/s.png").write_bytes(Path("000.png").read_bytes())
    Path("empty.txt").write_text("\n")
    streams(b"")
    before = sorted(Path().rglob("*"))
    assert message in invoke(main, *arguments).error(2)
    assert sorted(Path().rglob("*")) == before


def test_a_misspelt_command_is_told_from_a_photo(invoke: Call) -> None:
    result = invoke(main, "foldr", "in", "out")
    assert result.code == 2
    assert "foldr: found neither a photo nor a command of this name; did you mean folder?" in result.err
    assert "No such file or directory" in invoke(main, "foldr.jpg").err
    assert "No such file or directory" in invoke(main, "in/foldr").err


# a file as OUTPUT


def test_one_photo_goes_into_a_file_whose_name_gives_the_format(invoke: Call) -> None:
    for name, format_ in {"out.png": "PNG", "out.JPEG": "JPEG", "out.tif": "TIFF", "out.bmp": "BMP"}.items():
        result = invoke(main, "folder", "a.jpg", name)
        assert (result.code, result.err.split("  (")[0].strip()) == (0, f"a.jpg -> {name}")
        with Image.open(name) as image:
            assert (image.format, image.mode) == (format_, "RGB")
    assert not Path(".cgan").exists()
    assert invoke(main, "folder", "a.jpg", "out.png").code == 1
    assert invoke(main, "folder", "a.jpg", "out.png", "--overwrite").code == 0
    assert "a.jpg is the photo itself" in invoke(main, "folder", "a.jpg", "a.jpg", "--overwrite").err


# several inputs


def test_several_inputs_keep_their_places_below_the_folder_that_they_share(
    color: Call, files_in: Call, tmp_path: Path
) -> None:
    for path in ("x/a.png", "y/z/a.png", "y/b.png"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(Path("000.png").read_bytes())
    out = tmp_path / "out"
    Path("list.txt").write_bytes(b"y/z/../b.png\nx/a.png\n")
    ran = color("a.jpg", out, "--files-from", "list.txt")
    assert ran.code == 0
    assert files_in(out).keys() == {"a.jpg", "x/a.png", "y/b.png", "report.json"}
    from_folders = color("x", tmp_path / "2", "--files-from", "list.txt")
    assert files_in(from_folders.target).keys() == {"x/a.png", "y/b.png", "report.json"}
    assert color("x", out, "--files-from", "list.txt").counts == (0, 2, 0)
    Path("list.txt").write_bytes(b"gone.jpg\0y\0")
    ran = color("y/b.png", tmp_path / "3", "--files-from", "list.txt", "--null", "--quiet")
    assert (ran.code, ran.err) == (1, "failed: gone.jpg: No such file or directory\n")
    assert files_in(ran.target).keys() == {"y/b.png", "y/z/a.png", "report.json"}


def test_lists_come_from_standard_input_too(invoke: Call, streams: Callable[[bytes], io.BytesIO]) -> None:
    odd = os.fsdecode(b"new\nline-\xe9.png")
    Path("001.png").rename(odd)
    streams(b"000.png\0" + os.fsencode(odd) + b"\0")
    assert invoke(main, "--files-from", "-", "-0", "--quiet").code == 0
    assert {"000-color.png", os.fsdecode(b"new\nline-\xe9-color.png")} <= names()


# streams


@pytest.mark.parametrize(("options", "format_"), [([], "JPEG"), (["--format", "png"], "PNG")])
def test_a_photo_goes_from_standard_input_to_standard_output(
    invoke: Call, streams: Callable[[bytes], io.BytesIO], options: list[str], format_: str
) -> None:
    before = names()
    out = streams(Path("a.jpg").read_bytes())
    result = invoke(main, "-", *options)
    assert (result.code, result.err, names()) == (0, "", before)
    with Image.open(io.BytesIO(out.getvalue())) as image:
        assert (image.format, image.size) == (format_, (40, 30))
    if not options:
        invoke(main, "a.jpg")
        assert out.getvalue() == Path("a-color.jpg").read_bytes()


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (b"", [], "standard input: found nothing in it"),
        (b"no photo", [], "standard input: not an image"),
        (b"\x89PNG\r\n\x1a\n", [], "standard input.png: "),
        (bytes(2**26 + 9), ["--max-pixels", 1], "bytes, the limit is 67108872; raise --max-pixels"),
    ],
)
def test_a_stream_that_is_no_photo_is_a_failure(
    invoke: Call, streams: Callable[[bytes], io.BytesIO], content: bytes, options: list[object], reason: str
) -> None:
    out = streams(content)
    result = invoke(main, "-", *options)
    assert (result.code, out.getvalue()) == (1, b"")
    assert result.err.startswith("failed: standard input") and reason in result.err


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_a_terminal_or_a_closed_stream_is_refused(
    invoke: Call, streams: Callable[[bytes], io.BytesIO], monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    streams(Path("a.jpg").read_bytes())
    monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)
    assert "-: found a terminal or nothing, expected" in invoke(main, "-").error(2)
    monkeypatch.setattr(sys, stream, None)
    assert "-: found a terminal or nothing, expected" in invoke(main, "-").error(2)


# completion of shells


def completed(*words: str) -> set[tuple[str, str]]:
    """Return type and value of what bash would be offered for the last word."""
    shell = BashComplete(command, {}, "cgan-infer", "_CGAN_INFER_COMPLETE")
    return {(item.type, item.value) for item in shell.get_completions(list(words[:-1]), words[-1])}


def test_completion_knows_commands_models_choices_and_files() -> None:
    assert {("file", ""), ("plain", "folder"), ("plain", "info")} <= completed("")
    assert completed("fol") == {("file", "fol"), ("plain", "folder")}
    assert ("plain", "--model") in completed("--mo")
    models = {("file", "fl"), ("plain", "flowers"), ("plain", "flowers-int8")}
    for before in (["folder", "--model"], ["a.jpg", "--model"], ["info"], ["evaluate"]):
        assert completed(*before, "fl") == models
    assert completed("a.jpg", "--format", "j") == {("plain", "jpg")}
    assert completed("folder", "ph") == completed("folder", "x", "ph") == {("file", "ph")}
    assert completed("folder", "--report", "r") == {("file", "r")}


def test_the_protocol_of_completion(invoke: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CGAN_INFER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "cgan-infer info fl")
    monkeypatch.setenv("COMP_CWORD", "2")
    result = invoke(main)
    assert (result.code, result.out) == (0, "file,fl\nplain,flowers\nplain,flowers-int8\n")


def test_a_second_name_that_does_not_exist_gets_advice(invoke: Call) -> None:
    result = invoke(main, "a.jpg", "out.jpg")
    assert (result.code, result.err) == (
        2,
        "error: out.jpg does not exist; to colour a.jpg into it: cgan-infer folder a.jpg out.jpg\n",
    )


def test_a_pattern_of_several_models_gets_advice(invoke: Call) -> None:
    Path("b.onnx").write_bytes(b"x")
    assert "b.onnx: found a model, expected photos" in invoke(main, "folder", "b.onnx", "a.jpg", "out").error(2)


def test_formats_have_other_names(invoke: Call) -> None:
    assert invoke(main, "000.png", "--format", "jpeg").code == 0
    assert Path("000-color.jpg").exists()


def test_a_list_ended_by_nul_without_the_option_gets_advice(invoke: Call) -> None:
    Path("list").write_bytes(b"a.jpg\0000.png\0")
    assert "found NUL in it" in invoke(main, "--files-from", "list").error(2)
