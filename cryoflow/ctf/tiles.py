"""Cutting a micrograph into overlapping tiles, and setting bad areas aside."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cryoflow.kernels.backend import array_module, to_host

__all__ = ["UnusableMicrographError", "clipped", "good_tiles", "tile_corners", "tile_stacks"]

Array = npt.NDArray[np.floating[Any]]
CLIP_SIGMAS = 5.0  # beyond this a pixel is a hot pixel, an X-ray or the edge of something that is not ice
TILES_AT_ONCE = 8
SAMPLE = 100_000  # pixels at least that level and deviation are measured on
HOLES = 0.01  # of a tile: so many pixels that are not finite are filled, more condemn it
OUTLIER_MADS = 6.0
OUTLIER_FLOOR = 0.2  # relative difference in mean or deviation that is never an outlier


class UnusableMicrographError(ValueError):
    """This micrograph cannot be fitted; the message is the ``reason`` its row carries."""


def tile_corners(shape: tuple[int, int], tile: int, overlap: float = 0.5) -> npt.NDArray[np.int64]:
    """Upper left corners (n, 2) as (y, x) of tiles spread evenly over the area, overlapping at least by ``overlap``.

    >>> tile_corners((1200, 1240), 512)[:, 1].max() + 512
    np.int64(1240)
    """

    def along(length: int) -> npt.NDArray[np.int64]:
        count = 1 + int(np.ceil((length - tile) / (tile * (1.0 - overlap)) - 1e-9))
        return np.rint(np.linspace(0, length - tile, count)).astype(np.int64)

    ys, xs = along(shape[0]), along(shape[1])
    return np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)


def _level(sample: Array) -> tuple[float, float]:
    """Median and robust deviation of finite pixels; neither hot pixels nor a piece of carbon move them much."""
    middle = float(np.median(sample))
    deviation = 1.4826 * float(np.median(np.abs(sample - middle)))
    return middle, deviation or float(sample.std())  # few grey levels: more than half of them may be equal


def _stride(ny: int, nx: int) -> int:
    """Distance of sampled pixels, without a common divisor with a row's length: every column has its turn.

    >>> _stride(1200, 1240), _stride(100, 100)
    (13, 1)
    """
    stride = max(1, ny * nx // SAMPLE)
    while math.gcd(stride, nx) > 1:
        stride -= 1
    return stride


def clipped(image: Any) -> Any:
    """The image as float32 of median 0 and robust deviation 1, outliers clipped; pixels that are not finite become NaN.

    Raises ``UnusableMicrographError`` if no pixel is finite or all are equal.
    """
    xp = array_module(image)
    pixels = image.astype(xp.float32)
    sample = to_host(pixels.ravel()[:: _stride(*pixels.shape)]).astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        raise UnusableMicrographError("no finite pixel")
    middle, deviation = _level(sample)
    if not deviation > 1e-6 * max(abs(middle), 1e-30):
        raise UnusableMicrographError("blank image: all pixels are equal")
    pixels -= xp.float32(middle)
    pixels *= xp.float32(1.0 / deviation)
    if image.dtype.kind == "f":
        pixels[~xp.isfinite(pixels)] = xp.float32(np.nan)
    return xp.clip(pixels, -CLIP_SIGMAS, CLIP_SIGMAS)


def good_tiles(
    means: npt.NDArray[np.floating[Any]], deviations: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.bool_]:
    """Tiles whose mean and deviation are like those of the others.

    A tile with NaN for its mean or deviation, or without contrast, is bad. Of the rest, those further than
    ``OUTLIER_MADS`` median absolute deviations from the median are outliers (carbon edges, large contaminants, blank
    margins), unless they differ by less than a fifth of the typical deviation anyway.

    >>> good_tiles(np.zeros(9), np.array([1, 1, 1, 1, 1, 1, 1, 0, 3.0])).sum()
    np.int64(7)
    """
    good: npt.NDArray[np.bool_] = np.isfinite(means) & np.isfinite(deviations) & (deviations > 0)
    if good.sum() < 4:
        return good
    typical = float(np.median(deviations[good]))
    for values in (means, deviations):
        difference = np.abs(values - np.median(values[good]))
        limit = max(OUTLIER_MADS * 1.4826 * float(np.median(difference[good])), OUTLIER_FLOOR * typical)
        good = good & (np.nan_to_num(difference, nan=np.inf) <= limit)
    return good


def tile_stacks(image: Any, tile: int, overlap: float = 0.5) -> Iterator[Any]:
    """Stacks (n, tile, tile) of the good tiles of a ``clipped`` image, each tile of mean 0, a few at a time.

    Raises ``UnusableMicrographError`` if fewer than a quarter of the tiles are good.
    """
    xp = array_module(image)
    corners = tile_corners(image.shape, tile, overlap)
    areas = [image[y : y + tile, x : x + tile] for y, x in corners]
    holes = xp.isnan(image)
    if holes.any():
        lost = to_host(xp.stack([holes[y : y + tile, x : x + tile].mean() for y, x in corners]))
        filled = xp.where(holes, xp.float32(0), image)
        areas = [filled[y : y + tile, x : x + tile] for y, x in corners]
    else:
        lost = np.zeros(len(areas))
    means = to_host(xp.stack([a.mean() for a in areas]))
    deviations = np.where(lost <= HOLES, to_host(xp.stack([a.std() for a in areas])), np.nan)
    good = np.flatnonzero(good_tiles(means, deviations))
    if 4 * good.size < len(areas):
        raise UnusableMicrographError(f"only {good.size} of {len(areas)} areas are clean")
    for start in range(0, good.size, TILES_AT_ONCE):
        chosen = good[start : start + TILES_AT_ONCE]
        yield xp.stack([areas[i] - xp.float32(means[i]) for i in chosen])
