"""What a refinement goes on from: the last iteration, or the one before it where only its limit had ended it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cryoflow.errors import StoreError
from cryoflow.refinement.schedule import Schedule

__all__ = ["resumed"]


def resumed(state: dict[str, Any], limit: int) -> dict[str, Any] | None:
    """A stored ``state`` as a refinement of ``limit`` iterations takes it up; None: take the one before it.

    What a lower limit alone had ended is taken back: the iteration that joins all data up to Nyquist, and the mark in
    the one before it that asks for it. The result is that of a refinement with the higher limit from its start.

    Raises
    ------
    StoreError : there are more iterations than ``limit`` allows.
    """
    schedule, history, iteration = Schedule(**state["schedule"]), state["history"], state["iteration"]
    joined = bool(history[-1]["final"])
    counted = iteration - joined  # the joining one is beyond the limit
    if history[counted - 1]["converged"]:
        return state
    if counted > limit or (counted == limit and not (schedule.final or state["done"])):
        raise StoreError(
            "refine, store", expected=f"at most {limit} iterations", found=f"{counted}",
            remedy=f"Give limit={counted + 1} or more, or name another folder.",
        )  # fmt: skip
    if counted == limit:
        return state
    if joined:
        return None
    return {**state, "done": False, "schedule": replace(schedule, final=False).as_dict()}
