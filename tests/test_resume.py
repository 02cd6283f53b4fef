"""A refinement that ended at its limit goes on when the limit is raised, with the bits of one that had it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoflow.engine import read_records
from cryoflow.errors import StoreError
from cryoflow.refinement import refine
from cryoflow.refinement.resume import resumed
from cryoflow.refinement.schedule import first_schedule
from cryoflow.refinement.settings import Settings
from cryoflow.simulate import simulate_particles


@pytest.mark.parametrize("classes", [1, 2])
def test_a_raised_limit_gives_what_it_gives_from_the_start(tmp_path: Path, classes: int) -> None:
    particles, truth = simulate_particles(n=24, box=24, pixel_size=9.0, symmetry="D2", snr=1.0, seed=1)
    told: list[int] = []

    def refined(store: Path | None, limit: int) -> Any:
        told.clear()
        return refine(particles, truth["map"], symmetry="D2", diameter=150, ini_high=60, order=0, classes=classes,
                      limit=limit, store=store, on_iteration=lambda r: told.append(r["iteration"]))  # fmt: skip

    extra = 1 if classes == 1 else 0  # the iteration that joins the halves
    refined(tmp_path / "a", 2)
    assert told == list(range(1, 3 + extra))
    refined(tmp_path / "a", 2)
    assert told == []  # nothing to do
    assert [r["resolution"] > 0 for r in read_records(tmp_path / "a")] == [True] * (2 + extra)  # while it runs, too
    raised = refined(tmp_path / "a", 4)
    assert told == list(range(3, 5 + extra))
    at_once = refined(None, 4)
    np.testing.assert_array_equal(raised.map, at_once.map)
    assert [r["iteration"] for r in raised.history] == [r["iteration"] for r in at_once.history]
    with pytest.raises(StoreError, match=r"at most 3 iterations; found 4\..*limit=5"):
        refined(tmp_path / "a", 3)
    np.testing.assert_array_equal(refined(tmp_path / "a", 4).map, at_once.map)  # and nothing was lost by it


def state(iteration: int, *, converged: bool = False, marked: bool = False, joined: bool = False) -> dict[str, Any]:
    settings = Settings(
        symmetry="C1", diameter=100.0, ini_high=40.0, classes=1, poses="global", seed=0, order=2, local_order=4,
        local_step=3.75, shift_range=5.0, shift_step=2.0, join_halves_to=40.0, solvent_fsc=True, tau_fudge=4.0, limit=9,
        max_significant=500, fraction=0.999, padding=2, scale_correction=True, norm_correction=True,
    )  # fmt: skip
    schedule = first_schedule(settings, 32, 5.0).as_dict()
    records = [{"final": False, "converged": False} for _ in range(iteration)]
    records[-1 - joined]["converged"] = converged
    records[-1]["final"] = joined
    schedule |= {"converged": converged, "final": marked or joined}
    return {"iteration": iteration, "history": records, "done": joined, "schedule": schedule}


def test_what_is_taken_up() -> None:
    plain = state(3)
    assert resumed(plain, 9) == plain  # interrupted
    for whole in (state(3, converged=True, marked=True), state(4, converged=True, joined=True)):
        assert resumed(whole, 2) is whole  # converged: no limit ended it
    ended, joined = state(3, marked=True), state(4, joined=True)
    assert resumed(ended, 3) is ended
    assert resumed(joined, 3) is joined
    assert resumed(joined, 4) is None
    again = resumed(ended, 4)
    assert again is not None
    assert again == plain
    for beyond in (state(3), ended, joined):
        with pytest.raises(StoreError, match="limit"):
            resumed(beyond, 2)
    with pytest.raises(StoreError, match="limit=4"):
        resumed(plain, 3)  # killed before its limit, which is now where it stands
