"""Peaks of a score map, and the choice among those that claim the same particle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.backend import array_module, to_host

__all__ = ["find_peaks"]


def find_peaks(score: Any, *, min_distance: float, threshold: float = -np.inf, allowed: Any = None) -> NDArray[Any]:
    """Local maxima (x, y, score) of a map, best first, none nearer than ``min_distance`` to a better one.

    A maximum is at least as high as its eight neighbours; its place is refined by a parabola along x and y. The
    greedy choice in the order of scores keeps every particle of a close packing as long as ``min_distance`` is below
    the distance of neighbours: a worse peak falls only to a peak that itself was kept.

    Parameters
    ----------
    score : (y, x). NaN counts as no score.
    min_distance : pixels.
    threshold : only maxima above it count.
    allowed : (y, x) bool, where a centre may lie.

    Returns
    -------
    (n, 3) float64 on the host.

    >>> a = np.zeros((9, 9)); a[2, 3], a[3, 5], a[7, 7] = 5, 4, 3
    >>> find_peaks(a, min_distance=3.0, threshold=1.0)
    array([[3., 2., 5.],
           [7., 7., 3.]])
    """
    xp = array_module(score)
    values = xp.where(xp.isfinite(score), score, -xp.inf)
    padded = xp.pad(values, 1, constant_values=-xp.inf)
    top = values > threshold
    if allowed is not None:
        top &= allowed
    ny, nx = values.shape
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            if (dy, dx) != (1, 1):
                other = padded[dy : dy + ny, dx : dx + nx]
                # a plateau counts once: strict towards what comes before in memory
                top &= values > other if (dy, dx) < (1, 1) else values >= other
    y, x = xp.nonzero(top)
    if not len(x):
        return np.empty((0, 3))
    patch = np.asarray(to_host(xp.stack([padded[y + 1 + dy, x + 1 + dx] for dy, dx in _CROSS])), dtype=np.float64)
    y, x = to_host(y), to_host(x)
    centre, left, right, above, below = patch
    xy = np.stack([x + _vertex(left, centre, right), y + _vertex(above, centre, below)], axis=1)
    order = np.lexsort((x, y, -centre))  # ties by position, so that the result is the same everywhere
    xy, values_kept = xy[order], centre[order]
    keep = _greedy(xy, min_distance)
    return np.concatenate([xy[keep], values_kept[keep, None]], axis=1)


_CROSS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))


def _vertex(before: NDArray[Any], centre: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    """Offset of the top of the parabola through three neighbouring samples; 0 at borders and on plateaus."""
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = 0.5 * (after - before) / (2.0 * centre - before - after)
    return np.where(np.isfinite(offset), np.clip(offset, -0.5, 0.5), 0.0)


def _greedy(xy: NDArray[Any], min_distance: float) -> NDArray[np.bool_]:
    """Which points to keep, in their order, so that no kept point is nearer than ``min_distance`` to one before it."""
    from scipy.spatial import cKDTree

    keep = np.ones(len(xy), dtype=bool)
    pairs = cKDTree(xy).query_pairs(min_distance * (1 - 1e-12), output_type="ndarray")
    if not len(pairs):
        return keep
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]  # first < second, so the better point is settled first
    for first, second in pairs:
        if keep[first]:
            keep[second] = False
    return keep
