"""Where the files of an entry lie: as in the archive, in a mirror of it, or flat in one folder."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from cryoflow.catalog.entries import archive_number
from cryoflow.catalog.listing import list_folder
from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.sources.address import resolve
from cryoflow.io.sources.source import is_remote

if TYPE_CHECKING:
    from cryoflow.catalog.model import Entry, ImageSet

__all__ = ["find_files", "folders", "image_set", "locate", "match_remote", "variants"]


def folders(root: Path | str, name: str) -> list[str]:
    """The folders that may be the data folder of entry ``name``, as the archive has it before flat ones.

    >>> folders("/mirror", "EMPIAR-10028")[:3]
    ['/mirror/10028/data', '/mirror/EMPIAR-10028/data', '/mirror/EMPIAR-10028']
    >>> folders("/mirror", "EMPIAR-10028")[3:]
    ['/mirror/empiar-10028/data', '/mirror/empiar-10028', '/mirror/data', '/mirror']
    """
    base = str(root).rstrip("/") or "/"
    number = archive_number(name)
    archive = [f"{base}/{number}/data"] if number is not None else []
    own = [f"{base}/{n}{d}" for n in dict.fromkeys((name, name.lower())) for d in ("/data", "")]
    return [*archive, *own, f"{base}/data", base]


def variants(pattern: str) -> list[str]:
    """A pattern as the entry says it, with its files one folder deeper, and flat: all in one folder.

    >>> variants("Particles/*.mrcs")
    ['Particles/*.mrcs', 'Particles/*/*.mrcs', '*.mrcs']
    """
    directory, _, files = pattern.rpartition("/")
    return [pattern, f"{directory}/*/{files}", files] if directory else [pattern]


def locate(pattern: str, root: Path | str, name: str) -> str | None:
    """The first absolute pattern below a local root that has files: in the archive's layout, then flat.

    None if no layout has any. Flat means that all files lie in one folder, whatever folder the archive has them in. A
    folder named after the entry goes before what else lies below the root.
    """
    base = Path(root).resolve()
    for folder in folders(base, name):
        for candidate in variants(pattern):
            if any(Path(folder).glob(candidate)):
                return f"{folder}/{candidate}"
    return None


def find_files(entry: Entry, imageset: str, root: Path | str, *, limit: int | None = None) -> list[str]:
    """Paths or addresses of the files of an image set below ``root``, sorted; at most ``limit``.

    Raises
    ------
    ParameterError : no such image set, or none of the layouts has its files.
    ResourceError : the server does not answer.
    """
    chosen = image_set(entry, imageset)
    if is_remote(root):
        found = _remote_files(entry, chosen, str(root), limit)
    else:
        place = locate(chosen.pattern, root, entry.entry)
        found = sorted(str(p) for p in Path("/").glob(place.lstrip("/"))) if place else []
    if not found:
        raise ParameterError(
            f"catalog entry {entry.entry}, image set {imageset}",
            expected=f"files {chosen.pattern} below {root}, as in the archive or flat",
            found="none",
            remedy=f"Fetch them with `cryoflow catalog fetch {entry.entry} --imageset {imageset} --root {root}`."
            if chosen.archived and not is_remote(root) else "Give the folder or mirror that has them.",
        )  # fmt: skip
    return found[:limit]


def image_set(entry: Entry, name: str) -> ImageSet:
    """An image set of an entry by name; ``ParameterError`` names those there are."""
    if name not in entry.imagesets:
        raise ParameterError(
            f"catalog entry {entry.entry}",
            expected=f"an image set among {', '.join(entry.imagesets) or '(the entry has none)'}",
            found=repr(name),
            remedy="" if entry.imagesets else f"It has no files: run it with `cryoflow run {entry.entry}`.",
        )
    return entry.imagesets[name]


def _remote_files(entry: Entry, chosen: ImageSet, root: str, limit: int | None) -> list[str]:
    """The first layout that has files; a folder that does not exist is no error while another may."""
    for pattern in variants(chosen.pattern):
        for folder in folders(root, entry.entry):
            try:
                found = match_remote(folder, pattern, limit)
            except FormatError:  # no such folder, or a page that is no listing
                continue
            if found:
                return [resolve(path, folder, where=folder) for path, _ in found]
    return []


def match_remote(folder: str, pattern: str, limit: int | None = None) -> list[tuple[str, int | None]]:
    """Paths below a remote folder that match a pattern, with the size the listing gives (rounded, bytes).

    Folders are listed only along the pattern, one page a level.
    """
    first, _, rest = pattern.partition("/")
    if rest and not any(c in first for c in "*?["):  # a plain name needs no page
        return [(f"{first}/{path}", size) for path, size in match_remote(f"{folder}/{quote(first)}", rest, limit)]
    found: list[tuple[str, int | None]] = []
    for item in list_folder(folder):
        if not fnmatchcase(item.name, first) or item.folder != bool(rest):
            continue
        if rest:
            below = match_remote(f"{folder}/{quote(item.name)}", rest, None if limit is None else limit - len(found))
            found += [(f"{item.name}/{path}", size) for path, size in below]
        else:
            found.append((item.name, item.size))
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found
