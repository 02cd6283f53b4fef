"""What a file or a store holds, in a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryoflow.errors import ParameterError

__all__ = ["describe_file"]


def describe_file(path: Path) -> str:
    """A few lines about a Zarr store, a STAR file or an MRC file. Only headers and metadata are read.

    Raises
    ------
    ParameterError : nothing there, or a kind of file that is not known.
    """
    if not path.exists():
        raise ParameterError("inspect", expected="an existing file or store", found=str(path))
    if path.is_dir():
        return _store(path)
    if path.suffix == ".star":
        return _star(path)
    if path.suffix in {".mrc", ".mrcs", ".map"}:
        return _mrc(path)
    raise ParameterError("inspect", expected="a .star, .mrc, .mrcs, .map or .zarr", found=path.name)


def _store(path: Path) -> str:
    from cryoflow.io import open_store, provenance
    from cryoflow.schema import VARIABLES

    ds, made = open_store(path), provenance(path)
    lines = [f"{path.name}: by {made['function']}, cryoflow {made['cryoflow']}"]
    lines.append("parameters: " + json.dumps(made["parameters"], default=str))
    lines.append("dims: " + ", ".join(f"{k} {v}" for k, v in ds.sizes.items()))
    for name, array in ds.variables.items():
        known = VARIABLES.get(str(name))
        text = f"{known.doc}{f' [{known.units}]' if known.units else ''}" if known else ""
        lines.append(f"  {name!s:<30} {_kind(array):<9} {array.dims!s:<30} {text}")
    return "\n".join(lines)


def _kind(array: Any) -> str:
    return "text" if array.dtype.kind in "TUO" else str(array.dtype)


def _star(path: Path) -> str:
    from cryoflow.io import read_star

    lines = [path.name]
    for name, table in read_star(path).items():
        lines.append(f"data_{name}: {len(table)} rows")
        lines += [f"  {label:<32}{_range(table[label])}" for label in table.columns]
    return "\n".join(lines)


def _range(column: Any) -> str:
    if column.dtype.kind in "fiu" and len(column):
        return f"{column.min():g} .. {column.max():g}"
    return f"{column.nunique()} different, first {column.iloc[0]!s}" if len(column) else ""


def _mrc(path: Path) -> str:
    from cryoflow.io.mrc import read_header

    h = read_header(path)
    size = " x ".join(map(str, h.shape))
    return f"{path.name}: {size} (sections, rows, columns), mode {h.mode} ({h.dtype}), voxel {h.voxel[0]:g} A"
