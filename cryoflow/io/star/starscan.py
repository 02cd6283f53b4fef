"""The rows of a STAR table as columns of whole numbers, numbers or words, by array operations on pieces of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.star.growing import Growing
from cryoflow.io.star.starbytes import StarBytes
from cryoflow.io.star.starnumbers import number_of, read_numbers
from cryoflow.io.star.startokens import BadRow, Piece, pieces
from cryoflow.io.star.wordbuilder import Room, WordBuilder
from cryoflow.io.star.words import Words

__all__ = ["scan_rows"]

_WORDS = 1 << 15  # numbers read at a time: they stay in the processor's cache
_NARROW, _WIDE = np.iinfo(np.int32), np.iinfo(np.int64)


def scan_rows(
    text: StarBytes, start: int, stop: int, is_text: list[bool], *, room: int
) -> list[NDArray[Any] | Words] | BadRow:
    """The columns of the rows of ``len(is_text)`` words in ``text[start:stop]``, or the first row that is none.

    A column is whole numbers (int32, or int64 where it must), numbers (float64) or words: a column of names, with a
    word that is no number, or of whole numbers with leading zeros or of more than 64 bits. Nothing is lost.

    Parameters
    ----------
    is_text : which columns are words whatever they look like.
    room : rows at most, about; memory is taken as it is filled.

    >>> data = b"1 a 2.5\\n2 a 1e3\\n"
    >>> found = scan_rows(StarBytes.of(data), 0, len(data), [False, True, False], room=2)
    >>> [column.tolist() for column in found]
    [[1, 2], ['a', 'a'], [2.5, 1000.0]]
    """
    shared = Room(room, stop - start)
    columns: list[_NumberColumn | WordBuilder] = [WordBuilder(shared) if t else _NumberColumn(room) for t in is_text]
    out: list[NDArray[Any] | Words | None] = [None] * len(columns)
    while any(done is None for done in out):  # at most thrice: columns that turned out to be text are read again
        wanted = [i for i, done in enumerate(out) if done is None]
        rows = 0
        for piece in pieces(text, start, stop, len(columns)):
            if isinstance(piece, BadRow):
                return piece
            _add(columns, wanted, piece, shared if rows == 0 else None)
            rows += len(piece.begin)
        for i in wanted:
            out[i], columns[i] = _settled(columns[i], shared)
    return out  # type: ignore[return-value]


def _add(columns: list[_NumberColumn | WordBuilder], wanted: list[int], piece: Piece, room: Room | None) -> None:
    """Append rows to the columns that are ``wanted``; of the first ones ``room`` tells those that can begin as text."""
    numeric = {i: column for i in wanted if isinstance(column := columns[i], _NumberColumn)}
    _add_numbers(numeric, piece)
    for i in wanted:
        if room is not None and i in numeric and numeric[i].text:
            columns[i] = WordBuilder(room)
        column = columns[i]
        if isinstance(column, WordBuilder):
            column.add(piece.data, piece.begin[:, i], piece.end[:, i])


def _settled(
    column: _NumberColumn | WordBuilder, room: Room
) -> tuple[NDArray[Any] | Words | None, _NumberColumn | WordBuilder]:
    """The column, and None in its place where it must be read as what comes second."""
    if isinstance(column, WordBuilder):
        return column.done(), column
    if column.text or (not column.point and not column.plain):
        return None, WordBuilder(room)
    if column.again:
        return None, _NumberColumn(room.rows, real=True)
    return column.numbers.done(), column


def _add_numbers(columns: dict[int, _NumberColumn], piece: Piece) -> None:
    """Append the rows of ``piece`` to columns by their numbers."""
    step = max(1, _WORDS // max(1, len(columns)))
    for first in range(0, len(piece.begin), step):
        numbers = [i for i, column in columns.items() if not column.text]
        if not numbers:
            return
        rows = slice(first, first + step)
        begin, end = (words[rows].take(numbers, axis=1) for words in (piece.begin, piece.end))
        found = read_numbers(piece.data, begin, end)
        odd, padded = (np.any(flags, axis=0) for flags in (found.odd, found.padded))
        whole = np.all(found.whole, axis=0)
        for at, i in enumerate(numbers):
            columns[i].plain &= not bool(padded[at])
            value, integer = found.value[:, at], found.integer[:, at]
            if not odd[at]:
                columns[i].add(value, integer if whole[at] else None)
            else:
                words = (piece.data, begin[:, at], end[:, at], found.odd[:, at])
                columns[i].add_odd(words, value, integer, found.whole[:, at])


class _NumberColumn:
    """The numbers of a column so far, whole ones as such while all are.

    ``text``: a word was none. ``point``: one was not whole. ``plain``: whole ones have no leading zeros and at most 64
    bits. ``again``: a zero has lost its minus sign before the first point came.
    """

    def __init__(self, room: int, *, real: bool = False) -> None:
        self.numbers = Growing(room, np.float64 if real else np.int32)
        self.text, self.point, self.plain, self.again = False, False, True, False
        self._minus_zero = False

    def add(self, value: NDArray[np.float64], integer: NDArray[np.int64] | None) -> None:
        """Append numbers; ``integer`` are the same where all are whole."""
        self.point |= integer is None
        if self.numbers.dtype.kind == "f" or integer is None:
            self._add_real(value)
            return
        low, high = integer.min(), integer.max()
        if self.numbers.dtype == np.int32 and (low < _NARROW.min or high > _NARROW.max):
            self.numbers.widen(np.int64)
        if low <= 0 <= high:
            self._minus_zero |= bool(np.signbit(value[integer == 0]).any())
        self.numbers.add(integer)

    def _add_real(self, value: NDArray[np.float64]) -> None:
        if self.numbers.dtype.kind == "i":
            self.again |= self._minus_zero
            self.numbers.widen(np.float64)
        self.numbers.add(value)

    def add_odd(
        self, words: tuple[NDArray[Any], ...], value: NDArray[np.float64], integer: NDArray[np.int64],
        whole: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """Append numbers of which Python reads some: ``words`` are the text, begins and ends, and which those are."""
        data, begin, end, odd = words
        value, integer, fits = value.copy(), integer.copy(), True
        for row in np.flatnonzero(odd).tolist():
            number = number_of(data[begin[row] : end[row]].tobytes())
            if number is None:
                self.text, self.numbers = True, Growing(0, np.int32)  # others need its memory
                return
            value[row], whole[row] = number.value, number.whole
            if number.whole and number.integer is None:
                self.plain = fits = False
            integer[row] = number.integer or 0
        if fits or not whole.all():
            self.add(value, integer if whole.all() else None)
        else:
            self._add_real(value)
