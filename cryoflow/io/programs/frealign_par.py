"""The text of Frealign's parameter files (``.par``): rows of the layouts there were, and comments around them.

A row is a particle: number, PSI, THETA, PHI, SHX, SHY, MAG, FILM, DF1, DF2, ANGAST and scores; ``C`` starts a comment.
Before version 9 columns have fixed widths and may touch; since, lines are split at blanks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.programs.plain_text import number_rows, row_numbers

__all__ = ["FIRST", "LAYOUTS", "fixed_lines", "free_lines", "parse_par", "said_in"]

FIRST = ("PSI", "THETA", "PHI", "SHX", "SHY", "MAG", "FILM", "DF1", "DF2", "ANGAST")
_V9 = (*FIRST, "OCC", "LOGP", "SIGMA", "SCORE", "CHANGE")
_BY_COUNT = {
    11: (*FIRST,), 12: (*FIRST, "PRESA"), 13: (*FIRST, "PRESA", "DPRES"), 15: _V9[:-1], 16: _V9,
    17: (*FIRST, "PSHIFT", *_V9[len(FIRST) :]),
}  # fmt: skip
LAYOUTS: dict[str, tuple[str, ...]] = {"old": _BY_COUNT[12], "v9": _V9, "x": _BY_COUNT[17]}
_OLD_WIDTHS = (7, 8, 8, 8, 8, 8, 8, 6, 9, 9, 8, 7, 7)
_OLD_DECIMALS = (0, 3, 3, 3, 3, 3, 0, 0, 1, 1, 2, 2, 2)
_INTEGERS = ("N", "MAG", "FILM", "LOGP")  # read as such by version 9
# width and decimals of version 9, whose reader splits lines at blanks; more decimals are written where a value has them
_STYLE = {
    "PSI": (8, 2), "THETA": (8, 2), "PHI": (8, 2), "SHX": (10, 2), "SHY": (10, 2), "MAG": (8, 0), "FILM": (6, 0),
    "DF1": (9, 1), "DF2": (9, 1), "ANGAST": (8, 2), "PSHIFT": (8, 2), "OCC": (8, 2), "LOGP": (10, 0),
    "SIGMA": (11, 4), "SCORE": (8, 2), "CHANGE": (8, 2), "PRESA": (7, 2), "DPRES": (7, 2),
}  # fmt: skip
# what cisTEM's header lines say, "C  Pixel size of images (A):  1.5"
_SAID = {
    "Input particle images": "stack", "Beam energy (keV)": "voltage", "Spherical aberration (mm)": "cs",
    "Amplitude contrast": "amplitude_contrast", "Pixel size of images (A)": "pixel_size",
}  # fmt: skip


def parse_par(data: str, where: str) -> tuple[list[str], list[str], tuple[str, ...], NDArray[np.float64]]:
    """Comments before and after the first row, names of the columns but the number, and the values."""
    head: list[str] = []
    tail: list[str] = []
    rows: list[tuple[int, str]] = []
    named: list[str] = []
    for number, line in enumerate(data.split("\n"), start=1):
        if line[:1] in ("C", "c"):
            (tail if rows else head).append(line)
            if not rows and "PSI" in line.upper() and "DF1" in line.upper():
                named = line[1:].upper().split()
        elif line.strip():
            rows.append((number, line))
    if not rows:
        raise FormatError(where, expected="a Frealign parameter file with at least one row", found="none")
    try:
        values = number_rows(rows, where)
    except FormatError:
        if max(len(line.rstrip()) for _, line in rows) > sum(_OLD_WIDTHS):
            raise
        values = _fixed_widths(rows, where)
    count = values.shape[1]
    names = _BY_COUNT.get(count)
    if named[:5] == list(FIRST[:5]) and len(named) == count - 1:
        names = tuple({"INCLUDE": "FILM", "PRES": "PRESA", "DPHI": "DPRES"}.get(n, n) for n in named)
    if names is None or len(set(names)) < len(names) or not set(FIRST) <= set(names):
        raise FormatError(
            f"{where}, line {rows[0][0]}", expected="12 or 13 (before version 9), 15, 16 or 17 values", found=f"{count}"
        )
    return head, tail, names, values


def _fixed_widths(rows: list[tuple[int, str]], where: str) -> NDArray[np.float64]:
    """Rows of the old layout, whose columns may touch: I7, 5F8, F8, I6, 2F9, F8, F7 (, F7)."""
    edges = np.cumsum((0, *_OLD_WIDTHS))
    table = []
    for number, line in rows:
        used = len(line.rstrip())
        count = 13 if used > edges[12] else 12
        at = f"{where}, line {number}"
        if used <= edges[11] or used > edges[count]:
            row_numbers(line.split(), at)  # names the word that is no number
            raise FormatError(at, expected="12, 13, 15, 16 or 17 values", found=f"{len(line.split())}",
                              remedy="The file is truncated or damaged there.")  # fmt: skip
        words = [line[a:b].strip() or "0" for a, b in pairwise(edges[: count + 1])]
        table.append(row_numbers(words, at))
        if len(table[-1]) != len(table[0]):
            raise FormatError(at, expected=f"{len(table[0])} columns, as before", found=f"{count}")
    return np.array(table)


def said_in(head: list[str]) -> dict[str, Any]:
    """What the header lines of cisTEM's first versions say: the stack and the optics."""
    said: dict[str, Any] = {}
    for line in head:
        label, colon, value = line[1:].partition(":")
        name = _SAID.get(label.strip())
        if not colon or name is None or not value.strip():
            continue
        if name == "stack":
            said[name] = value.strip()
        else:
            try:
                number = float(value)
            except ValueError:
                continue
            if np.isfinite(number) and (number > 0 or (number == 0 and name in ("cs", "amplitude_contrast"))):
                said[name] = number
    return said


def free_lines(columns: dict[str, NDArray[np.float64]]) -> list[str]:
    """Lines split at blanks: version 9's widths, wider where a value needs it."""
    formats = []
    for name, values in columns.items():
        width, least = _STYLE.get(name, (8, 2)) if name != "N" else (7, 0)
        decimals = 0 if name in _INTEGERS else _decimals(values, least)
        longest = max(len(f"{v:.{decimals}f}") for v in (values.min(), values.max()))
        formats.append(f"%{max(width, longest + 1)}.{decimals}f")
    line = "".join(formats)
    return [line % row for row in zip(*columns.values(), strict=True)]


def _decimals(values: NDArray[np.float64], least: int) -> int:
    return next((d for d in range(least, 6) if np.all(np.abs(values.round(d) - values) < 5e-7)), 6)


def fixed_lines(columns: dict[str, NDArray[np.float64]], where: str) -> list[str]:
    """Lines of fixed columns, as the reader of the versions before 9 wants them."""
    out: list[str] = []
    formats = [f"%{w - 1}.0f." if name == "MAG" else f"%{w}.{d}f"
               for w, d, name in zip(_OLD_WIDTHS, _OLD_DECIMALS, columns, strict=False)]  # fmt: skip
    for i, row in enumerate(zip(*columns.values(), strict=True), start=1):
        words = [form % value for form, value in zip(formats, row, strict=True)]
        if any(len(word) > width for word, width in zip(words, _OLD_WIDTHS, strict=False)):
            raise ParameterError(f"{where}, row {i}", expected="values that fit the fixed widths of the old layout",
                                 found=" ".join(words), remedy="Use layout='v9'.")  # fmt: skip
        out.append("".join(words))
    return out
