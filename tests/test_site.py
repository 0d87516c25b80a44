"""The documentation site builds without a warning, its links lead somewhere, and nothing comes from other hosts."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs import other_pages

ROOT = Path(__file__).parent.parent
LOADED = {"script", "link", "img", "iframe", "source", "object"}
"""Elements whose address a browser opens without being asked."""


class Page(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        """Element and address."""
        self.anchors = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note addresses and anchors."""
        values = dict(attrs)
        self.anchors |= {values.get("id") or "", values.get("name") or ""}
        self.links += [(tag, value) for name in ("href", "src", "data") if (value := values.get(name))]


@pytest.mark.parametrize("built", [True, False])
def test_the_page_that_colours_photos_is_linked_where_it_was_built(
    built: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_pages, "WEB_PAGE", tmp_path)
    if built:
        (tmp_path / "index.html").touch()
    shown = other_pages.on_page_markdown((ROOT / "docs" / "try-it.md").read_text())
    assert ("](try/index.html)" in shown) == built
    assert ("built without the page" in shown) == (not built)


@pytest.mark.slow
def test_the_site_is_whole_and_needs_no_other_host(tmp_path: Path) -> None:
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) >= 15
    for path, page in pages.items():
        for element, address in page.links:
            url = urlsplit(address)
            if url.scheme or url.netloc:
                assert element not in LOADED, f"{path.name} loads {address}"
            elif path.name != "404.html":  # its addresses begin with the root of a server
                target = (path.parent / unquote(url.path)).resolve() if url.path else path
                assert target.exists(), f"{path.name}: {address}"
                assert target not in pages or unquote(url.fragment) in pages[target].anchors, f"{path.name}: {address}"
    assert "Sentinel" not in (site / "cli.html").read_text()
    assert "Not run by the tests: needs a store" in (site / "folder.html").read_text()
