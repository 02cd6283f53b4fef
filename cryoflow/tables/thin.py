"""Points of which no two lie near each other, chosen from the best down."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import ParameterError

__all__ = ["thin"]


def thin(xy: NDArray[np.float64], group: NDArray[Any], order: NDArray[Any], distance: float) -> NDArray[np.bool_]:
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
