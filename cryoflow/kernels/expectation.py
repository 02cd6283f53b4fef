"""One expectation step over the particles of a chunk: prepare images, score poses, sum the model's statistics.

Works for any number of classes and for global, local and fixed poses (``search.Search``); see ``expectation_cpu`` for
the mathematics. The half-set of a particle decides which reference it sees and which sums it joins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.backend import array_module, fft_module, is_device, to_host
from cryoflow.kernels.ctf import ctf as contrast_transfer
from cryoflow.kernels.masks import soft_sphere
from cryoflow.kernels.noise_bias import noise_bias
from cryoflow.kernels.projection import accumulator, insert_slices, slices
from cryoflow.kernels.samples import Samples, half_plane
from cryoflow.kernels.search import Search

__all__ = ["OUTPUTS", "cross_and_norm", "expectation", "make_tables", "prepare_images", "transfer_of"]

OUTPUTS = {
    "rotation": (("particle", "row", "col"), "f8"),
    "shift": (("particle", "xy"), "f8"),
    "class_number": (("particle",), "i4"),
    "max_probability": (("particle",), "f4"),
    "log_likelihood": (("particle",), "f8"),
    "significant": (("particle",), "i4"),
    "rotation_width": (("particle",), "f4"),
    "shift_width": (("particle",), "f4"),
    "x_residual": (("particle",), "f8"),
}
"""Row outputs of ``expectation``; ``x_residual`` is the residual power over its expectation."""

MASK_EDGE = 5.0  # pixels
SUB_BATCH = 32
TABLE_BYTES = 512 << 20  # of slices shared by all particles; a larger set is projected as it is needed
COLLECT_BYTES = 256 << 20  # of sums by orientation; beyond, slices are inserted one by one


def make_tables(volumes: NDArray[np.complex64], search: Search, samples: Samples, counts: tuple[int, int]) -> tuple[
    NDArray[np.complex64], NDArray[np.complex64]
]:  # fmt: skip
    """Slices of all coarse (H, C, M, K0) and fine (H, C, M J, K) hypotheses of a global search.

    The fine table is left empty, (H, C, 0, 0), where it would be larger than 512 MB.
    """
    h, c = volumes.shape[:2]
    coarse = np.stack([[slices(v, search.rotations, samples, count=counts[0]) for v in half] for half in volumes])
    fine_rotations = search.children.reshape(-1, 3, 3)
    if h * c * len(fine_rotations) * counts[1] * 8 > TABLE_BYTES:
        return coarse, np.zeros((h, c, 0, 0), np.complex64)
    fine = np.stack([[slices(v, fine_rotations, samples, count=counts[1]) for v in half] for half in volumes])
    return coarse, fine


def prepare_images(image: Any, shift_px: Any, norm: Any, samples: Samples, mask_radius: float) -> tuple[Any, Any]:
    """Masked and unmasked Fourier samples (B, K) of images moved by ``shift_px`` (B, 2) and divided by ``norm``.

    Whole pixels are moved before the mask is applied, their fractions by a phase. The mask is a disc of
    ``mask_radius`` pixels with a 5-pixel cosine edge, zero outside.
    """
    n = image.shape[-1]
    xp, fft = array_module(image), fft_module(image)
    disc = soft_sphere(n, mask_radius, MASK_EDGE, dims=2, xp=xp)
    moved = xp.empty(image.shape, np.float32)
    whole = np.rint(to_host(shift_px))
    rest = to_host(shift_px) - whole
    for i, (dx, dy) in enumerate(whole.astype(int).tolist()):
        moved[i] = xp.roll(image[i], (dy, dx), axis=(0, 1))
    moved /= xp.asarray(norm, np.float32)[:, None, None]
    # the centred transform differs by a phase of the origin n // 2, cheaper on the samples than moving the image
    c = n // 2
    origin = xp.asarray(np.exp(2j * np.pi * c / n * (samples.kx + samples.ky)).astype(np.complex64))
    if rest.any():
        origin = origin * xp.asarray(_phases(rest, samples, len(samples)))
    both = [samples.take(fft.rfft2(x, norm="ortho")) * origin for x in (moved * disc, moved)]
    return both[0], both[1]


def cross_and_norm(moved: Any, weight: Any, table: Any) -> tuple[Any, Any]:
    """The two matrix products of the likelihood: (B T, 2K) x (2K, R) and (B, K) x (K, R).

    moved : (B, T, K) complex64, Y e^{-2 pi i k t}.  weight : (B, K) C^2 / sigma^2.  table : (R, K) complex64 slices.
    Returns cross (B, T, R) and norm (B, R), float32.
    """
    b, t, k = moved.shape
    flat = table.view(np.float32)
    cross = (moved.reshape(b * t, k).view(np.float32) @ flat.T).reshape(b, t, -1)
    power = np.square(flat[:, 0::2]) + np.square(flat[:, 1::2])
    return cross, weight @ power.T


def expectation(
    image: Any, rotation: Any, shift: Any, norm: Any, half: Any, class_number: Any, group: Any, optics_group: Any,
    rotation_width: Any, shift_width: Any,
    defocus_u: Any, defocus_v: Any, defocus_angle: Any, phase_shift: Any,
    voltage: Any, cs: Any, amplitude_contrast: Any,
    *,
    volumes: Any, coarse_table: Any, fine_table: Any, search: Search, sigma2: Any, scale: Any,
    radii: tuple[int, int, int], pixel_size: float, mask_radius: float, shift_sigma: float,
    fraction: float, limit: int, free_scale: bool, lock_classes: bool, class_weight: Any, padding: int,
    share: Any, operators: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Posterior of poses of one chunk and the sums of the maximisation step.

    Parameters
    ----------
    image .. amplitude_contrast : schema variables of B particles.
    volumes : (H, C, Z, Y, X) prepared references of H half-sets (1 or 2) and C classes.
    coarse_table, fine_table : slices of ``make_tables``; empty for local searches.
    sigma2 : (H, G, S) noise variance by half-set, optics group and shell.  scale : (H, Q) by half-set and group.
    radii : highest shell of the coarse level, of the alignment and of the model.
    mask_radius, shift_sigma : pixels.  fraction : of the posterior that is kept.  limit : coarse rotations kept.
    lock_classes : keep every particle in its class.  class_weight : (H, C) prior probabilities of classes.
    free_scale : score each hypothesis at its best scale (a reference on no absolute scale).
    share : (H, C, S) what a particle's own samples weigh in the reference; 0 for one that does not hold them.
    operators : (G, 3, 3) of the point group.

    Returns
    -------
    rows : see ``OUTPUTS``.
    sums : "model" (H, C, Z, Y, X, 4) of ``insert_slices``; "residual", "count" (H, G, S); "xa", "aa" (H, Q);
        "classes" (H, C) particles by their best class; "shift2", "particles" (H,).
    """
    if is_device(image):
        from cryoflow.kernels.expectation_device import expectation_arrays

        return expectation_arrays(
            image, rotation, shift, norm, half, class_number, group, optics_group, rotation_width, shift_width,
            defocus_u, defocus_v, defocus_angle, phase_shift, voltage, cs, amplitude_contrast,
            volumes=volumes, coarse_table=coarse_table, fine_table=fine_table, search=search, sigma2=sigma2,
            scale=scale, radii=radii, pixel_size=pixel_size, mask_radius=mask_radius, shift_sigma=shift_sigma,
            fraction=fraction, limit=limit, free_scale=free_scale, lock_classes=lock_classes,
            class_weight=class_weight, padding=padding, share=share, operators=operators,
        )  # fmt: skip
    from cryoflow.kernels.expectation_cpu import align_batch

    n, total_b = image.shape[-1], len(image)
    n_half, n_class = volumes.shape[:2]
    samples = half_plane(n, (n - 1) // 2)
    k_coarse, k_align, k_model = (samples.count(r) for r in radii)
    k_phase = max(k_align, k_model)
    kx, ky, shell = samples.kx, samples.ky, samples.shell
    flat_volumes = volumes.view(np.float32).reshape(*volumes.shape, 2)
    fine_shifts = search.child_shifts.reshape(-1, 2)
    coarse_phases = _phases(search.shifts, samples, max(k_coarse, 1))
    fine_phases = _phases(fine_shifts, samples, k_phase)
    radius_model = int(samples.shell[k_model - 1])
    n_fine = search.children.shape[0] * search.children.shape[1]
    collect = search.absolute and n_class * n_half * n_fine * k_model * 12 <= COLLECT_BYTES
    rows: dict[str, Any] = {k: np.zeros((total_b, *_tail(k)), d) for k, (_, d) in OUTPUTS.items()}
    groups, shells = sigma2.shape[1], samples.radius + 1
    number = np.diff(samples.starts).astype(np.float64)
    sums: dict[str, Any] = {
        "model": np.stack([[accumulator(radius_model, padding) for _ in range(n_class)] for _ in range(n_half)]),
        "residual": np.zeros((n_half, groups, shells)),
        "count": np.zeros((n_half, groups, shells)),
        "xa": np.zeros(scale.shape),
        "aa": np.zeros(scale.shape),
        "classes": np.zeros((n_half, n_class)),
        "shift2": np.zeros(n_half),
        "particles": np.zeros(n_half),
    }
    empty_scores = np.zeros((0, 0, 0), np.float32)
    pixels = np.asarray(shift, np.float64) / pixel_size
    base = search.base(pixels)
    for h in range(n_half):
        members = np.flatnonzero(np.asarray(half) == h + 1) if n_half == 2 else np.arange(total_b)
        if not len(members):
            continue
        data_shape = (n_class, n_fine, 2 * k_model) if collect else (n_class, 0, 0)
        table_data = np.zeros(data_shape, np.float32)
        table_weight = np.zeros((*data_shape[:2], data_shape[2] // 2), np.float32)
        for lo in range(0, len(members), SUB_BATCH):
            i = members[lo : lo + SUB_BATCH]
            masked, unmasked = prepare_images(image[i], base[i], norm[i], samples, mask_radius)
            noise_group = np.asarray(optics_group)[i].astype(np.int64)
            scale_group = np.asarray(group)[i].astype(np.int64) - 1
            transfer = transfer_of(
                samples, pixel_size, defocus_u[i], defocus_v[i], defocus_angle[i], phase_shift[i],
                voltage[i], cs[i], amplitude_contrast[i],
            ) * scale[h][scale_group][:, None].astype(np.float32)  # fmt: skip
            inverse = (1.0 / sigma2[h]).astype(np.float32)
            scores = empty_scores
            if search.absolute:
                scores = _coarse_scores(
                    masked, transfer, inverse[noise_group], shell, coarse_table[h], coarse_phases, k_coarse, free_scale
                )
            batch = len(i)
            bias = noise_bias(
                transfer**2 * inverse[noise_group][:, shell], samples, share=share[h],
                rotation=rotation[i], operators=operators, class_of=np.asarray(class_number)[i].astype(np.int64) - 1,
                shift=pixels[i] - base[i], rotation_width=np.deg2rad(rotation_width[i]),
                shift_width=shift_width[i] / pixel_size, shifts=(search.shifts, fine_shifts),
                counts=(k_coarse, k_align), radius=mask_radius + MASK_EDGE / 2,
            )  # fmt: skip
            xa, aa = np.zeros((batch, shells)), np.zeros((batch, shells))
            out_rotation, out_shift = np.zeros((batch, 3, 3)), np.zeros((batch, 2))
            out_class, out_float = np.zeros(batch, np.int64), np.zeros((batch, 7))
            align_batch(
                search.absolute, free_scale, padding, fraction, limit,
                flat_volumes[h], fine_table[h].view(np.float32), scores,
                search.rotations, search.children, search.log_prior, search.child_log_prior,
                search.child_shifts, coarse_phases, fine_phases,
                _shift_prior(base[i], search.shifts, shift_sigma), _shift_prior(base[i], fine_shifts, shift_sigma),
                _class_prior(np.asarray(class_number)[i], class_weight[h], lock_classes),
                kx, ky, shell, k_coarse, k_align, k_model,
                np.ascontiguousarray(rotation[i], np.float64), masked, unmasked, transfer, inverse,
                noise_group, scale_group, bias.own, bias.class_of, bias.decay, bias.reach, bias.coarse, bias.fine,
                sums["model"][h], table_data, table_weight, xa, aa,
                sums["xa"][h], sums["aa"][h], out_rotation, out_shift, out_class, out_float,
            )  # fmt: skip
            moved = base[i] + out_shift
            power = samples.shell_sums(np.abs(masked) ** 2)
            residual = power - sigma2[h][noise_group] * (2 * xa - aa)
            np.add.at(sums["residual"][h], noise_group, residual)
            np.add.at(sums["count"][h], noise_group, np.broadcast_to(2 * number, residual.shape))
            np.add.at(sums["classes"][h], out_class, 1.0)
            sums["shift2"][h] += float((moved**2).sum())
            sums["particles"][h] += batch
            rows["rotation"][i], rows["shift"][i] = out_rotation, moved * pixel_size
            rows["class_number"][i] = out_class + 1
            rows["max_probability"][i], rows["log_likelihood"][i] = out_float[:, 0], out_float[:, 1]
            rows["significant"][i] = out_float[:, 2]
            rows["rotation_width"][i] = np.rad2deg(out_float[:, 3])
            rows["shift_width"][i] = out_float[:, 4] * pixel_size
            rows["x_residual"][i] = residual.sum(1) / (2 * number * sigma2[h][noise_group]).sum(1)
        if collect:
            every = search.children.reshape(-1, 3, 3)
            for c in range(n_class):
                seen = np.flatnonzero(table_weight[c].any(axis=1))
                insert_slices(
                    sums["model"][h, c], table_data[c, seen].view(np.complex64), table_weight[c, seen],
                    every[seen], samples, padding=padding,
                )  # fmt: skip
    return rows, sums


def _tail(name: str) -> tuple[int, ...]:
    return {"rotation": (3, 3), "shift": (2,)}.get(name, ())


def _phases(shifts: NDArray[np.float64], samples: Samples, count: int) -> NDArray[np.complex64]:
    """exp(-2 pi i k . t) of shifts (T, 2) in pixels, (T, count)."""
    k = np.stack([samples.kx[:count], samples.ky[:count]]).astype(np.float64) / samples.box
    out: NDArray[np.complex64] = np.exp(-2j * np.pi * (shifts @ k)).astype(np.complex64)
    return out


def _shift_prior(base: NDArray[np.float64], shifts: NDArray[np.float64], sigma: float) -> NDArray[np.float32]:
    total = base[:, None] + shifts
    prior: NDArray[np.float32] = (-0.5 * (total**2).sum(axis=-1) / sigma**2).astype(np.float32)
    return prior


def _class_prior(present: NDArray[np.int_], weight: NDArray[np.float64], lock: bool) -> NDArray[np.float32]:
    row = np.log(np.maximum(weight, 1e-12)).astype(np.float32)
    prior = np.tile(row, (len(present), 1))
    if lock:
        prior[np.arange(1, len(weight) + 1) != present[:, None]] = -1e30
    return prior


def transfer_of(
    samples: Samples, pixel_size: float, u: Any, v: Any, angle: Any, phase: Any, kv: Any, cs: Any, q: Any
) -> Any:  # fmt: skip
    """CTF (B, K) float32 of particles, one microscope setting at a time."""
    xp = array_module(u)
    sx, sy = (xp.asarray(k, np.float64) / (samples.box * pixel_size) for k in (samples.kx, samples.ky))
    out = xp.empty((len(u), len(samples)), np.float32)
    settings = np.stack([to_host(kv), to_host(cs), to_host(q)], axis=1)
    for row in np.unique(settings, axis=0):
        which = xp.asarray(np.flatnonzero((settings == row).all(axis=1)))
        out[which] = contrast_transfer(
            sx, sy, u[which, None], v[which, None], angle[which, None], phase_shift=phase[which, None],
            voltage=float(row[0]), cs=float(row[1]), amplitude_contrast=float(row[2]),
        )  # fmt: skip
    return out


def _coarse_scores(
    masked: Any, transfer: Any, inverse: Any, shell: Any, table: Any, phases: Any, count: int, free_scale: bool
) -> NDArray[np.float32]:
    """log p (B, T, C M) of all coarse hypotheses, by matrix products."""
    weight = transfer[:, :count] * inverse[:, shell[:count]]
    weight[:, 0] = 0.0  # the mean of an image says nothing of its pose
    y = masked[:, :count] * weight
    moved = y[:, None] * phases[:, :count]
    cross, norm = cross_and_norm(moved, weight * transfer[:, :count], table.reshape(-1, count))
    if free_scale:
        out: NDArray[np.float32] = 0.5 * np.square(np.maximum(cross, 0)) / np.maximum(norm, 1e-30)[:, None]
        return out
    out = cross - 0.5 * norm[:, None]
    return out
