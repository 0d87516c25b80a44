"""What the journal of a folder run has as settled."""

from contextlib import closing
from pathlib import Path

from infer.folder.journal import Journal


def rows_of(out: Path) -> list[str]:
    """Return the photos of an OUTPUT and their states, sorted."""
    with closing(Journal(out / ".cgan" / "journal.sqlite")) as journal:
        return sorted(f"{name} {row.state}" for name, output in journal.outputs() if (row := journal.find(output)))
