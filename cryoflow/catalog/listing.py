"""Folders of a web server, as its listing page shows them (Apache's and nginx's form). Names come from links alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from cryoflow.catalog.web import fetch_text

__all__ = ["Item", "list_folder", "parse_listing"]

PAGE_BYTES = 64 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?([KMGTP]?)")


@dataclass(frozen=True, slots=True)
class Item:
    """One file or folder. ``size`` in bytes, rounded as the page rounds it; None where the page does not say."""

    name: str
    folder: bool
    size: int | None = None


def list_folder(address: str) -> list[Item]:
    """What lies in the remote folder at ``address``, in the order of the page.

    Raises
    ------
    FormatError : there is no such folder. ResourceError : the server does not answer.
    """
    address = address.rstrip("/") + "/"
    return parse_listing(fetch_text(address, limit=PAGE_BYTES), address)


def parse_listing(page: str, address: str) -> list[Item]:
    """The children of ``address`` that a listing page links to.

    Links to the parent, to other sorts of the page (``?C=N``), to other hosts or to deeper places are no children.

    Examples
    --------
    >>> page = '<a href="?C=N;O=D">Name</a> <a href="/up/">Parent</a> <a href="a%20b.mrc">a b.mrc</a> 2015-01-01 64M'
    >>> parse_listing(page, "https://host/up/data/")
    [Item(name='a b.mrc', folder=False, size=67108864)]
    """
    links = _Links()
    links.feed(page)
    links.close()
    here = urlsplit(address)
    items: dict[str, Item] = {}
    for target, text in links.found:
        try:
            link = urlsplit(urljoin(address, target))
        except ValueError:  # no address at all
            continue
        elsewhere = (link.scheme, link.netloc) != (here.scheme, here.netloc) or not link.path.startswith(here.path)
        if elsewhere or link.query:
            continue
        name = unquote(link.path[len(here.path) :])
        folder = name.endswith("/")
        name = name.removesuffix("/")
        if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
            continue
        items.setdefault(name, Item(name, folder, None if folder else _size(text)))
    return list(items.values())


def _size(text: str) -> int | None:
    """The last word of a row that reads as a size; dates and times do not."""
    for word in reversed(text.split()):
        if match := _SIZE.fullmatch(word):
            return round(float(match[1]) * _UNITS[match[2]])
    return None


class _Links(HTMLParser):
    """Every link with the text between it and the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            self.found.append((target, ""))
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self.found and not self._inside:
            target, text = self.found[-1]
            self.found[-1] = (target, text + " " + data)
