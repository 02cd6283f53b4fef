"""File names in metadata, resolved against a folder or a URL: none leads outside of it unasked."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from cryoflow.errors import FormatError
from cryoflow.io.files import inside
from cryoflow.io.sources.source import is_remote, normal

__all__ = ["folder_of", "folders_above", "name_of", "resolve"]


def folder_of(address: str | Path) -> str:
    """The folder of a file, as path or URL.

    >>> folder_of("https://host/job/p.star?v=1"), folder_of("Extract/job/p.star")
    ('https://host/job', 'Extract/job')
    """
    text = normal(address)
    if not is_remote(text):
        return str(Path(text).parent)
    parts = urlsplit(text)
    return urlunsplit(parts._replace(path=posixpath.dirname(parts.path), query="", fragment=""))


def name_of(address: str) -> str:
    """The last part of a path or URL.

    >>> name_of("Extract/job/p.mrcs")
    'p.mrcs'
    """
    return address.rstrip("/").rpartition("/")[2]


def folders_above(folder: str, count: int) -> list[str]:
    """``folder`` and up to ``count`` folders above it; not beyond a URL's host, and not the root of a disk.

    >>> folders_above("https://host/a/b", 4)
    ['https://host/a/b', 'https://host/a', 'https://host']
    """
    if not is_remote(folder):
        path = Path(folder).resolve()
        above = [p for p in path.parents[:count] if p != p.parent]  # below "/" everything would count as inside
        return [str(p) for p in (path, *above)]
    folders = [folder.rstrip("/")]
    while len(folders) <= count and urlsplit(folders[-1]).path.strip("/"):
        folders.append(folder_of(folders[-1]))
    return [f.rstrip("/") for f in folders]


def resolve(name: str, root: str | Path, *, where: str, allow_outside: bool = False) -> str:
    """The address of the file that metadata call ``name``, below ``root`` (a folder or a URL).

    A name that leads outside is refused unless ``allow_outside``: by ``..``, as an absolute path, by a link that leads
    elsewhere, or as a URL. Below a URL every character of the name stands for itself (``%2e`` is no dot).

    Raises
    ------
    FormatError : such a name, or an empty one.

    Examples
    --------
    >>> resolve("job/a b.mrcs", "https://host/data", where="p.star, row 1")
    'https://host/data/job/a%20b.mrcs'
    """
    if not name or "\0" in name or "\n" in name:
        raise FormatError(where, expected="the name of a file", found=repr(name), remedy="Correct the file name.")
    if is_remote(name) or name.startswith(("file://", "local://")) or "://" in name:
        if allow_outside:
            return name
        raise FormatError(where, expected=f"a file below {root}", found=repr(name),
                          remedy="Pass allow_outside=True if you trust this file.")  # fmt: skip
    if not is_remote(root):
        return str(inside(name, Path(root), where=where, allow_outside=allow_outside))
    steps = posixpath.normpath(name)
    outside = name.startswith("/") or "\\" in name or steps == ".." or steps.startswith("../")
    if outside and not allow_outside:
        raise FormatError(
            where, expected=f"a file below {root}", found=repr(name),
            remedy="Pass allow_outside=True if you trust this file, or give the root that holds it.",
        )  # fmt: skip
    parts = urlsplit(normal(root))
    joined = posixpath.normpath(posixpath.join(parts.path or "/", quote(name)))
    return urlunsplit(parts._replace(path=joined, query="", fragment=""))
