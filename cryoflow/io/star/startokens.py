"""The words of the rows of a STAR table: where each begins and ends, by array operations on pieces of whole lines."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.star.starbytes import StarBytes
from cryoflow.io.star.starnumbers import PAD

__all__ = ["MARK", "BadRow", "Piece", "is_label", "pieces", "words_of"]

MARK = b"\x01"  # stands around the number of a text field
_LEAST, _MOST = 1 << 16, 1 << 19  # bytes of a piece
_WORDS = 1 << 15  # words of a piece, about
_PART = 1 << 14  # bytes of a piece read word by word
_COUNTED = 10_000  # words of a bad row
_WORD = re.compile(rb"[^ \t\n\v\f\r]+")
_QUOTES = {b'"': re.compile(rb'"(?=[ \t\n\v\f\r]|\Z)'), b"'": re.compile(rb"'(?=[ \t\n\v\f\r]|\Z)")}
_UNDERSCORE, _HASH, _DOUBLE, _SINGLE, _L = b"_#\"'l"


@dataclass(frozen=True, slots=True)
class BadRow:
    """The first row that is none: its number from 0, where it begins, its number of words and the first of them."""

    row: int
    position: int
    count: int
    first: bytes

    @property
    def counted(self) -> str:
        """The number of words, as messages tell it."""
        return f"more than {self.count - 1}" if self.count > _COUNTED else str(self.count)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows: word (row, column) is ``data[begin:end]``; blanks lie before and after ``data``'s text."""

    data: NDArray[np.uint8]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


def words_of(line: bytes) -> Iterator[tuple[int, int, bool]]:
    """Begin and end of the words of a line and whether they stand in quotes; ``#`` begins a comment.

    A quote ends where a blank follows it.

    >>> [(line[i:j], quoted) for line in [b"a 'b c' #d"] for i, j, quoted in words_of(line)]
    [(b'a', False), (b'b c', True)]
    """
    at, open_ended = 0, set[bytes]()
    while (match := _WORD.search(line, at)) is not None:
        at, first = match.start(), line[match.start() : match.start() + 1]
        if first == b"#":
            return
        if first in _QUOTES and first not in open_ended:
            close = _QUOTES[first].search(line, at + 1)
            if close is not None:
                yield at + 1, close.start(), True
                at = close.end()
                continue
            open_ended.add(first)
        yield at, match.end(), False
        at = match.end()


def is_label(word: bytes, quoted: bool) -> bool:
    """Whether a word of a line is a label."""
    return not quoted and word.startswith(b"_")


def pieces(text: StarBytes, start: int, stop: int, columns: int, *, marks: bool = False) -> Iterator[Piece | BadRow]:
    """The rows of ``columns`` words in ``text`` from ``start`` to ``stop``; the last one may be a row that is none.

    ``marks`` tells that rows may go on in a line that begins with ``MARK``.
    """
    at, rows, size = start, 0, _LEAST
    while at < stop:
        before, after = rows, _cut(text, at, stop, size, marks)
        for piece in _piece(text.read(at, after), columns, rows, at, marks):
            yield piece
            if isinstance(piece, BadRow):
                return
            rows += len(piece.begin)
        size = min(_MOST, max(_LEAST, _WORDS * (after - at) // (columns * (rows - before) or 1)))
        at = after


def _cut(text: StarBytes, start: int, stop: int, size: int, marks: bool) -> int:
    """The end of a piece of ``size`` bytes or more: after a line, and not within a row of several lines."""
    while start + size < stop:
        found = text.read(start, start + size + 1)
        cut = found.rfind(b"\n", 0, size) + 1
        while marks and cut and found[cut : cut + 1] == MARK:
            cut = found.rfind(b"\n", 0, cut - 1) + 1
        if cut:
            return start + cut
        size *= 2
    return stop


def _piece(raw: bytes, columns: int, rows: int, at: int, marks: bool) -> Iterator[Piece | BadRow]:
    """The rows of some whole lines, at once if they are plain; else part by part: most of a piece with a comment is."""
    found = _tokens(raw, columns) if len(raw) <= 2 * _MOST else None
    if found is not None:
        if len(found.begin):
            yield found
        return
    for first, stop in _parts(raw, marks):
        part = raw[first:stop]
        found = _tokens(part, columns) if len(part) < len(raw) and len(part) <= _MOST else None
        for piece in [found] if found is not None else _careful(part, columns, rows, at + first, marks):
            rows += len(piece.begin) if isinstance(piece, Piece) else 0
            yield piece
            if isinstance(piece, BadRow):
                return


def _parts(raw: bytes, marks: bool) -> Iterator[tuple[int, int]]:
    """Where parts of whole lines begin and end; no row of several lines is cut."""
    first = 0
    while first < len(raw):
        stop = raw.rfind(b"\n", first, first + _PART) + 1 or raw.find(b"\n", first) + 1 or len(raw)
        while marks and raw[stop : stop + 1] == MARK:
            stop = raw.find(b"\n", stop) + 1 or len(raw)
        yield first, stop
        first = stop


def _padded(raw: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(b"\n" * PAD + raw + b"\n" * PAD, np.uint8)


def _tokens(raw: bytes, columns: int) -> Piece | None:
    """The rows where every line has its words, and no comment; None where it takes a closer look."""
    data = _padded(raw)
    blank = data == 32
    blank |= (data - np.uint8(9)) < 5
    edge = blank[1:] != blank[:-1]
    count = int(np.count_nonzero(edge)) // 2
    if count % columns or count // columns > raw.count(b"\n") + 1:
        return None
    edges = np.flatnonzero(edge)
    edges += 1
    begin, end = edges[0::2].reshape(-1, columns), edges[1::2].reshape(-1, columns)
    lines = np.flatnonzero(data == 10)
    lines = lines[PAD - 1 : 1 - PAD]  # the one before the text, and all others up to the one after it
    opened, closed = lines[:-1], lines[1:]
    if len(opened) > len(begin):  # empty ones
        filled = np.flatnonzero(np.diff(np.searchsorted(begin[:, 0], lines)))
        opened, closed = opened[filled], closed[filled]
    if len(opened) != len(begin) or (begin[:, 0] < opened).any() or (end[:, -1] > closed).any():
        return None
    first = data.take(begin)
    odd = first == _HASH
    quoted = first == _DOUBLE
    quoted |= first == _SINGLE
    heads = first[:, 0]
    if odd.any() or (heads == _UNDERSCORE).any() or _loops(data, begin[heads == _L, 0], end[heads == _L, 0]):
        return None
    if quoted.any():  # words without blanks between their quotes are read here too
        begin, end = begin.copy(), end.copy()
        if (data.take(end[quoted] - 1) != first[quoted]).any() or (end[quoted] - begin[quoted] < 2).any():
            return None
        begin[quoted] += 1
        end[quoted] -= 1
    return Piece(data, begin, end)


def _loops(data: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]) -> bool:
    begin = begin[end - begin == 5]
    return any(data[i : i + 5].tobytes() == b"loop_" for i in begin.tolist())


def _careful(raw: bytes, columns: int, rows: int, at: int, marks: bool) -> Iterator[Piece | BadRow]:
    """The rows word by word, with comments, quotes and rows of several lines."""
    begin, end = array("q"), array("q")
    bad: BadRow | None = None
    position = row_at = count = 0
    head, head_quoted = b"", False
    while position < len(raw):
        after = raw.find(b"\n", position) + 1 or len(raw)
        line = raw[position:after]
        if count == 0:
            row_at = position
        for i, j, quoted in words_of(line):
            if count == 0:
                head, head_quoted = line[i:j], quoted
            count += 1
            if count <= columns:
                begin.append(position + i + PAD)
                end.append(position + j + PAD)
            elif count > columns + _COUNTED:
                break
        position = after
        if count == 0 or (marks and count < columns and raw[after : after + 1] == MARK):
            continue
        if count != columns or is_label(head, head_quoted) or (head == b"loop_" and not head_quoted):
            full = len(begin) - min(count, columns)
            bad = BadRow(rows + full // columns, at + row_at, count, head)
            del begin[full:], end[full:]
            break
        count = 0
    if begin:
        shape = (-1, columns)
        yield Piece(_padded(raw), np.array(begin, np.int64).reshape(shape), np.array(end, np.int64).reshape(shape))
    if bad is not None:
        yield bad
