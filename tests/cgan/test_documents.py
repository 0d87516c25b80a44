"""Documents: earlier ones are replaced, links followed, streams written, other files left."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cgan.documents import check_document, json_with, write_document
from cgan.errors import UserError
from cgan.files import OccupiedError

IS_OWN = json_with(frozenset({"done", "version"}))
OWN = b'{"done": 1, "version": 2}'
NEW = b'{"done": 2, "version": 2}'
MINE = b"mine"


@pytest.mark.parametrize(
    ("content", "own"),
    [(OWN, True), (b'{"done": 1}', False), (b"[]", False), (b"{", False), (b"\xff", False), (b"[" * 10**6, False)],
)
def test_an_earlier_document_is_told_by_its_keys(content: bytes, own: bool) -> None:
    assert IS_OWN(content) is own


@pytest.mark.parametrize("before", [None, b"", OWN])
@pytest.mark.parametrize("linked", [False, True])
def test_nothing_but_an_earlier_document_is_replaced(tmp_path: Path, before: bytes | None, linked: bool) -> None:
    real = path = tmp_path / "report.json"
    if linked:
        path = tmp_path / "link"
        path.symlink_to(real)
    if before is not None:
        real.write_bytes(before)
    check_document(path, IS_OWN, "--report")
    write_document(path, NEW, IS_OWN)
    assert real.read_bytes() == NEW
    assert path.is_symlink() is linked
    real.write_bytes(MINE)
    with pytest.raises(UserError, match=r"--report .*: found something that this command did not write"):
        check_document(path, IS_OWN, "--report")
    with pytest.raises(OccupiedError):
        write_document(path, NEW, IS_OWN)
    assert real.read_bytes() == MINE
    assert set(tmp_path.iterdir()) == {real, path}


def test_a_folder_and_files_of_the_command_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "link").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="reads or writes"):
        check_document(tmp_path / "link", IS_OWN, "--json", others=[tmp_path / "model.onnx"])
    with pytest.raises(UserError, match="did not write"):
        check_document(tmp_path, IS_OWN, "--json")
    with pytest.raises(UserError, match="found no folder"):
        check_document(tmp_path / "none" / "report.json", IS_OWN, "--json")


def test_a_fifo_is_written_and_not_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    check_document(fifo, IS_OWN, "--report")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    write_document(fifo, NEW, IS_OWN)
    reader.join()
    assert read == [NEW]
    assert fifo.is_fifo()


def test_devices_are_written_and_not_read() -> None:
    check_document(Path("/dev/full"), IS_OWN, "--report")
    with pytest.raises(OSError, match="No space left"):
        write_document(Path("/dev/full"), NEW, IS_OWN)
    write_document(Path("/dev/null"), NEW, IS_OWN)
    assert Path("/dev/null").is_char_device()


PROGRAM = """
import sys
from pathlib import Path
from cgan.documents import check_document, write_document
path = Path(sys.argv[1])
print("before")
check_document(path, lambda content: False, "--report")
write_document(path, b"document\\n", lambda content: False)
print("after")
"""


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "stdout"])
def test_standard_output_stays_whole_wherever_a_shell_sends_it(tmp_path: Path, piped: bool, name: str) -> None:
    file = tmp_path / "stdout"
    path = file if name == "stdout" else Path(name)
    if piped and name == "stdout":
        pytest.skip("the file is none of its streams")
    with file.open("wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, path], stdout=subprocess.PIPE if piped else stdout, check=True
        )
    assert (done.stdout if piped else file.read_bytes()) == b"before\ndocument\nafter\n"
