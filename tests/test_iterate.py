"""iterate: what is on disk is whole, a killed driver resumes, and nothing that does not fit is taken up."""

# ruff: noqa: ARG005
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoflow.engine import iterate, read_records
from cryoflow.errors import FormatError, ParameterError, ResourceError, StoreError


def add_one(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {**state, "x": state["x"] + 1}, {"mean": float(state["x"].mean())}


def never(_: Any) -> bool:
    return False


START = {"x": np.zeros(3, "f4")}


def test_runs_to_the_limit_and_to_convergence() -> None:
    assert iterate(add_one, START, until=never, limit=4)["iteration"] == 4
    end = iterate(add_one, START, until=lambda s: s["x"][0] >= 2, limit=9)
    assert end["iteration"] == 2
    np.testing.assert_array_equal(START["x"], 0)


def everything() -> dict[str, Any]:
    ds = xr.Dataset(
        {"rotation": (("particle", "row"), np.arange(6.0).reshape(2, 3), {"units": "x", "n": np.float32(2)}),
         "micrograph_name": ("particle", np.array(["a", "bé"], object)), "fixed": ("particle", np.array(["a", "bcd"]))},
        coords={"particle": [4, 5]}, attrs={"pixel_size": 1.5},
    )  # fmt: skip
    return {
        "volume": np.random.default_rng(0).normal(size=(4, 4, 3)).astype("c8"), "n": 3, "big": 2**70, "f": 0.1,
        "inf": float("inf"), "none": None, "yes": True, "text": "ü", "np": np.float32(0.1), "b": np.bool_(True),
        "empty": np.zeros((0, 3)), "nested": {"a": [1, (2.5, np.arange(3, dtype="i2"))], "d": {}},
        "ds": ds, "da": ds.rotation, "unnamed": xr.DataArray(np.ones(2)), "fortran": np.asfortranarray(np.ones((2, 3))),
    }  # fmt: skip


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b), (a, b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            same(a[k], b[k])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    elif isinstance(a, (xr.Dataset, xr.DataArray)):
        assert a.identical(b)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def test_every_kind_of_value_comes_back_as_it_was(tmp_path: Path) -> None:
    first = iterate(lambda s: s, everything(), until=never, limit=1, store=tmp_path)
    back = iterate(lambda s: s, {}, until=lambda s: True, limit=1, store=tmp_path)
    same(first, back)
    assert not list(tmp_path.rglob("*.pkl"))


@pytest.mark.parametrize("value", [object(), {1: 2}, b"raw", np.array([1, "a"], object), Path("x"), {3}])
def test_what_has_no_form_on_disk_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ParameterError, match="'odd"):
        iterate(lambda s: {**s, "odd": value}, START, until=never, limit=2, store=tmp_path)
    assert not list(tmp_path.glob("iteration*"))


def test_resumes_after_the_last_finished_iteration(tmp_path: Path) -> None:
    calls: list[int] = []

    def step(state: dict[str, Any]) -> Any:
        calls.append(state["iteration"])
        if len(calls) == 4:
            raise RuntimeError("power cut")
        return add_one(state)

    with pytest.raises(RuntimeError):
        iterate(step, START, until=never, limit=6, store=tmp_path, signature={"a": 1})
    torn = tmp_path / "iteration_0004.partial"
    shutil.copytree(tmp_path / "iteration_0003", torn)
    end = iterate(step, {"x": "not used"}, until=never, limit=6, store=tmp_path, signature={"a": 1})
    assert calls == [0, 1, 2, 3, 3, 4, 5]
    np.testing.assert_array_equal(end["x"], 6)
    assert not torn.exists()
    assert [r["iteration"] for r in read_records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [r["mean"] for r in read_records(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_only_the_last_states_are_kept_and_all_records(tmp_path: Path) -> None:
    iterate(add_one, START, until=never, limit=5, store=tmp_path, keep=2)
    assert sorted(p.parent.name for p in tmp_path.rglob("state.json")) == ["iteration_0004", "iteration_0005"]
    assert sorted(p.parent.name for p in tmp_path.rglob("*.npy")) == ["iteration_0004", "iteration_0005"]
    assert len(read_records(tmp_path)) == 5


def test_a_converged_run_is_not_continued(tmp_path: Path) -> None:
    def done(s: dict[str, Any]) -> bool:
        return bool(s["x"][0] >= 2)

    iterate(add_one, START, until=done, limit=9, store=tmp_path)
    assert iterate(add_one, START, until=done, limit=9, store=tmp_path)["iteration"] == 2


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    iterate(add_one, START, until=never, limit=1, store=tmp_path, signature={"symmetry": "O", "box": 64})
    with pytest.raises(StoreError, match=r"symmetry='O'.*found symmetry='C1'"):
        iterate(add_one, START, until=never, limit=2, store=tmp_path, signature={"symmetry": "C1", "box": 64})
    with pytest.raises(StoreError):
        iterate(add_one, START, until=never, limit=2, store=tmp_path)
    assert iterate(add_one, START, until=never, limit=2, store=tmp_path,
                   signature={"box": 64, "symmetry": "O"})["iteration"] == 2  # fmt: skip


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "iteration_0001").mkdir()
    with pytest.raises(StoreError, match="signature"):
        iterate(add_one, START, until=never, limit=2, store=tmp_path)


def test_two_drivers_on_one_store(tmp_path: Path) -> None:
    def step(state: dict[str, Any]) -> Any:
        with pytest.raises(StoreError, match="lock"):
            iterate(add_one, START, until=never, limit=1, store=tmp_path)
        return add_one(state)

    assert iterate(step, START, until=never, limit=1, store=tmp_path)["iteration"] == 1


@pytest.mark.parametrize("damage", ["truncate", "pickle", "escape", "json", "version"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    iterate(add_one, START, until=never, limit=1, store=tmp_path)
    folder = tmp_path / "iteration_0001"
    array, state = folder / "0.npy", folder / "state.json"
    name, kind = "0.npy", FormatError
    if damage == "truncate":
        array.write_bytes(array.read_bytes()[:-4])
    elif damage == "pickle":
        np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    elif damage == "escape":
        np.save(tmp_path / "1.npy", np.zeros(1))
        state.write_text(state.read_text().replace("0.npy", "../1.npy"))
        name = "state.json"
    elif damage == "json":
        state.write_text(state.read_text()[:-9])
        name = "state.json"
    else:
        state.write_text(json.dumps({**json.loads(state.read_text()), "version": 99}))
        name, kind = "state.json", StoreError
    with pytest.raises(kind, match=name):
        iterate(add_one, START, until=never, limit=2, store=tmp_path)


def test_a_full_disk_keeps_the_iterations_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = np.save

    def full(file: Any, array: Any, **kw: Any) -> None:
        if array.flat[0] >= 3:
            raise OSError(28, "No space left on device")
        save(file, array, **kw)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ResourceError, match="iteration_0003"):
        iterate(add_one, START, until=never, limit=5, store=tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.partial"))
    np.testing.assert_array_equal(iterate(add_one, START, until=never, limit=5, store=tmp_path)["x"], 5)


DRIVER = """
import sys, time
import numpy as np
from cryoflow.engine import iterate
def step(state):
    rng = np.random.default_rng(state["iteration"])
    time.sleep(0.05)
    return {"x": state["x"] * np.float32(0.9) + rng.normal(size=state["x"].shape).astype("f4")}
end = iterate(step, {"x": np.zeros((64, 64, 64), "f4")}, until=lambda s: False, limit=12, store=sys.argv[1],
              on_iteration=lambda n, s, r: print(n, flush=True))
np.save(sys.argv[2], end["x"])
"""


def test_a_driver_killed_with_9_resumes_to_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)

    def start(store: str, result: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(tmp_path / store), str(tmp_path / result)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole = start("whole", "whole.npy")
    killed = start("killed", "killed.npy")
    assert killed.stdout is not None
    seen = [int(killed.stdout.readline()) for _ in range(4)]
    time.sleep(0.055)  # somewhere in the next step or its writing
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    assert not (tmp_path / "killed.npy").exists()
    out, _ = start("killed", "killed.npy").communicate(timeout=60)
    assert whole.communicate(timeout=60)[0].split() == [str(i) for i in range(1, 13)]
    resumed = [int(n) for n in out.split()]
    assert resumed[-1] == 12
    assert resumed[0] > seen[-1]  # no finished iteration runs again
    assert (tmp_path / "whole.npy").read_bytes() == (tmp_path / "killed.npy").read_bytes()


def test_wrong_numbers(tmp_path: Path) -> None:
    with pytest.raises(ParameterError):
        iterate(add_one, START, until=never, limit=0)
    with pytest.raises(ParameterError, match="JSON"):
        iterate(add_one, START, until=never, limit=1, store=tmp_path, signature=object())


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a tiny disk")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        grow = {"x": np.zeros(2048, "f8")}
        with pytest.raises(ResourceError, match=r"iteration_0004.*space"):
            iterate(lambda s: {"x": np.tile(s["x"], 2)}, grow, until=never, limit=9, store=disk / "run", keep=1)
        assert len(read_records(disk / "run")) == 3
        assert iterate(lambda s: s, {}, until=lambda s: True, limit=9, store=disk / "run")["x"].size == 2048 * 8
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_store_is_gone_on_with_from_the_state_that_is_chosen(tmp_path: Path) -> None:
    iterate(add_one, START, until=never, limit=4, store=tmp_path, keep=3)

    def earlier(state: dict[str, Any]) -> dict[str, Any] | None:
        return {**state, "x": state["x"] + 100} if state["iteration"] <= 3 else None

    seen: list[int] = []
    end = iterate(add_one, START, until=never, limit=5, store=tmp_path, resume=earlier,
                  on_iteration=lambda i, s, r: seen.append(i))  # fmt: skip
    assert seen == [4, 5]
    np.testing.assert_array_equal(end["x"], 105)
    assert [r["iteration"] for r in read_records(tmp_path)] == [1, 2, 3, 4, 5]
    end = iterate(add_one, START, until=never, limit=1, store=tmp_path, resume=lambda s: None)
    assert end["iteration"] == 1  # none will do: from the start
    assert [p.name for p in sorted(tmp_path.glob("iteration_*"))] == ["iteration_0001"]
