"""SPIDER's document files: keyed rows of numbers, with angles or coordinates in them.

A row is a key, the count of its values, and the values; `` ;`` starts a comment. Before SPIDER 11 the key took six
columns, the count one and each value twelve, and they could touch. Angles (psi, theta, phi) are RELION's psi, tilt,
rot. Pixels count from 1. Source: SPIDER's documentation (docfile, euler).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.programs.border import coordinate_set
from cryoflow.io.programs.frealign import frealign_to_matrix, matrix_to_frealign
from cryoflow.io.programs.plain_text import read_text, row_numbers

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "angles_to_spider_doc",
    "matrix_to_spider",
    "read_spider_coordinates",
    "read_spider_doc",
    "spider_rotations",
    "spider_to_matrix",
    "write_spider_coordinates",
    "write_spider_doc",
]

_MOST = 4096  # values in a row


def spider_to_matrix(psi: Any, theta: Any, phi: Any) -> NDArray[np.float64]:
    """Rotations (..., 3, 3) of SPIDER's angles in degree: A = Rz(psi) Ry(theta) Rz(phi), passive.

    >>> spider_to_matrix(0.0, 0.0, 90.0).round(6)[0] + 0.0
    array([0., 1., 0.])
    """
    return frealign_to_matrix(psi, theta, phi)


def matrix_to_spider(rotation: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(psi, theta, phi) in degree of rotations (..., 3, 3), psi and phi in [0, 360), theta in [0, 180].

    >>> [float(a) for a in matrix_to_spider(spider_to_matrix(10.0, 20.0, 300.0))]
    [10.0, 20.0, 300.0]
    """
    return matrix_to_frealign(rotation)


def read_spider_doc(path: str | Path) -> pd.DataFrame:
    """Read a document file: one row for each key (the index), columns 1, 2, ...; NaN where a row has fewer values.

    ``attrs["comments"]`` holds the comment lines in their order.

    Raises
    ------
    FormatError : a line that is no row of the format, or no rows; file and line are named.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> doc = pathlib.Path(tempfile.mkdtemp()) / "a.dat"
    >>> _ = doc.write_text(" ;tst/tst   16-JUN-1999\\n    9 1  11.000\\n   99 2  11.000      12.000\\n")
    >>> read_spider_doc(doc).loc[99].tolist()
    [11.0, 12.0]
    """
    import pandas as pd

    where = str(path)
    comments: list[str] = []
    keys: list[int] = []
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.lstrip()[:1] == ";":
            comments.append(line)
        elif line.strip():
            key, values = _row(line, f"{where}, line {number}")
            keys.append(key)
            rows.append(values)
    if not rows:
        raise FormatError(where, expected="a SPIDER document file with at least one row", found="none")
    width = max(map(len, rows))
    if len(rows) * width > 64 + 16 * sum(map(len, rows)):  # one long row among many short ones: no table of numbers
        raise FormatError(where, expected="rows of about the same length", found=f"up to {width} values")
    table = np.full((len(rows), width), np.nan)
    for out, values in zip(table, rows, strict=True):
        out[: len(values)] = values
    frame = pd.DataFrame(table, index=pd.Index(keys, name="key"), columns=range(1, width + 1))
    frame.attrs["comments"] = comments
    return frame


def _row(line: str, where: str) -> tuple[int, list[float]]:
    words = line.split()
    if len(words) >= 2 and _whole(words[0]) and words[1].isdigit() and len(words) - 2 == int(words[1][:6]) <= _MOST:
        return int(words[0]), row_numbers(words[2:], where)
    key, count, rest = line[:6].strip(), line[6:7], line[7:].rstrip()  # the old columns, which may touch
    if _whole(key) and count.isdigit() and int(count) > 0:
        values = [rest[i : i + 12] for i in range(0, len(rest), 12)]
        if len(rest.split()) == int(count):
            values = rest.split()
        if len(values) == int(count):
            return int(key), row_numbers([v.strip() for v in values], where)
    raise FormatError(where, expected="a key, a count, and as many values", found=repr(line[:60]),
                      remedy="The file is truncated or damaged there.")  # fmt: skip


def _whole(word: str) -> bool:
    return word.isascii() and word.removeprefix("-").isdigit() and len(word) <= 10


def write_spider_doc(
    path: str | Path, values: pd.DataFrame | ArrayLike, *, keys: Iterable[int] | None = None,
    comments: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Write a document file of SPIDER 11 and later, whose columns are split by blanks.

    ``values`` is a table as ``read_spider_doc`` gives (NaN ends a row), or an array (rows, columns); ``keys`` default
    to its index, or to 1, 2, ...; ``comments`` to those of the table.

    Raises
    ------
    ParameterError : no rows, infinite values, or a NaN before the end of a row.

    >>> import tempfile, pathlib
    >>> doc = pathlib.Path(tempfile.mkdtemp()) / "a.dat"
    >>> write_spider_doc(doc, [[1.5, -2.0]], comments=[" ; x  y"])
    >>> print(doc.read_text(), end="")
     ; x  y
        1 2           1.5            -2
    """
    import pandas as pd

    frame = values if isinstance(values, pd.DataFrame) else pd.DataFrame(np.atleast_2d(np.asarray(values, np.float64)))
    table = frame.to_numpy(dtype=np.float64)
    index = list(keys) if keys is not None else (
        [int(k) for k in frame.index] if frame is values else range(1, len(table) + 1)
    )  # fmt: skip
    missing = np.isnan(table)
    where = f"write_spider_doc({path})"
    if not table.size or np.isinf(table).any() or (missing[:, :-1] & ~missing[:, 1:]).any() or missing[:, 0].any():
        raise ParameterError(where, expected="finite rows, NaN at their ends alone", found=f"shape {table.shape}")
    head = frame.attrs.get("comments", []) if comments is None else comments
    for line in head:
        if "\n" in line or line.lstrip()[:1] != ";":
            raise ParameterError(where, expected="comments of one line that start with ' ;'", found=repr(line[:60]))
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in head)
        for key, row, none in zip(index, table, missing, strict=True):
            count = len(row) - int(none.sum())
            file.write(f"{key:5d} {count}" + "".join(f" {v:13.10g}" for v in row[:count]) + "\n")


def spider_rotations(table: pd.DataFrame, *, columns: tuple[int, int, int] = (1, 2, 3)) -> NDArray[np.float64]:
    """Rotations (n, 3, 3) of the columns psi, theta, phi of a document file.

    Raises
    ------
    ParameterError : no such columns, or rows without a value there.
    """
    if not set(columns) <= set(table.columns) or table[list(columns)].isna().any(axis=None):
        raise ParameterError("spider_rotations", expected=f"values in columns {columns}",
                             found=f"columns {list(table.columns)}, some empty")  # fmt: skip
    return spider_to_matrix(*(table[c].to_numpy() for c in columns))


def angles_to_spider_doc(path: str | Path, rotation: ArrayLike) -> None:
    """Write rotations (n, 3, 3) as a document file of psi, theta, phi, keys from 1."""
    table = np.stack(matrix_to_spider(np.asarray(rotation, np.float64)), axis=1)
    write_spider_doc(path, table, comments=[" ;              PSI         THETA           PHI"])


def read_spider_coordinates(path: str | Path, *, columns: tuple[int, int] = (1, 2), suffix: str = ".mrc") -> xr.Dataset:
    """Coordinates of one micrograph (named like the file with ``suffix``) from the columns x, y of a document file.

    SPIDER's pixels count from 1; ``x_key`` keeps the keys.

    Raises
    ------
    FormatError : a damaged file, or rows without the columns.
    """
    table = read_spider_doc(path)
    if not set(columns) <= set(table.columns) or table[list(columns)].isna().any(axis=None):
        raise FormatError(str(path), expected=f"values in columns {columns} of every row",
                          found=f"columns {list(table.columns)}, some empty")  # fmt: skip
    name = str(path).rstrip("/").rpartition("/")[2].rpartition(".")[0] + suffix
    xy = table[list(columns)].to_numpy() - 1
    return coordinate_set(xy, [name] * len(table), x_key=table.index.to_numpy())


def write_spider_coordinates(ds: xr.Dataset, path: str | Path) -> None:
    """Write the coordinates of one micrograph as a document file of x, y, counted from 1.

    Raises
    ------
    ParameterError : coordinates of several micrographs, or none.
    """
    from cryoflow.io.programs.eman2_boxes import one_micrograph

    one_micrograph(ds, f"write_spider_coordinates({path})")
    keys = ds["x_key"].values.tolist() if "x_key" in ds else None
    write_spider_doc(path, ds["coordinate"].values + 1, keys=keys, comments=[" ;              X             Y"])
