"""STAR files: tables in named blocks, as RELION writes them (Hall 1991, J. Chem. Inf. Comput. Sci. 31, 326)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoflow.errors import FormatError
from cryoflow.io.star.starwrite import is_text, write_star

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["is_text", "parse_star", "read_star", "write_star"]

_TOKEN = re.compile(
    r'"((?:[^"]|"(?![ \t\n\v\f\r]|$))*)"(?=[ \t\n\v\f\r]|$)|\'((?:[^\']|\'(?![ \t\n\v\f\r]|$))*)\'(?=[ \t\n\v\f\r]|$)'
    r"|([^ \t\n\v\f\r]+)"
)
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_REAL = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)
_SMALL = 1 << 19  # bytes of a table below which the plain reader costs less than loading the compiled one
_COMMENTS = 1000  # comment lines kept above a block
_MARK = "\x01"  # stands around the number of a text field


def read_star(path: str | Path, *, compact: bool = False) -> dict[str, pd.DataFrame]:
    """Read every block of a STAR file, in file order, as one table each; labels lose their leading underscore.

    Columns are whole numbers (int64), numbers (float64) or text; text that looks like a number stays text where the
    number would not give it back (``007``) and in columns of names. A simple list (label and value on one line, no
    ``loop_``) becomes a table of one row with ``attrs["list"]`` true. The name of a ``data_`` line without a name is
    ``""``. ``attrs["comments"]`` holds the comments above the block and ``attrs["version"]`` the number in RELION's
    own (0: none); ``write_star`` writes both again. ``compact`` holds the text of large tables in ``Words`` columns,
    NumPy's strings in a third of the memory of Python's.

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
    if "://" in str(path):
        from cryoflow.io.sources.source import open_source

        source = open_source(str(path))
        return parse_star(source.read(0, source.size), str(path), compact=compact)
    if not Path(path).is_file():
        raise FormatError(
            str(path), expected="a STAR file", found="a folder" if Path(path).is_dir() else "no such file"
        )
    return parse_star(Path(path).read_bytes(), str(path), compact=compact)


def parse_star(data: bytes, where: str = "STAR text", *, compact: bool = False) -> dict[str, pd.DataFrame]:
    """Like ``read_star``, of bytes; ``where`` names them in errors.

    >>> parse_star(b"data_general\\n_rlnImageSizeX 3838\\n")["general"].rlnImageSizeX.item()
    3838
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    fields: dict[str, str] = {}
    if b"\n;" in data:
        data = _take_fields(data, fields, where)
    heads = list(_heads(data))
    if not heads:
        found = "an empty file" if not data.strip() else f"text starting with {data[:40]!r}"
        raise FormatError(where, expected="a STAR file with at least one data_ block", found=found)
    blocks: dict[str, pd.DataFrame] = {}
    before = 0
    for (name, begin, line), (_, _, stop) in zip(heads, [*heads[1:], ("", 0, len(data))], strict=True):
        at = f"{where}, block data_{name}"
        if name in blocks:
            raise FormatError(f"{at}, line {_line_of(data, begin)}", expected="one block of this name",
                              found="a second one")  # fmt: skip
        blocks[name] = table = _read_block(data, begin, stop, at, compact)
        table.attrs |= _comments(data, before, line)
        if fields:
            _put_fields(table, fields)
        before = begin
    return blocks


def _heads(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Name of every ``data_`` line, where its name ends and where it begins (a plain search is the fastest)."""
    at = data.find(b"data_")
    while at >= 0:
        begin = data.rfind(b"\n", 0, at) + 1
        after = at + 5
        if not data[begin:at].strip():
            while after < len(data) and data[after] not in b" \t\n\v\f":
                after += 1
            yield _decode(data[at + 5 : after]), after, begin
        at = data.find(b"data_", after)


def _comments(data: bytes, start: int, stop: int) -> dict[str, Any]:
    """The comment lines right above ``stop``, and the number in RELION's own."""
    comments: list[str] = []
    version = 0
    while stop > start and len(comments) < _COMMENTS:
        begin = max(data.rfind(b"\n", start, stop - 1) + 1, start)
        line = data[begin:stop].strip()
        if line and not line.startswith(b"#"):
            break
        own = re.fullmatch(rb"# version (\d{1,9})", line)
        if own:
            version = int(own[1])
        elif line:
            comments.append(_decode(line))
        stop = begin
    return {"comments": comments[::-1], "version": version}


def _take_fields(data: bytes, fields: dict[str, str], where: str) -> bytes:
    """Replace text of several lines (between lines that begin with ``;``) by marks; lines keep their numbers."""
    parts: list[bytes] = []
    position, owed = 0, 0
    while True:
        begin = data.find(b"\n;", position)
        piece = data[position : begin if begin >= 0 else len(data)]
        if owed and (b"\n" in piece or begin >= 0):
            piece, owed = (piece.replace(b"\n", b"\n" * (owed + 1), 1) if b"\n" in piece else piece + b"\n" * owed), 0
        parts.append(piece)
        if begin < 0:
            return b"".join(parts)
        end = data.find(b"\n;", begin + 2)
        if end < 0:
            raise FormatError(f"{where}, line {_line_of(data, begin + 1)}", expected="a line with ; to end the text",
                              found="the end of the file")  # fmt: skip
        mark = f"{_MARK}{len(fields)}{_MARK}"
        fields[mark] = _decode(data[begin + 2 : end])
        parts.append(f"\n{mark} ".encode())
        owed = data.count(b"\n", begin + 1, end + 1)
        position = end + 2


def _put_fields(table: pd.DataFrame, fields: dict[str, str]) -> None:
    for label in table:
        if table[label].dtype.kind == "O":
            table[label] = _as_text([fields.get(word, word) for word in table[label]])


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def _split(line: str) -> list[tuple[str, bool]]:
    """Words of a line and whether they stood in quotes; ``#`` at the start of a word ends the line."""
    words: list[tuple[str, bool]] = []
    for match in _TOKEN.finditer(line):
        plain = match[3]
        if plain is None:
            words.append((match[1] if match[1] is not None else match[2], True))
        elif plain[0] == "#":
            break
        else:
            words.append((plain, False))
    return words


def _read_block(data: bytes, start: int, stop: int, where: str, compact: bool) -> pd.DataFrame:
    import pandas as pd

    labels: list[str] = []
    values: list[str] = []
    loop = False
    position = start
    while position < stop:  # labels (and values, in a simple list) up to the first row of a loop
        end = data.find(b"\n", position, stop)
        end = stop if end < 0 else end
        words = _split(_decode(data[position:end]))
        if words and loop and labels and not _is_label(words[0]):
            if words[0] == ("loop_", False):
                break
            return _read_rows(data, position, stop, labels, where, compact)
        while words:
            at = f"{where}, line {_line_of(data, position)}"
            word = words.pop(0)
            if word == ("loop_", False) and not loop and not labels:
                loop = True
                continue
            if not _is_label(word):
                second = word == ("loop_", False)
                raise FormatError(
                    at, expected="one loop_ or one list in a block" if second else "a label, loop_ or a comment",
                    found="a second one" if second else word[0][:60],
                    remedy="Split the block in two data_ blocks." if second else "Put text with blanks in quotes.",
                )  # fmt: skip
            label = word[0][1:]
            if label in labels:
                raise FormatError(at, expected="distinct labels", found=f"_{label} twice")
            if any("\udc80" <= letter <= "\udcff" for letter in label):
                raise FormatError(at, expected="a label in UTF-8", found=repr(label)[:60])
            labels.append(label)
            if not loop:
                if not words and data.startswith(_MARK.encode(), end + 1, stop):  # text on the lines below
                    position, end = end + 1, data.find(b"\n", end + 1, stop)
                    end = stop if end < 0 else end
                    words = _split(_decode(data[position:end]))
                if not words:
                    raise FormatError(at, expected=f"a value of _{label}", found="none")
                values.append(words.pop(0)[0])
        position = end + 1
    if position < stop:
        raise FormatError(f"{where}, line {_line_of(data, position)}", expected="one loop_ or one list in a block",
                          found="a second one", remedy="Split the block in two data_ blocks.")  # fmt: skip
    if loop:
        return pd.DataFrame({label: pd.Series([], dtype="str" if is_text(label) else "float64") for label in labels})
    table = pd.DataFrame({label: _column(label, [value]) for label, value in zip(labels, values, strict=True)})
    table.attrs["list"] = True
    return table


def _is_label(word: tuple[str, bool]) -> bool:
    return word[0].startswith("_") and not word[1]


def _read_rows(data: bytes, start: int, stop: int, labels: list[str], where: str, compact: bool) -> pd.DataFrame:
    import pandas as pd

    if stop - start < _SMALL or data.find(_MARK.encode(), start, stop) >= 0:
        columns = _plain_rows(data, start, stop, labels, where)
    else:
        columns = _compiled_rows(data, start, stop, labels, where, compact)
    return pd.DataFrame(columns, copy=False)


def _plain_rows(data: bytes, start: int, stop: int, labels: list[str], where: str) -> dict[str, Any]:
    rows: list[list[str]] = []
    words: list[tuple[str, bool]] = []
    position = begin = start
    lines = _decode(data[start:stop]).split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not words:
            begin = position
        words += _split(line)
        position += len(line.encode("utf-8", "surrogateescape")) + 1
        if not words or (len(words) < len(labels) and following.startswith(_MARK)):
            continue
        if len(words) != len(labels) or _is_label(words[0]) or words[0] == ("loop_", False):
            raise _bad_row(data, begin, words, len(rows), labels, where)
        rows.append([word for word, _ in words])
        words = []
    return {label: _column(label, [row[i] for row in rows]) for i, label in enumerate(labels)}


def _compiled_rows(data: bytes, start: int, stop: int, labels: list[str], where: str, compact: bool) -> dict[str, Any]:
    import numpy as np

    from cryoflow.io.star.starscan import scan_rows
    from cryoflow.io.star.words import Words

    scan = scan_rows(data, start, stop, [is_text(label) for label in labels], compact=compact)
    if isinstance(scan, tuple):
        row, position = scan
        end = data.find(b"\n", position, stop)
        words = _split(_decode(data[position : end if end >= 0 else stop]))
        raise _bad_row(data, position, words, row, labels, where)
    columns: dict[str, Any] = {}
    for label, kind in zip(labels, scan.kinds, strict=True):
        column: Any = scan.columns.pop(0)
        if kind == "i":
            columns[label] = column.astype(np.int64)
        elif kind == "f":
            columns[label] = column
        elif _WHOLE.fullmatch(column[0]) and not is_text(label):  # beyond 53 bits, or with leading zeros
            columns[label] = _column(label, list(column))
        else:
            columns[label] = Words(column) if isinstance(column, np.ndarray) else _as_text(column)
    return columns


def _bad_row(
    data: bytes, position: int, words: list[tuple[str, bool]], row: int, labels: list[str], where: str
) -> FormatError:
    short = len(words) != len(labels)
    return FormatError(
        f"{where}, row {row + 1} (line {_line_of(data, position)})", expected=f"{len(labels)} values",
        found=f"{len(words)}" if short else repr(words[0][0]),
        remedy="The file is truncated or damaged there; write or download it again." if short
        else "Split the block in two data_ blocks, or put text that begins with _ in quotes.",
    )  # fmt: skip


def _column(label: str, words: list[str]) -> np.ndarray[Any, Any] | pd.Series[Any]:
    """Whole numbers, numbers or text: the first that all words are and that gives them back."""
    import numpy as np

    if not is_text(label):
        if all(map(_WHOLE.fullmatch, words)):
            try:
                return np.array(list(map(int, words)), np.int64)
            except (OverflowError, ValueError):  # beyond 64 bits, or beyond the digits Python reads
                return _as_text(words)
        # whole numbers with leading zeros are names
        if all(map(_REAL.fullmatch, words)) and not all(word.lstrip("+-").isdigit() for word in words):
            return np.array(list(map(float, words)), np.float64)
    return _as_text(words)


def _as_text(words: list[str]) -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    column = np.empty(len(words), object)
    column[:] = words
    return pd.Series(column, dtype=object)
