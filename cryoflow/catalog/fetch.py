"""Fetching image sets: what there is, how large, whether the disk holds it; then robustly, and resumed after a stop."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.catalog.layout import folders, image_set, match_remote, variants
from cryoflow.catalog.opening import home
from cryoflow.errors import FormatError, ParameterError, ResourceError
from cryoflow.io.amounts import human_bytes
from cryoflow.io.sources.address import resolve

if TYPE_CHECKING:
    from cryoflow.catalog.model import Entry

__all__ = ["Plan", "RemoteFile", "data_folder", "fetch", "plan_fetch"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file to fetch: ``path`` below the data folder; ``size`` in bytes as the listing rounds it, if it says."""

    address: str
    path: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fetch would do: files still to come and those that are there."""

    folder: Path
    todo: tuple[RemoteFile, ...]
    there: int

    @property
    def bytes(self) -> int:
        """About how many bytes are still to come, of the files whose size is told."""
        return sum(file.size or 0 for file in self.todo)

    def __str__(self) -> str:
        unsaid = sum(file.size is None for file in self.todo)
        parts = [f"{len(self.todo)} files", f"about {human_bytes(self.bytes)}"]
        parts += [f"{unsaid} of them of a size that is not told"] if unsaid else []
        parts += [f"{self.there} more are there already"] if self.there else []
        return ", ".join(parts) + f"; into {self.folder}"


def data_folder(entry: Entry, root: Path | str) -> Path:
    """Where the files of an entry go below ``root``: ``10028/data`` as in the archive, or the entry's name."""
    return Path(root).resolve() / (f"{entry.number}/data" if entry.number is not None else entry.entry)


def plan_fetch(
    entry: Entry,
    imagesets: Iterable[str] = (),
    *,
    root: Path | str,
    mirror: str | None = None,
    limit: int | None = None,
) -> Plan:
    """List what is to be fetched; nothing is written.

    Parameters
    ----------
    imagesets : names of image sets; the one the workflow starts from if none.
    root : local folder; files come to lie below it as in the archive.
    mirror : address of another server with the archive's layout, or with the entry's data folder.
    limit : most files of each image set.

    Raises
    ------
    ParameterError : no such image set, or none of its files is found. ResourceError : the server does not answer.
    """
    names = list(imagesets) or ([entry.start] if entry.start is not None else [])
    if not names:
        raise ParameterError(
            f"catalog entry {entry.entry}", expected="an image set to fetch", found="none: it is simulated"
        )
    folder = data_folder(entry, root)
    files: dict[str, RemoteFile] = {}
    for name in names:
        for file in _remote(entry, name, mirror or home(entry), limit):
            files[file.path] = file
    todo = [file for file in files.values() if not (folder / file.path).is_file()]  # whole, or not there
    return Plan(folder, tuple(todo), len(files) - len(todo))


def _remote(entry: Entry, name: str, base: str, limit: int | None) -> list[RemoteFile]:
    chosen = image_set(entry, name)
    if not chosen.archived:
        archived = [name for name, other in entry.imagesets.items() if other.archived]
        raise ParameterError(
            f"catalog entry {entry.entry}, image set {name}", expected="an image set that the archive has",
            found=f"one that is made here ({chosen.title})" if chosen.title else "one that is made here",
            remedy=f"Fetch another: --imageset {archived[0]}." if archived else "",
        )  # fmt: skip
    for folder in folders(base, entry.entry):
        for pattern in variants(chosen.pattern):
            try:
                found = match_remote(folder, pattern, limit)
                if found and chosen.metadata is not None:
                    found += match_remote(folder, chosen.metadata)
            except FormatError as error:
                if error.found != "nothing there":
                    raise
                continue
            if found:
                return [RemoteFile(resolve(path, folder, where=folder), path, size) for path, size in found]
    raise ParameterError(
        f"catalog entry {entry.entry}, image set {name}", expected=f"files {chosen.pattern} below {base}", found="none",
        remedy="Has the archive changed? A mirror is given with --mirror.",
    )  # fmt: skip


def fetch(plan: Plan, *, progress: Callable[[int, int | None], None] | None = None) -> list[Path]:
    """Download what a plan lists, many at a time; a stopped download goes on, and one that fails stops no other.

    Parameters
    ----------
    progress : called with the bytes done and, if known, the bytes there are.

    Raises
    ------
    ResourceError : the disk is too full, or a file that could not be fetched whole, by name.
    """
    from cryoflow.io.sources.download import download_all

    plan.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(plan.folder).free
    if free < plan.bytes:
        raise ResourceError(
            str(plan.folder), expected=f"about {human_bytes(plan.bytes)} of free disk", found=human_bytes(free),
            remedy="Free some, choose another --root, or fetch fewer files with --limit.",
        )  # fmt: skip
    return download_all([(file.address, file.path) for file in plan.todo], plan.folder, progress=progress)
