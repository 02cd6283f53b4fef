"""A loop that survives its driver: every finished iteration is on disk before the next one starts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from cryoflow.engine.checkpoint import read_state, write_folder
from cryoflow.errors import FormatError, ParameterError, StoreError

__all__ = ["iterate", "read_records"]

State = Mapping[str, Any]
_FOLDER = re.compile(r"iteration_(\d{4,})")


def iterate(
    step: Callable[[dict[str, Any]], State | tuple[State, Mapping[str, Any]]],
    state: State,
    *,
    until: Callable[[dict[str, Any]], bool],
    limit: int,
    store: str | PathLike[str] | None = None,
    on_iteration: Callable[[int, dict[str, Any], Mapping[str, Any]], None] | None = None,
    signature: Any = None,
    resume: Callable[[dict[str, Any]], State | None] | None = None,
    keep: int = 2,
) -> dict[str, Any]:
    """Repeat ``state = step(state)`` until ``until(state)`` or ``limit`` iterations, and return the last state.

    With a ``store``, iteration 7 is written to ``store/iteration_0007.partial`` and renamed when it is whole, so that a
    driver that is killed continues after its last finished iteration. A call on a store with finished iterations
    resumes: ``state`` is then only the start that it no longer needs.

    Parameters
    ----------
    step : takes the state and returns the next, or (next, record) with a small JSON-able record of the iteration.
    state : mapping name -> array, number, text, None, Dataset, DataArray, or dicts, lists and tuples of them. What is
        large and does not change (the particles) stays outside. ``state["iteration"]`` is the number of finished
        iterations, kept here.
    until : whether the state has converged; asked after every iteration, and once after resuming.
    limit : iterations at most, those before a resume counted in.
    store : folder of the checkpoints; None keeps nothing.
    on_iteration : told (iteration, state, record) when an iteration is safe on disk.
    signature : anything JSON-able that the loop depends on (parameters, digests of inputs). Resuming with another
        one is refused.
    resume : what a stored state is gone on from, the newest asked first: the state, changed or as it is, or None for
        the checkpoint before it; those after the one it takes are dropped. Without it the newest is taken as it is.
    keep : full checkpoints to keep; of older iterations the record stays.

    Raises
    ------
    ParameterError : limit or keep is wrong, or a value of the state has no form on disk (after the first iteration).
    StoreError : the store belongs to other parameters, or another process is working on it.
    ResourceError : the disk is full; finished iterations are kept.

    Examples
    --------
    >>> def newton(s):
    ...     return {"x": 0.5 * (s["x"] + 2.0 / s["x"])}
    >>> end = iterate(newton, {"x": 1.0}, until=lambda s: abs(s["x"] ** 2 - 2) < 1e-12, limit=20)
    >>> round(end["x"], 6), end["iteration"]
    (1.414214, 5)
    """
    if limit < 1 or keep < 1:
        raise ParameterError("iterate", expected="limit and keep of at least 1", found=f"limit={limit}, keep={keep}")
    folder = None if store is None else Path(store)
    with contextlib.ExitStack() as stack:
        if folder is None:
            current = {**state, "iteration": 0}
        else:
            stack.enter_context(_locked(folder))
            current = _resumed(folder, state, signature, resume)
        if current["iteration"] and until(current):
            return current
        while current["iteration"] < limit:
            number = current["iteration"] + 1
            result = step(dict(current))
            new, record = result if isinstance(result, tuple) else (result, {})
            current = {**new, "iteration": number}
            if folder is not None:
                write_folder(folder / f"iteration_{number:04d}", current, {"iteration": number, **record})
                _thin(folder, keep)
            if on_iteration is not None:
                on_iteration(number, current, record)
            if until(current):
                break
    return current


def read_records(store: str | PathLike[str]) -> list[dict[str, Any]]:
    """The records of all finished iterations of a store, in order; each has "iteration" and what the step returned."""
    records = []
    for _, folder in _finished(Path(store)):
        path = folder / "record.json"
        try:
            records.append(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise FormatError(str(path), expected="the record of an iteration", found=str(error)) from error
    return records


def _finished(store: Path) -> list[tuple[int, Path]]:
    """Finished iterations in order; torn ones (``.partial``) are not among them."""
    found = [(m, p) for p in (store.iterdir() if store.is_dir() else ()) if (m := _FOLDER.fullmatch(p.name))]
    return sorted((int(m[1]), p) for m, p in found)


def _resumed(
    store: Path, state: State, signature: Any, resume: Callable[[dict[str, Any]], State | None] | None
) -> dict[str, Any]:
    _check_signature(store, signature)
    for torn in store.glob("iteration_*.partial"):
        shutil.rmtree(torn, ignore_errors=True)
    dropped = []
    for number, path in reversed(_finished(store)):
        if (path / "state.json").exists():
            stored = {**read_state(path), "iteration": number}
            found = stored if resume is None else resume(stored)
            if found is not None:
                state = found
                break
        dropped.append(path)
    else:
        number = 0
    for path in dropped:
        shutil.rmtree(path.rename(path.with_suffix(".partial")))
    return {**state, "iteration": number}


def _check_signature(store: Path, signature: Any) -> None:
    path = store / "signature.json"
    try:
        mine = json.loads(json.dumps(signature, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise ParameterError("iterate", expected="a signature that JSON can hold", found=str(error)) from error
    if not path.exists():
        if _finished(store):
            raise StoreError(str(store), expected="signature.json beside the iterations", found="none",
                             remedy="This is not a folder that iterate wrote; name another.")  # fmt: skip
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(mine, indent=1))
        partial.replace(path)
        return
    try:
        theirs = json.loads(path.read_text())
    except ValueError as error:
        raise FormatError(str(path), expected="JSON", found=str(error)) from error
    if theirs != mine:
        raise StoreError(
            str(store), expected=f"the parameters the run began with ({_difference(theirs, mine, 0)})",
            found=_difference(theirs, mine, 1), remedy="Use them again, or name another folder for a new run.",
        )  # fmt: skip


def _difference(old: Any, new: Any, side: int) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(k for k in {*old, *new} if old.get(k, ...) != new.get(k, ...))
        return ", ".join(f"{k}={(old, new)[side].get(k, 'absent')!r}" for k in names)
    text = json.dumps((old, new)[side])
    return text if len(text) < 80 else f"digest {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _thin(store: Path, keep: int) -> None:
    """Reduce all but the newest checkpoints to their records; ``state.json`` goes first, so that none is half there."""
    whole = [p for _, p in _finished(store) if (p / "state.json").exists()]
    for folder in whole[:-keep]:
        (folder / "state.json").unlink()
        for array in folder.glob("*.npy"):
            array.unlink()


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[None]:
    """One driver at a time; the lock of a killed one goes with it."""
    import fcntl

    store.mkdir(parents=True, exist_ok=True)
    with (store / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(str(store), expected="no other process at work on it", found="one that holds its lock",
                             remedy="Wait for it, or name another folder.") from error  # fmt: skip
        yield
