"""Small particle sets of known truth, made from first principles with the kernels alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.kernels.expectation import transfer_of
from cryoflow.kernels.fourier import irfft2c, rfft2c, shift_phases
from cryoflow.kernels.projection import project
from cryoflow.kernels.rotation import random_rotations
from cryoflow.kernels.samples import half_plane

PIXEL = 3.0
NOISE = 1.5


def maps(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Different asymmetric heaps of Gaussians, (count, n, n, n)."""
    axis = np.arange(n) - n // 2
    out = []
    for _ in range(count):
        centres = rng.uniform(-0.22 * n, 0.22 * n, (10, 3))
        x, y, z = (np.exp(-0.5 * ((axis - centres[:, i : i + 1]) / 1.6) ** 2) for i in range(3))
        out.append(np.einsum("az,ay,ax->zyx", z, y, x))
    return np.array(out, np.float32)


def particles(
    volumes: np.ndarray, count: int, rng: np.random.Generator, groups: int = 1, deviation: float = NOISE
) -> dict[str, Any]:
    """Simulated images of the volumes in turn (CTF, shifts, white noise) and the rows that ``expectation`` takes.

    The second noise group is noisier. Poses in the rows are the truth.
    """
    n = volumes.shape[-1]
    rotation, shift = random_rotations(count, rng), rng.uniform(-2, 2, (count, 2))
    number = np.arange(count) % len(volumes)
    optics_group = np.arange(count) // 2 % groups
    rows = {
        "rotation": rotation, "shift": shift * PIXEL, "norm": np.ones(count), "half": 1 + np.arange(count) // 3 % 2,
        "class_number": number + 1, "group": 1 + np.arange(count) % 2, "optics_group": optics_group,
        "defocus_u": rng.uniform(8e3, 2e4, count), "defocus_angle": rng.uniform(-90, 90, count),
        "phase_shift": np.zeros(count), "voltage": np.where(optics_group == 1, 200.0, 300.0),
        "cs": np.full(count, 2.7), "amplitude_contrast": np.full(count, 0.1),
    }  # fmt: skip
    rows["defocus_v"] = rows["defocus_u"] - 300
    samples = half_plane(n, (n - 1) // 2)
    names = ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "voltage", "cs", "amplitude_contrast")
    transfer = np.zeros((count, n * (n // 2 + 1)), np.float32)
    transfer[:, samples._flat_index()] = transfer_of(samples, PIXEL, *(rows[k] for k in names))
    transfer = transfer.reshape(count, n, n // 2 + 1)
    transfer[:, -np.arange(1, (n + 1) // 2) % n, 0] = transfer[:, 1 : (n + 1) // 2, 0]  # mates of the column kx = 0
    clean = np.concatenate([project(volumes[c], a[None]) for c, a in zip(number, rotation)])
    seen = irfft2c(rfft2c(clean) * transfer * shift_phases(n, -shift), n)
    noise = rng.normal(size=seen.shape) * (deviation * (1 + 0.5 * optics_group))[:, None, None]
    return {"image": (seen + noise).astype(np.float32), **rows}
