"""The expectation step in whole arrays, NumPy or CuPy: the oracle of ``expectation_cpu``, and the way of a device.

The mathematics is that of ``expectation_cpu``. Here it is written one line an equation over all images of a batch:
their hypotheses form lists padded to the longest, cross terms and slice sums are batched matrix products, slices and
insertion are those of ``projection``. ``expectation_device`` loops over the batches of a chunk.

Source: Scheres 2012, J. Mol. Biol. 415:406; adaptive oversampling: Tagare et al. 2010, J. Struct. Biol. 171:256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoflow.kernels.backend import array_module, to_host
from cryoflow.kernels.expectation import cross_and_norm
from cryoflow.kernels.noise_bias import NoiseBias, subtract_bias_arrays
from cryoflow.kernels.posterior import _BINS, _WIDTH
from cryoflow.kernels.projection import insert_slices, slices
from cryoflow.kernels.samples import Samples
from cryoflow.kernels.search import Search

__all__ = ["Model", "align_arrays", "significance_thresholds"]

TILE_BYTES = 256 << 20  # of the slices of all images that are held at once


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What the images of one half-set are compared with.

    volumes : (C, Z, Y, X).  coarse, fine : slices (C M, K0), (C M J, K) of a global search, or empty.
    coarse_phases, fine_phases : of the shifts, (T, K), (T L, K).
    """

    volumes: Any
    coarse: Any
    fine: Any
    coarse_phases: Any
    fine_phases: Any
    search: Search
    samples: Samples
    padding: int
    free_scale: bool


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """Hypotheses of each image, padded to the longest list: number, class and rotation, (B, P[, 3, 3]).

    index : (class M + m) J + j, or class M + m at the coarse level.  real : which are no padding.
    number : (B,) of real ones, on the host.  table : slices by ``index``, or empty.
    """

    index: Any
    class_of: Any
    rotation: Any
    real: Any
    number: Any
    table: Any

    def slices(self, some: Any, lo: int, hi: int, count: int, model: Model) -> Any:
        """(B', hi - lo, count) complex64 of images ``some``."""
        xp = array_module(model.volumes)
        rows, kind = self.index[some, lo:hi], self.class_of[some, lo:hi]
        if self.table.size:
            return self.table[rows.ravel(), :count].reshape(*rows.shape, count)
        matrices = self.rotation[some, lo:hi].reshape(-1, 3, 3)
        out = xp.empty((len(matrices), count), np.complex64)
        for c in range(len(model.volumes)):
            here = xp.flatnonzero(kind.ravel() == c)
            out[here] = slices(model.volumes[c], matrices[here], model.samples, count=count, padding=model.padding)
        return out.reshape(*rows.shape, count)

    def tiles(self, count: int) -> Any:
        """(images with hypotheses left, first, last) of pieces whose slices fit into ``TILE_BYTES``."""
        xp = array_module(self.index)
        b, p = self.index.shape
        step = max(1, TILE_BYTES // max(8 * count * b, 1))
        for lo in range(0, p, step):
            yield xp.asarray(np.flatnonzero(self.number > lo)), lo, min(lo + step, p)

    def take(self, index: Any, real: Any) -> _List:
        """The sub-list of hypotheses ``index`` (B, P')."""
        xp = array_module(self.index)
        b = xp.arange(len(index))[:, None]
        number = to_host(real.sum(axis=1))
        return _List(self.index[b, index], self.class_of[b, index], self.rotation[b, index], real, number, self.table)


def _power(x: Any) -> Any:
    return x.real**2 + x.imag**2


def _floats(x: Any) -> Any:
    """Complex (..., K) as float (..., 2K): the real part of an inner product becomes a plain one."""
    xp = array_module(x)
    return xp.ascontiguousarray(x).view(np.float32)


def significance_thresholds(scores: Any, fraction: float) -> tuple[Any, Any, Any]:
    """``posterior.significance_threshold`` of each row of (B, N) scores: best, log of the sum, threshold; (B,) each."""
    xp = array_module(scores)
    rows = xp.arange(len(scores))[:, None]
    best = scores.max(axis=1)
    distance = best[:, None] - scores
    place = xp.minimum(distance.astype(np.float64) / _WIDTH, _BINS).astype(np.int64)
    weights = xp.exp(-distance).ravel()
    mass = xp.bincount((rows * (_BINS + 1) + place).ravel(), weights=weights, minlength=len(scores) * (_BINS + 1))
    reached = xp.cumsum(mass.reshape(-1, _BINS + 1)[:, :_BINS], axis=1)
    total = reached[:, -1]
    last = xp.minimum((reached < fraction * total[:, None]).sum(axis=1), _BINS - 1)
    return best, best + xp.log(total), (best - ((last + 1) * _WIDTH).astype(np.float32)).astype(np.float32)


def _chosen(scores: Any, threshold: Any, limit: int) -> tuple[Any, Any]:
    """Masks (B, P), (B, S) of hypotheses and shifts with a score above ``threshold``; the best ``limit`` hypotheses."""
    xp = array_module(scores)
    top = scores.max(axis=2)
    if limit < top.shape[1]:
        at_limit = xp.sort(top, axis=1)[:, -limit]
        threshold = xp.where((top >= threshold[:, None]).sum(axis=1) > limit, at_limit, threshold)
    return top >= threshold[:, None], (scores >= threshold[:, None, None]).any(axis=1)


def _pack(mask: Any) -> tuple[Any, Any]:
    """Positions of the true entries of (B, N), padded to the longest row with 0: index and which are real, (B, P)."""
    xp = array_module(mask)
    number = mask.sum(axis=1)
    width = int(number.max())
    index = xp.zeros((len(mask), width), np.int64)
    b, i = xp.nonzero(mask)
    index[b, (xp.cumsum(mask, axis=1) - 1)[b, i]] = i
    return index, xp.arange(width) < number[:, None]


def _list(index: Any, real: Any, present: Any, model: Model, *, children: bool) -> _List:
    """Hypotheses (class, rotation[, child]) numbered ``index`` (B, P); composed with ``present`` if not absolute."""
    xp = array_module(index)
    rotations = xp.asarray(model.search.children if children else model.search.rotations).reshape(-1, 3, 3)
    rotation = rotations[index % len(rotations)]
    if not model.search.absolute:
        rotation = rotation @ xp.asarray(present)[:, None]
    table = model.fine if children else model.coarse
    return _List(index, index // len(rotations), rotation, real, to_host(real.sum(axis=1)), table)


def _scores(hypotheses: _List, moved: Any, weight: Any, model: Model) -> Any:
    """log p (B, P, S) = Re <P, Y e^{-2 pi i k t}> - <|P|^2, C^2 / sigma^2> / 2; -inf where there is no hypothesis."""
    xp = array_module(moved)
    out = xp.full((*hypotheses.index.shape, moved.shape[1]), -np.inf, np.float32)
    weight = xp.ascontiguousarray(weight)
    right = _floats(moved).swapaxes(1, 2)
    for some, lo, hi in hypotheses.tiles(moved.shape[2]):
        p = hypotheses.slices(some, lo, hi, moved.shape[2], model)
        cross = _floats(p) @ right[some]
        norm = _power(p) @ weight[some][:, :, None]
        out[some, lo:hi] = _log_likelihood(cross, norm, model.free_scale)
    out[~hypotheses.real] = -np.inf
    return out


def _log_likelihood(cross: Any, norm: Any, free_scale: bool) -> Any:
    xp = array_module(cross)
    if free_scale:
        return 0.5 * xp.maximum(cross, 0) ** 2 / xp.maximum(norm, 1e-30)
    return cross - 0.5 * norm


def _shell_sums(values: Any, samples: Samples) -> Any:
    """(B, K) real to (B, S) float64 on the host; samples beyond K count as zero."""
    xp = array_module(values)
    starts = np.minimum(samples.starts, values.shape[1])
    total = xp.cumsum(values.astype(np.float64), axis=1)
    total = xp.concatenate([xp.zeros((len(values), 1)), total], axis=1)
    return to_host(total[:, xp.asarray(starts[1:])] - total[:, xp.asarray(starts[:-1])])


def _angles(a: Any, b: Any) -> Any:
    xp = array_module(a)
    return xp.arccos(xp.clip(0.5 * ((a * b).sum(axis=(-2, -1)) - 1.0), -1.0, 1.0))


def align_arrays(
    masked: Any, unmasked: Any, transfer: Any, inverse: Any, present: Any, priors: tuple[Any, Any, Any],
    bias: NoiseBias, total: Any, model: Model, *, counts: tuple[int, int, int], fraction: float, limit: int,
) -> dict[str, Any]:  # fmt: skip
    """Poses and statistics of a batch of one half-set, on the host; the sums ``total`` (C, Z, Y, X, 4) grow in place.

    masked, unmasked : (B, N) samples X of the images.  transfer, inverse : (B, N) C and 1 / sigma^2.
    present : (B, 3, 3) rotations.  priors : log prior of class (B, C), coarse (B, T) and fine shifts (B, T L).
    counts : samples of the coarse level, of the alignment and of the model.  bias : of the images' own noise.
    """
    xp = array_module(masked)
    k_coarse, k_align, k_model = counts
    b, at = len(masked), xp.arange(len(masked))
    class_prior, coarse_shift_prior, fine_shift_prior = (xp.asarray(p) for p in priors)
    factor, weight = transfer * inverse, transfer**2 * inverse
    y_model, weight_model = unmasked[:, :k_model] * factor[:, :k_model], weight[:, :k_model]
    y, weight = masked[:, :k_align] * factor[:, :k_align], weight[:, :k_align].copy()
    y[:, 0], weight[:, 0] = 0, 0  # the mean of an image says nothing of its pose

    # coarse level: all (class, rotation) x shifts ---------------------------------------------------------------------
    n_class, (m, j) = len(model.volumes), model.search.children.shape[:2]
    every = xp.broadcast_to(xp.arange(n_class * m), (b, n_class * m))
    moved, weight_coarse = y[:, None, :k_coarse] * model.coarse_phases[:, :k_coarse], weight[:, :k_coarse]
    hypotheses = _list(every, every >= 0, present, model, children=False)
    if model.coarse.size:
        cross, norm = cross_and_norm(moved, xp.ascontiguousarray(weight_coarse), model.coarse)
        coarse = _log_likelihood(cross, norm[:, None], model.free_scale).swapaxes(1, 2)
    else:
        coarse = _scores(hypotheses, moved, weight_coarse, model)
    subtract_bias_arrays(coarse, hypotheses.rotation, hypotheses.class_of, bias.coarse, bias)
    prior = class_prior[:, every[0] // m] + xp.asarray(model.search.log_prior)[every[0] % m]
    coarse = coarse + prior[:, :, None] + coarse_shift_prior[:, None]
    rows, columns = _chosen(coarse, significance_thresholds(coarse.reshape(b, -1), fraction)[2], limit)

    # fine level: children of the significant ones ---------------------------------------------------------------------
    row, row_real = _pack(rows)
    column, column_real = _pack(columns)
    n_sub = model.search.child_shifts.shape[1]
    index = (row[:, :, None] * j + xp.arange(j)).reshape(b, -1)
    shift = (column[:, :, None] * n_sub + xp.arange(n_sub)).reshape(b, -1)
    fine = _list(index, xp.repeat(row_real, j, axis=1), present, model, children=True)
    scores = _scores(fine, y[:, None] * model.fine_phases[shift, :k_align], weight, model)
    agreement = xp.take_along_axis(xp.asarray(bias.fine), shift[:, None], axis=2)
    subtract_bias_arrays(scores, fine.rotation, fine.class_of, agreement, bias)
    prior = xp.asarray(model.search.child_log_prior).ravel()[index % (m * j)]
    prior = prior + xp.take_along_axis(class_prior, fine.class_of, axis=1)
    scores = scores + prior[:, :, None] + xp.take_along_axis(fine_shift_prior, shift, axis=1)[:, None]
    scores[~xp.broadcast_to(xp.repeat(column_real, n_sub, axis=1)[:, None], scores.shape)] = -np.inf
    best, log_sum, threshold = significance_thresholds(scores.reshape(b, -1), fraction)

    # posterior of what is kept ----------------------------------------------------------------------------------------
    w = xp.where(scores >= threshold[:, None, None], xp.exp(scores - best[:, None, None]), 0)
    summed, significant = w.sum(axis=(1, 2), dtype=np.float64), (w > 0).sum(axis=(1, 2))
    top = scores.reshape(b, -1).argmax(axis=1)
    top_pair, top_shift = top // scores.shape[2], shift[at, top % scores.shape[2]]
    (kept, kept_real), (used, used_real) = (_pack(x) for x in _chosen(scores, threshold, scores.shape[1]))
    w = w[at[:, None, None], kept[:, :, None], used[:, None]] / summed.astype(np.float32)[:, None, None]
    w = w * (kept_real[:, :, None] & used_real[:, None])
    mass = w.sum(axis=2)
    best_rotation, best_class = fine.rotation[at, top_pair], fine.class_of[at, top_pair]
    fine, shift = fine.take(kept, kept_real), xp.take_along_axis(shift, used, axis=1)
    vectors = xp.asarray(model.search.child_shifts).reshape(-1, 2)
    turn = _angles(fine.rotation, best_rotation[:, None])
    spread = (mass * (fine.class_of == best_class[:, None]) * turn**2).sum(axis=1)
    travel = (w.sum(axis=1) * ((vectors[shift] - vectors[top_shift][:, None]) ** 2).sum(axis=2)).sum(axis=1)

    # the images' share of the model -----------------------------------------------------------------------------------
    moved, moved_model = (
        y[:, None] * model.fine_phases[shift, :k_align],
        y_model[:, None] * model.fine_phases[shift, :k_model],
    )
    xa, aa = xp.zeros((b, k_align)), xp.zeros((b, k_align))
    for some, lo, hi in fine.tiles(max(k_align, k_model)):
        part, share = w[some, lo:hi], mass[some, lo:hi, None]
        p, q = fine.slices(some, lo, hi, k_align, model), _weighted_sum(part, moved[some])
        xa[some] += (p.real * q.real + p.imag * q.imag).sum(axis=1)
        aa[some] += (share * _power(p)).sum(axis=1) * weight[some]
        data, weights = _weighted_sum(part, moved_model[some]), share * weight_model[some][:, None]
        for c in range(n_class):
            which = fine.real[some, lo:hi] & (fine.class_of[some, lo:hi] == c)
            matrices = fine.rotation[some, lo:hi][which]
            insert_slices(total[c], data[which], weights[which], matrices, model.samples, padding=model.padding)
    rows_out = {
        "rotation": best_rotation, "shift": vectors[top_shift], "class": best_class, "max_probability": 1 / summed,
        "log_likelihood": log_sum, "significant": significant, "rotation_width": xp.sqrt(spread),
        "shift_width": xp.sqrt(travel),
    }  # fmt: skip
    return {
        **{k: to_host(v) for k, v in rows_out.items()}, "power": _shell_sums(_power(masked), model.samples),
        "xa": _shell_sums(xa, model.samples), "aa": _shell_sums(aa, model.samples),
    }  # fmt: skip


def _weighted_sum(w: Any, moved: Any) -> Any:
    """sum_t w(r, t) Y e^{-2 pi i k t}, (B, P, K)."""
    return (w @ _floats(moved)).view(np.complex64)
