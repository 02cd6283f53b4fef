"""Catalog entries by name: YAML files of a folder, and any other number from EMPIAR itself."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cryoflow.errors import FormatError, ParameterError

if TYPE_CHECKING:
    from cryoflow.catalog.model import Entry

__all__ = ["archive_number", "entry_names", "is_entry_file", "read_entry", "search_entries"]

_NUMBER = re.compile(r"(?:EMPIAR-?)?([1-9]\d{4})", re.IGNORECASE)


def _folder(folder: Path | str | None) -> Any:
    return Path(folder) if folder is not None else files("cryoflow") / "catalogs"


def entry_names(folder: Path | str | None = None) -> list[str]:
    """Names of all entries of a catalog folder; of the one that comes with cryoflow if none is given.

    >>> "EMPIAR-10146" in entry_names()
    True
    """
    return sorted(p.name.removesuffix(".yaml") for p in _folder(folder).iterdir() if p.name.endswith(".yaml"))


def archive_number(name: str) -> int | None:
    """The EMPIAR number that a name says, or None: five digits, with or without ``EMPIAR-``.

    >>> archive_number("EMPIAR-10028"), archive_number("10028"), archive_number("EMPIAR-1028")
    (10028, 10028, None)
    """
    match = _NUMBER.fullmatch(name.strip())
    return int(match[1]) if match else None


def read_entry(name: str | Path, folder: Path | str | None = None) -> Entry:
    """One entry: by name, by the path of its file, or by its number in EMPIAR.

    An EMPIAR number that no file describes is read from the archive (see ``empiar.fetch_entry``).

    Raises
    ------
    ParameterError : there is no such entry; the nearest names are given.
    FormatError : the entry's file breaks the form (an unknown or a missing key).

    >>> read_entry("EMPIAR-10146").specimen.symmetry
    'O'
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ParameterError("catalog", expected="an existing entry file", found=str(path))
        return _parse(path.read_bytes(), path.stem, str(path))
    names = entry_names(folder)
    number = archive_number(str(name))
    found = str(name) if str(name) in names else f"EMPIAR-{number}"
    if found in names:
        return _parse((_folder(folder) / f"{found}.yaml").read_bytes(), found, f"catalog entry {found}")
    if number is not None:
        from cryoflow.catalog.empiar import fetch_entry

        return fetch_entry(number)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    raise ParameterError(
        "catalog",
        expected=f"an EMPIAR number or one of the entries {', '.join(names)}",
        found=repr(str(name)),
        remedy=f"Did you mean {near[0]}?" if near else "See `cryoflow catalog list`.",
    )


def _parse(raw: bytes, stem: str, where: str) -> Entry:
    from cryoflow.catalog.model import parse_entry

    try:
        values = yaml.safe_load(raw.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FormatError(where, expected="a YAML file", found=" ".join(str(error).split())) from None
    entry = parse_entry(values, where)
    if entry.entry != stem:
        raise FormatError(
            f"{where}, entry", expected=f"the name of its file, {stem!r}", found=repr(entry.entry),
            remedy="Rename one of the two.",
        )  # fmt: skip
    return entry


def is_entry_file(path: Path) -> bool:
    """Whether a YAML file is an entry of a catalog (it has image sets), not a workflow."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(values, dict) and "imagesets" in values


def search_entries(text: str, folder: Path | str | None = None) -> list[Entry]:
    """Entries in which every word of ``text`` occurs somewhere: title, citation, image sets, specimen, reference.

    >>> [entry.entry for entry in search_entries("ribosome falciparum")]
    ['EMPIAR-10028']
    """
    words = text.lower().split()
    entries = [read_entry(name, folder) for name in entry_names(folder)]
    return [e for e in entries if all(w in e.model_dump_json(exclude={"verified", "workflow"}).lower() for w in words)]
