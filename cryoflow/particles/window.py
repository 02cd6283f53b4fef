"""Cut boxes around points of a micrograph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.backend import array_module

__all__ = ["box_inside", "nearest_pixel", "windows"]


def nearest_pixel(coordinate: NDArray[Any]) -> NDArray[np.int64]:
    """The pixel whose centre is nearest to each coordinate; halves go up.

    >>> nearest_pixel(np.array([0.49, 0.5, 1.5, -0.2])).tolist()
    [0, 1, 2, 0]
    """
    return np.floor(np.asarray(coordinate, dtype=np.float64) + 0.5).astype(np.int64)


def box_inside(centre: NDArray[Any], before: int, after: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether pixels ``centre - before .. centre + after`` (x, y) all lie in a micrograph of ``shape`` (y, x).

    >>> box_inside(np.array([[4, 4], [3, 4], [6, 4], [7, 4]]), 4, 3, (20, 10)).tolist()
    [True, False, True, False]
    """
    size = np.array(shape[::-1])
    return np.asarray(((centre >= before) & (centre + after < size)).all(axis=-1))


def windows(micrograph: Any, centre: NDArray[Any], box: int) -> Any:
    """Boxes (n, box, box) whose pixel box // 2 is the micrograph's pixel ``centre`` (x, y).

    What lies outside of the micrograph repeats its nearest pixel.

    >>> windows(np.arange(12.0).reshape(3, 4), np.array([[0, 1]]), 2).tolist()
    [[[0.0, 0.0], [4.0, 4.0]]]
    """
    xp = array_module(micrograph)
    ny, nx = micrograph.shape
    away = np.arange(box) - box // 2
    x = np.clip(centre[:, 0, None] + away, 0, nx - 1)
    y = np.clip(centre[:, 1, None] + away, 0, ny - 1)
    return micrograph[xp.asarray(y)[:, :, None], xp.asarray(x)[:, None, :]]
