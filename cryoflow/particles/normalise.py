"""Bring particle images to one scale: no ramp, background of mean 0 and standard deviation 1, no dust."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.kernels.backend import array_module

__all__ = ["background", "normalise"]


def background(box: int, radius: float) -> NDArray[np.bool_]:
    """Pixels farther than ``radius`` pixels from the centre (box // 2), shape (box, box).

    >>> int(background(8, 3.0).sum())
    35
    """
    away = np.arange(box) - box // 2
    return np.asarray(np.hypot(away[:, None], away[None]) > radius)


@lru_cache(maxsize=8)
def _plane(box: int, radius: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Flat indices of the background, the pseudo-inverse of (x, y, 1) on it, and (x, y, 1) on the whole box."""
    away = np.arange(box, dtype=np.float64) - box // 2
    terms = np.stack([np.tile(away, box), np.repeat(away, box), np.ones(box * box)], axis=1)
    outside = np.flatnonzero(background(box, radius))
    if len(outside) < 8:
        raise ParameterError(
            "normalise", expected=f"a background circle that leaves corners of a box of {box} pixels free",
            found=f"a radius of {radius:g} pixels", remedy="Take a smaller background_diameter or a larger box.",
        )  # fmt: skip
    return outside, np.linalg.pinv(terms[outside]), terms


def normalise(
    images: Any,
    *,
    radius: float,
    ramp: bool = True,
    white_dust: float = -1.0,
    black_dust: float = -1.0,
    seeds: NDArray[Any] | None = None,
) -> Any:
    """Remove dust, subtract a plane fitted to the background, scale the background to mean 0 and standard deviation 1.

        X <- (X - (a x + b y + c) - mean_bg) / sd_bg         (bg: farther than ``radius`` from the centre)

    Dust, pixels more than ``white_dust`` (``black_dust``) standard deviations above (below) the background, becomes
    normal noise of the background's mean and deviation, drawn for each image from its own seed, before anything else.

    Parameters
    ----------
    images : (particle, n, n).
    radius : pixels.
    ramp : False subtracts the mean alone.
    white_dust, black_dust : standard deviations; negative: off.
    seeds : (particle,) non-negative integers, for the dust.

    Returns
    -------
    float32, (particle, n, n). An image of constant background becomes NaN: it has no scale.

    Source: as ``relion_preprocess --norm`` does it (the same bits; see docs/picking.md).

    >>> y, x = np.mgrid[:16, :16]
    >>> noise = np.random.default_rng(0).normal(size=(1, 16, 16))
    >>> out = normalise(noise + 3 * x - y + 100, radius=6.0)
    >>> flat = out[0][background(16, 6.0)]
    >>> bool(abs(flat.mean()) < 1e-6), round(float(flat.std()), 5)
    (True, 1.0)
    """
    xp = array_module(images)
    n, box = images.shape[0], images.shape[-1]
    outside, inverse, terms = _plane(box, float(radius))
    index, inverse, terms = xp.asarray(outside), xp.asarray(inverse), xp.asarray(terms)
    flat = xp.asarray(images, dtype=xp.float64).reshape(n, box * box)
    if white_dust >= 0 or black_dust >= 0:
        flat = _without_dust(flat, *_moments(flat[:, index]), white_dust, black_dust, seeds)
    if ramp:
        flat = flat - (flat[:, index] @ inverse.T) @ terms.T
    mean, sd = _moments(flat[:, index])
    tiny = 1e-9 * xp.maximum(xp.abs(flat).max(axis=1, keepdims=True), 1e-30)
    sd = xp.where(sd > tiny, sd, xp.nan)
    return ((flat - mean) / sd).astype(xp.float32).reshape(n, box, box)


def _moments(values: Any) -> tuple[Any, Any]:
    return values.mean(axis=1, keepdims=True), values.std(axis=1, keepdims=True)


def _without_dust(flat: Any, mean: Any, sd: Any, white: float, black: float, seeds: NDArray[Any] | None) -> Any:
    xp = array_module(flat)
    dust = xp.zeros(flat.shape, dtype=bool)
    if white >= 0:
        dust |= flat - mean > white * sd
    if black >= 0:
        dust |= mean - flat > black * sd
    rows = np.arange(len(flat)) if seeds is None else seeds
    noise = np.zeros(flat.shape)
    for i in np.flatnonzero(np.asarray(dust.any(axis=1).tolist())):
        noise[i] = np.random.Generator(np.random.Philox(key=int(rows[i]))).standard_normal(flat.shape[1])
    return xp.where(dust, mean + sd * xp.asarray(noise), flat)
