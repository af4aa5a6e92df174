"""Follows every link of a built site that leads to the site itself, and needs no network for it.

    python scripts/check_links.py build/docs

Fails if a page, file or place in a page that something links to is not there.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and the places in it that links may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is not None and name in ("href", "src"):
                self.links.append(value)
            elif value is not None and name in ("id", "name"):
                self.places.add(value)


def broken(root: Path) -> list[str]:
    """A line for each link that leads nowhere."""
    files = {file.resolve() for file in root.rglob("*") if file.is_file()}
    pages = {
        file: Page(file.read_text(encoding="utf-8")) for file in files if file.suffix == ".html"
    }
    found = []
    for file, page in sorted(pages.items()):
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            place = unquote(parts.fragment)
            if target not in files:
                found.append(f"{file.relative_to(root.resolve())}: {link}: no such file")
            elif place and target in pages and place not in pages[target].places:
                found.append(f"{file.relative_to(root.resolve())}: {link}: no such place")
    return found


def main() -> int:
    """The number of broken links, up to 1."""
    lines = broken(Path(sys.argv[1]))
    print("\n".join(lines) or "every link to the site itself leads somewhere")
    return min(len(lines), 1)


if __name__ == "__main__":
    sys.exit(main())
