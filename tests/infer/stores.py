"""Stores on the loopback for tests: S3 by moto, an FTP server with a password, archives of a folder."""

import io
import random
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

USER, PASSWORD = "photographer", "hunter2-Aj9x"


@contextmanager
def s3_server() -> Iterator[str]:
    """Endpoint of an empty S3 in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with urlopen(f"{endpoint}/moto-api/reset", data=b""):  # all servers of a process share their buckets
        pass
    try:
        yield endpoint
    finally:
        server.stop()


@contextmanager
def ftp_server(folder: Path) -> Iterator[str]:
    """URL, with a password, of a server that shows a folder and can be written to."""
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

    authorizer = DummyAuthorizer()
    authorizer.add_user(USER, PASSWORD, str(folder), perm="elradfmwMT")
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer, "auth_failed_timeout": 0})
    server = FTPServer(("127.0.0.1", 0), handler)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            server.serve_forever(timeout=0.02, blocking=False, handle_exit=False)
        server.close_all()  # by another thread this fails now and then, while this one waits for requests

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"ftp://{USER}:{PASSWORD}@127.0.0.1:{server.address[1]}"
    finally:
        ended.set()
        thread.join()


def pack(folder: Path, archive: Path) -> Path:
    """Pack a folder's files, in no order, as the suffix of the archive says: .zip, or .tar with a compression."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    random.Random(0).shuffle(paths)
    return write_archive(archive, [(str(path.relative_to(folder)), path.read_bytes()) for path in paths])


def write_archive(archive: Path, entries: list[tuple[str, bytes]]) -> Path:
    """Write an archive of entries with any names, several of one name included."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for name, content in entries:
                file.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
        return archive
    compression = archive.suffix.removeprefix(".").removeprefix("tar")
    with tarfile.open(archive, f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_600_000_000
            tar.addfile(info, io.BytesIO(content))
    return archive
