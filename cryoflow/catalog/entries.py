"""Catalog entries: what is known of a data set before it is opened. Plain YAML, read and checked here."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from cryoflow.errors import FormatError, ParameterError

__all__ = ["entry_names", "find_reference", "read_entry"]

_KEYS = {"entry", "title", "licence", "source", "citation", "imagesets", "specimen", "workflow"}
_IMAGESET_KEYS = {"files", "pixel_size", "voltage", "cs", "amplitude_contrast", "dose"}
_MODEL_SUFFIXES = (".pdb", ".cif", ".ent", ".mmcif")


def _folder(folder: Path | str | None) -> Any:
    return Path(folder) if folder is not None else files("cryoflow") / "catalogs"


def entry_names(folder: Path | str | None = None) -> list[str]:
    """Names of all entries of a catalog folder; of the one that comes with cryoflow if none is given.

    >>> entry_names()
    ['EMPIAR-10146', 'demo']
    """
    return sorted(p.name.removesuffix(".yaml") for p in _folder(folder).iterdir() if p.name.endswith(".yaml"))


def read_entry(name: str, folder: Path | str | None = None) -> dict[str, Any]:
    """One entry as a dictionary.

    Raises
    ------
    ParameterError : there is no such entry; the nearest names are given.
    FormatError : the entry's file breaks the form (an unknown or a missing key).

    >>> read_entry("EMPIAR-10146")["specimen"]["symmetry"]
    'O'
    """
    names = entry_names(folder)
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        raise ParameterError(
            "catalog",
            expected=f"one of the entries {', '.join(names)}",
            found=repr(name),
            remedy=f"Did you mean {near[0]}?" if near else "See `cryoflow catalog list`.",
        )
    where = f"catalog entry {name}"
    try:
        entry = yaml.safe_load((_folder(folder) / f"{name}.yaml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise FormatError(where, expected="a YAML file", found=" ".join(str(error).split())) from None
    if not isinstance(entry, Mapping):
        raise FormatError(where, expected="a mapping", found=type(entry).__name__)
    if set(entry) != _KEYS:
        wrong = sorted(set(entry) ^ _KEYS)
        raise FormatError(where, expected=f"the keys {', '.join(sorted(_KEYS))}", found=f"a difference in {wrong}")
    for imageset, facts in entry["imagesets"].items():
        if set(facts) != _IMAGESET_KEYS:
            wrong = sorted(set(facts) ^ _IMAGESET_KEYS)
            raise FormatError(
                f"{where}, imageset {imageset}",
                expected=f"the keys {', '.join(sorted(_IMAGESET_KEYS))}",
                found=f"a difference in {wrong}",
            )
    return dict(entry)


def find_reference(pdb: str, root: Path | None, where: str = "reference") -> Path:
    """The model file of PDB entry ``pdb`` near the data: in ``root``, its ``models`` or the ``models`` beside it.

    Nothing is downloaded.

    Raises
    ------
    ParameterError : there is none; the folders looked in are named.
    """
    base = (root or Path()).resolve()
    folders = [base, base / "models", base.parent / "models"]
    for folder in folders:
        for stem in (pdb.lower(), pdb.upper()):
            for suffix in _MODEL_SUFFIXES:
                path = folder / f"{stem}{suffix}"
                if path.is_file():
                    return path
    raise ParameterError(
        where,
        expected=f"the model {pdb} as {pdb.lower()}.pdb or .cif in one of {', '.join(map(str, folders))}",
        found="no such file",
        remedy="Put it there, or give another with --set refine.reference=FILE (a model or a map).",
    )
