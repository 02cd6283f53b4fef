"""How finely poses can be told apart: the expected accuracy of rotations and shifts at the present resolution.

Source: Scheres 2012, J. Struct. Biol. 180:519, section 2.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.projection import slices
from cryoflow.kernels.rotation import vector_to_rotation
from cryoflow.kernels.samples import Samples

__all__ = ["expected_accuracy"]

_TOLD_APART = 4.605  # log of 99 : the likelihood ratio at which two poses differ with 99 % confidence
_ANGLES = np.geomspace(0.05, 40.0, 28)
_SHIFTS = np.geomspace(0.05, 12.0, 24)


def expected_accuracy(
    volume: Any, rotations: NDArray[np.float64], transfer: Any, sigma2: Any, samples: Samples, radius: int,
    *, padding: int, rng: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    """Smallest rotation (degrees) and shift (pixels) with sum |C (P - P')|^2 / 2 sigma^2 > ln 99, mean over views.

    volume : prepared reference.  rotations : (V, 3, 3) views.  transfer : (V, K) CTFs.  sigma2 : (V, S).
    """
    count = samples.count(radius)
    weight = transfer[:, :count] ** 2 / (2 * sigma2[:, samples.shell[:count]])
    weight[:, 0] = 0
    here = slices(volume, rotations, samples, count=count, padding=padding)
    axes = rng.normal(size=(len(rotations), 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angle = np.full(len(rotations), _ANGLES[-1])
    open_ = np.ones(len(rotations), bool)
    for degrees in _ANGLES:
        turned = np.asarray(vector_to_rotation(axes * degrees)) @ rotations
        there = slices(volume, turned, samples, count=count, padding=padding)
        apart = (np.abs(here - there) ** 2 * weight).sum(axis=1) > _TOLD_APART
        angle[open_ & apart] = degrees
        open_ &= ~apart
        if not open_.any():
            break
    power = np.abs(here) ** 2 * weight
    shift = np.full(len(rotations), _SHIFTS[-1])
    open_ = np.ones(len(rotations), bool)
    direction = axes[:, :2] / np.maximum(np.linalg.norm(axes[:, :2], axis=1, keepdims=True), 1e-9)
    k = np.stack([samples.kx[:count], samples.ky[:count]]) / samples.box
    for pixels in _SHIFTS:
        phase = 2 * np.pi * pixels * (direction @ k)
        apart = (power * (2 - 2 * np.cos(phase))).sum(axis=1) > _TOLD_APART
        shift[open_ & apart] = pixels
        open_ &= ~apart
    return float(angle.mean()), float(shift.mean())
