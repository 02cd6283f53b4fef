"""Thon rings as a linear model: the correlation of every sector with every defocus, in one matrix product.

The logarithm of the amplitude spectrum along one direction is a smooth background plus rings,

    log A(s) = background(s) - e(s) cos 2 chi(s) + noise,
    chi = pi lambda z s^2 - pi/2 Cs lambda^3 s^4 + phase + asin Q,

since |CTF|^2 = (1 - cos 2 chi) / 2. The background is a cubic spline and is fitted together with the rings: both data
and rings are projected onto the complement of the splines, so that the score is a partial correlation and no smoothing
of the data moves the rings. In a sector of directions the rings depend on the sector's defocus alone, so a table of
(sector, defocus) products holds the score of every astigmatism and, from its cosine and sine parts, of every phase.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cryoflow.conventions import electron_wavelength

__all__ = ["Optics", "RingTable", "Rings", "SearchRange", "correlate", "ring_model", "spline_complement"]

Array = npt.NDArray[np.floating[Any]]
RING_B_FACTOR = 60.0  # angstrom^2: rings fade towards high frequency; a weight, so that precision alone depends on it
KNOT_SPACING = 0.045  # 1/angstrom between knots of the background
STEPS_PER_PERIOD = 24  # defocus steps an oscillation at the highest frequency: cubic interpolation is exact to 1e-4


@dataclass(frozen=True, slots=True)
class Optics:
    """What the microscope is known to be: kV, mm, fraction, angstrom."""

    voltage: float
    cs: float
    amplitude_contrast: float
    pixel_size: float

    @property
    def constant_phase(self) -> float:
        """asin Q in radians."""
        return float(np.arcsin(self.amplitude_contrast))

    def aberration(self, s: Array, defocus: float | Array) -> Array:
        """chi(s) without constant phases, radians; s in 1/angstrom, broadcast against defocus in angstrom."""
        lam = electron_wavelength(self.voltage)
        s2 = np.square(s)
        return np.asarray(np.pi * lam * defocus * s2 - 0.5 * np.pi * self.cs * 1e7 * lam**3 * s2 * s2)


@dataclass(frozen=True, slots=True)
class SearchRange:
    """What is searched, in angstrom."""

    min_resolution: float
    max_resolution: float
    min_defocus: float
    max_defocus: float
    astigmatism_limit: float
    phase_shift: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """The model of one set-up. ``cosine`` and ``sine`` (defocus, radius) are whitened and free of background."""

    first: int  # first radius of the band, in samples of the spectrum
    weights: Array  # square roots of the number of samples per radius
    splines: Array  # orthonormal background functions (radius, function)
    defocus: Array
    cosine: Array
    sine: Array
    norms: Array  # (3, defocus): products of cosine.cosine, sine.sine, cosine.sine over the radii


@dataclass(frozen=True, slots=True, eq=False)
class RingTable:
    """Products of data and rings for one micrograph: what every score is made from."""

    defocus: Array
    angles: Array  # centres of the sectors, radians
    cosine: Array  # (sector, defocus)
    sine: Array
    norms: Array  # (3, defocus), of ``Rings``
    power: float  # of the data without background

    def at_phase(self, phase: float) -> tuple[Array, Array]:
        """Products (sector, defocus) and model norms (defocus) for a phase shift of ``phase`` radians."""
        c, s = np.cos(2 * phase), np.sin(2 * phase)
        # -cos(2 chi + 2 phase) = -c cos 2 chi + s sin 2 chi
        products = s * self.sine - c * self.cosine
        norms = c * c * self.norms[0] + s * s * self.norms[1] - 2 * c * s * self.norms[2]
        return products, norms


def spline_complement(s: Array, weights: Array, spacing: float = KNOT_SPACING) -> Array:
    """Orthonormal columns (radius, function): weighted cubic splines over ``s`` with knots ``spacing`` apart.

    >>> q = spline_complement(np.linspace(0.03, 0.2, 100), np.ones(100))
    >>> bool(np.allclose(q.T @ q, np.eye(q.shape[1])))
    True
    """
    from scipy.interpolate import BSpline

    pieces = max(1, round((s[-1] - s[0]) / spacing))
    knots = np.linspace(s[0], s[-1], pieces + 1)
    knots = np.concatenate([[knots[0]] * 3, knots, [knots[-1]] * 3])
    design = np.stack([BSpline(knots, unit, 3)(s) for unit in np.eye(pieces + 3)], axis=1)
    return np.asarray(np.linalg.qr(design * weights[:, None])[0])


@functools.lru_cache(maxsize=4)
def ring_model(optics: Optics, search: SearchRange, tile: int, radii: int) -> Rings:
    """The rings of every defocus in the search range, on the radii 0 .. ``radii`` - 1 of a ``tile``; kept for reuse."""
    step = 1.0 / (tile * optics.pixel_size)
    first = int(np.ceil(1.0 / (search.min_resolution * step)))
    last = min(int(1.0 / (search.max_resolution * step)), radii - 2)
    radius = np.arange(first, last + 1)
    s = radius * step
    weights = np.sqrt(radius / radius.mean())  # the number of samples of a ring grows with its radius
    splines = spline_complement(s, weights)
    spacing = 1.0 / (electron_wavelength(optics.voltage) * s[-1] ** 2 * STEPS_PER_PERIOD)
    margin = 0.5 * search.astigmatism_limit + 3 * spacing
    defocus = np.arange(search.min_defocus - margin, search.max_defocus + margin + spacing, spacing)
    envelope = weights * np.exp(-0.5 * RING_B_FACTOR * s * s)
    angle = 2 * (optics.aberration(s, defocus[:, None]) + optics.constant_phase)
    parts = []
    for part in (np.cos(angle), np.sin(angle)):
        part *= envelope
        parts.append(part - (part @ splines) @ splines.T)
    cosine, sine = parts
    norms = np.stack([(a * b).sum(axis=1) for a, b in ((cosine, cosine), (sine, sine), (cosine, sine))])
    return Rings(first, weights, splines, defocus, cosine, sine, norms)


def correlate(polar: Array, angles: Array, rings: Rings) -> RingTable:
    """Correlate the polar amplitude spectrum (sector, radius) with all rings; ``angles`` in degrees."""
    band = slice(rings.first, rings.first + rings.weights.size)
    data = np.log(np.maximum(polar[:, band], 1e-30)) * rings.weights
    data -= (data @ rings.splines) @ rings.splines.T
    power = float(np.einsum("ij,ij->", data, data))
    cosine, sine = data @ rings.cosine.T, data @ rings.sine.T
    return RingTable(rings.defocus, np.deg2rad(angles), cosine, sine, rings.norms, power)
