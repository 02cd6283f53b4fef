"""Selection of rows by a condition in text, without ``eval``."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from cryoflow.errors import ParameterError
from cryoflow.io.expression import evaluate, row_dim
from cryoflow.io.images.gather import take_rows

__all__ = ["select", "take"]


def select(ds: xr.Dataset, condition: str) -> xr.Dataset:
    """The rows of ``ds`` for which ``condition`` holds; images stay lazy.

    A condition is a formula of ``cryoflow.io.expression.evaluate`` that is true or false for every row. It is read,
    never evaluated.

    Raises
    ------
    ParameterError : not such a condition, an unknown column, or no row left.

    Examples
    --------
    >>> ds = xr.Dataset({"defocus_u": ("particle", [9e3, 12e3, 15e3]), "half": ("particle", [1, 1, 2])})
    >>> select(ds, "defocus_u > 10000 and half == 1").defocus_u.values.tolist()
    [12000.0]
    """
    where = f"select({condition[:200]!r})"
    dim = row_dim(ds, where)
    keep = np.asarray(evaluate(ds, condition, where=where))
    if keep.dtype != bool or keep.shape != (ds.sizes[dim],):
        raise ParameterError(where, expected="yes or no for every row", found=f"{keep.dtype} of shape {keep.shape}")
    if not keep.any():
        raise ParameterError(where, expected=f"at least one {dim}", found=f"none of {len(keep)}",
                             remedy="Widen the condition.")  # fmt: skip
    return take(ds, np.flatnonzero(keep))


def take(ds: xr.Dataset, rows: ArrayLike) -> xr.Dataset:
    """Rows of a table by their numbers, in any order and as often as they are named; images stay lazy.

    Raises
    ------
    ParameterError : numbers beyond the table.

    Examples
    --------
    >>> take(xr.Dataset({"half": ("particle", [1, 2, 0])}), [2, 0, 2]).half.values.tolist()
    [0, 1, 0]
    """
    dim = row_dim(ds, "take")
    numbers = np.asarray(rows, np.int64).reshape(-1)
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= ds.sizes[dim]):
        raise ParameterError("take", expected=f"rows from 0 to {ds.sizes[dim] - 1}",
                             found=f"{numbers.min()} to {numbers.max()}")  # fmt: skip
    variables = {
        name: a if dim not in a.dims else take_rows(a, numbers) if a.dims[0] == dim else a.isel({dim: numbers})
        for name, a in ds.variables.items()
    }
    moved = {n: v for n, v in variables.items() if n not in ds.coords}
    return xr.Dataset(moved, coords={n: v for n, v in variables.items() if n in ds.coords}, attrs=ds.attrs)
