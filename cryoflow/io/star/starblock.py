"""One block of a STAR file: labels, and the values of a list or the rows of a loop."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.star.starbytes import StarBytes
from cryoflow.io.star.starnumbers import number_of
from cryoflow.io.star.startokens import TEXT, BadRow, is_label, words_of
from cryoflow.io.star.starwrite import is_text
from cryoflow.io.star.words import Words, decode, joined

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_block"]

_SMALL = 1 << 18  # bytes of a table below which text is held as Python's strings
_LABELS = 1000  # of a block
_LINE = 1 << 20  # bytes of a line that is no row
_ONE = "one loop_ or one list in a block"
_SPLIT = "Split the block in two data_ blocks."


def read_block(text: StarBytes, start: int, stop: int, where: str, *, room: int) -> pd.DataFrame:
    """The block whose name ends at ``start``, up to ``stop``, of ``room`` lines at most; ``where`` is it in errors."""
    import pandas as pd

    labels: dict[str, None] = {}
    values: list[bytes] = []
    loop = False
    position = start
    while position < stop:  # labels (and values, in a simple list) up to the first row of a loop
        line, end = _line(text, position, stop, where, row=loop and bool(labels))
        words, first = words_of(line), True
        while (found := next(words, None)) is not None:  # of this line, or of that which ends a text
            word, quoted = line[found[0] : found[1]], found[2]
            is_loop = word == b"loop_" and not quoted
            if first and loop and labels and not is_label(word, quoted):
                if is_loop:
                    raise _error(text, position, where, _ONE, "a second one", _SPLIT)
                return _rows(text, position, stop, list(labels), where, room)
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
            if value is not None:
                values.append(line[value[0] : value[1]])
            elif text.texts and text.read(end, end + 2) == TEXT:  # on the lines below
                position = text.find(TEXT, end + 2, stop) + 2
                values.append(text.read(end + 2, position - 1).replace(b"\r\n", b"\n")[:-1])
                line, end = _line(text, position, stop, where)
                words = words_of(line)
            else:
                raise _error(text, position, where, f"a value of _{label}", "none")
        position = text.skip_empty(end + 1, stop)
    if loop:
        return _table(labels, [pd.Series([], dtype="str" if is_text(label) else "float64") for label in labels], True)
    table = _table(labels, [_value(label, value) for label, value in zip(labels, values, strict=True)], True)
    table.attrs["list"] = True
    return table


def _line(text: StarBytes, position: int, stop: int, where: str, *, row: bool = False) -> tuple[bytes, int]:
    """The line at ``position`` and where it ends; one that may be a ``row`` may be cut."""
    end = text.line_end(position, stop)
    if end - position > _LINE and not row:
        raise _error(text, position, where, f"a line of at most {_LINE} bytes", f"{end - position}")
    return text.read(position, min(end, position + _LINE)), end


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


def _value(label: str, word: bytes) -> NDArray[Any] | pd.Index[Any] | pd.Series[Any]:
    """A value of a list: a whole number, a number or text, the first that gives it back."""
    number = None if is_text(label) else number_of(word)
    if number is None or (number.whole and number.integer is None):
        return _column(Words(*joined([word])), len(word) < _SMALL)
    return np.array([number.integer if number.whole else number.value])


def _rows(text: StarBytes, start: int, stop: int, labels: list[str], where: str, room: int) -> pd.DataFrame:
    from cryoflow.io.star.starscan import scan_rows

    # a row takes a letter and a blank for each word: what a file cannot hold is never allocated
    room = min(room, (stop - start + 1) // (2 * len(labels)) + 1)
    found = scan_rows(text, start, stop, [is_text(label) for label in labels], room=room)
    if isinstance(found, BadRow):
        raise _bad_row(found, len(labels), text, where)
    small = stop - start < _SMALL
    return _table(labels, [_column(column, small) for column in found], small)


def _table(labels: Iterable[str], columns: list[Any], small: bool) -> pd.DataFrame:
    """A table of few bytes: a thousand blocks with the same labels share them."""
    import pandas as pd

    table = pd.DataFrame(dict(enumerate(columns)), copy=small)  # small ones side by side
    table.columns = _index(tuple(labels))
    return table


@lru_cache(maxsize=8)
def _index(labels: tuple[str, ...]) -> pd.Index[Any]:
    import pandas as pd

    return pd.Index(labels, dtype="str")


def _bad_row(bad: BadRow, columns: int, text: StarBytes, where: str) -> FormatError:
    short = bad.count != columns
    return FormatError(
        f"{where}, row {bad.row + 1} (line {text.line_of(bad.position)})", expected=f"{columns} values",
        found=bad.counted if short else repr(decode(bad.first)),
        remedy="The file is truncated or damaged there; write or download it again." if short
        else "Split the block in two data_ blocks, or put text that begins with _ in quotes.",
    )  # fmt: skip


def _column(column: NDArray[Any] | Words, small: bool) -> NDArray[Any] | pd.Index[Any] | pd.Series[Any]:
    import pandas as pd

    from cryoflow.io.star.wordcolumn import WordColumn

    if not isinstance(column, Words):
        return column
    return pd.Index(column.tolist(), dtype=object) if small else pd.Series(WordColumn(column))
