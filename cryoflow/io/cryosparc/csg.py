"""cryoSPARC's result groups, ``.csg``: which ``.cs`` file holds which results of one set of items, as YAML text.

    created: ...
    group: {name: particles, type: particle, ...}
    results:
      blob: {metafile: '>particles.cs', num_items: 11764, type: particle.blob}
      ctf:  {metafile: '>J9_passthrough_particles.cs', num_items: 11764, type: particle.ctf}
    version: v4.4.1

``>`` means beside the group file; other names are relative to the project.
Source: guide.cryosparc.com, "Data Management", and published group files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.cryosparc.cs_file import Columns, read_cs
from cryoflow.io.files import atomic
from cryoflow.io.sources.address import folder_of, folders_above, resolve
from cryoflow.io.sources.source import is_remote, normal, read_all

__all__ = ["Group", "join", "read_columns", "read_csg", "read_group", "write_csg"]

_LIMIT = 1 << 20
_VERSION = "v4.0.0"  # whose layout this is
_ITEM = {"particle": "particle", "micrograph": "exposure"}


@dataclass(frozen=True, slots=True)
class Group:
    """A result group: its name, the type of its items, and for each result the address of its file and their number."""

    name: str
    type: str
    results: Mapping[str, tuple[str, int | None]]


def read_columns(
    path: str | Path, passthrough: str | Path | Iterable[str | Path] = (), *, root: str | Path | None = None,
    allow_outside: bool = False,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """The columns of a ``.cs`` file or a ``.csg`` group, with those of ``passthrough`` files joined on ``uid``."""
    where = normal(path)
    if where.lower().endswith(".csg"):
        columns = read_group(read_csg(path, root=root, allow_outside=allow_outside), where)
    else:
        columns = read_cs(path)
    more = [passthrough] if isinstance(passthrough, str | Path) else list(passthrough)
    return join(columns, {normal(p): read_cs(p) for p in more}, where)


def read_csg(address: str | Path, *, root: str | Path | None = None, allow_outside: bool = False) -> Group:
    """Read a group file; nothing it names is opened.

    Parameters
    ----------
    root : the project's folder, for names without ``>``; by default looked for from the file's folder upwards.
    allow_outside : accept names that lead out of the project.

    Raises
    ------
    FormatError : not such a file, or a name that leads outside.
    """
    import yaml

    where = normal(address)
    raw = read_all(address, limit=_LIMIT)
    try:
        text = raw.decode()
        if text.count("[") + text.count("{") > 1000:  # flow collections nest, and the parser follows them by recursion
            raise ValueError("too many brackets")
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(where, expected="a result group in YAML", found=" ".join(f"{error}".split())[:200]) from None
    results = found.get("results") if isinstance(found, dict) else None
    if not isinstance(results, dict) or not results:
        raise FormatError(where, expected="a mapping with results", found=f"{type(found).__name__} without")
    group = found.get("group") if isinstance(found.get("group"), dict) else {}
    files: dict[str, tuple[str, int | None]] = {}
    for name, entry in results.items():
        metafile = entry.get("metafile") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(metafile, str) or not metafile.strip("> "):
            raise FormatError(f"{where}, result {name!r:.80}", expected="a metafile", found=f"{entry!r}"[:200])
        count = entry.get("num_items")
        files[name] = _place(metafile, where, root, allow_outside), count if type(count) is int else None
    return Group(str(group.get("name", "")), str(group.get("type", "")), files)


def _place(metafile: str, where: str, root: str | Path | None, allow_outside: bool) -> str:
    folder = folder_of(where)
    if metafile.startswith(">"):
        return resolve(metafile[1:], folder, where=where, allow_outside=allow_outside)
    if root is None and not is_remote(folder):
        above = folders_above(folder, 4)
        root = next((f for f in above if (Path(f) / metafile).is_file()), folder)
    return resolve(metafile, root if root is not None else folder, where=where, allow_outside=allow_outside)


def read_group(group: Group, where: str) -> dict[str, NDArray[Any]]:
    """The columns of all files of ``group``, joined on ``uid``; a result's own file is asked first for its fields.

    Raises
    ------
    FormatError : a file with another number of items than the group says, or uids that do not agree.
    """
    tables: dict[str, dict[str, NDArray[Any]]] = {}
    for name, (address, count) in group.results.items():
        if address not in tables:
            tables[address] = read_cs(address)
        rows = len(tables[address]["uid"])
        if count is not None and count != rows:
            raise FormatError(
                f"{where}, result {name}", expected=f"num_items {rows}, as many as {address} holds",
                found=f"{count}", remedy="Correct num_items, or name the right file.",
            )  # fmt: skip
    owner = {name: address for name, (address, _) in group.results.items()}
    order = sorted(tables, key=lambda a: "blob" not in {n for n, o in owner.items() if o == a})
    parts = [
        {f: c for f, c in tables[a].items() if f == "uid" or owner.get(f.partition("/")[0], a) == a} for a in order
    ]
    return join(parts[0], dict(zip(order[1:], parts[1:], strict=True)), where)


def join(first: Columns, others: Mapping[str, Columns], where: str) -> dict[str, NDArray[Any]]:
    """``first`` with the further fields of ``others`` (by file name), matched on ``uid`` whatever their order.

    Raises
    ------
    FormatError : a uid that is there twice, or not in one of ``others``; names the first of them.

    Examples
    --------
    >>> a, b = {"uid": np.array([5, 3])}, {"uid": np.array([3, 4, 5]), "ctf/scale": np.array([0.3, 0.4, 0.5])}
    >>> join(a, {"b.cs": b}, "a.cs")["ctf/scale"].tolist()
    [0.5, 0.3]
    """
    out = dict(first)
    uid = _distinct(first["uid"], where)
    for name, columns in others.items():
        theirs = _distinct(columns["uid"], name)
        order = np.argsort(theirs, kind="stable")
        place = np.searchsorted(theirs, uid, sorter=order)
        row = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(uid), np.int64)
        missing = np.flatnonzero(theirs[row] != uid) if len(order) else np.arange(len(uid))
        if len(missing):
            raise FormatError(
                name, expected=f"every uid of {where}",
                found=f"{len(missing)} missing: {', '.join(str(u) for u in uid[missing[:5]])}",
                remedy="Give the passthrough file of the same job.",
            )  # fmt: skip
        out |= {field: column[row] for field, column in columns.items() if field not in out}
    return out


def _distinct(uid: NDArray[Any], where: str) -> NDArray[np.uint64]:
    uid = uid.astype(np.uint64)
    values, count = np.unique(uid, return_counts=True)
    if len(values) < len(uid):
        twice = values[count > 1]
        raise FormatError(
            where, expected="distinct uids", found=f"{len(twice)} repeated: {', '.join(str(u) for u in twice[:5])}",
            remedy="Remove duplicates first.",
        )  # fmt: skip
    return uid


def write_csg(path: str | Path, columns: Columns, metafile: str, *, dim: str, name: str, title: str = "") -> None:
    """Write the group file of one ``.cs`` file beside it, as cryoSPARC's "Import Result Group" reads it."""
    import yaml

    item = _ITEM[dim]
    groups = list(dict.fromkeys(f.partition("/")[0] for f in columns if "/" in f and not f.startswith("cryoflow/")))
    entry = {"metafile": f">{metafile}", "num_items": len(columns["uid"])}
    content = {
        "created": datetime.now(UTC).replace(tzinfo=None),
        "group": {"description": title or f"Written by cryoflow: {metafile}", "name": name, "title": title or name,
                  "type": item},
        "results": {g: {**entry, "type": f"{item}.{g}"} for g in groups},
        "version": _VERSION,
    }  # fmt: skip
    with atomic(path) as partial:
        partial.write_text(yaml.safe_dump(content, default_flow_style=False, sort_keys=True))
