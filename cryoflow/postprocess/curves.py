"""The five FSC curves of two half-maps, and the masks behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoflow.kernels.masks import distance_outside, raised_cosine, soft_sphere
from cryoflow.kernels.resolution import corrected_fsc, fsc, low_pass, phase_randomise
from cryoflow.kernels.significance import fsc_deviation

__all__ = ["FSC_CURVES", "FiveCurves", "five_curves"]

FSC_CURVES = ("none", "spherical", "loose", "tight", "randomised", "corrected")

LOOSE = (25.0, 40.0)  # angstrom beyond the threshold: mask 1 up to the first, 0 from the second
TIGHT = (6.0, 12.0)
SPHERE = (0.85, 1.0)  # of half the box


@dataclass(frozen=True, slots=True)
class FiveCurves:
    """FSC curves by name (with ``randomised``, the tight one after phase randomisation), and what they rest on.

    deviation : of the corrected curve by chance, a standard deviation a shell.
    """

    curves: dict[str, np.ndarray]
    deviation: np.ndarray
    tight: Any
    randomised_from: int


def five_curves(
    half1: Any,
    half2: Any,
    *,
    pixel_size: float,
    mask: Any = None,
    mask_low_pass: float = 15.0,
    threshold: float = 0.143,
    order: int = 1,
    seed: int = 0,
) -> FiveCurves:
    """FSC of two half-maps without a mask, in a sphere, in a loose, a tight and a corrected tight mask.

    ``none``: no mask. ``spherical``: 1 up to 0.85 of half the box, cosine to 0 at half the box. ``loose``: the map at
    half its maximum, 1 within 25 angstrom of that, cosine to 0 at 40. ``tight``: the same with 6 and 12, or ``mask``
    if one is given. ``randomised``: tight, after the phases of both halves are randomised from the first shell on
    where ``none`` is below ``threshold``. ``corrected``: (tight - randomised) / (1 - randomised), from two shells
    beyond that on.

    Parameters
    ----------
    half1, half2 : (n, n, n) unfiltered, unmasked half-maps.
    pixel_size : angstrom.
    mask : (n, n, n) between 0 and 1; replaces the tight mask.
    mask_low_pass : angstrom; low-pass of the mean map before it is thresholded for the loose and tight masks.
    order : of the halves' point group; a group leaves fewer independent values, which widens ``deviation``.
    seed : of the random phases.

    Source: Chen et al. 2013, Ultramicroscopy 135:24.

    >>> rng = np.random.default_rng(0)
    >>> a, b = soft_sphere(24, 5, 2) + 0.1 * rng.standard_normal((2, 24, 24, 24)).astype(np.float32)
    >>> sorted(five_curves(a, b, pixel_size=2.0).curves)
    ['corrected', 'loose', 'none', 'randomised', 'spherical', 'tight']
    """
    n = half1.shape[-1]
    none = fsc(half1, half2)
    below = np.flatnonzero(none[1:] < threshold)
    start = int(below[0]) + 1 if below.size else n // 2 + 1

    smooth = low_pass(0.5 * (half1 + half2), mask_low_pass, pixel_size)
    distance = pixel_size * distance_outside(smooth > 0.5 * smooth.max())
    loose, tight = (raised_cosine(distance, one_to, zero_from - one_to) for one_to, zero_from in (LOOSE, TIGHT))
    if mask is not None:
        tight = mask
    inner, outer = (fraction * n / 2 for fraction in SPHERE)

    def under(m: Any, a: Any = half1, b: Any = half2) -> Any:
        return fsc(a * m, b * m)

    masked = under(tight)
    if start <= n // 2:
        rng = np.random.default_rng(seed)
        randomised = under(tight, phase_randomise(half1, start, rng), phase_randomise(half2, start, rng))
    else:
        randomised = masked  # nothing beyond to randomise; all shells of the correction keep the tight curve
    corrected = corrected_fsc(masked, randomised, start)
    deviation = fsc_deviation(n, mask=tight)
    chance = np.sqrt(order) * (1 - masked**2)
    beyond = np.hypot(chance, 1 - corrected) / np.maximum(1 - randomised, 1e-6)  # random phases have no point group
    deviation = deviation * np.where(np.arange(n // 2 + 1) < start + 2, chance, beyond)
    return FiveCurves(
        {
            "none": none,
            "spherical": under(soft_sphere(n, inner, outer - inner)),
            "loose": under(loose),
            "tight": masked,
            "randomised": randomised,
            "corrected": corrected,
        },
        np.minimum(deviation, 1.0),
        tight,
        start,
    )
