"""Rows that show the same particle: picked twice, or drifted onto each other in alignment."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.expression import evaluate, row_dim
from cryoflow.io.query import take
from cryoflow.tables.keys import codes
from cryoflow.tables.recentre import centres

__all__ = ["remove_duplicates"]


def remove_duplicates(
    ds: xr.Dataset, distance: float, *, score: str | None = None, aligned: bool = True, per: str = "micrograph_name"
) -> xr.Dataset:
    """``ds`` without rows nearer than ``distance`` (angstrom) to a better row of the same micrograph.

    The rows are settled from the best down: one falls only to a row that itself was kept. (RELION 3.1 drops every row
    that has a later one near, even if that is dropped too.) Copies made by symmetry expansion lie on each other:
    remove duplicates before.

    Parameters
    ----------
    score : a column or formula, the largest is the best (``max_probability``, ``-rotation_width``); without it the
        first row stays.
    aligned : count from the centre that the alignment found (coordinate less shift), not from the picked one.
    per : what tells micrographs apart; a column, or several with commas.

    Raises
    ------
    ParameterError : no coordinates or pixel sizes, a distance not above 0, or scores that are not numbers.

    Examples
    --------
    >>> ds = xr.Dataset({
    ...     "coordinate": (("particle", "xy"), [[10.0, 10.0], [12.0, 10.0], [90.0, 10.0]]),
    ...     "micrograph_name": ("particle", ["a", "a", "a"]), "pick_score": ("particle", [0.5, 0.9, 0.1]),
    ...     "optics_group": ("particle", [0, 0, 0]), "micrograph_pixel_size": ("optics", [1.5])})
    >>> remove_duplicates(ds, 30.0, score="pick_score").pick_score.values.tolist()
    [0.9, 0.1]
    """
    where = f"remove_duplicates(distance={distance:g})"
    if not (np.isfinite(distance) and distance > 0):
        raise ParameterError(where, expected="a distance above 0 angstrom", found=f"{distance}")
    n = ds.sizes[row_dim(ds, where)]
    place, pixel = centres(ds, aligned=aligned, where=where)
    group = codes([ds], per, where)[0]
    order = np.arange(n)
    if score is not None:
        values = np.asarray(evaluate(ds, score, where=where))
        if values.shape != (n,) or values.dtype.kind not in "fiub":
            raise ParameterError(where, expected="a number for every row as score", found=repr(score))
        order = np.argsort(-values.astype(np.float64), kind="stable")  # NaN comes last
    keep = _thin(np.ascontiguousarray(place * pixel[:, None]), group, order, float(distance))
    return take(ds, np.flatnonzero(keep))


def _thin(xy: NDArray[np.float64], group: NDArray[Any], order: NDArray[Any], distance: float) -> NDArray[np.bool_]:
    """Which points stay. Cells of side distance / sqrt(2) hold at most one kept point; 25 of them are near a point.

    Time and memory follow from the number of points alone, however dense they lie.
    """
    side = distance / np.sqrt(2.0)
    xy = xy - xy.min(axis=0, initial=0.0)
    cell = np.floor(xy / side).astype(np.int64)
    width = cell.max(axis=0, initial=0) + 5  # two empty cells on either side
    if float(width[0]) * float(width[1]) * float(group.max(initial=0) + 1) > 2.0**62:
        found = f"some {xy.max():g} angstrom away"
        raise ParameterError("remove_duplicates", expected="coordinates within a micrograph", found=found,
                             remedy="Check coordinates and distance.")  # fmt: skip
    number = (group.astype(np.int64) * width[1] + cell[:, 1] + 2) * width[0] + cell[:, 0] + 2
    cells, at = np.unique(number, return_inverse=True)
    return np.asarray(_keep(xy, cells, at, order, int(width[0]), distance * (1 - 1e-12)))


@numba.njit(nogil=True, cache=True)
def _keep(xy, cells, at, order, width, distance):  # type: ignore[no-untyped-def]
    keep = np.zeros(len(xy), np.bool_)
    holder = np.full(len(cells), -1, np.int64)
    for i in order:
        free = True
        for dy in range(-2, 3):
            first = cells[at[i]] + dy * width - 2
            j = np.searchsorted(cells, first)
            while free and j < len(cells) and cells[j] <= first + 4:
                other = holder[j]
                if other >= 0:
                    x, y = xy[other, 0] - xy[i, 0], xy[other, 1] - xy[i, 1]
                    free = x * x + y * y >= distance * distance
                j += 1
            if not free:
                break
        if free:
            keep[i] = True
            holder[at[i]] = i
    return keep
