"""The words of the rows of a STAR table: where each begins and ends, by array operations on pieces of whole lines."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.star.starbytes import StarBytes
from cryoflow.io.star.starnumbers import PAD

__all__ = ["TEXT", "BadRow", "Piece", "is_label", "pieces", "words_of"]

TEXT = b"\n;"  # begins and ends text of several lines
_LEAST, _MOST = 1 << 16, 1 << 19  # bytes of a piece
_WORDS = 1 << 15  # words of a piece, about
_PART = 1 << 14  # bytes of a piece read word by word
_COUNTED, _SHOWN = 10_000, 80  # words of a bad row that are counted, and letters of its first one
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
    """Some rows: word (row, column) is ``data[begin:end]``; ``PAD`` bytes more lie on either side."""

    data: NDArray[np.uint8]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


def words_of(line: bytes, at: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, bool]]:
    """Begin and end of the words of a line (or of that from ``at`` to ``stop``) and whether they stand in quotes.

    A quote ends where a blank follows it; ``#`` begins a comment.

    >>> [(line[i:j], quoted) for line in [b"a 'b c' #d"] for i, j, quoted in words_of(line)]
    [(b'a', False), (b'b c', True)]
    """
    stop, open_ended = len(line) if stop is None else stop, set[bytes]()
    while (match := _WORD.search(line, at, stop)) is not None:
        at, first = match.start(), line[match.start() : match.start() + 1]
        if first == b"#":
            return
        if first in _QUOTES and first not in open_ended:
            close = _QUOTES[first].search(line, at + 1, stop)
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


def pieces(text: StarBytes, start: int, stop: int, columns: int) -> Iterator[Piece | BadRow]:
    """The rows of ``columns`` words in ``text`` from ``start`` to ``stop``; the last one may be a row that is none.

    A row begins in the line at ``start``.
    """
    at, rows, size = max(0, start - 1), 0, _LEAST  # with the line end before it: a text may begin the first row
    while at < stop:
        before, after = rows, _cut(text, at, stop, size)
        for piece in _piece(text.read(at, after), columns, rows, at, text.texts):
            yield piece
            if isinstance(piece, BadRow):
                return
            rows += len(piece.begin)
        size = min(_MOST, max(_LEAST, _WORDS * (after - at) // (columns * (rows - before) or 1)))
        at = after


def _cut(text: StarBytes, start: int, stop: int, size: int) -> int:
    """The end of a piece of ``size`` bytes or more: after a row."""
    while start + size < stop:
        cut = _whole_rows(text.read(start, start + size + 1), size, text.texts)
        if cut:
            return start + cut
        size *= 2
    return stop


def _whole_rows(found: bytes, size: int, texts: bool) -> int:
    """The last place before ``size`` where a line ends and its row does not go on in a text of several lines; or 0.

    >>> _whole_rows(b"1 a\\n2\\n;b\\n;\\n3 c", 12, True), _whole_rows(b"1 a\\n2\\n;b\\n;\\n3 c", 10, True)
    (11, 4)
    """
    if not texts:
        return found.rfind(b"\n", 0, size) + 1
    cut = after = 0
    while True:
        opened = found.find(TEXT, after, size + 1)
        cut = max(cut, found.rfind(b"\n", after, size if opened < 0 else opened) + 1)
        closed = found.find(TEXT, opened + 2, size + 1) if opened >= 0 else -1
        if closed < 0:
            return cut
        after = closed + 2


def _piece(raw: bytes, columns: int, rows: int, at: int, texts: bool) -> Iterator[Piece | BadRow]:
    """The rows of some whole lines, at once if they are plain; else part by part: most of a piece with a comment is."""
    found = _tokens(raw, columns, texts) if len(raw) <= 2 * _MOST else None
    if found is not None:
        if len(found.begin):
            yield found
        return
    for first, stop in _parts(raw, texts) if len(raw) <= 2 * _MOST else [(0, len(raw))]:
        part = raw[first:stop]
        found = _tokens(part, columns, texts) if len(part) < len(raw) and len(part) <= _MOST else None
        for piece in [found] if found is not None else _careful(part, columns, rows, at + first, texts):
            rows += len(piece.begin) if isinstance(piece, Piece) else 0
            yield piece
            if isinstance(piece, BadRow):
                return


def _parts(raw: bytes, texts: bool) -> Iterator[tuple[int, int]]:
    """Where parts of whole rows begin and end."""
    first = 0
    while first < len(raw):
        size = _PART
        while first + size < len(raw):
            cut = _whole_rows(raw[first : first + size + 1], size, texts)
            if cut:
                break
            size *= 2
        else:
            cut = len(raw) - first
        yield first, first + cut
        first += cut


def _padded(raw: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(b"\n" * PAD + raw + b"\n" * PAD, np.uint8)


def _tokens(raw: bytes, columns: int, texts: bool) -> Piece | None:
    """The rows where every line has its words, and no comment; None where it takes a closer look."""
    if texts and TEXT in raw:
        return None
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


def _careful(raw: bytes, columns: int, rows: int, at: int, texts: bool) -> Iterator[Piece | BadRow]:
    """The rows word by word, with comments, quotes and text of several lines."""
    letters, edges = bytearray(PAD), array("q", [PAD])  # the words one after another: lines may be long
    bad: BadRow | None = None
    position = row_at = count = 0
    head, head_quoted = b"", False
    while position < len(raw):
        if count == 0:
            row_at = position
        found: list[tuple[int, int, bool]] = []
        if texts and position and raw.startswith(TEXT, position - 1):
            found = [(position + 1, raw.find(TEXT, position), True)]
            position = found[0][1] + 2
        after = raw.find(b"\n", position) + 1 or len(raw)
        for i, j, quoted in chain(found, words_of(raw, position, after)):
            if count == 0:
                head, head_quoted = raw[i : min(j, i + _SHOWN)], quoted
            count += 1
            if count > columns + _COUNTED:
                break
            if count <= columns:
                while quoted and (end := raw.find(b"\r\n", i, j + 1)) >= 0:  # lines of a text end in LF
                    letters += raw[i:end]
                    i = end + 1
                letters += raw[i:j]
                edges.append(len(letters))
        position = after
        if count == 0 or (texts and count < columns and raw.startswith(TEXT, after - 1)):
            continue
        if count != columns or is_label(head, head_quoted) or (head == b"loop_" and not head_quoted):
            full = len(edges) - 1 - min(count, columns)  # words of the rows before
            bad = BadRow(rows + full // columns, at + row_at, count, head)
            del edges[full + 1 :]
            break
        count = 0
    if len(edges) > 1:
        letters += bytes(PAD)
        edge = np.frombuffer(edges, np.int64)
        shape = (-1, columns)
        yield Piece(np.frombuffer(letters, np.uint8), edge[:-1].reshape(shape), edge[1:].reshape(shape))
    if bad is not None:
        yield bad
