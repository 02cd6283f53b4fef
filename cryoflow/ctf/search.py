"""Exhaustive search over defocus, astigmatism and phase in a ``RingTable``, and refinement of its best peaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from cryoflow.ctf.rings import RingTable, SearchRange

__all__ = ["Defocus", "search_defocus"]

Array = npt.NDArray[np.floating[Any]]
PEAKS = 5  # refined from the exhaustive search
PHASE_STEP = 15.0  # degrees
OUTSIDE = -2.0  # the score of what may not be


@dataclass(frozen=True, slots=True)
class Defocus:
    """A fit: angstrom, degrees in (-90, 90] and [0, 180), and the partial correlation of data and rings."""

    u: float
    v: float
    angle: float
    phase_shift: float
    score: float

    @property
    def mean(self) -> float:
        return 0.5 * (self.u + self.v)


@njit(nogil=True, cache=True)
def _exhaustive(products, norms, offsets, first, last):  # type: ignore[no-untyped-def]
    """For every astigmatism (rows of ``offsets``, in defocus steps by sector): best score and its defocus index."""
    nodes, sectors = offsets.shape
    score, where = np.empty(nodes), np.empty(nodes, np.int64)
    count = last - first
    product, norm = np.empty(count, products.dtype), np.empty(count, norms.dtype)
    for node in range(nodes):
        product[:] = 0
        norm[:] = 0
        for j in range(sectors):
            o = first + offsets[node, j]
            for i in range(count):
                product[i] += products[j, o + i]
                norm[i] += norms[o + i]
        best, index = -2.0, 0
        for i in range(count):
            value = product[i] / np.sqrt(norm[i])
            if value > best:
                best, index = value, i
        score[node], where[node] = best, first + index
    return score, where


@njit(nogil=True, cache=True)
def _cubic(f):  # type: ignore[no-untyped-def]
    """Weights of the samples -1, 0, 1, 2 of Lagrange's cubic at the fraction ``f`` between 0 and 1."""
    return (
        -f * (f - 1) * (f - 2) / 6,
        (f + 1) * (f - 1) * (f - 2) / 2,
        -(f + 1) * f * (f - 2) / 2,
        (f + 1) * f * (f - 1) / 6,
    )


@njit(nogil=True, cache=True)
def _score(mean, ax, ay, phase, cosine, sine, norms, cos2, sin2, start, step, power):  # type: ignore[no-untyped-def]
    """Partial correlation at any defocus, astigmatism (a cos 2 angle, a sin 2 angle) and phase in radians."""
    c, s = np.cos(2 * phase), np.sin(2 * phase)
    product, norm = 0.0, 0.0
    for j in range(cos2.size):
        x = (mean + 0.5 * (ax * cos2[j] + ay * sin2[j]) - start) / step
        i = int(np.floor(x))
        if i < 1 or i > norms.shape[1] - 3:
            return OUTSIDE
        w = _cubic(x - i)
        for t in range(4):
            k = i - 1 + t
            product += w[t] * (s * sine[j, k] - c * cosine[j, k])
            norm += w[t] * (c * c * norms[0, k] + s * s * norms[1, k] - 2 * c * s * norms[2, k])
    return product / np.sqrt(norm * power)


def _astigmatisms(limit: float, spacing: float) -> Array:
    """A square grid (n, 2) of (a cos 2 angle, a sin 2 angle) in the disc a <= ``limit``: no angle is preferred."""
    n = int(limit / spacing)
    line = np.arange(-n, n + 1) * spacing
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return np.asarray(grid[np.hypot(*grid.T) <= limit + 1e-6])


def _candidates(table: RingTable, search: SearchRange) -> Array:
    """The best peaks (n, 4) of the exhaustive search: mean defocus, ax, ay, phase in radians."""
    step = table.defocus[1] - table.defocus[0]
    cos2, sin2 = np.cos(2 * table.angles), np.sin(2 * table.angles)
    nodes = _astigmatisms(search.astigmatism_limit, 4 * step)
    offsets = np.rint(0.5 * (nodes[:, :1] * cos2 + nodes[:, 1:] * sin2) / step).astype(np.int64)
    first, last = np.searchsorted(table.defocus, [search.min_defocus, search.max_defocus + 1e-6])
    reach = int(np.abs(offsets).max())
    first, last = max(int(first), reach), min(int(last), table.defocus.size - reach)
    last = max(last, first + 1)  # a range narrower than a step is still searched in astigmatism
    phases = np.deg2rad(np.arange(0.0, 180.0, PHASE_STEP)) if search.phase_shift else np.zeros(1)
    found = []
    for phase in phases:
        products, norms = table.at_phase(phase)
        score, where = _exhaustive(products.astype(np.float32), norms.astype(np.float32), offsets, first, last)
        row = np.column_stack([score, table.defocus[where], nodes, np.full(score.size, phase)])
        found.append(row)
    ranked = np.concatenate(found)
    ranked = ranked[np.argsort(-ranked[:, 0], kind="stable")]
    peaks: list[Array] = []
    for row in ranked:  # apart from each other: neighbours on the grid climb the same hill
        apart = [np.abs(row[1:4] - p[1:4]).max() > 6 * step or abs(row[4] - p[4]) > 0.6 for p in peaks]
        if all(apart):
            peaks.append(row)
            if len(peaks) == PEAKS:
                break
    return np.stack(peaks)[:, 1:]


def search_defocus(table: RingTable, search: SearchRange) -> Defocus:
    """Best mean defocus, astigmatism and, if asked for, phase shift.

    All defocus values, all astigmatisms in the disc of ``astigmatism_limit`` and all phases are tried on a grid finer
    than the width of a peak; the best peaks are refined by the simplex method in (mean, a cos 2 angle, a sin 2 angle
    [, phase]), where no angle is singular.
    """
    from scipy.optimize import minimize

    step = float(table.defocus[1] - table.defocus[0])
    cos2, sin2 = np.cos(2 * table.angles), np.sin(2 * table.angles)
    fixed = (table.cosine, table.sine, table.norms, cos2, sin2, float(table.defocus[0]), step, table.power)

    def cost(p: Array) -> float:
        phase = p[3] * 1e-3 if search.phase_shift else 0.0  # milliradians: of the same size as angstroms of defocus
        outside = np.hypot(p[1], p[2]) > search.astigmatism_limit
        outside = outside or not search.min_defocus <= p[0] <= search.max_defocus
        return -OUTSIDE if outside else -float(_score(p[0], p[1], p[2], phase, *fixed))

    free = 4 if search.phase_shift else 3
    best: tuple[float, Array] | None = None
    for peak in _candidates(table, search):
        start = np.array([np.clip(peak[0], search.min_defocus, search.max_defocus), *peak[1:3], 1e3 * peak[3]])[:free]
        inward = 1.0 if start[0] < 0.5 * (search.min_defocus + search.max_defocus) else -1.0
        moves = np.diag([inward * step, 2 * step, 2 * step, 150.0][:free])
        moves[1:3] *= np.where(start[1:3] > 0, -1.0, 1.0)[:, None]  # towards less astigmatism, never past the limit
        simplex = np.concatenate([start[None], start + moves])
        options: Any = {"initial_simplex": simplex, "xatol": 0.5, "fatol": 1e-8, "maxiter": 600}
        fit = minimize(cost, start, method="Nelder-Mead", options=options)
        if best is None or fit.fun < best[0]:
            best = float(fit.fun), fit.x
    assert best is not None
    mean, ax, ay = best[1][:3]
    phase = float(np.rad2deg(best[1][3] * 1e-3)) % 180.0 if search.phase_shift else 0.0
    half = 0.5 * float(np.hypot(ax, ay))
    angle = float(np.rad2deg(0.5 * np.arctan2(ay, ax)))
    return Defocus(float(mean) + half, float(mean) - half, 90.0 if angle <= -90.0 else angle, phase, -best[0])
