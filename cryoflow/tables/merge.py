"""Several tables as one, one after another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.expression import row_dim
from cryoflow.io.images.gather import join_rows
from cryoflow.tables.join import blank
from cryoflow.tables.optics import reconcile

__all__ = ["merge"]

_PATHS = ("image_name", "micrograph_name")


def merge(
    *sets: xr.Dataset,
    missing: Literal["error", "fill", "drop"] = "error",
    ignore_names: bool = False,
    mixed_pixel_sizes: bool = False,
) -> xr.Dataset:
    """The rows of several tables of one kind, one set after another; images stay lazy.

    Optics groups of one name and equal values become one; others stay apart, under new names where names clash.
    Half-sets and classes are kept. Groups of noise (``group``) never mix between sets, unless they have one name.
    ``particle_id`` is kept where no id occurs twice in the whole, else rows are numbered anew and the old ids are in
    ``x_source_id``. Where the sets have different roots, file names become relative to the folder above both. What was
    done is told in ``attrs["notes"]``.

    Parameters
    ----------
    missing : what happens with a column that only some sets have: an error, it is filled (NaN, 0, empty text; no beam
        tilt), or dropped.
    ignore_names : join optics groups of equal values whatever they are called.
    mixed_pixel_sizes : accept sets of different pixel sizes.

    Raises
    ------
    ParameterError : different kinds of rows, boxes or pixel sizes, or columns that only some have.

    Examples
    --------
    >>> a = xr.Dataset({"half": ("particle", [1, 2])})
    >>> merge(a, a).half.values.tolist()
    [1, 2, 1, 2]
    """
    if not sets:
        raise ParameterError("merge", expected="at least one table", found="none")
    dims = {row_dim(ds, "merge") for ds in sets}
    if len(dims) > 1:
        raise ParameterError("merge", expected="tables of one kind", found=" and ".join(sorted(dims)))
    dim = dims.pop()
    notes: list[str] = []
    tables = _common_columns([ds.copy(deep=False) for ds in sets], dim, missing, notes)
    _check_shapes(tables, dim)
    tables, root = _common_root(tables, dim, notes)
    tables = _ids(tables, dim, notes)
    tables = _noise_groups(tables, dim)
    optics, membership = reconcile(tables, missing=missing, ignore_names=ignore_names, notes=notes)
    _check_pixel_sizes(optics, membership, mixed_pixel_sizes)
    out = xr.Dataset(attrs=_attrs(sets))
    for name, variable in tables[0].variables.items():
        if str(name) == "optics_group" or "optics" in variable.dims:
            continue
        if dim in variable.dims:
            out[name] = join_rows([_align(t.variables[name], variable.dims) for t in tables])
        else:
            out[name] = variable
    for key, variable in optics.items():
        out[key] = variable
    if membership is not None:
        out["optics_group"] = (dim, np.concatenate(membership))
    if root is not None:
        out.attrs["root"] = root
    return out.assign_attrs(notes=notes)


def _align(variable: xr.Variable, dims: tuple[Any, ...]) -> xr.Variable:
    return variable if variable.dims == dims else variable.transpose(*dims)


def _source_forms(tables: list[xr.Dataset], dim: str) -> list[xr.Dataset]:
    """How sources wrote poses and defoci, where some set says it (nothing means as usual); no numbers of groups."""
    for name, usual in (("source_angles", np.nan), ("defocus_turns", 0)):
        like = next((t.variables[name] for t in tables if name in t), None)
        if like is not None:
            rest = like.shape[1:]
            blank_of = [(like.dims, np.full((t.sizes[dim], *rest), usual, like.dtype)) for t in tables]
            tables = [t if name in t else t.assign({name: b}) for t, b in zip(tables, blank_of)]
    return [t.drop_vars("x_optics_rlnOpticsGroup", errors="ignore") for t in tables]  # those of two files may collide


def _common_columns(tables: list[xr.Dataset], dim: str, missing: str, notes: list[str]) -> list[xr.Dataset]:
    """Every set with the same columns of rows."""
    tables = _source_forms(tables, dim)
    rows = [{str(n): a for n, a in t.variables.items() if dim in a.dims} for t in tables]
    every = list(dict.fromkeys(n for columns in rows for n in columns))
    partial = [n for n in every if not all(n in columns for columns in rows)]
    if partial and missing == "error":
        holders = [", ".join(str(i + 1) for i, columns in enumerate(rows) if n in columns) for n in partial]
        told = ", ".join(f"{n} only in set {h}" for n, h in zip(partial[:8], holders))
        more = f" and {len(partial) - 8} more" if len(partial) > 8 else ""
        raise ParameterError("merge", expected="the same columns in every set", found=told + more,
                             remedy="missing='fill' fills them, missing='drop' leaves them out.")  # fmt: skip
    if partial:
        notes.append(
            f"columns of some sets alone {'filled' if missing == 'fill' else 'left out'}: {', '.join(partial)}"
        )
    out = []
    for table, columns in zip(tables, rows):
        if missing == "drop":
            table = table.drop_vars([n for n in partial if n in columns])
        else:
            for name in (n for n in partial if n not in columns):
                table[name] = _fill(next(c[name] for c in rows if name in c), table.sizes[dim], name)
        out.append(table)
    first = [str(n) for n in out[0].variables]
    return [t[[n for n in first if n in t] + [n for n in map(str, t.variables) if n not in first]] for t in out]


def _fill(like: xr.Variable, n: int, name: str) -> xr.Variable:
    if like.ndim > 2 and name != "rotation":
        raise ParameterError("merge", expected=f"{name} in every set, or in none", found="it in some",
                             remedy="Open all sets with images or all without.")  # fmt: skip
    return xr.Variable(like.dims, np.full((n, *like.shape[1:]), blank(like.dtype), like.dtype), like.attrs)


def _check_shapes(tables: Sequence[xr.Dataset], dim: str) -> None:
    for name, first in tables[0].variables.items():
        if dim not in first.dims:
            continue
        for i, table in enumerate(tables):
            other = table.variables[name]
            sizes = {d: n for d, n in first.sizes.items() if d != dim}
            if {d: n for d, n in other.sizes.items() if d != dim} != sizes:
                raise ParameterError("merge", expected=f"{name} of {sizes} as in set 1",
                                     found=f"{dict(other.sizes)} in set {i + 1}",
                                     remedy="Extract or rescale all sets to one box.")  # fmt: skip
            text = {first.dtype.kind in tuple("TUO"), other.dtype.kind in tuple("TUO")}
            if len(text) > 1:
                raise ParameterError("merge", expected=f"{name} as text in every set, or as numbers",
                                     found=f"{first.dtype} in set 1, {other.dtype} in set {i + 1}")  # fmt: skip


def _common_root(tables: list[xr.Dataset], dim: str, notes: list[str]) -> tuple[list[xr.Dataset], str | None]:
    roots = [t.attrs.get("root") for t in tables]
    if len(set(roots)) == 1 or any(r is None for r in roots):
        return tables, roots[0] if len(set(roots)) == 1 else None
    if any("://" in str(r) for r in roots):
        folders = [str(r) for r in roots]
        common = ""
    else:
        folders = [os.path.abspath(str(r)) for r in roots]  # noqa: PTH100 - links stay as they were named
        common = os.path.commonpath(folders)
    out = []
    for table, folder in zip(tables, folders):
        prefix = folder if not common else os.path.relpath(folder, common)
        if prefix != ".":
            table = table.assign({n: (dim, _below(prefix, table[n].values)) for n in _PATHS if n in table})
        out.append(table)
    notes.append(f"file names are now relative to {common or 'nothing (addresses in full)'}")
    return out, common or None


def _below(prefix: str, names: NDArray[Any]) -> NDArray[Any]:
    """Names relative to a folder above; absolute ones stay."""

    def one(text: str) -> str:
        number, at, name = text.rpartition("@")
        return text if name.startswith("/") or "://" in name or not name else f"{number}{at}{prefix}/{name}"

    return np.array([one(str(n)) for n in names], np.dtypes.StringDType())


def _ids(tables: list[xr.Dataset], dim: str, notes: list[str]) -> list[xr.Dataset]:
    if not all("particle_id" in t for t in tables):
        return tables
    ids = np.concatenate([t["particle_id"].values for t in tables])
    if len(np.unique(ids)) == len(ids):
        return tables
    starts = np.cumsum([0, *(t.sizes[dim] for t in tables)])
    notes.append("particle_id numbered anew, for some occurred twice; the old ones are in x_source_id")
    return [
        t.assign(x_source_id=(dim, t["particle_id"].values), particle_id=(dim, np.arange(a, a + t.sizes[dim])))
        for t, a in zip(tables, starts)
    ]


def _noise_groups(tables: list[xr.Dataset], dim: str) -> list[xr.Dataset]:
    """Numbers of noise groups that differ between sets, but for groups of one name."""
    if len(tables) < 2 or not all("group" in t for t in tables):
        return tables
    named = all("x_rlnGroupName" in t for t in tables)
    numbers: dict[tuple[Any, ...], int] = {}
    out = []
    for i, table in enumerate(tables):
        group = table["group"].values
        distinct, first, code = np.unique(group, return_index=True, return_inverse=True)
        names = table["x_rlnGroupName"].values[first] if named else [i] * len(distinct)
        keys = [("name", str(n)) if named else (int(i), int(g)) for n, g in zip(names, distinct)]
        new = np.array([numbers.setdefault(k, len(numbers) + 1) for k in keys], np.int32)
        out.append(table.assign(group=(dim, new[code] if len(new) else group)))
    return out


def _check_pixel_sizes(optics: dict[str, xr.Variable], membership: list[NDArray[Any]] | None, mixed: bool) -> None:
    if mixed or membership is None or "pixel_size" not in optics:
        return
    used = np.unique(optics["pixel_size"].values[np.unique(np.concatenate(membership))])
    if used.max() - used.min() > 1e-3 * used.max():
        raise ParameterError("merge", expected="one pixel size", found=", ".join(f"{p:g}" for p in used) + " angstrom",
                             remedy="Rescale the sets to one pixel size, or pass mixed_pixel_sizes=True.")  # fmt: skip


def _attrs(sets: Sequence[xr.Dataset]) -> dict[str, Any]:
    """What all sets say alike; lists of columns joined in order."""
    out: dict[str, Any] = {}
    for key in dict.fromkeys(k for ds in sets for k in ds.attrs):
        values = [ds.attrs.get(key) for ds in sets]
        if key.endswith("_columns"):
            out[key] = list(dict.fromkeys(name for v in values for name in (v or ())))
        elif all(type(v) is type(values[0]) and np.all(v == values[0]) for v in values[1:]):
            out[key] = values[0]
    return out
