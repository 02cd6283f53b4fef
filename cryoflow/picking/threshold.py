"""Where particles end and noise begins in the distribution of peak scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScoreSplit", "split_scores"]

ROUNDS = 200
SEPARATED = 2.0  # Ashman's D above which two modes are two populations


@dataclass(frozen=True, slots=True)
class ScoreSplit:
    """``threshold`` between two populations; ``separation`` = |m1 - m2| / sqrt((s1^2 + s2^2) / 2) (Ashman's D)."""

    threshold: float
    separation: float
    fraction: float

    @property
    def clear(self) -> bool:
        return self.separation > SEPARATED


def split_scores(scores: Any) -> ScoreSplit:
    """Fit two normal distributions to peak scores and place the threshold where they are equally likely.

        p(s) = w1 N(s; m1, s1) + w2 N(s; m2, s2);   w1 N(t; m1, s1) = w2 N(t; m2, s2),  m1 < t < m2

    by expectation maximisation from Otsu's split. ``clear`` says whether the two are apart (Ashman's D > 2).

    Source: Kittler & Illingworth 1986, Pattern Recognit. 19:41; Ashman et al. 1994, Astron. J. 108:2348.

    >>> rng = np.random.default_rng(1)
    >>> s = split_scores(np.r_[rng.normal(0.1, 0.05, 900), rng.normal(0.5, 0.08, 300)])
    >>> s.clear, 0.2 < s.threshold < 0.35, round(s.fraction, 2)
    (True, True, 0.25)
    """
    s = np.sort(np.asarray(scores, dtype=np.float64))
    if len(s) < 4 or s[0] == s[-1]:
        return ScoreSplit(float(s[0]) if len(s) else 0.0, 0.0, 1.0)
    cut = _otsu(s)
    spread = 1e-3 * (s[-1] - s[0])
    weight = (s >= cut).astype(np.float64)
    mean, sd, share = np.zeros(2), np.ones(2), np.ones(2)
    for _ in range(ROUNDS):
        for k, w in enumerate((1.0 - weight, weight)):
            total = w.sum() + 1e-12
            share[k], mean[k] = total / len(s), (w * s).sum() / total
            sd[k] = max(spread, np.sqrt((w * (s - mean[k]) ** 2).sum() / total))
        log_odds = _log_density(s, mean[1], sd[1], share[1]) - _log_density(s, mean[0], sd[0], share[0])
        before, weight = weight, 1.0 / (1.0 + np.exp(-np.clip(log_odds, -50, 50)))
        if np.abs(weight - before).max() < 1e-6:
            break
    separation = abs(mean[1] - mean[0]) / np.sqrt(0.5 * (sd**2).sum())
    return ScoreSplit(_crossing(mean, sd, share, cut), float(separation), float(share[1]))


def _log_density(s: NDArray[Any], mean: float, sd: float, share: float) -> NDArray[Any]:
    return np.asarray(np.log(share / sd) - 0.5 * ((s - mean) / sd) ** 2)


def _crossing(mean: NDArray[Any], sd: NDArray[Any], share: NDArray[Any], otherwise: float) -> float:
    """The point between the means where both components are equally likely."""
    t = np.linspace(mean[0], mean[1], 1001)
    odds = _log_density(t, mean[1], sd[1], share[1]) - _log_density(t, mean[0], sd[0], share[0])
    above = np.flatnonzero(odds >= 0)
    return float(t[above[0]]) if len(above) and mean[1] > mean[0] else float(otherwise)


def _otsu(s: NDArray[Any]) -> float:
    """The cut of sorted values that maximises the variance between the two classes."""
    n = len(s)
    low = np.cumsum(s)[:-1]
    count = np.arange(1, n)
    between = (low / count - (s.sum() - low) / (n - count)) ** 2 * count * (n - count)
    return float(s[int(between.argmax()) + 1])
