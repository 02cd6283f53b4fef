"""The rows of a large STAR table, read in one pass over the bytes by a compiled scanner.

Numbers are right to the last bit: up to nineteen digits and powers of ten up to 10^22 by exact arithmetic in pairs of
doubles (Dekker 1971, Numer. Math. 18:224), the few others by Python's own ``float``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Scan", "scan_rows"]

_POWERS = 10.0 ** np.arange(23)
_INTEGER, _REAL, _TEXT = 0, 1, 2
_PIECE = 65536  # rows scanned at a time
_CELLS = 1 << 20  # words of a piece at most
_WIDE = 4096  # bytes of a word beyond which words are no longer cut out side by side
_STRINGS = np.dtypes.StringDType()


@dataclass(frozen=True, slots=True)
class Scan:
    """``kinds`` of the columns ("i", "f" or "t") and the columns: numbers, or text (a list, or NumPy's strings)."""

    kinds: str
    columns: list[NDArray[np.float64] | NDArray[Any] | list[str]]


class _Unfit(Exception):
    """Words that NumPy's strings do not hold (not UTF-8), or too long to lie side by side."""


def scan_rows(
    data: bytes, start: int, stop: int, is_text: list[bool], *, compact: bool = False
) -> Scan | tuple[int, int]:
    """Scan rows of ``len(is_text)`` words in ``data[start:stop]``; number and position of a row that is not one.

    A column with a word that is not a number is text, and so is one of whole numbers with leading zeros or of more than
    53 bits: nothing is lost. ``compact`` gives text as NumPy's variable-width strings where those can hold it.

    >>> found = scan_rows(b"1 a 2.5\\n2 a 1e3\\n", 0, 16, [False, True, False])
    >>> found.kinds, [np.asarray(column).tolist() for column in found.columns]
    ('itf', [[1.0, 2.0], ['a', 'a'], [2.5, 1000.0]])
    """
    words = np.array(is_text, np.bool_)
    compact = compact and b"\0" not in data
    while True:
        kinds, exact = np.where(words, _TEXT, _INTEGER), np.ones(len(words), np.bool_)
        try:
            columns = _columns(data, start, stop, words, kinds, exact, compact)
        except _Unfit:
            compact = False
            continue
        if isinstance(columns, tuple):
            return columns
        kinds[(kinds == _INTEGER) & ~exact] = _TEXT
        if not (kinds[~words] == _TEXT).any():
            return Scan("".join("ift"[k] for k in kinds), columns)
        words = kinds == _TEXT  # columns that turned out to be text: once more


def _columns(
    data: bytes, start: int, stop: int, words: NDArray[np.bool_], kinds: NDArray[np.int64], exact: NDArray[np.bool_],
    compact: bool,
) -> list[Any] | tuple[int, int]:  # fmt: skip
    """The columns, a piece of rows at a time; given up early (``kinds`` tell) at a word in a column of numbers."""
    view = np.frombuffer(data, np.uint8)
    # a row takes a letter and a blank for each word: what a file cannot hold is never allocated
    room = min(data.count(b"\n", start, stop) + 1, (stop - start + 1) // (2 * len(words)))
    piece = max(1, min(room, _PIECE, _CELLS // len(words)))
    slot = np.where(words, np.cumsum(words), np.cumsum(~words)) - 1
    numbers = np.empty((int((~words).sum()), piece))
    begin = np.empty((int(words.sum()), piece), np.int64)
    length = np.empty(begin.shape, np.int32)
    columns: list[Any] = [
        np.empty(room) if not is_word else np.empty(room, _STRINGS) if compact else [] for is_word in words
    ]
    hard = np.empty((0, 4), np.int64)
    at, rows = start, 0
    while at < stop:
        count, bad, difficult, after = _scan(
            view, at, stop, piece, words, slot, kinds, exact, numbers, begin, length, hard, _POWERS
        )  # fmt: skip
        if bad >= 0:
            return rows + int(count), int(bad)
        if (kinds[~words] == _TEXT).any():
            return columns
        if difficult > len(hard):
            hard = np.empty((difficult, 4), np.int64)
            continue
        for column, row, low, high in hard[:difficult].tolist():
            numbers[column, row] = float(data[low:high])
        for column, is_word, place in zip(columns, words, slot, strict=True):
            if not is_word:
                column[rows : rows + count] = numbers[place, :count]
            elif compact:
                _strings(view, begin[place, :count], length[place, :count], column[rows : rows + count])
            else:
                column += _list(data, begin[place, :count], length[place, :count])
        at, rows = after, rows + count
    return [column[:rows] if isinstance(column, np.ndarray) else column for column in columns]


def _strings(data: NDArray[np.uint8], begin: NDArray[np.int64], length: NDArray[np.int32], out: NDArray[Any]) -> None:
    """Words as NumPy's strings, by way of words of equal width."""
    width = max(1, int(length.max(initial=0)))
    if width > _WIDE:
        raise _Unfit
    rows = max(1, (1 << 22) // width)
    left, size = 0, 0
    for first in range(0, len(begin), rows):
        letters = np.zeros((min(rows, len(begin) - first), width), np.uint8)
        left, size = _cut(data, begin[first : first + rows], length[first : first + rows], left, size, letters)
        if letters.max(initial=0) > 127:
            try:
                letters.tobytes().decode()
            except UnicodeDecodeError:
                raise _Unfit from None
        out[first : first + rows] = letters.view(f"S{width}")[:, 0]


def _list(data: bytes, begin: NDArray[np.int64], length: NDArray[np.int32]) -> list[str]:
    """Words as Python's; equal neighbours share one object."""
    new = np.flatnonzero(length >= 0)
    low = int(begin[new[0]]) if len(new) else 0
    high = int(begin[new[-1]] + length[new[-1]]) if len(new) else 0
    piece = data[low:high]
    pairs = zip((begin - low).tolist(), (begin - low + length).tolist(), length.tolist(), strict=True)
    word = ""
    if piece.isascii():
        letters = piece.decode("ascii")
        return [word := letters[i:j] if n >= 0 else word for i, j, n in pairs]
    return [word := piece[i:j].decode("utf-8", "surrogateescape") if n >= 0 else word for i, j, n in pairs]


@numba.njit(nogil=True, cache=True)
def _cut(data, begin, length, left, size, out):  # type: ignore[no-untyped-def]
    """Copy words, one a row of ``out``; a length of -1 is the word above, at first that at ``left``."""
    for row in range(len(begin)):
        if length[row] >= 0:
            left, size = begin[row], length[row]
        for i in range(size):
            out[row, i] = data[left + i]
    return left, size


@numba.njit(nogil=True, cache=True, inline="always")
def _blank(c):  # type: ignore[no-untyped-def]
    return c == 32 or 9 <= c <= 13


@numba.njit(nogil=True, cache=True)
def _scan(data, start, stop, room, words, slot, kinds, exact, numbers, begin, length, hard, powers):  # type: ignore[no-untyped-def]
    """Fill the arrays with up to ``room`` rows: (rows, position of a bad row or -1, numbers too difficult, the end).

    ``begin`` and ``length`` tell where words lie; a length of -1 means the word of the row above.
    """
    columns = len(words)
    last = np.zeros((len(begin), 2), np.int64)  # the word above in each column of text
    at, row, difficult = start, 0, 0
    while at < stop and row < room:
        if _blank(data[at]):
            at += 1
            continue
        if data[at] == 35:  # a comment
            at = _line_end(data, at, stop)
            continue
        first, column = at, 0
        if data[at] == 95 or _is_loop(data, at, stop):  # a label or a loop_ where a row should be
            return row, first, difficult, at
        while True:
            while at < stop and data[at] != 10 and _blank(data[at]):
                at += 1
            if at < stop and data[at] == 35:
                at = _line_end(data, at, stop)
            if at >= stop or data[at] == 10:
                break
            if column == columns:
                return row, first, difficult, at
            left, right, at = _word(data, at, stop)
            place = slot[column]
            if words[column]:
                size = right - left
                same = row > 0 and last[place, 1] == size and _equal(data, left, last[place, 0], size)
                begin[place, row], length[place, row] = left, -1 if same else size
                last[place, 0], last[place, 1] = left, size
            elif kinds[column] != _TEXT:
                value, kind, plain, easy = _number(data, left, right, powers)
                kinds[column] = max(kinds[column], kind)
                exact[column] &= plain
                numbers[place, row] = value
                if not easy:
                    if difficult < len(hard):
                        hard[difficult, 0], hard[difficult, 1] = place, row
                        hard[difficult, 2], hard[difficult, 3] = left, right
                    difficult += 1
            column += 1
        if column < columns:
            return row, first, difficult, at
        row += 1
    return row, -1, difficult, at


@numba.njit(nogil=True, cache=True)
def _line_end(data, at, stop):  # type: ignore[no-untyped-def]
    while at < stop and data[at] != 10:
        at += 1
    return at


@numba.njit(nogil=True, cache=True)
def _is_loop(data, at, stop):  # type: ignore[no-untyped-def]
    word = at + 5 <= stop and data[at] == 108 and data[at + 1] == 111 and data[at + 2] == 111 and data[at + 3] == 112
    return word and data[at + 4] == 95 and (at + 5 == stop or _blank(data[at + 5]))


@numba.njit(nogil=True, cache=True)
def _word(data, at, stop):  # type: ignore[no-untyped-def]
    """Begin and end of the word at ``at``, and where to go on; a quote ends where a blank follows it."""
    quote = data[at]
    if quote == 34 or quote == 39:
        after = at + 1
        while after < stop and data[after] != 10:
            if data[after] == quote and (after + 1 == stop or _blank(data[after + 1])):
                return at + 1, after, after + 1
            after += 1
    after = at + 1
    while after < stop and not _blank(data[after]):
        after += 1
    return at, after, after


@numba.njit(nogil=True, cache=True)
def _equal(data, a, b, size):  # type: ignore[no-untyped-def]
    for i in range(size):  # noqa: SIM110
        if data[a + i] != data[b + i]:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def _number(data, at, stop, powers):  # type: ignore[no-untyped-def]
    """Value, kind, whether a whole number is plain (no leading zeros, 53 bits), and whether the value is exact."""
    negative = False
    if at < stop and (data[at] == 45 or data[at] == 43):
        negative = data[at] == 45
        at += 1
    first = at
    mantissa, used, shift = np.uint64(0), 0, 0
    digits, point, power = 0, -1, 0
    while at < stop:
        c = data[at]
        if 48 <= c <= 57:
            digits += 1
            if used < 19:
                mantissa = mantissa * np.uint64(10) + np.uint64(c - 48)
                if mantissa > 0:
                    used += 1
            else:
                shift += 1
        elif c == 46 and point < 0:
            point = digits
        else:
            break
        at += 1
    if digits == 0:
        return _special(data, first, stop, negative)
    whole = point < 0
    if at < stop and (data[at] == 101 or data[at] == 69):
        whole = False
        at += 1
        minus = at < stop and data[at] == 45
        if at < stop and (data[at] == 45 or data[at] == 43):
            at += 1
        if at == stop:
            return 0.0, _TEXT, False, True
        while at < stop and 48 <= data[at] <= 57:
            power = min(power * 10 + int(data[at] - 48), 100000)
            at += 1
        power = -power if minus else power
    if at < stop:
        return 0.0, _TEXT, False, True
    plain = not whole or (used <= 16 and mantissa <= np.uint64(1 << 53) and (data[first] != 48 or digits == 1))
    tens = power - (digits - point if point >= 0 else 0) + shift
    easy = shift == 0 and -22 <= tens <= 22
    value = _scaled(mantissa, tens, powers) if easy else 0.0
    return -value if negative else value, _INTEGER if whole else _REAL, plain, easy


@numba.njit(nogil=True, cache=True)
def _scaled(mantissa, tens, powers):  # type: ignore[no-untyped-def]
    """mantissa * 10^tens, rounded once."""
    high = np.float64(mantissa)
    if mantissa <= np.uint64(1 << 53):
        return high / powers[-tens] if tens < 0 else high * powers[tens]
    back = np.uint64(high)
    low = np.float64(mantissa - back) if mantissa >= back else -np.float64(back - mantissa)
    if tens >= 0:
        top, rest = _product(high, powers[tens])
        return top + (rest + low * powers[tens])
    quotient = high / powers[-tens]
    top, rest = _product(quotient, powers[-tens])
    return quotient + (((high - top) - rest) + low) / powers[-tens]


@numba.njit(nogil=True, cache=True)
def _product(a, b):  # type: ignore[no-untyped-def]
    """a * b as an unevaluated sum of two doubles."""
    p = a * b
    t = 134217729.0 * a
    ah = t - (t - a)
    al = a - ah
    t = 134217729.0 * b
    bh = t - (t - b)
    bl = b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


@numba.njit(nogil=True, cache=True)
def _special(data, at, stop, negative):  # type: ignore[no-untyped-def]
    """nan, inf and infinity in any case; everything else is text."""
    size = stop - at
    if size == 3 or size == 8:
        a, b, c = data[at] | 32, data[at + 1] | 32, data[at + 2] | 32
        if size == 3 and a == 110 and b == 97 and c == 110:
            return np.nan, _REAL, True, True
        if a == 105 and b == 110 and c == 102:
            rest = size == 3
            if size == 8:
                d, e, f = data[at + 3] | 32, data[at + 4] | 32, data[at + 5] | 32
                rest = d == 105 and e == 110 and f == 105 and (data[at + 6] | 32) == 116 and (data[at + 7] | 32) == 121
            if rest:
                return (-np.inf if negative else np.inf), _REAL, True, True
    return 0.0, _TEXT, False, True
