"""Rows that two tables share, and rows that one has alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.io.query import take
from cryoflow.tables.keys import codes, columns_of

__all__ = ["difference", "intersect"]


def intersect(ds: xr.Dataset, other: xr.Dataset, *, on: str | Iterable[str], basename: bool = False) -> xr.Dataset:
    """The rows of ``ds`` whose key is in ``other``, in the order of ``ds``.

    ``on`` and ``basename`` are those of ``join``.

    Raises
    ------
    ParameterError : none is, or an unknown column.

    >>> a, b = (xr.Dataset({"particle_id": ("particle", list(ids))}) for ids in ((4, 3, 2), (2, 4, 9)))
    >>> intersect(a, b, on="particle_id").particle_id.values.tolist()
    [4, 2]
    """
    return _chosen(ds, other, on, basename, shared=True)


def difference(ds: xr.Dataset, other: xr.Dataset, *, on: str | Iterable[str], basename: bool = False) -> xr.Dataset:
    """The rows of ``ds`` whose key is not in ``other``.

    Raises
    ------
    ParameterError : none is left, or an unknown column.

    >>> a, b = (xr.Dataset({"particle_id": ("particle", list(ids))}) for ids in ((4, 3, 2), (2, 4, 9)))
    >>> difference(a, b, on="particle_id").particle_id.values.tolist()
    [3]
    """
    return _chosen(ds, other, on, basename, shared=False)


def _chosen(ds: xr.Dataset, other: xr.Dataset, on: str | Iterable[str], basename: bool, *, shared: bool) -> xr.Dataset:
    where = f"{'intersect' if shared else 'difference'}(on={','.join(columns_of(on))})"
    mine, theirs = codes([ds, other], on, where, basename=basename)
    keep = np.flatnonzero(np.isin(mine, theirs) == shared)
    if not len(keep):
        raise ParameterError(where, expected="at least one row", found=f"none of {len(mine)}",
                             remedy="Check the key; basename=True compares names without folders.")  # fmt: skip
    return take(ds, keep)
