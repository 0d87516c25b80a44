"""Passwords and tokens in URLs are shown and stored nowhere."""

import base64
import errno
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from cgan.errors import UserError
from infer.folder.credentials import Credentials
from infer.folder.open_storage import open_storage
from infer.folder.remote import RemoteFolder
from tests.infer.stores import PASSWORD, ftp_server

SECRET = "p4ss-w0rd"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a:b@c/photos", "s3://bucket/a:b@c/photos"),
        ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
        ("sftp://me@host/x", "sftp://me@host/x"),
        ("ftp://host:21/home", "ftp://host:21/home"),
        ("http://host:80/x?mail=me@home", "http://host:80/x?mail=***"),
        (f"ftp://me:12/{SECRET}@host/x", "ftp://me:***@host/x"),
        (f"ftp://me:12?{SECRET}@host/x", "ftp://me:***@host/x"),
        (f"ftp://me:12/;a={SECRET}@host/x", "ftp://me:***@host/x"),
        (f"http://h/x;token={SECRET}/y", "http://h/x;token=***/y"),
        (f"http://h/x?token={SECRET};{SECRET}", "http://h/x?token=***"),
        ("github://org:repo@main/x", "github://org:repo@main/x"),
        (f"ftp://me:{SECRET}@host:21/x", "ftp://me:***@host:21/x"),
        (f"ftp://me:{SECRET}/x@y@host/x", "ftp://me:***@host/x"),
        (f"ftp://me:a::{SECRET}@host/x", "ftp://me:***@host/x"),
        ("ftp://me:@host/x", "ftp://me:***@host/x"),
        (f"https://{SECRET}@host/x", "https://***@host/x"),
        (f"https://host/x?a={SECRET}&X-Amz-Signature={SECRET}2", "https://host/x?a=***&X-Amz-Signature=***"),
        (f"tar://a::ftp://me:{SECRET}@h/x.tar", "tar://a::ftp://me:***@h/x.tar"),
        (
            f"zip://x::simplecache::sftp://a:{SECRET}@h/x?k={SECRET}::b",
            "zip://x::simplecache::sftp://a:***@h/x?k=***::b",
        ),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    credentials = Credentials(url)
    assert credentials.shown == shown
    text = credentials.without_secrets(f"no such file: {url} (user me)")
    assert SECRET not in text + credentials.identity
    assert text.startswith("no such file: ")
    assert text.endswith(" (user me)")
    assert bool(credentials) is (url != shown)


@pytest.mark.parametrize("password", ["p/s s%", "ü&=+", "a'b\"c\\d", "plain"])
def test_all_ways_to_write_a_password_are_hidden(password: str) -> None:
    credentials = Credentials(f"ftp://me:{quote(password, safe='')}@host/x")
    basic = base64.b64encode(f"me:{password}".encode()).decode()
    for form in (password, quote(password), quote(password, safe=""), repr(password), json.dumps(password), basic):
        hidden = credentials.without_secrets(f"<{form}>")
        assert hidden.strip("<>'\"") == "***", form


def test_a_short_password_is_hidden_as_a_word_and_leaves_other_words_alone() -> None:
    credentials = Credentials("ftp://me:a@host/x")
    assert credentials.without_secrets("login as me:a at a host") == "login as me:*** at *** host"


def test_an_identity_is_that_of_the_folder() -> None:
    def identity(url: str) -> str:
        return Credentials(url).identity

    assert identity("https://a:b@h/x?sig=1&sv=2") == identity("https://a:c@h/x?sig=3&sv=4")
    assert identity("https://h/x?album=1") != identity("https://h/x?album=2")
    assert identity("ftp://me:1@h/x") != identity("ftp://you:1@h/x")


def test_an_archive_s_identity_has_the_archive_and_no_password(tmp_path: Path) -> None:
    for name in ("a", "b"):
        MemoryFileSystem().pipe_file(f"/{name}.zip", b"")
    identities = {open_storage(f"zip://{sub}::memory://{name}.zip").identity for sub in "xy" for name in "ab"}
    assert len(identities) == 4
    assert "zip://x::memory:///a.zip" in identities
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("kind", [OSError, PermissionError, TimeoutError])
def test_errors_of_a_store_keep_their_kind_and_number_without_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[OSError]
) -> None:
    with ftp_server(tmp_path) as url:
        folder = open_storage(f"{url}/in")
        for raised in (kind(f"at {url}"), kind(errno.ENOSPC, f"at {url}", url)):
            monkeypatch.setattr(
                FTPFileSystem, "cat_file", lambda *_, raised=raised, **__: (_ for _ in ()).throw(raised)
            )
            with pytest.raises(kind) as caught:
                folder.fetch("x")
            assert caught.value.errno == raised.errno
            assert PASSWORD not in str(caught.value) + repr(caught.value)
            assert caught.value.__suppress_context__
            assert "photographer:***@" in str(caught.value)


def everything(result: Any, *folders: Path) -> bytes:
    """All that a run printed and wrote, outputs included."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    contents = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in files)
    return b"".join([result.out.encode(), result.err.encode(), *contents])


@pytest.mark.parametrize("options", [[], ["--log-json"], ["--dry-run", "--log-json"]])
def test_a_run_shows_and_stores_no_password(
    tmp_path: Path,
    gray_photos: Callable[..., Path],
    color: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    gray_photos(tmp_path / "root" / "in")
    fetch = FTPFileSystem.cat_file

    def quoting(self: Any, path: str, **options: Any) -> Any:
        if path.endswith(("001.png", "002.png")):
            raise (OSError if "001" in path else KeyError)(f"cannot get {url}{path} as {self.storage_options}")
        return fetch(self, path, **options)

    with ftp_server(tmp_path / "root") as url:
        ran = color(f"{url}/in", f"{url}/out", *options)
        assert ran.result.code == 0, ran.result.err
        seen = everything(ran.result, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(FTPFileSystem, "cat_file", quoting)
            failed = color(f"{url}/in", f"{url}/other", "--overwrite", *options)
        if not options:
            assert failed.result.code == 1
            assert f"cannot get ftp://photographer:***@{url.rpartition('@')[2]}/in/001.png" in failed.result.err
        seen += everything(failed.result, tmp_path)
        for place in (f"{url}/in", f"{url.replace(PASSWORD, PASSWORD + 'x')}/in"):
            for arguments in ((place, tmp_path / "local"), (tmp_path / "root" / "in", place), (place, place)):
                seen += everything(color(*arguments, *options).result, tmp_path)
    seen += everything(color(f"{url}/in", tmp_path / "gone", *options).result, tmp_path)
    assert b"photographer:***@127.0.0.1" in seen
    assert PASSWORD.encode() not in seen


def test_a_url_that_cannot_be_opened_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> None:
        raise ConnectionRefusedError(111, f"nobody at {url}")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(UserError) as error:
        RemoteFolder(f"ftp://me:{SECRET}@host/x")
    assert "nobody at ftp://me:***@host/x" in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "place", ["ftp:/me:{}@host/x", "ftp:me:{}@host", "sftp:///me:{}@host/x", "tar://::ftp:/me:{}@host/x.tar"]
)
@pytest.mark.parametrize("options", [[], ["--log-json"], ["--dry-run"]])
def test_a_url_with_other_slashes_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, color: Callable[..., Any], place: str, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    url = place.format(SECRET)
    for arguments in ((url, "out"), (tmp_path, url)):
        result = color(*arguments, *options).result
        assert "found no URL, expected" in result.error(2)
        assert SECRET not in result.out + result.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_behind_a_signed_url_is_refused() -> None:
    """Its files would need signatures of their own. An archive needs none but its own."""
    with pytest.raises(UserError, match=r"^https://host/photos\?sig=\*\*\*: found a query in the URL of a folder"):
        open_storage(f"https://host/photos?sig={SECRET}")
    assert SECRET not in open_storage(f"zip://x::https://host/x.zip?sig={SECRET}").identity
