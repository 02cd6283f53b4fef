"""Where particles end and noise begins in the distribution of peak scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScoreSplit", "choose_threshold", "decoy_threshold", "split_scores"]

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


def decoy_threshold(targets: Any, decoys: Any) -> float | None:
    """The threshold with the best estimated F1, given the scores of as many false peaks as there are among the true.

    Decoys are peaks of the negated score map: noise makes as many of them as of false targets. With T(t) targets and
    D(t) decoys above t, P(t) = T(t) - D(t) estimates the true ones, and t maximises

        F1(t) = 2 P(t) / (T(t) + max P).

    None where decoys say nothing, being half of what is kept or more (a close packing's gaps are as dark as its
    particles are bright).

    Source: the target-decoy approach, Elias & Gygi 2007, Nat. Methods 4:207, for picking.

    >>> rng = np.random.default_rng(0)
    >>> noise, more = rng.rayleigh(1.0, 4000), rng.rayleigh(1.0, 4000)
    >>> t = decoy_threshold(np.r_[noise, rng.normal(5.0, 0.5, 300)], more)
    >>> bool(3.0 < t < 4.5), decoy_threshold(noise, more)
    (True, None)
    """
    t = np.sort(np.asarray(targets, dtype=np.float64))[::-1]
    d = np.sort(np.asarray(decoys, dtype=np.float64))
    if not len(t):
        return None
    above = np.arange(1, len(t) + 1)
    false = len(d) - np.searchsorted(d, t)
    true = above - false
    best = int((2.0 * true / (above + max(1, int(true.max())))).argmax())
    if true[best] <= 3 * np.sqrt(false[best] + 1.0) or 2 * false[best] >= above[best]:
        return None
    return float(t[best])


def choose_threshold(targets: Any, decoys: Any) -> float | None:
    """``split_scores`` where it shows two populations and decoys agree, else ``decoy_threshold``; None if neither.

    >>> rng = np.random.default_rng(2)
    >>> choose_threshold(rng.rayleigh(1.0, 2000), rng.rayleigh(1.0, 2000)) is None
    True
    """
    targets, decoys = np.asarray(targets), np.asarray(decoys)
    split = split_scores(targets)
    if split.clear and 2 * (decoys >= split.threshold).sum() < (targets >= split.threshold).sum():
        return split.threshold
    return decoy_threshold(targets, decoys)


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
