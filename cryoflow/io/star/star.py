"""STAR files: tables in named blocks, as RELION writes them (Hall 1991, J. Chem. Inf. Comput. Sci. 31, 326)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoflow.errors import FormatError
from cryoflow.io.star.starbytes import BLANKS, StarBytes
from cryoflow.io.star.startokens import TEXT
from cryoflow.io.star.starwrite import is_text, write_star
from cryoflow.io.star.words import decode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_text", "parse_star", "read_star", "write_star"]

_FAR = 8 << 20  # bytes of a remote file read at a time: by several connections
_COMMENTS, _ABOVE = 1000, 1 << 20  # comment lines kept above a block, and bytes they are looked for in
_BLOCKS = 10_000  # in a file
_LABELS, _APART = 10_000, 64  # labels in a file: as many, and one more for so many bytes
_NAME = 1 << 12  # bytes of a block's name
_DATA, _BOM = b"data_", b"\xef\xbb\xbf"


def read_star(path: str | Path) -> dict[str, pd.DataFrame]:
    """Read every block of a STAR file, in file order, as one table each; labels lose their leading underscore.

    Columns are whole numbers (int32, or int64 where it must), numbers (float64) or text; text that looks like a number
    stays text where the number would not give it back (``007``) and in columns of names. A simple list (label and value
    on one line, no ``loop_``) becomes a table of one row with ``attrs["list"]`` true. The name of a ``data_`` line
    without a name is ``""``. ``attrs["comments"]`` holds the comments above the block and ``attrs["version"]`` the
    number in RELION's own (0: none); ``write_star`` writes both again.

    The file is read in pieces and takes less than four times its size. Text of tables of more than a quarter of a MB is
    held in ``WordColumn``, a column of pandas of few bytes a row; ``.astype(object)`` makes Python's strings of it.

    Raises
    ------
    FormatError : not a STAR file, a duplicate label or block, or a row with too few or too many values; the message
        names the file, the block, the row and the line.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> star = pathlib.Path(tempfile.mkdtemp()) / "a.star"
    >>> _ = star.write_text("data_optics\\nloop_\\n_rlnVoltage #1\\n_rlnOpticsGroup #2\\n300.0 1\\n200.0 2\\n")
    >>> read_star(star)["optics"].rlnVoltage.tolist()
    [300.0, 200.0]
    """
    from cryoflow.io.sources.source import is_remote, open_source

    far = is_remote(path)
    if not far and not Path(path).is_file():
        raise FormatError(
            str(path), expected="a STAR file", found="a folder" if Path(path).is_dir() else "no such file"
        )
    source = open_source(str(path))
    text = StarBytes(source.read, source.size, _FAR) if far else StarBytes(source.read, source.size)
    return _read(text, str(path))


def parse_star(data: bytes, where: str = "STAR text") -> dict[str, pd.DataFrame]:
    """Like ``read_star``, of bytes; ``where`` names them in errors.

    >>> parse_star(b"data_general\\n_rlnImageSizeX 3838\\n")["general"].rlnImageSizeX.item()
    3838
    """
    return _read(StarBytes.of(data), where)


@dataclass(slots=True)
class _Survey:
    """What a look through the file found."""

    begin: int  # after the byte order mark
    heads: list[tuple[str, int, int]]  # name of every data_ line, where its name ends and where it begins
    lines: list[int]  # line ends before each window
    returns: bool = False  # whether a carriage return alone ends a line
    texts: bool = False  # whether there is text of several lines
    opened: int = -1  # where one of those began that has not ended yet
    after: int = 0  # where the last one began or ended

    def outside(self, piece: bytes, start: int, window: int) -> Iterator[tuple[int, int]]:
        """Where the parts of ``piece`` (at ``start``) are that lie in no text of several lines."""
        at = max(0, self.after - start)
        while True:
            edge = piece.find(TEXT, at, window + 1)
            if self.opened < 0:
                yield at, edge if edge >= 0 else len(piece)
            if edge < 0:
                return
            self.opened, self.texts = (start + edge if self.opened < 0 else -1), True
            self.after, at = start + edge + 2, edge + 2


def _read(text: StarBytes, where: str) -> dict[str, pd.DataFrame]:
    from cryoflow.io.star.starblock import read_block

    survey = _survey(text, where)
    if survey.returns:
        text.returns = True
        survey = _survey(text, where)
    text.texts = survey.texts
    if survey.opened >= 0:
        raise FormatError(f"{where}, line {text.line_of(survey.opened + 1)}", expected="a line with ; to end the text",
                          found="the end of the file")  # fmt: skip
    heads = survey.heads
    if not heads:
        top = text.read(survey.begin, survey.begin + 40)
        empty = not any(text.read(at, at + text.window).strip() for at in range(0, text.size, text.window))
        raise FormatError(where, expected="a STAR file with at least one data_ block",
                          found="an empty file" if empty else f"text starting with {top!r}")  # fmt: skip
    blocks: dict[str, pd.DataFrame] = {}
    before, labels = survey.begin, 0
    for (name, begin, line), (_, _, stop) in zip(heads, [*heads[1:], ("", 0, text.size)], strict=True):
        at = f"{where}, block data_{name}"
        if name in blocks:
            raise FormatError(f"{at}, line {text.line_of(begin)}", expected="one block of this name",
                              found="a second one")  # fmt: skip
        first, last = begin // text.window, -(-stop // text.window)
        room = survey.lines[min(last, len(survey.lines) - 1)] - survey.lines[first] + 1
        blocks[name] = table = read_block(text, begin, stop, at, room=room)
        table.attrs |= _comments(text, before, line)
        labels += len(table.columns)
        if labels > _LABELS + text.size // _APART:
            raise FormatError(at, expected=f"at most {_LABELS + text.size // _APART} labels in a file of this size",
                              found="more")  # fmt: skip
        before = begin
    return blocks


def _survey(text: StarBytes, where: str) -> _Survey:
    """Look through the file once (plain searches are the fastest)."""
    begin = len(_BOM) if text.read(0, len(_BOM)) == _BOM else 0
    found = _Survey(begin, [], [0])
    for start in range(0, text.size, text.window):
        piece = text.read(start, start + text.window + len(_DATA) - 1)
        found.lines.append(found.lines[-1] + piece.count(b"\n", 0, text.window))
        if not text.returns and _returns(piece, last=start + len(piece) >= text.size):
            found.returns = True
            return found
        for first, last in found.outside(piece, start, text.window):
            at = piece.find(_DATA, first, last)
            while at >= 0:
                if at == 0 or piece[at - 1] in b"\n" + BLANKS or start + at == begin:
                    line = text.line_begin(start + at, begin)
                    if line >= 0 and not (found.heads and found.heads[-1][2] == line):
                        name = _name(text, start + at + len(_DATA), where)
                        found.heads.append((decode(name), start + at + len(_DATA) + len(name), line))
                at = piece.find(_DATA, at + len(_DATA), last)
        if len(found.heads) > _BLOCKS:
            raise FormatError(where, expected=f"at most {_BLOCKS} blocks", found="more")
    return found


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


def _comments(text: StarBytes, start: int, stop: int) -> dict[str, Any]:
    """The comment lines right above ``stop``, and the number in RELION's own."""
    comments: list[str] = []
    version = 0
    for line in _lines_above(text.read(max(start, stop - _ABOVE), stop)):
        if line and not line.startswith(b"#"):
            break
        own = re.fullmatch(rb"# version (\d{1,9})", line)
        if own:
            version = int(own[1])
        elif line:
            comments.append(decode(line))
        if len(comments) == _COMMENTS:
            break
    return {"comments": comments[::-1], "version": version}


def _lines_above(data: bytes) -> Iterator[bytes]:
    stop = len(data)
    while stop > 0:
        begin = data.rfind(b"\n", 0, stop - 1) + 1
        yield data[begin:stop].strip()
        stop = begin
