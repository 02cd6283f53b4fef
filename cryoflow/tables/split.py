"""One table as several: equal parts, a part for each value, random half-sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.io.expression import evaluate, row_dim
from cryoflow.io.query import take

__all__ = ["assign_halves", "split", "split_by"]

_MOST = 10_000  # more tables than anyone wants


def split(ds: xr.Dataset, parts: int, *, seed: int | None = None) -> list[xr.Dataset]:
    """``parts`` tables of nearly equal size, one row more in the first ones; at random where a ``seed`` is given.

    Raises
    ------
    ParameterError : fewer than 1 part, or more than rows.

    >>> [p.sizes["particle"] for p in split(xr.Dataset({"half": ("particle", [1, 2, 1, 2, 1])}), 2)]
    [3, 2]
    """
    where = f"split(parts={parts})"
    n = ds.sizes[row_dim(ds, where)]
    if not 1 <= parts <= min(n, _MOST):
        raise ParameterError(where, expected=f"from 1 to {min(n, _MOST)} parts", found=str(parts))
    rows = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    return [take(ds, np.sort(piece)) for piece in np.array_split(rows, parts)]


def split_by(ds: xr.Dataset, key: str) -> dict[Any, xr.Dataset]:
    """A table for each value of ``key``, a column or a formula; each keeps the order of its rows.

    Raises
    ------
    ParameterError : an unknown column, or more than 10,000 values.

    >>> parts = split_by(xr.Dataset({"half": ("particle", [1, 2, 1])}), "half")
    >>> {value: part.sizes["particle"] for value, part in parts.items()}
    {1: 2, 2: 1}
    """
    where = f"split_by({key!r})"
    values = np.asarray(evaluate(ds, key, where=where))
    n = ds.sizes[row_dim(ds, where)]
    if values.shape != (n,):
        raise ParameterError(where, expected="a value for every row", found=f"shape {values.shape}")
    distinct, code = np.unique(values, return_inverse=True)
    if len(distinct) > _MOST:
        raise ParameterError(where, expected=f"at most {_MOST} values", found=f"{len(distinct)}")
    order = np.argsort(code, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(code))[:-1])
    return {value: take(ds, rows) for value, rows in zip(distinct.tolist(), pieces)}


def assign_halves(ds: xr.Dataset, *, seed: int = 0, by: str | None = None) -> xr.Dataset:
    """New random half-sets 1 and 2 of equal size (``half`` is replaced).

    With ``by`` (``micrograph_name``; ``x_parent_id`` after symmetry expansion) rows of one value stay in one half, so
    that neighbours or copies of a particle never face each other; the halves are then as equal as the values allow.

    Raises
    ------
    ParameterError : fewer than two rows or values.

    >>> ds = xr.Dataset({"micrograph_name": ("particle", ["a", "a", "b", "b"])})
    >>> halves = assign_halves(ds, by="micrograph_name").half.values
    >>> bool(halves[0] == halves[1] != halves[2])
    True
    """
    where = f"assign_halves(by={by!r})" if by else "assign_halves"
    dim = row_dim(ds, where)
    n = ds.sizes[dim]
    rng = np.random.default_rng(seed)
    code = np.arange(n) if by is None else np.unique(np.asarray(evaluate(ds, by, where=where)), return_inverse=True)[1]
    sizes = np.bincount(code)
    if len(code) != n or len(sizes) < 2:
        raise ParameterError(where, expected="at least two rows or values of the key", found=f"{len(sizes)}")
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the largest first, each to the smaller half
    half_of = np.empty(len(sizes), np.int32)
    if by is None:
        half_of[order] = 1 + np.arange(n) % 2
    else:
        filled = [0, 0]
        for value in order:
            smaller = int(filled[1] < filled[0])
            half_of[value] = 1 + smaller
            filled[smaller] += int(sizes[value])
    return ds.assign(half=(dim, half_of[code]))
