"""How far the rings agree with the fit: equiphase profile, its local correlation with |CTF|, fit resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cryoflow.conventions import electron_wavelength
from cryoflow.ctf.rings import Optics, spline_complement
from cryoflow.ctf.search import Defocus
from cryoflow.kernels.backend import array_module, to_host
from cryoflow.kernels.ctf import ctf_phase

__all__ = ["equiphase_profile", "fit_resolution", "local_quality", "mean_ctf"]

Array = npt.NDArray[np.floating[Any]]
THRESHOLD = 0.5
RINGS_IN_WINDOW = 3.0
LEAST_WINDOW = 15
LATEST_START = 1.0 / 15.0  # 1/angstrom: rings that are fitted at all are fitted from the first ones on


def equiphase_profile(spectrum: Any, defocus: Defocus, optics: Optics, *, tile: int, step: float, radii: int) -> Array:
    """Mean of ln A along lines of equal CTF phase, on frequencies ``step`` (1/angstrom) apart; NaN where empty.

    Every sample is moved to the frequency s' where the mean defocus has the phase that the astigmatic CTF has at the
    sample: with k = pi/2 Cs lambda^3 and b = pi lambda z, k s'^4 - b s'^2 + chi = 0, so
    s'^2 = 2 chi / (b + sqrt(b^2 - 4 k chi)).

    Source: Rohou & Grigorieff 2015; Zhang 2016, J. Struct. Biol. 193:1.
    """
    xp = array_module(spectrum)
    n = spectrum.shape[0]
    unit = 1.0 / (tile * optics.pixel_size)
    kx = xp.arange(1, n // 2, dtype=xp.float64)[None, :] * unit  # without the central cross
    ky = xp.asarray(np.fft.fftfreq(n) * n)[:, None] * unit
    chi = ctf_phase(
        kx, ky, defocus.u, defocus.v, defocus.angle, voltage=optics.voltage, cs=optics.cs, amplitude_contrast=0.0
    )
    lam = electron_wavelength(optics.voltage)
    b, k = np.pi * lam * defocus.mean, 0.5 * np.pi * optics.cs * 1e7 * lam**3
    root = b * b - 4 * k * chi
    moved = xp.sqrt(xp.maximum(2 * chi / (b + xp.sqrt(xp.maximum(root, 0.0))), 0.0)) / step
    keep = (root > 0) & (moved < radii - 1) & (ky != 0)
    moved, values = moved[keep], xp.log(xp.maximum(spectrum[:, 1 : n // 2][keep], 1e-30)).astype(xp.float64)
    low = moved.astype(xp.int64)
    fraction = moved - low
    total = xp.bincount(low, (1 - fraction) * values, radii) + xp.bincount(low + 1, fraction * values, radii)
    count = xp.bincount(low, 1 - fraction, radii) + xp.bincount(low + 1, fraction, radii)
    total, count = to_host(total), to_host(count)
    return np.asarray(np.where(count > 0.5, total / np.maximum(count, 1e-9), np.nan))


def mean_ctf(s: Array, defocus: Defocus, optics: Optics) -> Array:
    """|CTF| at the mean defocus."""
    phase = optics.constant_phase + np.deg2rad(defocus.phase_shift)
    return np.asarray(np.abs(np.sin(optics.aberration(s, defocus.mean) + phase)))


def without_background(profile: Array, s: Array, low: float) -> Array:
    """The profile above ``low`` (1/angstrom) without its smooth background; NaN elsewhere."""
    out = np.full(profile.size, np.nan)
    band = np.flatnonzero((s >= low) & np.isfinite(profile))
    if band.size > LEAST_WINDOW:
        weights = np.sqrt(s[band] / s[band].mean())
        splines = spline_complement(s[band], weights)
        data = profile[band] * weights
        out[band] = (data - splines @ (splines.T @ data)) / weights
    return out


def local_quality(profile: Array, s: Array, defocus: Defocus, optics: Optics) -> Array:
    """Correlation of a background-free profile with CTF^2 in a window around each frequency; NaN where undefined.

    The window spans three rings (and at least 15 samples), since a correlation over less says nothing about rings.
    """
    lam = electron_wavelength(optics.voltage)
    model = np.square(mean_ctf(s, defocus, optics))
    # chi grows by pi from ring to ring: ring width in samples = pi / (chi' step)
    slope = 2 * np.pi * np.abs(lam * defocus.mean * s - optics.cs * 1e7 * lam**3 * s**3)
    width = np.pi / np.maximum(slope * (s[1] - s[0]), 1e-9)
    half = np.maximum(np.ceil(0.5 * RINGS_IN_WINDOW * width), LEAST_WINDOW // 2).astype(np.int64)
    quality = np.full(s.size, np.nan)
    inside = np.flatnonzero(np.isfinite(profile))
    for i in inside:
        a, b = max(i - half[i], inside[0]), min(i + half[i], inside[-1])
        x, y = profile[a : b + 1], model[a : b + 1]
        keep = np.isfinite(x)
        if keep.sum() >= LEAST_WINDOW:
            x, y = x[keep] - x[keep].mean(), y[keep] - y[keep].mean()
            scale = float(np.sqrt((x @ x) * (y @ y)))
            quality[i] = x @ y / scale if scale > 0 else 0.0
    return quality


def fit_resolution(quality: Array, s: Array, start: float = LATEST_START) -> float:
    """Resolution in angstrom to which the rings are fitted, inf if they are not.

    The end of the stretch of frequencies over which the local correlation stays at 0.5 or above. The stretch must begin
    at or below ``start`` (1/angstrom): rings seen at high frequency alone are noise.

    Source: Rohou & Grigorieff 2015, with their threshold.

    >>> s = np.arange(100) / 500
    >>> fit_resolution(np.where(s < 0.1, 0.9, 0.1), s)
    10.204081632653061
    """
    good = np.nan_to_num(quality, nan=-1.0) >= THRESHOLD
    begin = np.flatnonzero(good & (s > 0) & (s <= start))
    if begin.size == 0:
        return float("inf")
    bad = np.flatnonzero(~good[begin[-1] :])
    last = begin[-1] + bad[0] - 1 if bad.size else s.size - 1
    return float(1.0 / s[last])
