"""Columns of one table brought into another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.expression import row_dim, unknown
from cryoflow.io.images.gather import take_rows
from cryoflow.io.query import take
from cryoflow.tables.keys import codes, columns_of, name_rows

__all__ = ["blank", "join"]


def join(
    ds: xr.Dataset,
    other: xr.Dataset,
    *,
    on: str | Iterable[str],
    columns: Iterable[str] | None = None,
    missing: Literal["error", "drop", "fill"] = "error",
    basename: bool = False,
) -> xr.Dataset:
    """``ds`` with columns of ``other`` added or replaced, row by row of equal keys.

    Parameters
    ----------
    on : the key: a column or several (``particle_id``; ``image_name``; ``micrograph_name, coordinate[0]``).
    columns : which to bring; by default all that ``ds`` does not have. ``optics`` brings the optics groups and the
        membership in them, as a whole.
    missing : what happens to rows without a partner: an error, they are dropped, or the columns are filled (NaN, 0,
        empty text; columns that ``ds`` has keep their values).
    basename : compare file names without their folders.

    Raises
    ------
    ParameterError : rows of ``other`` with equal keys, rows of ``ds`` without a partner, or unknown columns.

    Examples
    --------
    >>> ds = xr.Dataset({"particle_id": ("particle", [7, 5])})
    >>> other = xr.Dataset({"particle_id": ("particle", [5, 6, 7]), "half": ("particle", [1, 2, 2])})
    >>> join(ds, other, on="particle_id").half.values.tolist()
    [2, 1]
    """
    keys = columns_of(on)
    where = f"join(on={','.join(keys)})"
    dim, dim2 = row_dim(ds, where), row_dim(other, where)
    names = _columns(ds, other, dim2, keys, columns, where)
    partner = _partners(ds, other, keys, basename, where)
    lost = np.flatnonzero(partner < 0)
    if len(lost) == len(partner) or (len(lost) and missing == "error"):
        raise ParameterError(
            where, expected="a partner for every row", found=f"none for {len(lost)} of {len(partner)}: "
            + name_rows(ds, keys, lost, where),
            remedy="Check the key (basename=True compares names without folders); missing='drop' or 'fill' goes on.",
        )  # fmt: skip
    if len(lost) and missing == "drop":
        kept = np.flatnonzero(partner >= 0)
        ds, partner, lost = take(ds, kept), partner[kept], lost[:0]
    out = ds.copy(deep=False)
    if "optics" in names:
        out = _with_optics(out, other, partner, lost, dim, where)
    for name in names:
        if name == "optics":
            continue
        variable = other.variables[name]
        brought = take_rows(variable, np.maximum(partner, 0))
        if len(lost):
            brought = _filled(brought, ds.variables.get(name), lost, name, where)
        out[name] = ((dim, *(str(d) for d in variable.dims[1:])), brought.data, variable.attrs)
        if variable.chunks is not None:
            out[name] = brought.rename({dim2: dim}) if dim != dim2 else brought  # type: ignore[attr-defined]
    return out


def _columns(
    ds: xr.Dataset, other: xr.Dataset, dim: str, keys: list[str], columns: Iterable[str] | None, where: str
) -> list[str]:
    rows = [str(n) for n, a in other.variables.items() if a.dims and a.dims[0] == dim and str(n) != dim]
    if columns is None:
        return [n for n in rows if n not in ds.variables and n != "optics_group"]
    chosen = [c.strip() for c in columns]
    for name in chosen:
        if name == "optics" or name in rows:
            continue
        if name in other.variables and "optics" in other.variables[name].dims:
            raise ParameterError(where, expected="a column of rows", found=f"{name!r}, which belongs to optics groups",
                                 remedy="Name 'optics' to bring the optics groups as a whole.")  # fmt: skip
        raise unknown(name, other, where)
    if set(chosen) & set(keys):
        raise ParameterError(where, expected="columns that are not the key", found=", ".join(set(chosen) & set(keys)))
    return chosen


def _partners(ds: xr.Dataset, other: xr.Dataset, keys: list[str], basename: bool, where: str) -> NDArray[np.int64]:
    """For each row of ``ds`` its row in ``other``, or -1."""
    mine, theirs = codes([ds, other], keys, where, basename=basename)
    count = np.bincount(theirs)
    twice = np.flatnonzero((count[theirs] > 1) & np.isin(theirs, mine)) if count.max(initial=0) > 1 else theirs[:0]
    if len(twice):
        raise ParameterError(
            where, expected="each key once in the table that is joined", found="several rows of "
            + name_rows(other, keys, np.asarray(twice), where),
            remedy="Add a column to the key, or remove the duplicates first.",
        )  # fmt: skip
    table = np.full(max(mine.max(initial=0), theirs.max(initial=0)) + 1, -1, np.int64)
    table[theirs] = np.arange(len(theirs))
    return np.asarray(table[mine])


def blank(dtype: np.dtype[Any]) -> Any:
    """What fills a column that has no value: NaN, empty text, or 0."""
    return "" if dtype.kind in "TUO" else np.nan if dtype.kind == "f" else np.zeros((), dtype)[()]


def _filled(brought: xr.Variable, old: xr.Variable | None, lost: NDArray[Any], name: str, where: str) -> xr.Variable:
    if brought.chunks is not None:
        raise ParameterError(where, expected=f"a partner for every row, to bring {name}", found=f"none for {len(lost)}",
                             remedy="missing='drop' leaves those rows out.")  # fmt: skip
    values = brought.values.copy()
    same = old is not None and old.shape == brought.shape
    values[lost] = old.values[lost] if same and old is not None else blank(values.dtype)
    return xr.Variable(brought.dims, values, brought.attrs)


def _with_optics(
    ds: xr.Dataset, other: xr.Dataset, partner: NDArray[Any], lost: NDArray[Any], dim: str, where: str
) -> xr.Dataset:
    if len(lost):
        raise ParameterError(where, expected="a partner for every row, to bring its optics group", found=f"{len(lost)}"
                             " rows without", remedy="missing='drop' leaves those rows out.")  # fmt: skip
    ds = ds.drop_vars([n for n, a in ds.variables.items() if "optics" in a.dims])
    for name, variable in other.variables.items():
        if "optics" in variable.dims:
            ds[name] = variable
    ds["optics_group"] = (dim, other["optics_group"].values[partner])
    return ds
