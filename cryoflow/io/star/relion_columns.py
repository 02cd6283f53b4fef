"""Columns of RELION's tables as arrays of one kind: text, numbers, whole numbers; and labels that go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.star.lazywords import LazyWords
from cryoflow.io.star.words import STRINGS, Words

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ANGLES", "BY_MAGNIFICATION", "DEFOCUS", "MAG", "TILT", "any_column", "drop", "number_column", "text",
    "text_column", "whole_column",
]  # fmt: skip

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
BY_MAGNIFICATION = ("rlnDetectorPixelSize", "rlnMagnification")  # micrometres, and times
MAG = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
TILT = ("rlnBeamTiltX", "rlnBeamTiltY")


def text(values: Any) -> NDArray[Any]:
    """Text as NumPy's variable-width strings (what Zarr gives back; a name of 100 letters takes 100 bytes, not 400)."""
    words = getattr(getattr(values, "array", None), "words", None)  # of a ``WordColumn``
    if isinstance(words, Words):
        return words.strings()
    if hasattr(values, "to_numpy"):
        return np.asarray(values.to_numpy()).astype(STRINGS)
    return np.asarray([str(v) for v in values], dtype=STRINGS)


def text_column(table: pd.DataFrame, label: str, where: str) -> Any:
    """A column of text; of a large table it stays in few bytes until it is asked for."""
    words = getattr(table[label].array, "words", None)
    try:
        if isinstance(words, Words):
            words.check()
            return LazyWords.of(words)
        return text(table[label])
    except UnicodeEncodeError:
        row = next(i for i, word in enumerate(table[label]) if not _is_utf8(str(word)))
        raise FormatError(f"{where}, row {row + 1}", expected=f"UTF-8 for _{label}", found=repr(table[label].iloc[row]),
                          remedy="Convert the file, with iconv say.") from None  # fmt: skip


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def number_column(
    table: pd.DataFrame, label: str, where: str, *, missing: bool = False, copy: bool = True
) -> NDArray[np.float64]:
    """A column of numbers; without ``copy`` perhaps the table's own, which is not to be written to."""
    column = table[label]
    if column.dtype.kind in "iufb":
        values = column.to_numpy().astype(np.float64, copy=copy)
    else:
        import pandas as pd

        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        missing = False
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad) and not missing:
        raise FormatError(
            f"{where}, row {bad[0] + 1}", expected=f"a number for _{label}", found=repr(column.iloc[bad[0]]),
            remedy=f"{len(bad)} rows are affected: correct or remove them.",
        )  # fmt: skip
    return values


def whole_column(table: pd.DataFrame, label: str, where: str) -> NDArray[np.int32] | NDArray[np.int64]:
    if table[label].dtype == np.int32:
        return np.array(table[label])
    values = number_column(table, label, where)
    bad = np.flatnonzero((np.rint(values) != values) | (np.abs(values) > 2.0**53))
    if len(bad):
        raise FormatError(f"{where}, row {bad[0] + 1}", expected=f"a whole number for _{label}",
                          found=repr(table[label].iloc[bad[0]]))  # fmt: skip
    if len(values) and np.abs(values).max() >= 2**31:
        return values.astype(np.int64)
    return values.astype(np.int32)


def any_column(table: pd.DataFrame, label: str, where: str) -> NDArray[Any]:
    return table[label].to_numpy() if table[label].dtype.kind in "iufb" else text_column(table, label, where)


def drop(table: pd.DataFrame, labels: set[str]) -> None:
    for label in labels & set(table.columns):
        del table[label]
