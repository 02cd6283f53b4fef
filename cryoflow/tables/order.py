"""Rows in another order, and parts of them: sort, head, slice, sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.expression import evaluate, row_dim
from cryoflow.io.query import take

__all__ = ["head", "sample", "slice_rows", "sort"]


def sort(ds: xr.Dataset, *keys: str) -> xr.Dataset:
    """Rows sorted by one or several keys, the first the most important; ``-key`` sorts from the largest down.

    A key is a column or a formula; a leading minus turns the order of the whole key round. Rows of equal keys keep
    their order; NaN comes last.

    Raises
    ------
    ParameterError : no key, an unknown column, or one of several components (name one, ``shift[0]``).

    Examples
    --------
    >>> ds = xr.Dataset({"half": ("particle", [2, 1, 1]), "defocus_u": ("particle", [9e3, 8e3, 9.5e3])})
    >>> sort(ds, "half", "-defocus_u").defocus_u.values.tolist()
    [9500.0, 8000.0, 9000.0]
    """
    where = f"sort({', '.join(keys)})"
    dim = row_dim(ds, where)
    if not keys:
        raise ParameterError(where, expected="at least one column", found="none")
    ranks = [_rank(ds, key, ds.sizes[dim], where) for key in keys]
    order = np.lexsort(ranks[::-1]) if len(ranks) > 1 else np.argsort(ranks[0], kind="stable")
    return take(ds, order)


def _rank(ds: xr.Dataset, key: str, n: int, where: str) -> NDArray[Any]:
    """Numbers that sort as the key does."""
    key = key.strip()
    down = key.startswith("-")
    values = np.asarray(evaluate(ds, key[1:] if down else key, where=where))
    if values.shape != (n,):
        raise ParameterError(where, expected="a key with a value for every row", found=repr(key))
    if values.dtype.kind in "TUO":
        values = np.unique(values, return_inverse=True)[1]
    if not down:
        return values
    if values.dtype.kind == "u":
        return np.asarray(np.invert(values))  # -x of an unsigned number is no order
    return np.asarray(~values if values.dtype.kind == "b" else -values)


def head(ds: xr.Dataset, n: int) -> xr.Dataset:
    """The first ``n`` rows, or all if there are fewer.

    Raises
    ------
    ParameterError : ``n`` below 1.

    >>> head(xr.Dataset({"half": ("particle", [2, 1, 1])}), 2).half.values.tolist()
    [2, 1]
    """
    if n < 1:
        raise ParameterError("head", expected="at least 1 row", found=str(n))
    return slice_rows(ds, 0, n)


def slice_rows(
    ds: xr.Dataset, start: int | None = None, stop: int | None = None, step: int | None = None
) -> xr.Dataset:
    """Rows ``start:stop:step``, counted from 0 as Python does.

    Raises
    ------
    ParameterError : no row is left, or a step of 0.

    >>> slice_rows(xr.Dataset({"half": ("particle", [2, 1, 0])}), None, None, -1).half.values.tolist()
    [0, 1, 2]
    """
    where = "slice " + ":".join("" if i is None else str(i) for i in (start, stop, step))
    if step == 0:
        raise ParameterError(where, expected="a step that is not 0", found="0")
    n = ds.sizes[row_dim(ds, where)]
    rows = np.arange(n)[start:stop:step]
    if not len(rows):
        raise ParameterError(where, expected=f"at least one of {n} rows", found="none")
    return take(ds, rows)


def sample(ds: xr.Dataset, n: int | None = None, *, fraction: float | None = None, seed: int = 0) -> xr.Dataset:
    """``n`` rows, or a ``fraction`` of them, drawn at random without repeats; they keep their order.

    The same ``seed`` draws the same rows of the same number of rows.

    Raises
    ------
    ParameterError : not one of ``n`` and ``fraction``, or more rows than there are.

    >>> sample(xr.Dataset({"half": ("particle", [2, 1, 0, 0])}), fraction=0.5, seed=3).sizes["particle"]
    2
    """
    where = f"sample(n={n}, fraction={fraction})"
    total = ds.sizes[row_dim(ds, where)]
    if (n is None) == (fraction is None):
        raise ParameterError(where, expected="either n or fraction", found="both" if n is not None else "none")
    count = round(fraction * total) if fraction is not None and np.isfinite(fraction) else n
    if count is None or not 1 <= count <= total:
        raise ParameterError(where, expected=f"from 1 to {total} rows", found=f"{count}")
    if seed < 0:
        raise ParameterError(where, expected="a seed of at least 0", found=str(seed))
    return take(ds, np.sort(np.random.default_rng(seed).choice(total, count, replace=False)))
