"""What noise alone would do: how many peaks it has, how high they are, and that its pits are its peaks upside down."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.backend import array_module, to_host

__all__ = ["expected_peaks", "independent_positions", "noise_floor", "same_upside_down"]

LEVEL = 0.01  # of probability: what noise does more often than that is noise
LEAST = 2.5  # standard deviations below which the number of peaks is no longer that of high excursions


def independent_positions(score: Any, allowed: Any = None) -> float:
    """How many independent places a smooth random field has where it is ``allowed``: the N of ``expected_peaks``.

        N = A sqrt(<S_x^2> <S_y^2>) / ((2 pi)^(3/2) <S^2>),      A the allowed pixels, S less its mean

    score : (y, x).  allowed : (y, x) bool, or None for all.

    Source: Adler 1981, The Geometry of Random Fields; Worsley et al. 1996, Hum. Brain Mapp. 4:58.

    >>> from scipy.ndimage import gaussian_filter
    >>> noise = np.random.default_rng(1).normal(size=(400, 400))
    >>> field = gaussian_filter(noise, 3.0, mode="wrap")  # <S_x^2> / <S^2> = 1 / (2 3^2)
    >>> round(independent_positions(field) / (400**2 / 18 / (2 * np.pi) ** 1.5), 1)
    1.0
    """
    xp = array_module(score)
    inside = xp.ones(score.shape, dtype=bool) if allowed is None else allowed
    area = int(inside.sum())
    if not area:
        return 0.0
    across, down = inside[:, 1:] & inside[:, :-1], inside[1:] & inside[:-1]
    steps = [((score[:, 1:] - score[:, :-1])[across] ** 2), ((score[1:] - score[:-1])[down] ** 2)]
    variance = float(score[inside].var(dtype=np.float64))
    if not (variance > 0 and all(s.size for s in steps)):
        return 0.0
    slope = np.sqrt(float(steps[0].mean(dtype=np.float64)) * float(steps[1].mean(dtype=np.float64)))
    return float(area * slope / variance / (2 * np.pi) ** 1.5)


def expected_peaks(z: Any, positions: float) -> Any:
    """How many peaks of Gaussian noise lie above ``z`` >= 2.5 standard deviations: N z exp(-z^2 / 2).

    >>> expected_peaks(np.array([2.5, 4.0]), 1000.0).round(1).tolist()
    [109.8, 1.3]
    """
    return positions * z * np.exp(-0.5 * z**2)


def noise_floor(z: NDArray[Any], positions: float) -> float:
    """The lowest of the peaks ``z`` (standard deviations) down to which there are more than in noise; infinity if none.

    With k peaks above z_k, of which noise alone would have F, it is the last k at which

        P(k or more | Poisson of mean F) <= 0.01    and    F <= k / 2,    F = E(z_k / (1 + 1 / sqrt(2 N)))

    with the N and E of ``expected_peaks``; the divisor is for the deviation, which N places tell no better. One peak
    alone must thus be higher than noise reaches in one micrograph of a hundred; many may be lower, down to 2.5.

    >>> noise_floor(np.array([3.5, 3.0, 2.5]), 240.0), noise_floor(np.array([6.0, 5.5, 3.0]), 240.0)
    (inf, 5.5)
    """
    from scipy.special import gammainc

    falling = np.sort(z[z >= LEAST].astype(np.float64))[::-1]
    if not (len(falling) and positions > 0):
        return np.inf
    above = np.arange(1, len(falling) + 1)
    false = expected_peaks(falling / (1 + 1 / np.sqrt(2 * positions)), positions)
    real = np.flatnonzero((gammainc(above, false) <= LEVEL) & (false <= 0.5 * above))
    return float(falling[real[-1]]) if len(real) else np.inf


def same_upside_down(peaks: Any, pits: Any) -> float:
    """Probability that noise alone makes the radial profiles of peaks and negated pits as different as they are.

    Gaussian noise is the same upside down, whatever its spectrum; particles are not, however close they lie: the gaps
    between them do not have their shape. Hotelling's T^2 of both means, on rings two pixels wide.

    peaks, pits : (n, r), (m, r) of ``radial_profiles``.

    Source: Hotelling 1931, Ann. Math. Stat. 2:360.

    >>> rng = np.random.default_rng(0)
    >>> noise, more = rng.normal(size=(2, 200, 21))
    >>> bool(same_upside_down(noise, more) > 0.01), bool(same_upside_down(noise + 0.3, more) < 1e-6)
    (True, True)
    """
    from scipy.special import fdtrc

    # the last ring goes: a profile has mean 0, so the others say what it is
    a, b = (np.asarray(to_host(p), dtype=np.float64)[:, :-1] for p in (peaks, -pits))
    a, b = (np.add.reduceat(p, np.arange(0, p.shape[1], 2), axis=1) for p in (a, b))
    if min(len(a), len(b)) <= a.shape[1]:
        return 1.0
    values, vectors = np.linalg.eigh(np.cov(a.T) / len(a) + np.cov(b.T) / len(b))
    keep = values > 1e-3 * values[-1]
    if not keep.any():
        return 1.0
    free, count = len(a) + len(b) - 2, int(keep.sum())
    t2 = (((a.mean(axis=0) - b.mean(axis=0)) @ vectors[:, keep]) ** 2 / values[keep]).sum()
    return float(fdtrc(count, free - count + 1, t2 * (free - count + 1) / (free * count)))
