"""A look through a STAR file before it is read: where its blocks begin, how its lines end, what lies in texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cryoflow.errors import FormatError
from cryoflow.io.star.starbytes import BLANKS, StarBytes
from cryoflow.io.star.startokens import TEXT
from cryoflow.io.star.words import decode

__all__ = ["Survey", "look_through"]

_BLOCKS, _FEW, _BLOCK = 10_000, 1000, 512  # in a file; a small one has few, and one more for so many bytes
_NAME = 1 << 12  # bytes of a block's name
_DATA, _BOM = b"data_", b"\xef\xbb\xbf"
_BEFORE = b"\n" + BLANKS + _BOM[-1:]


@dataclass(slots=True)
class Survey:
    """What a look through the file found: its blocks, and what its lines are like."""

    window: int  # bytes looked through at a time
    begin: int  # after the byte order mark
    heads: list[tuple[str, int, int]]  # name of every data_ line, where its name ends and where it begins
    lines: list[int]  # line ends before each window
    returns: bool = False  # whether a carriage return alone ends a line
    texts: bool = False  # whether there is text of several lines
    opened: int = -1  # where one of those began that has not ended yet
    after: int = 0  # where the last one began or ended

    def room(self, begin: int, stop: int) -> int:
        """Lines from ``begin`` to ``stop`` at most."""
        first, last = begin // self.window, -(-stop // self.window)
        return self.lines[min(last, len(self.lines) - 1)] - self.lines[first] + 1

    def outside(self, piece: bytes, start: int) -> Iterator[tuple[int, int]]:
        """Where the parts of ``piece`` (at ``start``) are that lie in no text of several lines."""
        at = max(0, self.after - start)
        while True:
            edge = piece.find(TEXT, at, self.window + 1)
            if self.opened < 0:
                yield at, edge if edge >= 0 else len(piece)
            if edge < 0:
                return
            self.opened, self.texts = (start + edge if self.opened < 0 else -1), True
            self.after, at = start + edge + 2, edge + 2


def look_through(text: StarBytes, where: str) -> Survey:
    """Find the blocks of a file, and let ``text`` know how its lines end and whether it has text of several lines.

    Raises
    ------
    FormatError : more blocks than any file has, or a text that does not end.
    """
    found = _look(text, where)
    if found.returns:
        text.returns = True
        found = _look(text, where)
    text.texts = found.texts
    if found.opened >= 0:
        raise FormatError(f"{where}, line {text.line_of(found.opened + 1)}", expected="a line with ; to end the text",
                          found="the end of the file")  # fmt: skip
    return found


def _look(text: StarBytes, where: str) -> Survey:
    """Once through the file (plain searches are the fastest)."""
    begin = len(_BOM) if text.read(0, len(_BOM)) == _BOM else 0
    found = Survey(text.window, begin, [], [0])
    most = min(_BLOCKS, _FEW + text.size // _BLOCK)
    for start in range(0, text.size, text.window):
        piece = text.read(start, start + text.window + len(_DATA) - 1)
        found.lines.append(found.lines[-1] + piece.count(b"\n", 0, text.window))
        if not text.returns and _returns(piece, last=start + len(piece) >= text.size):
            found.returns = True
            return found
        for first, last in found.outside(piece, start):
            for at in _places(piece, first, last):
                line = text.line_begin(start + at, begin)
                if line < 0 or (found.heads and found.heads[-1][2] == line):
                    continue
                name = _name(text, start + at + len(_DATA), where)
                found.heads.append((decode(name), start + at + len(_DATA) + len(name), line))
                if len(found.heads) > most:
                    raise FormatError(where, expected=f"at most {most} blocks in a file of this size", found="more")
    return found


def _places(piece: bytes, first: int, last: int) -> Iterator[int]:
    """Where words from ``first`` to ``last`` begin with ``data_``."""
    at = piece.find(_DATA, first, last)
    while at >= 0:
        if at == 0 or piece[at - 1] in _BEFORE:
            yield at
        at = piece.find(_DATA, at + len(_DATA), last)


def _returns(piece: bytes, *, last: bool) -> bool:
    """Whether a carriage return alone ends a line, as on old Macs; that at the end may go on in the next piece."""
    known = len(piece) if last else len(piece) - piece.endswith(b"\r")
    return b"\r" in piece and piece.count(b"\r", 0, known) > piece.count(b"\r\n")


def _name(text: StarBytes, start: int, where: str) -> bytes:
    found = text.read(start, start + _NAME)
    name = re.split(rb"[ \t\n\v\f\r]", found, maxsplit=1)[0]
    if len(name) == _NAME:
        raise FormatError(f"{where}, line {text.line_of(start)}", expected="a name of a block",
                          found=f"{_NAME} letters and more")  # fmt: skip
    return name
