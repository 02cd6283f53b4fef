"""The expectation step of a chunk in whole arrays: ``expectation`` for images on a device, and its oracle for any."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.kernels import expectation as step
from cryoflow.kernels.backend import array_module, to_host
from cryoflow.kernels.expectation_reference import Model, align_arrays
from cryoflow.kernels.noise_bias import noise_bias
from cryoflow.kernels.projection import accumulator
from cryoflow.kernels.samples import half_plane
from cryoflow.kernels.search import Search

__all__ = ["expectation_arrays"]

BATCH = 32


def expectation_arrays(
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
    """Rows and sums of ``expectation``, with the same arguments: arrays of images and models stay where they are.

    What has one number an image goes to the host; the sums of the model stay beside the images.
    """
    xp = array_module(image)
    n, total_b, (n_half, n_class) = image.shape[-1], len(image), volumes.shape[:2]
    samples = half_plane(n, (n - 1) // 2)
    counts = (samples.count(radii[0]), samples.count(radii[1]), samples.count(radii[2]))
    rotation, shift, norm, half, class_number, group, optics_group, rotation_width, shift_width = (
        np.asarray(to_host(a))
        for a in (rotation, shift, norm, half, class_number, group, optics_group, rotation_width, shift_width)
    )
    sigma2, scale, class_weight, share, operators = (
        np.asarray(to_host(a)) for a in (sigma2, scale, class_weight, share, operators)
    )
    optics = (defocus_u, defocus_v, defocus_angle, phase_shift, voltage, cs, amplitude_contrast)
    shells, number = samples.radius + 1, 2.0 * np.diff(samples.starts)
    rows: dict[str, Any] = {k: np.zeros((total_b, *step._tail(k)), d) for k, (_, d) in step.OUTPUTS.items()}
    zeros = {
        "residual": (n_half, sigma2.shape[1], shells), "count": (n_half, sigma2.shape[1], shells), "xa": scale.shape,
        "aa": scale.shape, "classes": (n_half, n_class), "shift2": (n_half,), "particles": (n_half,),
    }  # fmt: skip
    sums: dict[str, Any] = {k: np.zeros(s) for k, s in zeros.items()}
    one = accumulator(min(radii[2], samples.radius), padding, xp=xp)
    sums["model"] = xp.zeros((n_half, n_class, *one.shape), one.dtype)
    fine_shifts = search.child_shifts.reshape(-1, 2)
    coarse_phases, fine_phases = (
        xp.asarray(step._phases(t, samples, max(k, 1)))
        for t, k in ((search.shifts, counts[0]), (fine_shifts, max(counts[1:])))
    )
    pixels = np.asarray(shift, np.float64) / pixel_size
    base = search.base(pixels)
    for h in range(n_half):
        coarse, fine = (
            xp.asarray(t)[h].reshape(t.shape[1] * t.shape[2], t.shape[3]) for t in (coarse_table, fine_table)
        )
        model = Model(
            xp.asarray(volumes)[h], coarse, fine, coarse_phases, fine_phases, search, samples, padding, free_scale
        )
        inverse = xp.asarray((1.0 / sigma2[h]).astype(np.float32))[:, xp.asarray(samples.shell)]
        members = np.flatnonzero(half == h + 1) if n_half == 2 else np.arange(total_b)
        for lo in range(0, len(members), BATCH):
            i = members[lo : lo + BATCH]
            here = xp.asarray(i)
            noise, who = optics_group[i].astype(np.int64), group[i].astype(np.int64) - 1
            masked, unmasked = step.prepare_images(image[here], base[i], norm[i], samples, mask_radius)
            transfer = step.transfer_of(samples, pixel_size, *(xp.asarray(a)[here] for a in optics))
            transfer = transfer * xp.asarray(scale[h][who].astype(np.float32))[:, None]
            priors = (
                step._class_prior(class_number[i], class_weight[h], lock_classes),
                step._shift_prior(base[i], search.shifts, shift_sigma),
                step._shift_prior(base[i], fine_shifts, shift_sigma),
            )
            bias = noise_bias(
                to_host(transfer**2 * inverse[xp.asarray(noise)]), samples, share=share[h],
                rotation=rotation[i], operators=operators, class_of=class_number[i].astype(np.int64) - 1,
                shift=pixels[i] - base[i], rotation_width=np.deg2rad(rotation_width[i]),
                shift_width=shift_width[i] / pixel_size, shifts=(search.shifts, fine_shifts), counts=counts[:2],
                radius=mask_radius + step.MASK_EDGE / 2,
            )  # fmt: skip
            found = align_arrays(
                masked, unmasked, transfer, inverse[xp.asarray(noise)], rotation[i], priors, bias,
                sums["model"][h], model,
                counts=counts, fraction=fraction, limit=limit,
            )  # fmt: skip
            moved = base[i] + found["shift"]
            residual = found["power"] - sigma2[h][noise] * (2 * found["xa"] - found["aa"])
            np.add.at(sums["residual"][h], noise, residual)
            np.add.at(sums["count"][h], noise, np.broadcast_to(number, residual.shape))
            np.add.at(sums["xa"][h], who, found["xa"].sum(axis=1))
            np.add.at(sums["aa"][h], who, found["aa"].sum(axis=1))
            np.add.at(sums["classes"][h], found["class"], 1.0)
            sums["shift2"][h] += float((moved**2).sum())
            sums["particles"][h] += len(i)
            rows["rotation"][i], rows["shift"][i] = found["rotation"], moved * pixel_size
            rows["class_number"][i] = found["class"] + 1
            rows["rotation_width"][i] = np.rad2deg(found["rotation_width"])
            rows["shift_width"][i] = found["shift_width"] * pixel_size
            for name in ("max_probability", "log_likelihood", "significant"):
                rows[name][i] = found[name]
            rows["x_residual"][i] = residual.sum(axis=1) / (number * sigma2[h][noise]).sum(axis=1)
    return rows, sums
