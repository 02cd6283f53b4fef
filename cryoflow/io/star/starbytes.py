"""The bytes of a STAR file, a window at a time: a large file is never in memory as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["BLANKS", "StarBytes"]

BLANKS = b" \t\v\f\r"
_WINDOW = 1 << 20
_RETURN = re.compile(rb"\r(?!\n)")
_NOTHING = re.compile(rb"(?:[ \t\v\f\r]*+(?:#[^\n]*+)?+\n)*+")  # lines that are empty or comments


class StarBytes:
    """``size`` bytes that ``fetch`` reads from a start to a stop; the last window stays at hand.

    With ``returns``, carriage returns that end lines alone read as line feeds. With ``texts``, text of several lines
    may lie between lines that begin with ``;``.

    >>> text = StarBytes.of(b"data_\\n_a 1\\n")
    >>> text.find(b"\\n", 2, text.size), text.read(6, 10), text.line_of(6)
    (5, b'_a 1', 2)
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, window: int = _WINDOW) -> None:
        self._fetch, self.size, self.window = fetch, size, window
        self._held, self._at = b"", 0
        self._returns = False
        self.texts = False

    @classmethod
    def of(cls, data: bytes) -> StarBytes:
        """Bytes that are in memory already."""
        return cls(lambda start, stop: data[start:stop], len(data))

    @property
    def returns(self) -> bool:
        """Whether a carriage return alone ends a line."""
        return self._returns

    @returns.setter
    def returns(self, value: bool) -> None:
        self._returns, self._held = value, b""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``, fewer at the end of the file."""
        stop = min(stop, self.size)
        if start >= stop:
            return b""
        if start < self._at or stop > self._at + len(self._held):
            if stop - start > 2 * self.window:  # too much to keep
                return self._clean(start, stop)
            self._held, self._at = self._clean(start, min(self.size, max(stop, start + self.window))), start
        return self._held[start - self._at : stop - self._at]

    def _clean(self, start: int, stop: int) -> bytes:
        if not self._returns:
            return self._fetch(start, stop)
        data = self._fetch(start, min(self.size, stop + 1))  # what follows a CR at the end counts
        data = _RETURN.sub(b"\n", data) if b"\r\n" in data else data.replace(b"\r", b"\n")
        return data[: stop - start]

    def find(self, what: bytes, start: int, stop: int) -> int:
        """First position of ``what`` from ``start`` on, wholly before ``stop``; -1 where there is none."""
        more = len(what) - 1
        while start < stop:
            self.read(start, min(stop, start + len(what)))  # to have it at hand
            found = self._held.find(what, start - self._at, stop - self._at)
            if found >= 0:
                return self._at + found
            start = max(start + 1, self._at + len(self._held) - more)
        return -1

    def line_end(self, start: int, stop: int) -> int:
        """Where the line at ``start`` ends, at the latest at ``stop``."""
        found = self.find(b"\n", start, stop)
        return stop if found < 0 else found

    def skip_empty(self, start: int, stop: int) -> int:
        """The first line from ``start`` on that may hold more than blanks or a comment."""
        while start < stop:
            self.read(start, start + 1)
            match = _NOTHING.match(self._held, start - self._at, min(len(self._held), stop - self._at))
            after = self._at + match.end() if match else start
            if after == start:
                break
            start = after
        return start

    def line_begin(self, at: int, first: int = 0) -> int:
        """Where the line that holds ``at`` begins if nothing but blanks lies between; -1 otherwise.

        The first line begins at ``first``.
        """
        step = 64
        while at > first:
            piece = self.read(max(first, at - step), at)
            step = min(2 * step, self.window)
            rest = piece.rstrip(BLANKS)
            if rest:
                return at - len(piece) + len(rest) if rest.endswith(b"\n") else -1
            at -= len(piece)
        return first

    def line_of(self, position: int) -> int:
        """Number of the line at ``position``, from 1."""
        pieces = range(0, position, self.window)
        return 1 + sum(self.read(at, min(position, at + self.window)).count(b"\n") for at in pieces)
