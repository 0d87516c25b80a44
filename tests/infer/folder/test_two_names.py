"""INPUT and OUTPUT are one place under two names: no photo is replaced, and no output is taken for a photo."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import s3fs

from infer.folder.local_folder import LocalFolder
from infer.folder.open_storage import open_storage
from tests.infer.stores import ftp_server, s3_server

Color = Callable[..., Any]
FilesIn = Callable[[Path], dict[str, bytes]]
REFUSED = "under another name"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def root(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    """A folder that stores show, with photos in it."""
    gray_photos(tmp_path / "root" / "in" / "sub", 2)
    return tmp_path / "root"


@pytest.fixture
def ftp(root: Path) -> Iterator[str]:
    with ftp_server(root) as url:
        yield url


def both(root: Path, ftp: str) -> dict[str, str]:
    """Names of the root."""
    return {
        "local": str(root),
        "ftp": ftp,
        "host": ftp.replace("127.0.0.1", "localhost"),
        "cache": f"simplecache::{ftp}",
    }


@pytest.mark.parametrize("below", ["in", "", "in/out", "in/deep/out"])
@pytest.mark.parametrize(
    ("source", "target"), [("local", "ftp"), ("ftp", "local"), ("ftp", "host"), ("cache", "local"), ("cache", "host")]
)
def test_an_output_under_another_name_is_refused(
    root: Path, ftp: str, color: Color, files_in: FilesIn, source: str, target: str, below: str
) -> None:
    names = both(root, ftp)
    before = files_in(root)
    result = color(f"{names[source]}/in", f"{names[target]}/{below}", "--overwrite").result
    assert REFUSED in result.error(2)
    assert files_in(root) == before


@pytest.mark.parametrize("target", ["ftp", "local"])
def test_a_place_beside_input_is_none_of_it(root: Path, ftp: str, color: Color, target: str) -> None:
    names = both(root, ftp)
    for source in {*names} - {target, "cache"}:
        result = color(f"{names[source]}/in", f"{names[target]}/out-{source}").result
        assert result.code == 0, result.err
        assert not list(root.rglob("*cgan-*"))


def test_an_output_of_a_single_photo(root: Path, ftp: str, color: Color) -> None:
    photo = root / "in" / "sub" / "000.png"
    assert REFUSED in color(photo, f"{ftp}/in/sub", "--overwrite").result.error(2)
    assert color(photo, f"{ftp}/in/sub/out").result.code == 0


@pytest.mark.parametrize("cache", ["simplecache", "filecache", "blockcache", "simplecache://", "filecache::cached"])
def test_a_cache_is_no_other_name(root: Path, color: Color, files_in: FilesIn, cache: str) -> None:
    before = files_in(root)
    for protocol in ("file", "local"):
        source = f"{cache}::{protocol}://{root}/in"
        assert isinstance(open_storage(source), LocalFolder)
        assert "could overwrite" in color(source, root / "in", "--overwrite").result.error(2)
    assert files_in(root) == before
    source = f"{cache}::file://{root}/in"
    for counts in ((2, 0, 0), (0, 2, 0)):
        assert color(source, root / "in" / "out").counts == counts
    assert open_storage(f"{cache}::memory://in").identity == open_storage("memory://in").identity


@pytest.mark.parametrize("path", ["out/../in", "./in", "in/..", "%2e%2e/in"])
def test_a_url_with_dots_is_refused(root: Path, ftp: str, color: Color, files_in: FilesIn, path: str) -> None:
    before = files_in(root)
    for arguments in ((f"{ftp}/in", f"{ftp}/{path}"), (f"{ftp}/{path}", f"{ftp}/out")):
        assert "found . or .. in a URL" in color(*arguments, "--overwrite").result.error(2)
    assert files_in(root) == before


def test_an_input_that_has_an_answer_for_any_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    source = open_storage("memory://in")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: b"<html>")
    with LocalFolder(root).probe() as probe:
        assert not source.sees(probe)
        assert LocalFolder(root).sees(probe)
    assert not LocalFolder(root).sees(probe)


def test_what_cannot_be_written_to_is_one_line(root: Path, ftp: str, color: Color) -> None:
    (root / "file").write_bytes(b"")
    assert "cannot be written" in color(f"{ftp}/in", root / "file" / "out").result.error(2)
    assert "cannot be written" in color(root / "in", f"{ftp}/file/out").result.error(1)


@pytest.mark.slow
def test_s3_servers_are_told_apart_and_caches_seen_through(
    root: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    assert open_storage("s3://bucket/out").identity == "s3://bucket/out"
    identities = set()
    with ExitStack() as stack:
        for _ in range(2):
            endpoint = stack.enter_context(s3_server())
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.replace("://", "://user:secret@"))
            s3fs.S3FileSystem.clear_instance_cache()
            identities.add(open_storage("s3://bucket/out").identity)
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            s3fs.S3FileSystem.clear_instance_cache()
            files = s3fs.S3FileSystem()
            if files.exists("bucket/out"):  # moto's servers share what they hold
                files.rm("bucket/out", recursive=True)
            files.makedirs("bucket", exist_ok=True)
            assert color(root / "in", "s3://bucket/out").result.code == 0
        assert "could overwrite" in color("simplecache::s3://bucket/out", "s3://bucket/out").result.error(2)
    assert len(identities) == 2
    assert "secret" not in str(identities)
    s3fs.S3FileSystem.clear_instance_cache()
