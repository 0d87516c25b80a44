"""The plan of a folder run: which input goes to which output, and what there is to do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgan.errors import UserError
from cgan.formats import PHOTO_FORMATS
from infer.folder.journal_row import BEGUN, DONE, FAILED, Row
from infer.folder.local_folder import LocalFiles, LocalFolder
from infer.folder.output_names import output_names
from infer.folder.plan import Job, Plan, check, content_decides, make_plan, replaceable_contents
from infer.folder.remote import RemoteFolder
from infer.folder.storage import Entry, Status, Storage
from infer.photo.formats import WRITE_FORMATS, PillowFormat

FORMATS = ["same", *WRITE_FORMATS]


def plan_of(source: Path, target: Path, *arguments: object) -> Plan:
    return make_plan(LocalFolder(source), LocalFolder(target), *arguments)  # type: ignore[arg-type]


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def outputs(source: Path, target: Path, format_: str = "same") -> dict[str, str]:
    return {job.name: job.output for job in plan_of(source, target, format_).jobs}


def test_paths_are_mirrored_and_names_kept(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "b/a.jpg", "b/c/a.JPG", "b/d.tiff", "e.pgm", "f.gif")
    assert outputs(source, tmp_path / "out") == {
        "a.jpg": "a.jpg",
        "b/a.jpg": "b/a.jpg",
        "b/c/a.JPG": "b/c/a.JPG",
        "b/d.tiff": "b/d.tiff",
        "e.pgm": "e.png",  # holds no colour
        "f.gif": "f.png",
    }


def test_photos_that_would_meet_in_one_output_keep_their_suffix(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "a.png", "a.webp", "b.jpg", "c.gif", "c.png")
    assert outputs(source, tmp_path / "out", "png") == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png",
        "a.webp": "a.webp.png",
        "b.jpg": "b.png",
        "c.gif": "c.gif.png",
        "c.png": "c.png",
    }


stems = st.sampled_from(["a", "A", "a.jpg", "a.png", "b", "a.jpg.2", "é"])
photo_names = st.builds(lambda stem, suffix: stem + suffix, stems, st.sampled_from([*PHOTO_FORMATS, ".JPG"]))


@settings(max_examples=300)
@given(st.lists(photo_names, unique=True, min_size=1), st.sampled_from(FORMATS))
def test_every_input_has_an_output_of_its_own(names: list[str], format_: str) -> None:
    names = sorted(names)
    folded = [output.casefold() for output in output_names(names, format_, ())]
    # Inputs whose names differ in case alone can exist only where case distinguishes files.
    if len({name.casefold() for name in names}) == len(names):
        assert len(set(folded)) == len(names)
    assert len(set(output_names(names, format_, ()))) == len(names)


@settings(max_examples=300)
@given(st.lists(photo_names, unique=True, min_size=1), st.sampled_from(FORMATS), st.data())
@pytest.mark.slow
def test_photos_that_arrive_later_change_no_output(names: list[str], format_: str, data: st.DataObject) -> None:
    """Whatever came first and whatever is gone: an output stays with its input, and no two inputs share one."""
    names = sorted({name.casefold(): name for name in names}.values())
    first = sorted(data.draw(st.sets(st.sampled_from(names))))
    known = dict(zip(first, output_names(first, format_, ()), strict=True))
    later = sorted(data.draw(st.sets(st.sampled_from(names))))
    found = dict(zip(later, output_names(later, format_, known.items()), strict=True))
    assert all(found[name] == known[name] for name in found.keys() & known.keys())
    folded = [output.casefold() for output in {**known, **found}.values()]
    assert len(set(folded)) == len(folded)


@pytest.mark.parametrize(
    ("first", "then", "outputs"),
    [
        ("a.gif", "a.png", {"a.gif": "a.png", "a.png": "a.png.png"}),
        ("a.png", "a.gif", {"a.gif": "a.gif.png", "a.png": "a.png"}),
        ("a.gif", "A.PNG", {"a.gif": "a.png", "A.PNG": "A.PNG.png"}),
        ("A.png", "a.gif", {"a.gif": "a.gif.png", "A.png": "A.png"}),
    ],
)
@pytest.mark.parametrize("first_is_gone", [False, True])
def test_who_comes_first_keeps_the_output(first: str, then: str, outputs: dict[str, str], first_is_gone: bool) -> None:
    known = {first: output_names([first], "same", ())[0]}
    names = [then] if first_is_gone else sorted([first, then])
    assert dict(zip(names, output_names(names, "same", known.items()), strict=True)) == {n: outputs[n] for n in names}


def test_each_format_has_outputs_of_its_own_that_stay() -> None:
    names = ["a.gif", "a.png"]
    same, jpg = ["a.gif.png", "a.png"], ["a.gif.jpg", "a.png.jpg"]
    known = list(zip(names, same, strict=True))
    assert output_names(names, "jpg", known) == jpg
    known += zip(names, jpg, strict=True)
    assert output_names(names, "same", known) == same
    assert output_names(names, "jpg", known) == jpg
    assert output_names(["a.jpg"], "same", [("a.gif", "a.png"), ("a.gif", "a.jpg")]) == ["a.jpg.jpg"]


def test_names_that_differ_in_case_alone_get_outputs_that_do_not() -> None:
    assert output_names(["A.gif", "a.bmp"], "png", ()) == ["A.gif.png", "a.bmp.png"]


def test_outputs_keep_what_the_journal_knows(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.gif", "a.png")
    plan = plan_of(source, tmp_path / "out", "same", [("a.gif", "a.png")])
    assert [(job.name, job.output, job.format) for job in plan.jobs] == [
        ("a.gif", "a.png", "PNG"),
        ("a.png", "a.png.png", "PNG"),
    ]


def test_a_choice_leaves_files_for_later_and_may_take_none(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.png", "b.png", "c.txt")
    seen: list[str] = []

    def choose(entry: Entry) -> bool:
        seen.append(entry.name)
        return entry.name == "b.png"

    assert [job.name for job in plan_of(source, tmp_path / "out", "same", (), choose).jobs] == ["b.png"]
    assert seen == ["a.png", "b.png"]
    assert plan_of(source, tmp_path / "out", "same", (), lambda entry: False).jobs == ()


def test_a_job_tells_size_and_time_of_its_photo(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.png")
    os.utime(source / "a.png", ns=(0, 1234567891))
    assert [job.identity for job in plan_of(source, tmp_path / "out").jobs] == ["1:1234567891"]


JOB = Job("a.gif", "a.png", PillowFormat.PNG, "10:1")
ROW = Row("a.gif", "10:1", "", "recipe", "/in", DONE, 7, "", "own")
NEW = ROW._replace(state=BEGUN, size=0, digest="", publishing="new")
THERE = Status(7, "5")
LINK = THERE._replace(regular=False)


@pytest.mark.parametrize(
    ("row", "there", "content", "same", "overwrite", "verdict", "reason"),
    [
        (None, None, "", False, False, "do", "no output yet"),
        (ROW._replace(state=BEGUN), None, "", True, False, "do", "no output yet"),
        (ROW._replace(state=FAILED), None, "", True, False, "do", "no output yet"),
        (ROW, None, "", True, False, "do", "its output is gone"),
        (None, THERE, "", False, False, "fail", "no run wrote it"),
        (ROW._replace(name="a.bmp"), THERE, "", True, False, "fail", "was made from a.bmp"),
        # begun: only its digest tells whose file lies there
        (ROW._replace(state=BEGUN), THERE, "", True, False, "do", "not known to be finished"),
        (ROW._replace(state=BEGUN, publishing="new"), THERE, "own", True, False, "do", "not finished"),
        (ROW._replace(state=BEGUN, publishing="new"), THERE, "new", True, False, "skip", ""),
        (ROW._replace(state=BEGUN, publishing="new"), THERE, "other", True, False, "fail", "no run wrote it"),
        (NEW, THERE, "new", True, False, "skip", ""),  # killed before its note
        (NEW, THERE, "other", True, False, "fail", "no run wrote it"),
        (NEW, THERE, "new", False, False, "do", "not finished"),
        (NEW._replace(recipe="other"), THERE, "new", True, False, "do", "not finished"),
        (NEW, Status(0, "5"), "", True, False, "do", "not finished"),
        (NEW._replace(publishing=""), THERE, "", True, False, "do", "not known to be finished"),
        (NEW._replace(publishing="", recipe="other"), THERE, "", True, False, "fail", "of a run that was killed, with"),
        (NEW._replace(publishing=""), THERE, "", False, False, "fail", "may be of a run that was killed"),
        (ROW._replace(state=BEGUN, recipe="other"), THERE, "", True, False, "do", "not known to be finished"),
        (ROW, Status(0, "5"), "", True, False, "do", "its output is empty"),
        (ROW, Status(8, "5"), "", True, False, "fail", "was changed since it was written"),
        (ROW, Status(8, "5"), "", False, False, "fail", "was changed since it was written"),
        (ROW._replace(state=FAILED), THERE, "", True, False, "do", "failed before"),
        (ROW._replace(digest="", recipe="other"), THERE, "", True, False, "fail", "by an earlier version"),
        (ROW._replace(digest=""), THERE, "", True, False, "skip", ""),
        (ROW._replace(state=FAILED), Status(8, "5"), "", True, False, "fail", "was changed since it was written"),
        (ROW._replace(state=FAILED, size=0), THERE, "", True, False, "fail", "no run wrote it"),
        (ROW, THERE, "", True, False, "skip", ""),
        (ROW, LINK, "", True, False, "skip", ""),  # to a file that may be the output, moved elsewhere
        (ROW, LINK, "", False, False, "fail", "is a link"),
        (ROW._replace(recipe="other"), LINK, "", True, False, "fail", "is a link"),
        (ROW._replace(state=BEGUN), LINK, "", True, False, "fail", "is a link"),
        (None, Status(0, "", regular=False), "", True, False, "fail", "no run wrote it"),
        (ROW._replace(root="/moved"), THERE, "", True, False, "skip", ""),
        (ROW._replace(recipe="other"), THERE, "", True, False, "do", "another model or other options"),
        (ROW, THERE, "", False, False, "do", "the photo changed"),
        (ROW._replace(root="/other"), THERE, "", False, False, "fail", "another photo of this name, in /other"),
        (ROW, THERE, "", True, True, "do", "--overwrite"),
        (None, THERE, "", False, True, "do", "--overwrite"),
    ],
)
def test_what_there_is_to_do(
    row: Row | None, there: Status | None, content: str, same: bool, overwrite: bool, verdict: str, reason: str
) -> None:
    assert bool(content) is content_decides(row, there)
    found, why = check(JOB, row, there, content, same, "recipe", "/in", overwrite)
    assert found == verdict
    assert reason in why
    assert bool(why) is (verdict != "skip")


rows = st.builds(
    Row,
    name=st.sampled_from(["a.gif", "a.bmp"]),
    identity=st.just("10:1"),
    checksum=st.just(""),
    recipe=st.sampled_from(["recipe", "other"]),
    root=st.sampled_from(["/in", "/other"]),
    state=st.sampled_from([BEGUN, DONE, FAILED]),
    size=st.sampled_from([0, 7]),
    reason=st.just(""),
    digest=st.sampled_from(["", "own"]),
    publishing=st.sampled_from(["", "new"]),
)
statuses = st.none() | st.builds(Status, st.sampled_from([0, 7, 8]), st.just("5"), st.booleans())


@given(st.none() | rows, statuses, st.booleans(), st.sampled_from(["own", "new", "stranger"]))
def test_a_file_that_the_journal_does_not_know_is_never_replaced(
    row: Row | None, there: Status | None, same: bool, content: str
) -> None:
    told = content if content_decides(row, there) else ""
    verdict, _ = check(JOB, row, there, told, same, "recipe", "/in", overwrite=False)
    replaces = replaceable_contents(row, overwrite=False)
    assert replaces is not None
    known = row is not None and row.name == JOB.name
    if there and not known:
        assert verdict == "fail"
    if there and not there.regular:
        assert verdict in ("skip", "fail")
    if there and known and row is not None and row.state != BEGUN and there.size not in (0, row.size):
        assert verdict == "fail"  # nor one that was changed since
    if verdict == "skip":
        assert there and same and row is not None
        assert row.recipe == "recipe"
        assert (row.state, row.size) == (DONE, there.size) or (row.state == BEGUN and content == row.publishing)
    if verdict == "do" and there and there.size:
        assert row is not None
        assert (content in replaces) is (content in {row.digest, row.publishing})  # else publishing refuses
    if there is None:
        assert verdict == "do"
    assert check(JOB, row, there, told, same, "recipe", "/in", overwrite=True)[0] == "do"
    assert replaceable_contents(row, overwrite=True) is None


def test_other_files_are_counted_and_work_files_are_no_photos(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "notes.txt", "b/.DS_Store", ".cgan/work/b.jpg")
    plan = plan_of(source, tmp_path / "out")
    assert [job.name for job in plan.jobs] == ["a.jpg"]
    assert plan.other_files == 3


def test_output_inside_input_is_never_read(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "out/b.jpg")
    assert outputs(source, source / "out") == {"a.jpg": "a.jpg"}


@pytest.mark.parametrize("target", ["in", "."])
def test_output_that_could_overwrite_inputs_is_refused(tmp_path: Path, target: str) -> None:
    source = touch(tmp_path / "in", "a.jpg")
    with pytest.raises(UserError, match="could overwrite the inputs"):
        plan_of(source, tmp_path / target)


def test_output_through_a_link_to_input_is_refused(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg")
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UserError, match="could overwrite the inputs"):
        plan_of(source, tmp_path / "link")


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found nothing there"):
        plan_of(tmp_path / "none", tmp_path / "out")
    touch(tmp_path / "in", "notes.txt")
    with pytest.raises(UserError, match="found no photos"):
        plan_of(tmp_path / "in", tmp_path / "out")


def test_hidden_files_are_no_photos(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "._a.jpg")
    plan = plan_of(source, tmp_path / "out")
    assert [job.name for job in plan.jobs] == ["a.jpg"]
    assert plan.other_files == 1


def test_an_output_that_is_an_input_through_links_is_refused(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "sub/a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(source / "sub")
    with pytest.raises(UserError, match="is one of the input files"):
        plan_of(source, tmp_path / "out")


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = touch(tmp_path / "in", "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert plan_of(source, tmp_path / "out").unreadable == {"closed": "folder cannot be read: Permission denied"}


def test_links_and_special_files(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg")
    elsewhere = touch(tmp_path / "elsewhere", "b.jpg")
    (source / "link.jpg").symlink_to(elsewhere / "b.jpg")
    (source / "loop").symlink_to(source)
    (source / "dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(source / "pipe.jpg")
    plan = plan_of(source, tmp_path / "out")
    assert [job.name for job in plan.jobs] == ["a.jpg", "link.jpg"]
    reasons = plan.passed_over
    assert reasons.keys() == {"dead.jpg", "loop", "pipe.jpg"}
    assert "leads nowhere" in reasons["dead.jpg"]
    assert "not followed" in reasons["loop"]
    assert "not a regular file" in reasons["pipe.jpg"]


def test_names_that_differ_by_case_alone_keep_their_outputs_in_later_runs() -> None:
    names = ["A.jpg", "a.jpg"]
    first = output_names(names, "same", ())
    assert len({output.casefold() for output in first}) == 2
    assert output_names(names, "same", list(zip(names, first, strict=True))) == first


def test_pictures_of_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "b/IMG_1.NEF", "c.psd", ".d.psd", "e.txt")
    plan = plan_of(source, tmp_path / "out")
    assert [job.name for job in plan.jobs] == ["a.jpg"]
    assert plan.passed_over == {
        "b/IMG_1.NEF": "a picture in NEF, which is not read; convert it",
        "c.psd": "a picture in PSD, which is not read; convert it",
    }
    assert plan.other_files == 2


def test_newer_formats_become_png(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.HEIC", "b.avif", "c.jp2", "d.jxl")
    jobs = plan_of(source, tmp_path / "out").jobs
    assert [job.output for job in jobs] == ["a.png", "b.png", "c.png", "d.png"]
    assert {job.format for job in jobs} == {PillowFormat.PNG}


def test_outputs_of_other_runs_are_not_coloured_again(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "earlier/.cgan/journal.sqlite", "earlier/a.jpg", "other/.cgan/b.jpg")
    plan = plan_of(source, tmp_path / "in" / "out")
    assert [job.name for job in plan.jobs] == ["a.jpg", "other/.cgan/b.jpg"]
    assert plan.passed_over == {"earlier": "another OUTPUT, whose photos are coloured already"}
    assert [job.name for job in plan_of(source / "earlier", tmp_path / "out").jobs] == ["a.jpg"]  # who asks for it


def test_a_photo_s_name_is_no_output_folder_for_a_single_photo(tmp_path: Path) -> None:
    photo = touch(tmp_path, "a.jpg") / "a.jpg"
    with pytest.raises(UserError, match=r"b\.png: found the name of a photo, expected a folder for the output"):
        make_plan(LocalFiles([photo]), LocalFolder(tmp_path / "out" / "b.png"))
    (tmp_path / "c.png").mkdir()
    assert [job.output for job in make_plan(LocalFiles([photo]), LocalFolder(tmp_path / "c.png")).jobs] == ["a.jpg"]


def test_photos_whose_names_lead_elsewhere_are_failures(tmp_path: Path) -> None:
    class Archive(RemoteFolder):
        def __init__(self, url: str) -> None:
            pass

        @property
        def identity(self) -> str:
            return "archive"

        def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
            for name in ("../a.png", "/b.png", "good.png", "x//c.png", "../notes.txt", "C:/d.png"):
                yield Entry(name, Status(1, "1"))

    plan = make_plan(Archive("memory://archive"), LocalFolder(tmp_path / "out"))
    assert [job.name for job in plan.jobs] == ["good.png"]
    assert plan.unreadable.keys() == {"../a.png", "/b.png", "x//c.png", "C:/d.png"}
    assert plan.other_files == 1


def test_a_folder_of_this_system_may_have_names_that_others_do_not_know(tmp_path: Path) -> None:
    for name in ("C:/a.png", "\\b.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    plan = plan_of(tmp_path / "in", tmp_path / "out")
    assert [job.output for job in plan.jobs] == ["C:/a.png", "\\b.png"]
