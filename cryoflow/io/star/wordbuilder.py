"""Columns of ``Words`` from the bytes of a file, some rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.star.growing import Growing
from cryoflow.io.star.starnumbers import load, whole_before
from cryoflow.io.star.words import Words, joined

__all__ = ["Room", "WordBuilder"]

_U = np.uint64
_ONES, _HIGHS, _AT = _U(0x0101010101010101), _U(0x8080808080808080), _U(0x4040404040404040)
_FIRST = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # keep the first n bytes of eight
_WIDE = 1024  # bytes of a word beyond which rows are compared one by one
_HUGE = 1 << 16  # bytes of a word that is kept as it comes
_ENTRY = 192  # bytes that a word of the index takes beside its letters, about
_INDEX = 2 << 20  # bytes of a table's indexes in any case, and then a quarter of its text
_CODES = (np.uint8, np.uint16, np.int32)
_LETTERS = 1 << 16  # copied at a time


@dataclass(slots=True)
class Room:
    """What the columns of a table share: the ``rows`` and bytes of ``text`` it has at most, and room for indexes."""

    rows: int
    text: int
    taken: int = 0  # by indexes, beyond a quarter of the text


class WordBuilder:
    """Words as they are read: each distinct one once, or all of them as they come where few are alike.

    What stands before an ``@`` as a number of up to seven digits is kept as that number.
    """

    def __init__(self, room: Room) -> None:
        self._room, self._taken = room, 0
        self._index: dict[bytes, int] | None = {}
        self._codes = Growing(room.rows, np.uint8)
        self._letters, self._ends = Growing(0, np.uint8), Growing(0, np.int32)
        self._number, self._digits = Growing(0, np.int32), Growing(0, np.uint8)
        self._rows = self._text = 0
        self._numbered = False

    def add(self, data: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]) -> None:
        """Append the words ``data[begin[i]:end[i]]``, with some bytes more on either side."""
        begin = self._numbers(data, begin, end)
        size = end - begin
        self._rows += len(size)
        self._text += int(size.sum())
        if self._index is not None and int(size.max(initial=0)) > _HUGE:
            self._spread()
        if self._index is not None:
            self._add_codes(data, begin, size)
        else:
            self._add_letters(data, begin, size)

    def done(self) -> Words:
        """The column."""
        number, digits = (self._number.done(), self._digits.done()) if self._numbered else (None, None)
        if self._index is None:
            return Words(self._letters.done(), self._ends.done(), None, number, digits)
        kept, self._index = joined(list(self._index)), None
        return Words(*kept, self._codes.done(), number, digits)

    def _numbers(self, data: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep the numbers before an ``@``; where the words begin without them."""
        words = load(data)
        first = words[begin]
        first &= _FIRST.take(end - begin, mode="clip")
        first ^= _AT
        at = first - _ONES
        np.invert(first, out=first)
        at &= first
        at &= _HIGHS
        if not self._numbered and not at.any():
            return begin
        at &= ~at + _U(1)
        digits = np.bitwise_count(at - _U(1)) >> np.uint8(3)
        digits[digits == 8] = 0
        number, wrong = whole_before(words, begin + digits, digits)
        digits[wrong] = 0
        number[wrong] = 0
        if not self._numbered and digits.any():
            self._numbered = True
            self._number, self._digits = (Growing(self._room.rows, kind) for kind in (np.int32, np.uint8))
            self._number.add(np.zeros(self._rows, np.int32))
            self._digits.add(np.zeros(self._rows, np.uint8))
        if self._numbered:
            self._number.add(number)
            self._digits.add(digits)
        rest: NDArray[np.int64] = begin + digits + (digits > 0)
        return rest

    def _add_codes(self, data: NDArray[np.uint8], begin: NDArray[np.int64], size: NDArray[np.int64]) -> None:
        assert self._index is not None
        new = _new_words(data, begin, size)
        heads = np.flatnonzero(new)
        before, low = len(self._index), int(begin.min(initial=0))
        text = data[low : int((begin + size).max(initial=0))].tobytes()
        number_of, first = self._index.setdefault, begin[heads] - low
        limits = zip(first.tolist(), (first + size[heads]).tolist(), strict=True)
        found = [number_of(text[i:j], len(self._index)) for i, j in limits]
        count = len(self._index)
        while count > 1 << 8 * self._codes.dtype.itemsize:
            self._codes.widen(_CODES[_CODES.index(self._codes.dtype.type) + 1])
        self._codes.add(np.array(found, self._codes.dtype)[np.cumsum(new) - 1])
        letters = sum(map(len, islice(reversed(self._index), count - before)))
        self._take((count - before) * _ENTRY + letters - int(size.sum()) // 4)
        if self._taken > 0 and self._room.taken > _INDEX:
            self._spread()

    def _take(self, taken: int) -> None:
        self._taken += taken
        self._room.taken += taken

    def _spread(self) -> None:
        """Most words are distinct: from now on keep them as they come."""
        kept, self._index = Words(*joined(list(self._index or ())), self._codes.done()), None
        self._take(-self._taken)
        codes = kept.codes
        assert codes is not None
        likely = self._text * self._room.rows // max(1, self._rows)
        self._letters = Growing(min(likely, self._room.text), np.uint8)
        self._ends = Growing(self._room.rows + 1, np.int32)
        self._ends.add(np.zeros(1, np.int32))
        for first in range(0, len(codes), 1 << 12):
            piece = codes[first : first + (1 << 12)]
            begin = kept.offsets[:-1][piece]
            self._add_letters(kept.letters, begin, kept.offsets[1:][piece] - begin)
        self._codes = Growing(0, np.uint8)

    def _add_letters(self, data: NDArray[np.uint8], begin: NDArray[np.int64], size: NDArray[np.int64]) -> None:
        """Copy words, about as many at a time as have ``_LETTERS`` letters."""
        step = 1 + _LETTERS * len(size) // (int(size.sum()) + 1)
        for first in range(0, len(size), step):
            rows = slice(first, first + step)
            ends = np.cumsum(size[rows])
            before, count = self._letters.size, int(ends[-1])
            if before + count >= 1 << 31 and self._ends.dtype == np.int32:
                self._ends.widen(np.int64)
            self._ends.add(ends + before)
            if count > 4 * _LETTERS:
                for i, n in zip(begin[rows].tolist(), size[rows].tolist(), strict=True):
                    self._letters.add(data[i : i + n])
            else:
                places = np.repeat(begin[rows] - (ends - size[rows]), size[rows])
                places += np.arange(count)
                self._letters.add(data.take(places))


def _new_words(data: NDArray[np.uint8], begin: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which words differ from the one above; the first does."""
    new = np.ones(len(begin), np.bool_)
    np.not_equal(size[1:], size[:-1], out=new[1:])
    least, most = int(size.min(initial=_WIDE)), int(size.max(initial=0))
    if most > _WIDE:
        new[:] = True
        return new
    words: Any = load(data)
    tail = words[begin + np.maximum(size - 8, 0)]  # the last eight letters, or all
    if least < 8:
        tail &= _FIRST.take(size, mode="clip")
    new[1:] |= tail[1:] != tail[:-1]
    for place in range(0, most - 8, 8):
        if place + 8 <= least:
            here = words[begin + place]
            new[1:] |= here[1:] != here[:-1]
        else:
            rows = np.flatnonzero(~new & (size > place + 8))
            new[rows] |= words[begin[rows] + place] != words[begin[rows - 1] + place]
    return new
