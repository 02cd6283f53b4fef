"""Posterior weights of hypotheses: which ones matter, and how much."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["significance_threshold"]

_BINS, _WIDTH = 512, 0.05  # log-likelihoods within 25.6 of the best; what lies below weighs less than 1e-11 of it


@numba.njit(nogil=True, cache=True)
def significance_threshold(scores, fraction):  # type: ignore[no-untyped-def]
    """Best score, log of the summed weights, and the score above which hypotheses hold ``fraction`` of the posterior.

    One pass over the scores, by a histogram of their distance to the best in steps of 0.05; a score stands for the
    weight exp(score - best).  scores : float32 of any shape.  Returns (best, log_sum, threshold).
    """
    flat = scores.ravel()
    best = flat[0]
    for s in flat:
        if s > best:
            best = s
    mass = np.zeros(_BINS)
    for s in flat:
        d = best - s
        if d < _BINS * _WIDTH:
            mass[int(d / _WIDTH)] += np.exp(-d)
    total = mass.sum()
    wanted = fraction * total
    reached = 0.0
    last = 0
    for i in range(_BINS):
        reached += mass[i]
        last = i
        if reached >= wanted:
            break
    return best, best + np.log(total), best - np.float32((last + 1) * _WIDTH)
