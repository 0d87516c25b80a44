"""Hooks of mkdocs.yml: documents of the repository, and the built page of web/, become pages of the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "model-card.md": "infer/models/MODEL_CARD.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Names in the site, with the documents."""

WEB_PAGE = ROOT / "web" / "dist"
"""The page that colours photos, if `make web` has built it."""

WEB_LINK = "[Open the page](try/index.html){ .md-button .md-button--primary }"
WITHOUT_PAGE = "*This site was built without the page, because npm was not found. `make web` builds it.*"
"""Line of try-it.md, and what takes its place where the page was not built."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents, their links turned to where the pages of the site are."""
    for page, document in PAGES.items():
        files.append(File.generated(config, page, content=in_site((ROOT / document).read_text())))
    for path in WEB_PAGE.rglob("*"):
        if path.is_file():
            name = f"try/{path.relative_to(WEB_PAGE).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Say so where the page that colours photos was not built."""
    return markdown if (WEB_PAGE / "index.html").exists() else markdown.replace(WEB_LINK, WITHOUT_PAGE)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out what mkdocs-click shows as the default of options that have none, with click 8.3 and newer."""
    return html.replace("<code>Sentinel.UNSET</code>", "")


def in_site(text: str) -> str:
    """Return a document with its links to docs/ and to other documents as they are in the site."""
    for page, document in PAGES.items():
        text = text.replace(f"]({document})", f"]({page})")
    return re.sub(r"\]\((?:\.\./)*docs/", "](", text)
