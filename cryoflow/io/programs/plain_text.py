"""Text files of numbers: how they are decoded, and words that are numbers, finite or whole, or else are named."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import FormatError
from cryoflow.io.sources.source import read_all

__all__ = ["finite", "number", "number_rows", "optional", "read_text", "row_numbers", "whole"]

_ABSENT = {"<na>", "nan", "none", "null", ""}
LARGEST = 4 << 30  # bytes of a text file of metadata; more is no such file


def read_text(address: str | Path) -> str:
    """A text file with line ends as ``\\n``: UTF-8, UTF-16 where its first bytes say so, or else Latin-1.

    Raises
    ------
    FormatError : not text (it holds zero bytes), or larger than any such file.
    """
    raw = read_all(address, limit=LARGEST)
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            data = raw.decode("utf-16")
        except UnicodeDecodeError as error:
            raise FormatError(str(address), expected="UTF-16 text", found=f"{error.reason}") from None
    elif b"\0" in raw:
        raise FormatError(f"{address}, byte {raw.index(0)}", expected="text", found="a zero byte: a binary file")
    else:
        try:
            data = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            data = raw.decode("latin-1")
    return data.replace("\r\n", "\n").replace("\r", "\n")


def number_rows(lines: Sequence[tuple[int, str]], where: str, *, expected: str = "numbers") -> NDArray[np.float64]:
    """A table (rows, columns) of the numbers on ``lines`` (line number from 1, text), all with as many values.

    Raises
    ------
    FormatError : a word that is no finite number, or a line with another count; file and line are named.

    >>> number_rows([(1, "1 2.5"), (4, "3 4e1")], "a.txt").tolist()
    [[1.0, 2.5], [3.0, 40.0]]
    """
    import pandas as pd

    joined = "\n".join(line for _, line in lines)
    if joined and "#" not in joined and '"' not in joined:
        try:
            table = pd.read_csv(io.StringIO(joined), sep=r"\s+", header=None, dtype=np.float64)
        except (ValueError, OverflowError):
            pass
        else:
            values = np.ascontiguousarray(table.to_numpy())
            if len(values) == len(lines) and np.isfinite(values).all():
                return values
    return _slowly(lines, where, expected)


def _slowly(lines: Sequence[tuple[int, str]], where: str, expected: str) -> NDArray[np.float64]:
    rows: list[list[float]] = []
    for number, line in lines:
        row = row_numbers(line.split(), f"{where}, line {number}", expected)
        if rows and len(row) != len(rows[0]):
            raise FormatError(
                f"{where}, line {number}", expected=f"{len(rows[0])} values, as on line {lines[0][0]}",
                found=f"{len(row)}", remedy="The file is truncated or damaged there.",
            )  # fmt: skip
        rows.append(row)
    if not rows or not rows[0]:
        raise FormatError(where, expected=f"rows of {expected}", found="none")
    return np.array(rows)


def row_numbers(words: Sequence[str], where: str, expected: str = "numbers") -> list[float]:
    """The finite numbers that ``words`` are; a ``FormatError`` names the word that is none."""
    return [number(word, where, expected) for word in words]


def number(word: str, where: str, expected: str = "a number") -> float:
    """The finite number that ``word`` is, or a ``FormatError``."""
    value = _float(word)
    if not np.isfinite(value):
        raise FormatError(where, expected=expected, found=repr(word[:40]))
    return value


def _float(word: Any) -> float:
    """The number a word is, NaN where it is none (Python's 1_000 is no number of a file)."""
    try:
        return float(word) if "_" not in str(word) else np.nan
    except (TypeError, ValueError, OverflowError):
        return np.nan


def finite(values: ArrayLike, name: str, where: str) -> NDArray[np.float64]:
    """``values`` as finite float64; the first that is none is named by its row."""
    column = np.asarray(values)
    column = column.astype(np.float64) if column.dtype.kind in "iufb" else np.array([_float(v) for v in column])
    bad = np.flatnonzero(~np.isfinite(column))
    if len(bad):
        raise FormatError(
            f"{where}, row {bad[0] + 1}", expected=f"a number for {name}", found=repr(np.asarray(values)[bad[0]]),
            remedy=f"{len(bad)} rows are affected: correct or remove them.",
        )  # fmt: skip
    return column


def optional(values: ArrayLike, name: str, where: str) -> NDArray[np.float64]:
    """``values`` as float64 with NaN where a word says that there is none; what is neither is named by its row."""
    column = np.asarray(values)
    if column.dtype.kind in "iufb":
        return column.astype(np.float64)
    absent = np.array([v is None or v != v or str(v).lower() in _ABSENT for v in column], bool)
    filled = np.array([0.0 if none else v for none, v in zip(absent, column, strict=True)], object)
    return np.where(absent, np.nan, finite(filled, name, where))


def whole(
    values: ArrayLike, name: str, where: str, *, low: int = -(1 << 31), high: int = (1 << 31) - 1
) -> NDArray[Any]:
    """``values`` as int64, each a whole number from ``low`` to ``high``; the first that is none is named by its row."""
    numbers = finite(values, name, where)
    bad = np.flatnonzero((numbers != np.rint(numbers)) | (numbers < low) | (numbers > high))
    if len(bad):
        raise FormatError(
            f"{where}, row {bad[0] + 1}", expected=f"a whole number from {low} to {high} for {name}",
            found=f"{numbers[bad[0]]:g}",
        )  # fmt: skip
    return numbers.astype(np.int64)
