"""A refinement that ended at its limit of iterations goes on where it ended when the limit is raised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cryoflow.workflow.folder import write_text

__all__ = ["raise_limit"]


def raise_limit(store: Path, limit: int) -> None:
    """Make a store of iterations one that a refinement goes on with, up to ``limit``.

    What the old limit alone had ended is taken back: the last iteration, which joins all data up to Nyquist, and the
    mark in the one before it that asks for it. A refinement that has converged stays as it is. A second call changes
    nothing, and one that was interrupted is finished by the next.
    """
    signature = _read(store / "signature.json")
    if signature.get("limit", limit) != limit:
        write_text(store / "signature.json", json.dumps({**signature, "limit": limit}, indent=1))
    whole = sorted(path.parent for path in store.glob("iteration_*/state.json") if not path.parent.suffix)
    joined = [folder for folder in whole if _records(folder)[-1].get("final")]
    rest = [folder for folder in whole if folder not in joined]
    if not rest:
        return
    content = _read(rest[-1] / "state.json")
    state = content["state"]
    schedule = state["schedule"]["of"]
    if state["iteration"] >= limit or schedule["converged"] or not (schedule["final"] or state["done"]):
        return
    for folder in joined:
        shutil.rmtree(folder)
    schedule["final"] = state["done"] = False
    write_text(rest[-1] / "state.json", json.dumps(content, indent=1))


def _records(folder: Path) -> list[dict[str, Any]]:
    """What the state in a folder tells of its iterations."""
    return [record["of"] for record in _read(folder / "state.json")["state"]["history"]["of"]] or [{}]


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
