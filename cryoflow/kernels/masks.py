"""Soft masks: spheres, and masks grown from a map."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.kernels.backend import array_module, is_device
from cryoflow.kernels.resolution import low_pass

__all__ = [
    "auto_mask",
    "auto_threshold",
    "checked_mask",
    "distance_outside",
    "largest_component",
    "raised_cosine",
    "soft_edge",
    "soft_sphere",
]


def raised_cosine(distance: Any, start: Any, edge: float) -> Any:
    """1 up to ``start``, 0 from ``start + edge``, and 1/2 + 1/2 cos(pi (d - start) / edge) between.

    >>> raised_cosine(np.array([0.0, 1.0, 2.0, 3.0]), 1.0, 2.0).round(6).tolist()
    [1.0, 1.0, 0.5, 0.0]
    """
    xp = array_module(distance)
    if edge <= 0:
        return (distance <= start).astype(distance.dtype)
    return 0.5 + 0.5 * xp.cos(xp.pi * xp.clip((distance - start) / edge, 0.0, 1.0))


def soft_sphere(box: int, radius: float, edge: float, *, dims: int = 3, xp: Any = np) -> Any:
    """Sphere (or disc, ``dims=2``) about box // 2: 1 within ``radius``, 0 from ``radius + edge``, pixels.

    >>> ball = soft_sphere(16, 4, 3)
    >>> ball[8, 8, 8], ball[8, 8, 12], ball[8, 8, 15]
    (np.float32(1.0), np.float32(1.0), np.float32(0.0))
    """
    if box < 1 or radius < 0 or edge < 0:
        raise ParameterError(
            "soft_sphere", expected="a box of at least 1, radius and edge of at least 0",
            found=f"box {box}, radius {radius}, edge {edge}",
        )  # fmt: skip
    axis = (xp.arange(box) - box // 2).astype(xp.float32) ** 2
    squares = sum(axis.reshape((-1,) + (1,) * i) for i in range(dims))
    return raised_cosine(xp.sqrt(squares), xp.float32(radius), edge).astype(xp.float32)


def distance_outside(binary: Any) -> Any:
    """Exact Euclidean distance, in voxels, of every voxel to the nearest of a binary volume's set; float32.

    Infinite everywhere if the set is empty.

    >>> distance_outside(np.array([0, 0, 1, 0], bool)).tolist()
    [2.0, 1.0, 0.0, 1.0]
    """
    xp = array_module(binary)
    if not bool(binary.any()):
        return xp.full(binary.shape, xp.inf, dtype=xp.float32)
    return _ndimage(binary).distance_transform_edt(~binary).astype(xp.float32)


def soft_edge(binary: Any, extend: float, edge: float) -> Any:
    """Grow a binary volume: 1 within ``extend`` voxels of it, raised cosine to 0 at ``extend + edge``.

    An empty set gives an empty mask.

    >>> point = np.zeros((9, 9, 9), bool); point[4, 4, 4] = True
    >>> soft_edge(point, 2, 2)[4, 4].round(2).tolist()
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    xp = array_module(binary)
    return raised_cosine(distance_outside(binary), xp.float32(extend), edge).astype(xp.float32)


def largest_component(binary: Any) -> Any:
    """The largest connected set (faces, edges and corners connect) of a binary volume.

    >>> largest_component(np.array([1, 0, 1, 1], bool)).tolist()
    [False, False, True, True]
    """
    xp = array_module(binary)
    labels, count = _ndimage(binary).label(binary, structure=xp.ones((3,) * binary.ndim, dtype=xp.int32))
    if int(count) <= 1:
        return binary
    sizes = xp.bincount(labels.ravel())
    sizes[0] = 0
    return labels == int(xp.argmax(sizes))


def auto_threshold(volume: Any) -> float:
    """Density that separates molecule from solvent: Otsu's threshold within the inscribed sphere.

    Maximises the variance between the two classes of the values' histogram (256 bins from the median up, since what is
    below the solvent's level is solvent too). Meant for a low-passed map. Source: Otsu 1979, IEEE Trans. SMC 9:62.

    >>> auto_threshold(10 * soft_sphere(32, 6, 4)) < 8
    True
    """
    xp = array_module(volume)
    n = volume.shape[-1]
    inside = volume[soft_sphere(n, n / 2, 0, xp=xp) > 0]
    counts, edges = xp.histogram(inside, bins=256, range=(float(xp.median(inside)), float(inside.max())))
    middles = 0.5 * (edges[:-1] + edges[1:])
    below, total = xp.cumsum(counts)[:-1], counts.sum()
    sum_below = xp.cumsum(counts * middles)[:-1]
    above = total - below
    valid = (below > 0) & (above > 0)
    means = sum_below / xp.maximum(below, 1) - ((counts * middles).sum() - sum_below) / xp.maximum(above, 1)
    between = xp.where(valid, below * above * means**2, 0.0)
    return float(edges[1 + int(xp.argmax(between))])


def auto_mask(
    volume: Any,
    *,
    pixel_size: float,
    low_pass_to: float = 15.0,
    threshold: float | None = None,
    extend: float = 6.0,
    soft: float = 9.0,
    largest: bool = True,
) -> Any:
    """Mask of a map: low-passed, thresholded, largest connected part kept, extended, soft edge.

    Parameters
    ----------
    volume : (n, n, n) density.
    pixel_size, low_pass_to, extend, soft : angstrom; 1.0 holds to ``extend`` beyond the threshold, 0 from
        ``extend + soft`` on.
    threshold : density of the low-passed map; None takes ``auto_threshold``.
    largest : whether only the largest connected part counts.

    Returns
    -------
    (n, n, n) float32 between 0 and 1.

    Raises
    ------
    ParameterError : the volume is not finite, is constant, or nothing lies above ``threshold``.

    >>> ball = soft_sphere(32, 8, 2)
    >>> mask = auto_mask(ball, pixel_size=2.0, low_pass_to=8.0)
    >>> bool(mask.max() == 1.0), bool((mask[ball > 0.5] == 1).all()), float(mask[0, 0, 0])
    (True, True, 0.0)
    """
    xp = array_module(volume)
    if not bool(xp.isfinite(volume).all()):
        raise ParameterError("auto_mask", expected="a finite volume", found="NaN or infinity")
    smooth = low_pass(volume, low_pass_to, pixel_size)
    if float(smooth.max()) <= float(smooth.min()):
        raise ParameterError("auto_mask", expected="a map with density", found="a constant volume")
    level = auto_threshold(smooth) if threshold is None else threshold
    binary = smooth > level
    if not bool(binary.any()):
        raise ParameterError(
            "auto_mask", expected=f"density above the threshold {level:.4g}",
            found=f"a low-passed maximum of {float(smooth.max()):.4g}", remedy="Lower the threshold, or leave it out.",
        )  # fmt: skip
    if largest:
        binary = largest_component(binary)
    return soft_edge(binary, extend / pixel_size, soft / pixel_size)


def _ndimage(array: Any) -> Any:
    if is_device(array):
        import cupyx.scipy.ndimage

        return cupyx.scipy.ndimage
    import scipy.ndimage

    return scipy.ndimage


def checked_mask(values: Any, where: str) -> Any:
    """``values`` as float32 between 0 and 1; a mask may pass these bounds by 0.01, as resampled ones do.

    Raises
    ------
    ParameterError : values that are not finite, out of range, or all 0.

    >>> checked_mask(np.array([0.0, 1.004]), "refine: mask").tolist()
    [0.0, 1.0]
    """
    xp = array_module(values)
    array = xp.asarray(values, dtype=np.float32)
    low, high = float(array.min()), float(array.max())
    if not (low >= -0.01 and high <= 1.01 and high > 0):
        raise ParameterError(
            where, expected="values between 0 and 1, not all 0", found=f"{low:g} to {high:g}",
            remedy="Threshold the map and give the mask a soft edge (kernels.masks.auto_mask).",
        )  # fmt: skip
    return xp.clip(array, 0.0, 1.0)
