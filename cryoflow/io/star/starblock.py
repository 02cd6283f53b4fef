"""One block of a STAR file: labels, and the values of a list or the rows of a loop."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.star.starbytes import StarBytes
from cryoflow.io.star.startokens import MARK, BadRow, is_label, words_of
from cryoflow.io.star.starwrite import is_text
from cryoflow.io.star.words import Words, decode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_block"]

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_REAL = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)
_SMALL = 1 << 18  # bytes of a table below which text is held as Python's
_LABELS = 10_000  # of a block
_LINE = 1 << 20  # bytes of a line that is no row
_ONE = "one loop_ or one list in a block"
_SPLIT = "Split the block in two data_ blocks."


def read_block(text: StarBytes, start: int, stop: int, where: str, *, room: int, marks: bool) -> pd.DataFrame:
    """The block whose name ends at ``start``, up to ``stop``.

    Parameters
    ----------
    where : names the block in errors.
    room : its lines at most, about.
    marks : text of several lines was replaced by marks.
    """
    import pandas as pd

    labels: dict[str, None] = {}
    values: list[str] = []
    loop = False
    position = start
    while position < stop:  # labels (and values, in a simple list) up to the first row of a loop
        end = text.line_end(position, stop)
        if end - position > _LINE and not (loop and labels):
            raise _error(text, position, where, f"a line of at most {_LINE} bytes", f"{end - position}")
        line = text.read(position, min(end, position + _LINE))
        words, first = words_of(line), True
        for begin, close, quoted in words:
            word = line[begin:close]
            is_loop = word == b"loop_" and not quoted
            if first and loop and labels and not is_label(word, quoted):
                if is_loop:
                    raise _error(text, position, where, _ONE, "a second one", _SPLIT)
                return _rows(text, position, stop, list(labels), where, room, marks)
            first = False
            if is_loop and not loop and not labels:
                loop = True
                continue
            if not is_label(word, quoted):
                raise _error(text, position, where, _ONE if is_loop else "a label, loop_ or a comment",
                             "a second one" if is_loop else decode(word)[:60],
                             _SPLIT if is_loop else "Put text with blanks in quotes.")  # fmt: skip
            label = decode(word[1:])
            wrong = _wrong_label(label, labels)
            if wrong:
                raise _error(text, position, where, *wrong)
            labels[label] = None
            if loop:
                continue
            value = next(words, None)
            if value is None and marks and text.read(end + 1, min(stop, end + 2)) == MARK:  # text on the lines below
                position, end = end + 1, text.line_end(end + 1, stop)
                line = text.read(position, end)
                words = words_of(line)
                value = next(words)
            if value is None:
                raise _error(text, position, where, f"a value of _{label}", "none")
            values.append(decode(line[value[0] : value[1]]))
        position = text.skip_empty(end + 1, stop)
    if loop:
        return pd.DataFrame({label: pd.Series([], dtype="str" if is_text(label) else "float64") for label in labels})
    table = pd.DataFrame({label: _value(label, value) for label, value in zip(labels, values, strict=True)})
    table.attrs["list"] = True
    return table


def _error(text: StarBytes, position: int, where: str, expected: str, found: str, remedy: str = "") -> FormatError:
    return FormatError(f"{where}, line {text.line_of(position)}", expected=expected, found=found, remedy=remedy)


def _wrong_label(label: str, labels: dict[str, None]) -> tuple[str, str] | None:
    """What is expected instead of this label, and what it is."""
    if label in labels:
        return "distinct labels", f"_{label} twice"
    if any("\udc80" <= letter <= "\udcff" for letter in label):
        return "a label in UTF-8", repr(label)[:60]
    if len(labels) == _LABELS:
        return f"at most {_LABELS} labels in a block", "more"
    return None


def _value(label: str, word: str) -> NDArray[Any] | pd.Series[Any]:
    """A value of a list: a whole number, a number or text, the first that gives it back."""
    import pandas as pd

    if not is_text(label) and _REAL.fullmatch(word):
        if len(word) < 25 and _WHOLE.fullmatch(word) and -(2**63) <= int(word) < 2**63:
            return np.array([int(word)], np.int64)
        if not word.lstrip("+-").isdigit():
            return np.array([float(word)])
    return pd.Series([word], dtype=object)


def _rows(
    text: StarBytes, start: int, stop: int, labels: list[str], where: str, room: int, marks: bool
) -> pd.DataFrame:
    import pandas as pd

    from cryoflow.io.star.starscan import scan_rows

    # a row takes a letter and a blank for each word: what a file cannot hold is never allocated
    room = min(room, (stop - start + 1) // (2 * len(labels)) + 1)
    names = [is_text(label) for label in labels]
    found = scan_rows(text, start, stop, names, room=room, marks=marks)
    if isinstance(found, BadRow):
        raise _bad_row(found, len(labels), text, where)
    small = stop - start < _SMALL
    columns = {label: _column(column, small) for label, column in zip(labels, found, strict=True)}
    return pd.DataFrame(columns, copy=False)


def _bad_row(bad: BadRow, columns: int, text: StarBytes, where: str) -> FormatError:
    short = bad.count != columns
    return FormatError(
        f"{where}, row {bad.row + 1} (line {text.line_of(bad.position)})", expected=f"{columns} values",
        found=bad.counted if short else repr(decode(bad.first)),
        remedy="The file is truncated or damaged there; write or download it again." if short
        else "Split the block in two data_ blocks, or put text that begins with _ in quotes.",
    )  # fmt: skip


def _column(column: NDArray[Any] | Words, small: bool) -> NDArray[Any] | pd.Series[Any]:
    import pandas as pd

    from cryoflow.io.star.wordcolumn import WordColumn, as_objects

    if not isinstance(column, Words):
        return column
    return as_objects(column.tolist()) if small else pd.Series(WordColumn(column))
