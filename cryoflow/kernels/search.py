"""Which poses an iteration looks at: coarse rotations and shifts, and the children of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.rotation import vector_to_rotation
from cryoflow.kernels.sampling import (
    local_rotations,
    oversample,
    oversample_local,
    oversample_shifts,
    shift_grid,
    so3_grid,
)

__all__ = ["Search", "fixed_search", "global_search", "local_search"]


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Coarse and fine hypotheses of one iteration.

    rotations : (M, 3, 3), children : (M, J, 3, 3); absolute if ``absolute``, else composed as D @ A with the
        particle's present rotation A.
    log_prior : (M,), child_log_prior : (M, J), of the orientation.
    shifts : (T, 2), child_shifts : (T, L, 2), pixels, relative to ``base`` of the particle's present shift.
    step, shift_step : degrees and pixels, of the coarse level.
    """

    absolute: bool
    rotations: NDArray[np.float64]
    children: NDArray[np.float64]
    log_prior: NDArray[np.float32]
    child_log_prior: NDArray[np.float32]
    shifts: NDArray[np.float64]
    child_shifts: NDArray[np.float64]
    step: float
    shift_step: float

    @property
    def fine_step(self) -> float:
        """Spacing in degrees of the children."""
        return self.step / 2 if self.children.shape[1] > 1 else self.step

    def base(self, shift: NDArray[np.float64]) -> NDArray[np.float64]:
        """What shifts are relative to: the present ones in whole pixels, or exactly where no other is looked at."""
        return shift if self.child_shifts[..., 0].size == 1 else np.rint(shift)


def _shifts(reach: float, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    coarse = shift_grid(reach, step)
    return coarse, coarse[:, None] + oversample_shifts(step)


def global_search(
    order: int, group: str, *, shift_range: float, shift_step: float, rng: np.random.Generator | None = None
) -> Search:
    """All orientations of the asymmetric unit at HEALPix ``order``, children at the next; see ``sampling.so3_grid``."""
    grid = so3_grid(order, group, rng)
    children = oversample(grid, np.arange(len(grid)))
    shifts, child_shifts = _shifts(shift_range, shift_step)
    m, j = children.shape[:2]
    zeros = np.zeros((m, j), np.float32)
    return Search(True, grid.rotations, children, zeros[:, 0], zeros, shifts, child_shifts, grid.step, shift_step)


def local_search(step: float, *, sigma: float, cutoff: float = 2.0, shift_range: float, shift_step: float) -> Search:
    """Orientations within ``cutoff * sigma`` degrees of the present one, with a Gaussian prior of width ``sigma``."""
    lattice = local_rotations(step, sigma, cutoff=cutoff)
    vectors = lattice.vectors
    children = vectors[:, None] + oversample_local(lattice)
    shifts, child_shifts = _shifts(shift_range, shift_step)

    def prior(v: NDArray[np.float64]) -> NDArray[np.float32]:
        log: NDArray[np.float32] = (-0.5 * (v**2).sum(axis=-1) / sigma**2).astype(np.float32)
        return log

    return Search(
        False, lattice.rotations, np.asarray(vector_to_rotation(children)), prior(vectors), prior(children),
        shifts, child_shifts, step, shift_step,
    )  # fmt: skip


def fixed_search(*, shift_range: float = 0.0, shift_step: float = 1.0) -> Search:
    """The present orientation alone; shifts too if ``shift_range`` is above 0."""
    one = np.eye(3)[None]
    zero = np.zeros(1, np.float32)
    shifts, child_shifts = _shifts(shift_range, shift_step)
    if shift_range == 0:
        child_shifts = shifts[:, None]
    return Search(False, one, one[None], zero, zero[None], shifts, child_shifts, 0.0, shift_step)
