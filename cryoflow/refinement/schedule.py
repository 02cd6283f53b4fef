"""When to search finer, when to search locally, how far in Fourier space, and when to stop.

Source: Scheres 2012, J. Struct. Biol. 180:519, section 2.5 (automatic sampling and convergence).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.sampling import angular_step
from cryoflow.kernels.search import Search, fixed_search, global_search, local_search
from cryoflow.refinement.settings import Settings

__all__ = ["Schedule", "advance", "first_schedule", "next_radius", "search_of"]

GROWTH = 10  # shells beyond the present resolution that are looked at
LOCAL_REACH = 3.0  # coarse steps on each side of the present orientation
SETTLING = 1.1  # poses still move while their change falls by this factor an iteration


@dataclass(frozen=True, slots=True)
class Schedule:
    """Sampling and bookkeeping of one iteration; plain numbers, kept with each iteration.

    step : coarse angular step, degrees (fine is half).  shift_step, shift_range : pixels, coarse level.
    radius : highest shell of alignment.  resolution : shell up to which SSNR >= 1.
    stalled, settled : iterations without gain of resolution; without a large change of poses.
    """

    local: bool
    fixed: bool
    order: int
    step: float
    shift_step: float
    shift_range: float
    radius: int
    resolution: int
    best: int
    stalled: int
    settled: int
    smallest_angle: float
    smallest_shift: float
    shift_sigma: float
    converged: bool
    final: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def first_schedule(settings: Settings, box: int, pixel_size: float) -> Schedule:
    """The first iteration's: radius a little beyond the reference's filter."""
    shell = max(1, math.floor(box * pixel_size / settings.ini_high))
    local = settings.poses != "global"
    step = settings.local_step if local else angular_step(settings.order)
    return Schedule(
        local=local, fixed=settings.poses == "fixed", order=settings.order, step=step,
        shift_step=settings.shift_step, shift_range=settings.shift_range,
        radius=min(shell + GROWTH, (box - 1) // 2), resolution=shell, best=0, stalled=0, settled=0,
        smallest_angle=999.0, smallest_shift=999.0, shift_sigma=10.0 / pixel_size,
        converged=False, final=False,
    )  # fmt: skip


def search_of(schedule: Schedule, symmetry: str, rng: np.random.Generator) -> Search:
    """The hypotheses of an iteration."""
    if schedule.fixed:
        return fixed_search()
    if schedule.local:
        sigma = LOCAL_REACH * schedule.step / 2
        return local_search(
            schedule.step, sigma=sigma, cutoff=2.0, shift_range=schedule.shift_range, shift_step=schedule.shift_step
        )
    return global_search(
        schedule.order, symmetry, shift_range=schedule.shift_range, shift_step=schedule.shift_step, rng=rng
    )


def next_radius(ssnr: NDArray[np.float64], box: int) -> tuple[int, int]:
    """(resolution, radius) in shells: SSNR falls below 1 after ``resolution``; the radius goes 10 shells beyond.

    Shells farther out, whatever their FSC, cost time with the square of the radius and brought no better poses.

    >>> next_radius(np.array([9.0, 9.0, 3.0, 0.5, 0.1]), 64)
    (2, 12)
    """
    below = np.flatnonzero(ssnr[1:] < 1.0)
    resolution = int(below[0]) if below.size else len(ssnr) - 1
    return resolution, min(resolution + GROWTH, (box - 1) // 2)


def advance(
    schedule: Schedule, settings: Settings, *, resolution: int, radius: int, angle_change: float, shift_change: float,
    accuracy: tuple[float, float], shift_sigma: float,
) -> Schedule:  # fmt: skip
    """The next iteration's schedule from what this one changed and gained.

    Finer sampling comes when neither the resolution nor the poses move any more, until the fine step is under 0.75 of
    the expected angular accuracy; then the refinement has converged. From ``local_order`` on the search is local.
    """
    s = schedule
    stalled = 0 if resolution > s.best else s.stalled + 1
    # poses that move by less than half the fine grid's spacing cannot settle further on this grid
    turning = angle_change > s.step / 4 and SETTLING * angle_change < s.smallest_angle
    sliding = shift_change > s.shift_step / 4 and SETTLING * shift_change < s.smallest_shift
    moved = turning or sliding
    settled = 0 if moved else s.settled + 1
    new = replace(
        s, resolution=resolution, radius=radius, best=max(resolution, s.best), stalled=stalled, settled=settled,
        smallest_angle=min(angle_change, s.smallest_angle), smallest_shift=min(shift_change, s.smallest_shift),
        shift_sigma=shift_sigma,
    )  # fmt: skip
    fine_enough = s.fixed or s.step / 2 < 0.75 * accuracy[0]
    if stalled < 1 or (settled < 1 and not s.fixed):
        return new
    if fine_enough:
        return replace(new, converged=True)
    order = s.order + 1
    local = s.local or order >= settings.local_order
    shift_step = min(s.shift_step, max(0.95 * s.shift_step / 2, 1.5 * accuracy[1]))
    shift_range = min(max(5 * shift_change, 1.5 * shift_step), 1.3 * s.shift_range)
    return replace(
        new, order=order, step=s.step / 2, local=local, shift_step=shift_step, shift_range=shift_range,
        stalled=0, settled=0, smallest_angle=999.0, smallest_shift=999.0,
    )  # fmt: skip
