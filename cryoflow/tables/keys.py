"""Rows of one table found in another, by the values of some columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.expression import evaluate, row_dim

__all__ = ["codes", "columns_of", "name_rows"]


def columns_of(on: str | Iterable[str]) -> list[str]:
    """Key columns, from one name, names with commas or a list.

    >>> columns_of("micrograph_name,coordinate[0]")
    ['micrograph_name', 'coordinate[0]']
    """
    names = on.split(",") if isinstance(on, str) else list(on)
    return [name.strip() for name in names if name.strip()]


def codes(sets: Iterable[xr.Dataset], on: str | Iterable[str], where: str, *, basename: bool = False) -> list[Any]:
    """For each set an integer for every row, equal in all sets where the key columns are equal.

    ``basename`` compares file names without their folders (``000001@Extract/job2/a.mrcs`` as ``1@a.mrcs``).
    """
    import pandas as pd

    tables, columns = list(sets), columns_of(on)
    if not columns:
        raise ParameterError(where, expected="a key column", found="none")
    sizes = [ds.sizes[row_dim(ds, where)] for ds in tables]
    edges = np.cumsum([0, *sizes])
    total = np.zeros(edges[-1], np.int64)
    for column in columns:
        parts = [np.asarray(evaluate(ds, column, where=where)) for ds in tables]
        for part, size in zip(parts, sizes):
            if part.shape != (size,):
                raise ParameterError(where, expected=f"a value of {column} for every row", found="one for all")
        text = {part.dtype.kind in tuple("TUO") for part in parts}
        if len(text) > 1:
            raise ParameterError(where, expected=f"{column} as text in both, or as numbers", found="one of each")
        if text == {True}:
            parts = [np.array([_basename(v) if basename else str(v) for v in part], object) for part in parts]
        codes_here, values = pd.factorize(np.concatenate(parts))
        total = pd.factorize(total * (len(values) + 1) + codes_here)[0]
    return np.split(total, edges[1:-1])


def _basename(value: object) -> str:
    number, at, name = str(value).rpartition("@")
    name = name.rsplit("/", 1)[-1]
    return f"{number.lstrip('0')}@{name}" if at else name


def name_rows(ds: xr.Dataset, on: str | Iterable[str], rows: NDArray[Any], where: str) -> str:
    """A few rows by their keys, for messages."""
    shown = []
    for row in rows[:3]:
        values = [np.asarray(evaluate(ds, column, where=where))[row] for column in columns_of(on)]
        shown.append(" ".join(str(v) for v in values) + f" (row {row + 1})")
    return ", ".join(shown) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
