"""STAR files: tables in named blocks, as RELION writes them (Hall 1991, J. Chem. Inf. Comput. Sci. 31, 326)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoflow.errors import FormatError
from cryoflow.io.files import atomic

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_text", "read_star", "write_star"]

_TOKEN = re.compile(r'"((?:[^"]|"(?!\s|$))*)"(?=\s|$)|\'((?:[^\']|\'(?!\s|$))*)\'(?=\s|$)|(\S+)')
# text that must be quoted: empty, with blanks, or starting like something else of the format
_QUOTED = re.compile(r"\s|^[\"'#_;]|^data_|^loop_|^$")
_NOT_A_NUMBER = ["nan", "NaN", "NAN", "-nan", "-NaN"]
# labels whose values are text even where they look like numbers ("0001" is a name)
_TEXT = re.compile(r"Name|ReferenceImage|CtfImage|Zernike|Reason$")


def is_text(label: str) -> bool:
    """Whether values of ``label`` are text whatever they look like.

    >>> is_text("rlnMicrographName"), is_text("rlnDefocusU")
    (True, False)
    """
    return _TEXT.search(label) is not None


def read_star(path: str | Path) -> dict[str, pd.DataFrame]:
    """Read every block of a STAR file, in file order, as one table each; labels lose their leading underscore.

    A simple list (label and value on one line, no ``loop_``) becomes a table of one row with ``attrs["list"]`` true.
    The name of a ``data_`` line without a name is ``""``.

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
    path = Path(path)
    data = path.read_bytes()
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    heads = list(_heads(data))
    if not heads:
        found = "an empty file" if not data.strip() else f"text starting with {data[:40]!r}"
        raise FormatError(str(path), expected="a STAR file with at least one data_ block", found=found)
    blocks: dict[str, pd.DataFrame] = {}
    for (name, begin, _), (_, _, stop) in zip(heads, [*heads[1:], ("", 0, len(data))], strict=True):
        where = f"{path}, block data_{name}"
        if name in blocks:
            raise FormatError(where, expected="one block of this name", found="a second one")
        blocks[name] = _read_block(data, begin, stop, where)
    return blocks


def _heads(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, end and start of every ``data_`` line (a plain search: ten times faster than an anchored pattern)."""
    at = data.find(b"data_")
    while at >= 0:
        begin = data.rfind(b"\n", 0, at) + 1
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        if not data[begin:at].strip():
            words = _decode(data[at + 5 : end]).split()
            name = words[0] if words and not data[at + 5 : at + 6].isspace() else ""
            yield name, end, begin
        at = data.find(b"data_", end)


class _Window(io.RawIOBase):
    """Bytes ``start`` to ``stop`` of ``data`` as a file, without a copy."""

    def __init__(self, data: bytes, start: int, stop: int) -> None:
        self._rest = memoryview(data)[start:stop]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def _read_block(data: bytes, start: int, stop: int, where: str) -> pd.DataFrame:
    import pandas as pd

    labels: list[str] = []
    values: list[str] = []
    loop = False
    position = start
    while position < stop:  # the header: labels (and values, in a simple list) up to the first row of a loop
        end = data.find(b"\n", position, stop)
        end = stop if end < 0 else end
        words = _split(_decode(data[position:end]))
        if not words or words[0].startswith("#"):
            pass
        elif words[0] == "loop_":
            if loop or labels:
                raise FormatError(
                    f"{where}, line {_line_of(data, position)}", expected="one loop_ or one list in a block",
                    found="a second one", remedy="Split the block in two data_ blocks.",
                )  # fmt: skip
            loop = True
        elif words[0].startswith("_"):
            label = words[0][1:]
            if label in labels:
                raise FormatError(
                    f"{where}, line {_line_of(data, position)}", expected="distinct labels", found=f"_{label} twice"
                )
            labels.append(label)
            if not loop:
                if len(words) < 2:
                    raise FormatError(
                        f"{where}, line {_line_of(data, position)}", expected=f"a value of _{label}", found="none"
                    )
                values.append(words[1])
        elif loop and labels:
            return _read_rows(data, position, stop, labels, where)
        else:
            raise FormatError(
                f"{where}, line {_line_of(data, position)}", expected="a label, loop_ or a comment", found=words[0][:60]
            )
        position = end + 1
    if loop:
        return pd.DataFrame({label: pd.Series([], dtype="str" if is_text(label) else "float64") for label in labels})
    table = pd.DataFrame({label: [_number(label, value)] for label, value in zip(labels, values, strict=True)})
    table.attrs["list"] = True
    return table


def _split(line: str) -> list[str]:
    """Words of a line; quotes keep spaces together, ``#`` at the start of a word ends the line."""
    words: list[str] = []
    for match in _TOKEN.finditer(line):
        if match[3] is not None and match[3].startswith("#"):
            break
        words.append(next(group for group in match.groups() if group is not None))
    return words


def _number(label: str, value: str) -> str | int | float:
    if is_text(label):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _without_comments(rows: bytes) -> bytes:
    """Blank the comments of ``rows``: a # that starts a word, outside of quotes."""

    def blank(match: re.Match[bytes]) -> bytes:
        begin = rows.rfind(b"\n", 0, match.start()) + 1
        before = rows[begin : match.start()]
        quoted = before.count(b'"') % 2
        starts_a_word = not before or before[-1:].isspace()
        return b"" if starts_a_word and not quoted else match[0]

    return re.sub(rb"#[^\n]*", blank, rows)


def _read_rows(data: bytes, start: int, stop: int, labels: list[str], where: str) -> pd.DataFrame:
    import pandas as pd

    first_line = _line_of(data, start)
    if data.find(b"#", start, stop) >= 0:
        data = _without_comments(data[start:stop])
        start, stop = 0, len(data)
    empty_text = data.find(b'"', start, stop) >= 0 and data.find(b'""', start, stop) >= 0
    if len(labels) == 1 or empty_text or data.find(b"'", start, stop) >= 0:
        # rare: single quotes, empty text, one column (where a stray word is a row); this path knows the whole grammar
        return _read_rows_slowly(data[start:stop], labels, where, first_line)
    try:
        table = pd.read_csv(
            io.BufferedReader(_Window(data, start, stop), 1 << 18), sep=r"\s+", header=None, quotechar='"',
            keep_default_na=False, na_values=_NOT_A_NUMBER, low_memory=False, encoding_errors="surrogateescape",
            dtype={i: "str" for i, label in enumerate(labels) if is_text(label)},
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        return _read_rows_slowly(data[start:stop], labels, where, first_line)
    last = table[table.columns[-1]]
    short = table.shape[1] != len(labels) or (not pd.api.types.is_numeric_dtype(last) and bool((last == "").any()))
    if short or (pd.api.types.is_float_dtype(last) and bool(last.isna().any())):
        return _read_rows_slowly(data[start:stop], labels, where, first_line)
    table.columns = pd.Index(labels)
    for label in labels:
        if table[label].dtype == bool:  # RELION's flags are 0 and 1: the words stay words
            table[label] = table[label].map({True: "True", False: "False"})
    return table


def _read_rows_slowly(rows: bytes, labels: list[str], where: str, first_line: int) -> pd.DataFrame:
    """One line after the other: names the row at fault, and reads what the C parser does not."""
    import pandas as pd

    table: list[list[str]] = []
    for number, line in enumerate(_decode(rows).split("\n")):
        words = _split(line)
        if not words:
            continue
        if len(words) != len(labels) or (len(labels) == 1 and words[0][:1] == "_"):
            raise FormatError(
                f"{where}, row {len(table) + 1} (line {first_line + number})", expected=f"{len(labels)} values",
                found=f"{len(words)}", remedy="The file is truncated or damaged there; write or download it again.",
            )  # fmt: skip
        table.append(words)
    columns = {label: _column(label, [row[i] for row in table]) for i, label in enumerate(labels)}
    return pd.DataFrame(columns)


def _column(label: str, words: list[str]) -> pd.Series[Any]:
    import pandas as pd

    if not is_text(label):
        for kind in ("int64", "float64"):
            try:
                return pd.Series(pd.array(list(map(int if kind == "int64" else float, words)), dtype=kind))
            except (ValueError, OverflowError):
                continue
    return pd.Series(words, dtype="str")


def write_star(path: str | Path, blocks: Mapping[str, pd.DataFrame | Mapping[str, Any]]) -> None:
    """Write ``blocks`` (name to table, or name to label-value mapping for a simple list), whole or not at all.

    Real numbers are written as RELION does: six decimals, or scientific below 1e-3 and beyond 1e9.

    Raises
    ------
    FormatError : a text value that STAR cannot hold (a line break, or both kinds of quotes).
    ResourceError : the disk is full; the old file, if any, is as it was.
    """
    import pandas as pd

    with atomic(path) as partial, partial.open("wb") as file:
        for name, block in blocks.items():
            file.write(f"\n# version 30001\n\ndata_{name}\n\n".encode())
            if isinstance(block, pd.DataFrame) and not block.attrs.get("list"):
                for piece in _loop(block, str(path)):
                    file.write(piece)
            else:
                items = block.iloc[0].items() if isinstance(block, pd.DataFrame) else block.items()
                for label, value in items:
                    text = _quote(_plain(value), f"{path}, {label}")
                    file.write(f"_{label:<40} {text}\n".encode("utf-8", "surrogateescape"))
            file.write(b"\n")


def _plain(value: object) -> str:
    return f"{float(value):.6g}" if isinstance(value, float) and value != int(value or 0) else str(value)


def _quote(text: str, where: str) -> str:
    if _QUOTED.search(text) is None:
        return text
    if "\n" in text or "\r" in text or ('"' in text and "'" in text):
        raise FormatError(where, expected="text on one line with one kind of quotes", found=repr(text[:80]))
    return f"'{text}'" if '"' in text else f'"{text}"'


def _loop(table: pd.DataFrame, where: str) -> Iterator[bytes]:
    from cryoflow.io.startext import ROWS, format_column

    header = "".join(f"_{label} #{i} \n" for i, label in enumerate(table.columns, start=1))
    yield f"loop_ \n{header}".encode()
    yield from (format_rows(table, slice(a, a + ROWS), where, format_column) for a in range(0, len(table), ROWS))


def format_rows(table: pd.DataFrame, rows: slice, where: str, format_column: Any) -> bytes:
    """Text of some rows: columns of equal width side by side."""
    import numpy as np

    piece = table.iloc[rows]
    columns = [format_column(piece[label], lambda t, at=label: _quote(t, f"{where}, {at}")) for label in table.columns]
    blank = np.full((len(piece), 1), ord(" "), np.uint8)
    line = np.full((len(piece), 1), ord("\n"), np.uint8)
    parts = [part for column in columns for part in (column, blank)]
    return np.concatenate([*parts, line], axis=1).tobytes()
