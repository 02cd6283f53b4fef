"""Rows that show the same particle: picked twice, or drifted onto each other in alignment."""

from __future__ import annotations

import numpy as np
import xarray as xr

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
    from cryoflow.tables.thin import thin  # compiled: loaded by those who need it

    keep = thin(np.ascontiguousarray(place * pixel[:, None]), group, order, float(distance))
    return take(ds, np.flatnonzero(keep))
