"""The expectation step of one batch, fused on CPU: every image passes from coarse scores to its share of the sums.

The mathematics, with Y = C X / sigma^2 (the weighted image) and P_r a slice of the reference:

    log p(r, t) = Re <P_r, Y e^{-2 pi i k t}> - <|P_r|^2, C^2 / sigma^2> / 2 - b(r, t) + log prior
    D_r += sum_t w(r, t) Y e^{-2 pi i k t},      W_r += sum_t w(r, t) C^2 / sigma^2

b is the bias that a particle's own noise in the reference gives (``noise_bias``). Cross terms and slice sums are matrix
products (BLAS); slices come from a table shared by all images (global searches) or are read from the volume around each
image's pose (local searches). ``expectation_reference`` is its oracle.

Source: Scheres 2012, J. Mol. Biol. 415:406; adaptive oversampling: Tagare et al. 2010, J. Struct. Biol. 171:256.
"""

from __future__ import annotations

import numba
import numpy as np

from cryoflow.kernels.noise_bias import subtract_bias
from cryoflow.kernels.posterior import significance_threshold
from cryoflow.kernels.projection import insert_from, slice_into

__all__ = ["align_batch"]

_TILE = 128
_HELD = 1 << 22  # samples of slices of one image that are kept until its share of the model is known (32 MB)


@numba.njit(nogil=True, cache=True)
def _weighted(x, ctf, inv_sigma2, shell, first, count, out, weight):  # type: ignore[no-untyped-def]
    """Y = C X / sigma^2 and C^2 / sigma^2 of samples first .. count - 1; zero before ``first``."""
    for k in range(count):
        v = inv_sigma2[shell[k]] if k >= first else np.float32(0.0)
        out[k] = x[k] * (ctf[k] * v)
        weight[k] = ctf[k] * ctf[k] * v


@numba.njit(nogil=True, cache=True)
def _shifted(y, phases, rows, count):  # type: ignore[no-untyped-def]
    """(len(rows), 2 count) float32 of y times the phases of each row."""
    out = np.empty((len(rows), count), np.complex64)
    for i in range(len(rows)):
        p = phases[rows[i]]
        o = out[i]
        for k in range(count):
            o[k] = y[k] * p[k]
    return out.view(np.float32)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _norm(p, weight, count):  # type: ignore[no-untyped-def]
    """sum_k |P|^2 weight."""
    total = np.float32(0.0)
    for k in range(count):
        total += (p[2 * k] * p[2 * k] + p[2 * k + 1] * p[2 * k + 1]) * weight[k]
    return total


@numba.njit(nogil=True, cache=True)
def _score(cross, norm, free_scale, out):  # type: ignore[no-untyped-def]
    """log p of cross and norm terms; with a free scale its maximum over the scale, cross^2 / (2 norm)."""
    for t in range(len(cross)):
        if free_scale:
            c = max(cross[t], np.float32(0.0))
            out[t] = np.float32(0.5) * c * c / max(norm, np.float32(1e-30))
        else:
            out[t] = cross[t] - np.float32(0.5) * norm


@numba.njit(nogil=True, cache=True)
def _chosen(scores, threshold, limit):  # type: ignore[no-untyped-def]
    """Rows and columns of (M, T) scores with an entry above ``threshold``, at most the best ``limit`` rows."""
    m, t = scores.shape
    top = np.empty(m, np.float32)
    columns = np.zeros(t, np.bool_)
    for i in range(m):
        best = np.float32(-np.inf)
        for j in range(t):
            best = max(best, scores[i, j])
        top[i] = best
    if np.sum(top >= threshold) > limit:
        threshold = np.sort(top)[m - limit]
    rows = np.flatnonzero(top >= threshold)
    for row in rows:
        for j in range(t):
            if scores[row, j] >= threshold:
                columns[j] = True
    return rows, np.flatnonzero(columns)


@numba.njit(nogil=True, cache=True)
def _angle(a, b):  # type: ignore[no-untyped-def]
    trace = 0.0
    for i in range(3):
        for j in range(3):
            trace += a[i, j] * b[i, j]
    return np.arccos(min(1.0, max(-1.0, 0.5 * (trace - 1.0))))


@numba.njit(nogil=True, cache=True)
def _fill_slices(tile, pairs, lo, hi, n_coarse, n_children, table, volumes, fine, kx, ky, count, padding):  # type: ignore[no-untyped-def]
    """Slices of fine hypotheses lo .. hi - 1: rows of the shared table, or read from the volume at their rotations."""
    for p in range(lo, hi):
        h = pairs[p] // n_children
        c, m = h // n_coarse, h % n_coarse
        if table.shape[1] > 0:
            tile[p - lo, :] = table[c, m * n_children + pairs[p] % n_children, : 2 * count]
        else:
            slice_into(volumes[c], fine[p], kx, ky, count, padding, tile[p - lo])


@numba.njit(nogil=True, cache=True)
def align_batch(  # type: ignore[no-untyped-def]
    absolute, free_scale, padding, fraction, limit,
    volumes, table, coarse_scores,
    coarse_rotations, child_rotations, coarse_prior, child_prior,
    child_shift_values, coarse_phases, fine_phases, coarse_shift_prior, fine_shift_prior, class_prior,
    kx, ky, shell, n_coarse_samples, n_align, n_model,
    rotations, masked, unmasked, ctf, inv_sigma2, noise_group, scale_group,
    own, own_class, decay, reach, coarse_agreement, fine_agreement,
    sums, table_data, table_weight, shell_xa, shell_aa, scale_xa, scale_aa,
    out_rotation, out_shift, out_class, out_float,
):  # fmt: skip
    """Align every image of a batch of one half-set and add it to the sums; all arrays as in ``expectation``.

    out_float columns: max_probability, log_likelihood, significant, rotation_width (rad), shift_width (px), xa, aa.
    """
    n_classes = volumes.shape[0]
    m_count, n_child = child_rotations.shape[0], child_rotations.shape[1]
    t_count, n_sub = child_shift_values.shape[0], child_shift_values.shape[1]
    coarse = np.empty((n_classes * m_count, t_count), np.float32)
    y = np.empty(n_align, np.complex64)
    weight = np.empty(n_align, np.float32)
    y_model = np.empty(n_model, np.complex64)
    weight_model = np.empty(n_model, np.float32)
    tile = np.empty((_TILE, 2 * n_align), np.float32)
    coarse_tile = np.empty((_TILE, 2 * n_coarse_samples), np.float32)
    all_shifts = np.arange(t_count)

    for b in range(len(masked)):
        inv = inv_sigma2[noise_group[b]]
        _weighted(masked[b], ctf[b], inv, shell, 1, n_align, y, weight)
        a = rotations[b]

        # coarse level: scores of all (class, rotation) x shifts ---------------------------------------------------
        if coarse_scores.shape[0] > 0:
            for h in range(n_classes * m_count):
                for t in range(t_count):
                    coarse[h, t] = coarse_scores[b, t, h]
        else:
            moved = _shifted(y, coarse_phases, all_shifts, n_coarse_samples)
            for c in range(n_classes):
                for lo in range(0, m_count, _TILE):
                    hi = min(lo + _TILE, m_count)
                    for m in range(lo, hi):
                        r = coarse_rotations[m] if absolute else np.dot(coarse_rotations[m], a)
                        slice_into(volumes[c], r, kx, ky, n_coarse_samples, padding, coarse_tile[m - lo])
                    cross = np.dot(coarse_tile[: hi - lo], moved.T)
                    for m in range(lo, hi):
                        norm = _norm(coarse_tile[m - lo], weight, n_coarse_samples)
                        _score(cross[m - lo], norm, free_scale, coarse[c * m_count + m])
        for h in range(n_classes * m_count):
            for t in range(t_count):
                coarse[h, t] += class_prior[b, h // m_count] + coarse_prior[h % m_count] + coarse_shift_prior[b, t]
        biased = coarse_agreement.shape[1] > 0
        if biased:
            present = np.empty((m_count, 3, 3))
            for m in range(m_count):
                present[m] = coarse_rotations[m] if absolute else np.dot(coarse_rotations[m], a)
            lo = own_class[b] * m_count
            subtract_bias(coarse[lo : lo + m_count], present, own[b], decay[b], reach[b], coarse_agreement[b])
        best, log_sum, threshold = significance_threshold(coarse, fraction)
        rows, columns = _chosen(coarse, threshold, limit)

        # fine level: children of the significant ones -------------------------------------------------------------
        n_pairs = len(rows) * n_child
        pairs = np.empty(n_pairs, np.int64)
        fine = np.empty((n_pairs, 3, 3))
        prior = np.empty(n_pairs, np.float32)
        for i in range(len(rows)):
            for j in range(n_child):
                p = i * n_child + j
                m = rows[i] % m_count
                pairs[p] = rows[i] * n_child + j
                fine[p] = child_rotations[m, j] if absolute else np.dot(child_rotations[m, j], a)
                prior[p] = child_prior[m, j] + class_prior[b, rows[i] // m_count]
        shifts = np.empty(len(columns) * n_sub, np.int64)
        for i in range(len(columns)):
            for j in range(n_sub):
                shifts[i * n_sub + j] = columns[i] * n_sub + j
        moved = _shifted(y, fine_phases, shifts, n_align)
        scores = np.empty((n_pairs, len(shifts)), np.float32)
        held = n_pairs if table.shape[1] == 0 and n_pairs * n_align <= _HELD else 0
        slices = np.empty((held, 2 * n_align), np.float32)
        for lo in range(0, n_pairs, _TILE):
            hi = min(lo + _TILE, n_pairs)
            _fill_slices(tile, pairs, lo, hi, m_count, n_child, table, volumes, fine, kx, ky, n_align, padding)
            if held > 0:
                slices[lo:hi] = tile[: hi - lo]
            cross = np.dot(tile[: hi - lo], moved.T)
            for p in range(lo, hi):
                _score(cross[p - lo], _norm(tile[p - lo], weight, n_align), free_scale, scores[p])
                for t in range(len(shifts)):
                    scores[p, t] += prior[p] + fine_shift_prior[b, shifts[t]]
        if biased:
            agreement = np.empty((fine_agreement.shape[1], len(shifts)), np.float32)
            for t in range(len(shifts)):
                agreement[:, t] = fine_agreement[b, :, shifts[t]]
            lo = np.searchsorted(pairs, own_class[b] * m_count * n_child)
            hi = np.searchsorted(pairs, (own_class[b] + 1) * m_count * n_child)
            subtract_bias(scores[lo:hi], fine[lo:hi], own[b], decay[b], reach[b], agreement)
        best, log_sum, threshold = significance_threshold(scores, fraction)
        kept, used = _chosen(scores, threshold, n_pairs)

        # posterior of what is kept --------------------------------------------------------------------------------
        w = np.zeros((len(kept), len(used)), np.float32)
        total = 0.0
        count = 0
        top_p, top_t = 0, 0
        for i in range(len(kept)):
            for j in range(len(used)):
                s = scores[kept[i], used[j]]
                if s >= threshold:
                    w[i, j] = np.exp(s - best)
                    total += w[i, j]
                    count += 1
                if s == best:
                    top_p, top_t = kept[i], used[j]
        w /= np.float32(total)
        top_rotation = fine[top_p]
        top_shift = child_shift_values[shifts[top_t] // n_sub, shifts[top_t] % n_sub]
        spread, travel = 0.0, 0.0
        for i in range(len(kept)):
            mass = w[i].sum()
            if pairs[kept[i]] // n_child // m_count == pairs[top_p] // n_child // m_count:
                spread += mass * _angle(fine[kept[i]], top_rotation) ** 2
            for j in range(len(used)):
                v = child_shift_values[shifts[used[j]] // n_sub, shifts[used[j]] % n_sub]
                travel += w[i, j] * ((v[0] - top_shift[0]) ** 2 + (v[1] - top_shift[1]) ** 2)
        out_rotation[b] = top_rotation
        out_shift[b] = top_shift
        out_class[b] = pairs[top_p] // n_child // m_count
        out_float[b, 0] = 1.0 / total
        out_float[b, 1] = log_sum
        out_float[b, 2] = count
        out_float[b, 3] = np.sqrt(spread)
        out_float[b, 4] = np.sqrt(travel)

        # the image's share of the model ---------------------------------------------------------------------------
        _weighted(unmasked[b], ctf[b], inv, shell, 0, n_model, y_model, weight_model)
        used_shifts = shifts[used]
        moved_model = _shifted(y_model, fine_phases, used_shifts, n_model)
        moved = _shifted(y, fine_phases, used_shifts, n_align)
        xa_image, aa_image = 0.0, 0.0
        kept_pairs = pairs[kept]
        kept_fine = fine[kept]
        for lo in range(0, len(kept), _TILE):
            hi = min(lo + _TILE, len(kept))
            data = np.dot(w[lo:hi], moved_model)
            data_align = np.dot(w[lo:hi], moved)
            if held > 0:
                for i in range(lo, hi):
                    tile[i - lo] = slices[kept[i]]
            else:
                _fill_slices(
                    tile, kept_pairs, lo, hi, m_count, n_child, table, volumes, kept_fine, kx, ky, n_align, padding
                )  # fmt: skip
            for i in range(lo, hi):
                mass = w[i].sum()
                h = kept_pairs[i] // n_child
                c = h // m_count
                if table_data.shape[1] > 0:
                    row = (h % m_count) * n_child + kept_pairs[i] % n_child
                    d = table_data[c, row]
                    for k in range(2 * n_model):
                        d[k] += data[i - lo, k]
                    v = table_weight[c, row]
                    for k in range(n_model):
                        v[k] += mass * weight_model[k]
                else:
                    insert_from(sums[c], kept_fine[i], kx, ky, n_model, padding, data[i - lo], mass * weight_model)
                p, q = tile[i - lo], data_align[i - lo]
                for k in range(1, n_align):
                    re, im = p[2 * k], p[2 * k + 1]
                    xa = re * q[2 * k] + im * q[2 * k + 1]
                    aa = mass * (re * re + im * im) * weight[k]
                    s = shell[k]
                    shell_xa[b, s] += xa
                    shell_aa[b, s] += aa
                    xa_image += xa
                    aa_image += aa
        scale_xa[scale_group[b]] += xa_image
        scale_aa[scale_group[b]] += aa_image
        out_float[b, 5] = xa_image
        out_float[b, 6] = aa_image
