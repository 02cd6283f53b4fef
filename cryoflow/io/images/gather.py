"""Rows of lazy images in another order, repeated or joined from several sets, by their numbers and without reading.

Selecting rows of a chunked array costs a task for every pair of an old and a new chunk, and reads whole chunks for a
few rows. Images that lie in files need neither: the rows that a new chunk holds are looked up when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core import indexing

from cryoflow.io.images.lazy_array import LazyImages

__all__ = ["Gathered", "join_rows", "remember", "source_of", "take_rows"]

# lazy arrays by the name of the chunked array made of them, for as long as that lives
_KNOWN: WeakValueDictionary[str, LazyImages] = WeakValueDictionary()


def remember(name: str, array: LazyImages) -> None:
    """Note that the chunked array ``name`` holds just the rows of ``array``."""
    _KNOWN[name] = array


def source_of(variable: xr.Variable) -> LazyImages | None:
    """The lazy array that a variable shows row by row, or None (in memory, computed, or from another process)."""
    if variable.chunks is None:
        return None
    return _KNOWN.get(str(getattr(variable.data, "name", "")))


@dataclass(frozen=True)
class Gathered(LazyImages):
    """Rows ``row[i]`` of ``parts[part[i]]``, all of one frame and type."""

    parts: tuple[Any, ...]
    part: NDArray[np.int32]
    row: NDArray[np.int64]

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.parts[0].dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.row), *self.parts[0].shape[1:])

    def content(self) -> Iterator[bytes | memoryview]:
        """The rows, and the names of the parts."""
        yield np.ascontiguousarray(self.part).data
        yield np.ascontiguousarray(self.row).data
        for array in self.parts:
            yield array.token().encode()

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Whole images of ``rows``."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        part, row = self.part[rows], self.row[rows]
        for number in np.unique(part):
            here = np.flatnonzero(part == number)
            array = self.parts[number]
            key: tuple[Any, ...] = (row[here], *(slice(None),) * (self.ndim - 1))
            out[here] = array[indexing.OuterIndexer(key)]
        return out

    def take(self, rows: NDArray[np.int64]) -> Gathered:
        return Gathered(self.parts, self.part[rows], self.row[rows])


def _gathered(array: Any) -> Gathered:
    if isinstance(array, Gathered):
        return array
    n = array.shape[0]
    return Gathered((array,), np.zeros(n, np.int32), np.arange(n))


def take_rows(variable: xr.Variable, rows: NDArray[np.int64]) -> xr.Variable:
    """Rows of a variable along its first dimension, in any order; of lazy images nothing is read.

    >>> take_rows(xr.Variable(("particle",), [1, 2, 3]), np.array([2, 0, 2])).values.tolist()
    [3, 1, 3]
    """
    array = source_of(variable)
    if array is None:
        taken: xr.Variable = variable[rows]
        return taken
    return _lazy(variable, _gathered(array).take(np.asarray(rows, np.int64)))


def join_rows(variables: Sequence[xr.Variable]) -> xr.Variable:
    """The rows of several variables, one after another; lazy images stay lazy."""
    first = variables[0]
    arrays = [source_of(v) for v in variables]
    if any(a is None for a in arrays) or len({np.dtype(v.dtype) for v in variables}) > 1:
        joined: xr.Variable = xr.Variable.concat(list(variables), dim=str(first.dims[0]))  # type: ignore[no-untyped-call]
        return joined
    pieces = [_gathered(a) for a in arrays if a is not None]
    before = np.cumsum([0, *(len(p.parts) for p in pieces)])
    part = np.concatenate([p.part + np.int32(n) for p, n in zip(pieces, before)])
    parts = tuple(array for p in pieces for array in p.parts)
    return _lazy(first, Gathered(parts, part, np.concatenate([p.row for p in pieces])))


def _lazy(like: xr.Variable, array: Gathered) -> xr.Variable:
    from cryoflow.io.images.lazy import lazy

    dims = tuple(str(d) for d in like.dims)
    return lazy(dims, array, like.chunksizes[dims[0]][0] if array.shape[0] else 1, like.attrs)
