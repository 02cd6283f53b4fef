"""What lies in a folder or fits a pattern: counts by kind, tables, images, and which program it belongs to."""

from __future__ import annotations

import glob
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cryoflow.errors import CryoflowError
from cryoflow.io.amounts import human_bytes
from cryoflow.io.formats import detect
from cryoflow.workflow.inspection.headers import Images, inspect_headers
from cryoflow.workflow.inspection.owner import owner_of
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["inspect_folder"]

_ENTRIES = 20_000
_NAMED = 200  # tables that are looked into
_IMAGES = (".mrc", ".mrcs", ".map", ".ccp4", ".st", ".stk", ".ali", ".tif", ".tiff", ".eer")
_LOGS = (".log", ".out", ".err", ".txt", ".lock", "")  # empty by right
_TABLES = (".star", ".cs", ".csg", ".par", ".xmd", ".lst", ".cistem", ".cbox", ".box")


def inspect_folder(out: Inspection, *, full: bool) -> None:
    """Facts and findings of a folder or pattern; at most 20,000 names, 200 tables and 100 headers unless ``full``."""
    folder, files = _files(out, None if full else _ENTRIES)
    pattern = "" if Path(out.address).is_dir() else out.address
    whose, command = ("", "") if pattern else owner_of(folder)
    out.kind = out.format = "folder"
    out.title = whose or ("files" if pattern else "folder")
    if len(files) == _ENTRIES and not full:
        out.add("note", out.address, f"only the first {_ENTRIES} files were looked at", "--full looks at all.")
    out.facts["files"] = len(files)
    if not files:
        out.add("warning", out.address, "there are no files")
        return
    out.facts["by suffix"] = dict(Counter(p.suffix.lower() or "none" for p in files).most_common(12))
    out.facts["bytes"] = human_bytes(sum(_size(p) for p in files))
    empty = [p for p in files if p.suffix.lower() not in _LOGS and _size(p) == 0]
    if empty:
        out.add("warning", str(empty[0].relative_to(folder)), f"{len(empty)} files are empty", "Copy them again.")
    stores = sorted({p.parent for p in files if p.name == "zarr.json" and p.parent.suffix == ".zarr"})
    if stores:
        out.facts["stores"] = ", ".join(str(s.relative_to(folder)) for s in stores[:8])
    tables = _tables([p for p in files if p.suffix.lower() in _TABLES and _size(p)], folder, out, full)
    images = inspect_headers(sorted(p for p in files if p.suffix.lower() in _IMAGES), folder, out, full=full)
    out.command = command or _command(pattern, folder, tables, images)


def _files(out: Inspection, most: int | None) -> tuple[Path, list[Path]]:
    """The folder that names are told from, and the files."""
    if Path(out.address).is_dir():
        return Path(out.address), list(islice(_walk(Path(out.address)), most))
    names = islice((n for n in glob.iglob(out.address, recursive=True) if os.path.isfile(n)), most)  # noqa: PTH113, PTH207
    files = sorted(map(Path, names))
    return Path(os.path.commonpath([p.parent for p in files])) if files else Path(), files


def _walk(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            yield Path(base, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere
        return 0


def _tables(files: list[Path], folder: Path, out: Inspection, full: bool) -> dict[str, list[Path]]:
    """Tables by what they are, as their first bytes tell."""
    tables: dict[str, list[Path]] = defaultdict(list)
    for path in files if full else files[:_NAMED]:
        try:
            tables[detect(path).kind].append(path)
        except (CryoflowError, OSError):
            tables["unknown"].append(path)
    if len(files) > _NAMED and not full:
        out.add("note", out.address, f"{_NAMED} of {len(files)} tables were looked into", "--full looks into all.")
    if tables:
        out.facts["tables"] = {kind: _list(paths, folder) for kind, paths in sorted(tables.items())}
    return tables


def _list(paths: list[Path], folder: Path) -> str:
    names = [str(p.relative_to(folder)) for p in paths]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _command(pattern: str, folder: Path, tables: dict[str, list[Path]], images: Images) -> str:
    """What imports it: the one table of particles, else micrographs, else movies; nothing where one must choose."""
    here = [p for p in tables.get("particles", []) if pattern or p.parent == folder]
    if here:
        return f"cryoflow import {shlex.quote(str(here[0]))} -o NAME.zarr" if len(here) == 1 else ""
    for kind in ("micrographs", "movies"):
        suffixes = Counter(p.suffix for p in images.of[kind] if pattern or p.parent == folder)
        if not suffixes:
            continue
        words = pattern or f"{folder}/*{suffixes.most_common(1)[0][0]}"
        size = f"{next(iter(images.pixels)):g}" if len(images.pixels) == 1 else "ANGSTROM"
        return (
            f"cryoflow import '{words}' -o NAME.zarr"
            + " --format movies" * (kind == "movies")
            + f" --pixel-size {size}"
            " --voltage KV --cs MM --amplitude-contrast FRACTION"
        )
    return ""
