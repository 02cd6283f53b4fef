"""What the readers of other programs' tables share: text, rows of numbers, optics groups, the order of defoci."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.sources.source import read_all
from cryoflow.io.star.relion import text
from cryoflow.io.star.star import read_star

__all__ = [
    "box_sides", "coordinate_set", "ctf_variables", "finite", "names_of", "number", "number_rows", "optics_variables",
    "optional", "read_text", "row_numbers", "section_names", "star_tables", "whole",
]  # fmt: skip

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


def star_tables(address: str | Path) -> dict[str, Any]:
    """The tables of a STAR file whose labels and values are UTF-8; a ``FormatError`` where they are not."""
    try:
        return dict(read_star(address))
    except UnicodeEncodeError as error:
        raise FormatError(str(address), expected="text in UTF-8", found=repr(error.object)[:80]) from None


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


def ctf_variables(u: ArrayLike, v: ArrayLike, angle: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """``defocus_u``, ``_v``, ``_angle`` of the schema: u the larger, the angle in (-90, 90].

    >>> {k: float(x) for k, x in ctf_variables(9000.0, 9500.0, 80.0).items()}
    {'defocus_u': 9500.0, 'defocus_v': 9000.0, 'defocus_angle': -10.0}
    """
    u, v, angle = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (u, v, angle)))
    swapped = u < v  # the same astigmatism, with u the larger
    u, v, angle = np.where(swapped, v, u), np.where(swapped, u, v), np.where(swapped, angle + 90, angle)
    outside = (angle <= -90) | (angle > 90)
    return {"defocus_u": u, "defocus_v": v, "defocus_angle": np.where(outside, 90 - (90 - angle) % 180, angle)}


def optics_variables(ds: xr.Dataset, dim: str, columns: Mapping[str, ArrayLike], given: Mapping[str, float]) -> None:
    """Give ``ds`` its optics groups: one for each distinct row of ``columns`` (name to one value a row).

    ``given`` values (of ``given_optics``) replace the column of their name. Names are those of the schema with dims
    ``optics``; two columns ``beam_tilt_x`` and ``_y`` become ``beam_tilt``.
    """
    n = ds.sizes[dim]
    values = {name: np.broadcast_to(np.asarray(column, np.float64), (n,)) for name, column in columns.items()}
    values |= {name: np.full(n, float(value)) for name, value in given.items()}
    group = np.zeros(n, np.int64)
    for column in values.values():
        _, inverse = np.unique(column, return_inverse=True)
        _, group = np.unique(group * (inverse.max(initial=0) + 1) + inverse, return_inverse=True)
    first = np.unique(group, return_index=True)[1]
    order = np.argsort(first)  # groups in the order in which they appear
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ds["optics_group"] = (dim, rank[group].astype(np.int32))
    ds["optics_name"] = ("optics", text(f"opticsGroup{i + 1}" for i in range(len(first))))
    rows = first[order]
    for name, column in values.items():
        if name not in ("beam_tilt_x", "beam_tilt_y"):
            ds[name] = ("optics", column[rows].copy())
    if "beam_tilt_x" in values:
        ds["beam_tilt"] = (("optics", "xy"), np.stack([values[f"beam_tilt_{a}"][rows] for a in "xy"], axis=1))


def names_of(values: Sequence[Any] | NDArray[Any], where: str) -> NDArray[Any]:
    """Names as text; a ``FormatError`` where one of them is not UTF-8."""
    try:
        return text(values)
    except UnicodeEncodeError as error:
        raise FormatError(where, expected="names in UTF-8", found=repr(error.object)[:80]) from None


def coordinate_set(
    xy: ArrayLike, micrographs: Sequence[str], score: ArrayLike | None = None, **columns: Any
) -> xr.Dataset:
    """Picked particles: ``coordinate`` (particle, xy), ``micrograph_name``, ``pick_score`` and further ``columns``.

    >>> coordinate_set([[1.5, 2.0]], ["a.mrc"], x_box_width=[64.0]).x_box_width.values.tolist()
    [64.0]
    """
    ds = xr.Dataset({
        "coordinate": (("particle", "xy"), np.asarray(xy, np.float64).reshape(-1, 2)),
        "micrograph_name": ("particle", text(micrographs)),
    })  # fmt: skip
    if score is not None:
        ds["pick_score"] = ("particle", np.asarray(score, np.float64))
    for name, values in columns.items():
        array = np.asarray(values)
        ds[name] = ("particle", array if array.dtype.kind in "iufb" else text(array))
    return ds


def box_sides(ds: xr.Dataset, box_size: float | None, where: str) -> NDArray[np.float64]:
    """Width and height (n, 2) of the boxes around coordinates: ``box_size``, else those of the source.

    Raises
    ------
    ParameterError : neither, or not above 0.
    """
    n = ds.sizes["particle"]
    if box_size is not None:
        sides = np.full((n, 2), float(box_size))
    elif "x_box_width" in ds and "x_box_height" in ds:
        sides = np.stack([ds["x_box_width"].values, ds["x_box_height"].values], axis=1).astype(np.float64)
    else:
        raise ParameterError(where, expected="a box size", found="none", remedy="Give box_size= in pixels.")
    if not (sides > 0).all():
        raise ParameterError(where, expected="box sizes above 0", found=f"{sides.min()}")
    return sides


def section_names(ds: xr.Dataset, where: str) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]]:
    """Of ``image_name`` ("000001@file"): the distinct files, the file of each row, and its section from 1.

    Raises
    ------
    FormatError : no image names, or one of another form.
    """
    if "image_name" not in ds:
        raise FormatError(where, expected="image_name", found="none", remedy="Give images= to write a stack as well.")
    files: dict[str, int] = {}
    file = np.empty(ds.sizes["particle"], np.int32)
    section = np.empty(len(file), np.int64)
    for row, name in enumerate(map(str, ds["image_name"].values)):
        number, at, path = name.partition("@")
        if not at or not (number.isascii() and number.isdigit()) or len(number) > 10:
            raise FormatError(
                f"{where}, row {row + 1}", expected="an image name like 000001@stack.mrcs", found=repr(name)
            )
        file[row], section[row] = files.setdefault(path, len(files)), int(number)
    return list(files), file, section
