"""Arrays that are filled from their beginning and widen where they lie: never an old and a new one side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Growing"]

_BLOCK = 1 << 15  # numbers widened at a time


class Growing:
    """``room`` numbers at most, of the narrowest type so far; memory that is not filled is not taken.

    >>> numbers = Growing(4, np.uint8)
    >>> numbers.add(np.array([1, 2]))
    >>> numbers.widen(np.int32)
    >>> numbers.add(np.array([70000]))
    >>> numbers.done()
    array([    1,     2, 70000], dtype=int32)
    """

    def __init__(self, room: int, dtype: DTypeLike) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.size, self._room = 0, room
        self._bytes = np.empty(room * self.dtype.itemsize, np.uint8)

    def add(self, values: NDArray[Any]) -> None:
        """Append ``values``, which the type must hold."""
        stop = self.size + len(values)
        if stop > self._room:
            self._room = max(stop, self._room + self._room // 4)
            self._resize(self._room)
        self._bytes.view(self.dtype)[self.size : stop] = values
        self.size = stop

    def widen(self, dtype: DTypeLike) -> None:
        """Hold what is there as ``dtype``, of as many bytes or more."""
        narrow, self.dtype = self.dtype, np.dtype(dtype)
        if 4 * self.size <= self._room:  # few: anew, since what is added where they lie is filled with zeros
            few = self._view(narrow).astype(self.dtype)
            self._bytes = np.empty(self._room * self.dtype.itemsize, np.uint8)
            self._view(self.dtype)[:] = few
            return
        self._resize(self._room)
        before, after = self._view(narrow), self._view(self.dtype)
        for stop in range(self.size, 0, -_BLOCK):  # from the end: nothing is overwritten before it was read
            block = slice(max(0, stop - _BLOCK), stop)
            after[block] = before[block].astype(self.dtype)

    def done(self) -> NDArray[Any]:
        """The numbers; the room left is given back."""
        self._resize(self.size)
        return self._bytes.view(self.dtype)

    def _view(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        return self._bytes[: self.size * dtype.itemsize].view(dtype)

    def _resize(self, count: int) -> None:
        self._bytes.resize(count * self.dtype.itemsize, refcheck=False)  # no view of it is alive
