"""The noise of simulated images: its spectrum, and random streams that belong to a particle and not to a chunk."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.kernels.fourier import frequencies

__all__ = ["NoiseKind", "coloured_power", "noise_spectrum", "solvent_power", "stream"]

Array = np.ndarray[Any, np.dtype[Any]]
NoiseKind = Literal["coloured", "white"]

SHOT = 0.3  # white part, of the total of white and solvent parts before the detector


def stream(seed: int, *key: int) -> np.random.Generator:
    """A random generator of its own for every (seed, key...): the same numbers whoever draws them, in any order.

    >>> float(stream(1, 7).random()) == float(stream(1, 7).random()) != float(stream(1, 8).random())
    True
    """
    return np.random.default_rng([int(seed), *(int(k) for k in key)])


def solvent_power(s: Any) -> Any:
    """Power of vitreous ice at frequencies ``s`` (1/angstrom): W(s) = 1 + 6 / (1 + (50 s)^2) + 0.6 g(s).

    A Lorentzian of corner 1/50 A for thickness and structure at low frequency, and g, a Gaussian of width
    0.03/A about the water ring at 1/3.7 A.

    >>> solvent_power(np.array([0.0, 0.02])).round(3)
    array([7., 4.])
    """
    s = np.asarray(s)
    return 1.0 + 6.0 / (1.0 + (50.0 * s) ** 2) + 0.6 * np.exp(-0.5 * ((s - 1 / 3.7) / 0.03) ** 2)


def coloured_power(s: Any, pixel_size: float) -> Any:
    """Noise power at frequencies ``s`` (1/angstrom): N(s) = 0.7 W(s) M(s)^2 + 0.3.

    W is ``solvent_power``; M(s) = sinc(s pixel_size), the modulation transfer of a square pixel; 0.3 is white noise.

    >>> float(coloured_power(np.array(0.0), 1.0).round(6))
    5.2
    """
    s = np.asarray(s)
    return (1 - SHOT) * solvent_power(s) * np.sinc(s * pixel_size) ** 2 + SHOT


def noise_spectrum(box: int, pixel_size: float, kind: NoiseKind) -> Array:
    """Power on the half spectrum of a box, (n, n // 2 + 1) float32, scaled to unit variance of a pixel.

    >>> noise_spectrum(4, 1.0, "white").min()
    np.float32(1.0)
    """
    if kind not in ("coloured", "white"):
        raise ParameterError("simulate", expected="noise 'coloured' or 'white'", found=repr(kind))
    kx, ky = frequencies(box, dtype=np.float64)
    if kind == "white":
        return np.ones((box, box // 2 + 1), dtype=np.float32)
    power = coloured_power(np.sqrt(kx * kx + ky * ky) / pixel_size, pixel_size)
    weight = np.full(box // 2 + 1, 2.0)
    weight[0] = 1.0
    if box % 2 == 0:
        weight[-1] = 1.0
    return np.asarray(power / ((power * weight).sum() / box**2), dtype=np.float32)
