"""STAR files: tables in named blocks, as RELION writes them (Hall 1991, J. Chem. Inf. Comput. Sci. 31, 326)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoflow.errors import FormatError
from cryoflow.io.star.starbytes import StarBytes
from cryoflow.io.star.starsurvey import look_through
from cryoflow.io.star.starwrite import is_text, write_star
from cryoflow.io.star.words import decode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_text", "parse_star", "read_star", "write_star"]

_FAR = 8 << 20  # bytes of a remote file read at a time: by several connections
_COMMENTS, _ABOVE = 1000, 1 << 20  # comment lines kept above a block, and bytes they are looked for in
_LABELS, _APART = 10_000, 64  # labels in a file: as many, and one more for so many bytes


def read_star(path: str | Path) -> dict[str, pd.DataFrame]:
    """Read every block of a STAR file, in file order, as one table each; labels lose their leading underscore.

    Columns are whole numbers (int32, or int64 where it must), numbers (float64) or text; text that looks like a number
    stays text where the number would not give it back (``007``) and in columns of names. A simple list (label and value
    on one line, no ``loop_``) becomes a table of one row with ``attrs["list"]`` true. The name of a ``data_`` line
    without a name is ``""``. ``attrs["comments"]`` holds the comments above the block and ``attrs["version"]`` the
    number in RELION's own (0: none); ``write_star`` writes both again.

    The file is read in pieces and takes less than four times its size (docs/star.md has the figures). Text of tables of
    more than a quarter of a MB is held in ``WordColumn``, a column of pandas of few bytes a row; ``.astype(object)``
    makes Python's strings of it.

    Raises
    ------
    FormatError : not a STAR file, a duplicate label or block, a row with too few or too many values, or text of several
        lines without an end; the message names the file, the block, the row and the line.

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


def _read(text: StarBytes, where: str) -> dict[str, pd.DataFrame]:
    from cryoflow.io.star.starblock import read_block

    survey = look_through(text, where)
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
        blocks[name] = table = read_block(text, begin, stop, at, room=survey.room(begin, stop))
        table.attrs |= _comments(text, before, line)
        labels += len(table.columns)
        if labels > _LABELS + text.size // _APART:
            raise FormatError(at, expected=f"at most {_LABELS + text.size // _APART} labels in a file of this size",
                              found="more")  # fmt: skip
        before = begin
    return blocks


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
