"""What an FSC of noise may be: how surely two maps share anything, and how far a curve may stray by chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.kernels.backend import array_module, to_host
from cryoflow.kernels.fourier import rfft3c, shell_sum

__all__ = ["fsc_deviation", "fsc_significance"]


def fsc_significance(curve: Any, box: int) -> float:
    """By how many standard deviations of pure noise the low-frequency part of a curve correlates at best.

    Between independent noise FSC(s) has mean 0 and variance v / N_s, N_s being the samples of the shell in the full
    spectrum and v how much symmetry or a mask thins them out (1 for neither, the group's order for symmetric maps).
    v is measured, as the median of (FSC(s+1) - FSC(s))^2 / (1 / N_s + 1 / N_{s+1}) over that of the chi-square
    distribution, and held at 1 or above. Returns the maximum over S of

        sum_{s=1..S} N_s FSC(s) / sqrt(v sum_{s=1..S} N_s).

    Below 5 two maps cannot be said to share anything.

    >>> from cryoflow.kernels.resolution import fsc
    >>> rng = np.random.default_rng(1)
    >>> a, b = rng.standard_normal((2, 24, 24, 24))
    >>> fsc_significance(fsc(a, b), 24) < 5 < fsc_significance(fsc(a + b, b), 24)
    True
    """
    values = np.asarray(to_host(curve), dtype=np.float64)[1:]
    samples = shell_sum(np.ones((box, box, box // 2 + 1)), box, dims=3)[1:]
    steps = np.diff(values) ** 2 / (1 / samples[1:] + 1 / samples[:-1])
    thinning = max(1.0, float(np.median(steps)) / 0.4549)
    return float(np.max(np.cumsum(samples * values) / np.sqrt(thinning * np.cumsum(samples))))


def fsc_deviation(box: int, *, mask: Any = None, order: int = 1) -> np.ndarray:
    """Standard deviation of the FSC of two volumes of independent white noise, (box // 2 + 1,).

    A shell has N_s samples. A mask m ties each to its neighbours at distance q by |M(q)|, M being the transform of m^2;
    a point group of ``order`` G repeats each G times:

        sigma_s^2 = G / N_s  sum_{|q| <= 2 s} |M(q) / M(0)|^2 h(|q|),    h(q) = 1 - q / 2 up to 1, 1 / (2 q) beyond

    with h the part of a shell one sample thick that is left within it when it is moved by q. Where the FSC is c and not
    0, the deviation is (1 - c^2) sigma_s.

    Parameters
    ----------
    mask : (box, box, box), 0 to 1, that both volumes are multiplied by.
    order : of the point group that both have.

    Source: without mask and group: van Heel & Schatz 2005, J. Struct. Biol. 151:250; the mask's factor is the variance
    of a sum of products of two Gaussian fields of covariance M. Held against simulated noise in the tests.

    >>> fsc_deviation(64)[16].round(4), fsc_deviation(64, order=4)[16].round(4)
    (np.float64(0.0173), np.float64(0.0346))
    """
    samples = to_host(shell_sum(np.ones((box, box, box // 2 + 1)), box, dims=3))
    if mask is None:
        return np.sqrt(order / samples)  # type: ignore[no-any-return]
    xp = array_module(mask)
    power = to_host(xp.abs(rfft3c(xp.asarray(mask, xp.float64) ** 2)) ** 2)
    if power.shape != (box, box, box // 2 + 1) or not power[0, 0, 0] > 0:
        raise ParameterError("fsc_deviation", expected=f"a mask of box {box}, not all 0", found=f"shape {mask.shape}")
    k, half = np.fft.fftfreq(box) * box, np.arange(box // 2 + 1)
    q = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + half**2)
    left = np.where(q <= 1, 1 - q / 2, 0.5 / np.maximum(q, 1))
    twice = np.where((half == 0) | (2 * half == box), 1, 2)  # samples of the half spectrum stand for two
    tied = np.bincount(np.ceil(q).astype(int).ravel(), (power / power[0, 0, 0] * left * twice).ravel())
    return np.sqrt(order / samples * np.cumsum(tied)[np.minimum(2 * half, tied.size - 1)])  # type: ignore[no-any-return]
