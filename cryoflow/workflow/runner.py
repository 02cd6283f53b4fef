"""Running the stages of a workflow: the finished are skipped by content, the changed redone with their dependants."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryoflow import __version__
from cryoflow.display.wording import in_words
from cryoflow.errors import ParameterError
from cryoflow.workflow.digest import code_digest, digest, fingerprint
from cryoflow.workflow.folder import RunFolder, write_text
from cryoflow.workflow.measure import Meter
from cryoflow.workflow.model import Workflow, to_yaml

__all__ = ["Context", "StageSpec", "finished", "open_run", "plain", "plan", "run_stages"]

log = logging.getLogger("cryoflow")


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage: what it runs, what it stands on, what it leaves.

    ``function(context)`` returns its figures. ``needs`` are the stages whose results it reads, ``rooms`` the parts of
    cryoflow whose code decides its result, ``files`` gives the files outside of the run's folder that it reads,
    ``outputs`` are names in the folder, ``more`` those that depend on the
    workflow. A stage that ``resumes`` keeps its stores when it was interrupted, and when nothing changed but that the
    parameters in ``raised`` are larger than they were.
    """

    function: Callable[[Context], dict[str, Any]]
    needs: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    files: Callable[[Workflow], list[Path]] = lambda _: []
    more: Callable[[Workflow], tuple[str, ...]] = lambda _: ()
    resumes: bool = False
    raised: tuple[str, ...] = ()


@dataclass(slots=True)
class Context:
    """What a stage is given."""

    workflow: Workflow
    folder: RunFolder
    client: Any = None
    progress: bool | None = None
    figures: dict[str, Any] = field(default_factory=dict)  # of all stages so far, by stage
    stale: list[str] = field(default_factory=list)  # stages whose results are of an earlier run


def plan(workflow: Workflow, specs: Mapping[str, StageSpec]) -> dict[str, str]:
    """The digest every stage of the workflow would have: its parameters, files, code, and those it stands on."""
    return {stage: digest(content) for stage, content in _contents(workflow, specs).items()}


def _contents(workflow: Workflow, specs: Mapping[str, StageSpec]) -> dict[str, dict[str, Any]]:
    """What the digest of every stage is made of."""
    contents: dict[str, dict[str, Any]] = {}
    for stage in workflow.stages:
        spec = specs[stage]
        parameters = getattr(workflow, stage)
        contents[stage] = {
            "parameters": parameters.model_dump(mode="json") if parameters is not None else None,
            "files": fingerprint(spec.files(workflow)),
            "code": code_digest(*spec.rooms),
            "needs": [digest(contents[n]) for n in spec.needs if n in contents],
        }
    return contents


def _base(content: Mapping[str, Any], raised: tuple[str, ...]) -> dict[str, Any]:
    """The digest of a stage without the parameters in ``raised``, and those."""
    parameters = dict(content["parameters"] or {})
    values = {name: parameters.pop(name) for name in raised}
    return {"base": digest({**content, "parameters": parameters}), "raised": values}


def _goes_on(record: Mapping[str, Any], expected: str, mine: Mapping[str, Any]) -> bool:
    """Whether what a stage left can be gone on with: it was interrupted, or its raised parameters are larger now."""
    if record.get("digest") == expected:
        return record.get("state") == "started"
    values = record.get("raised") or {}
    return record.get("base") == mine["base"] and all(values.get(k, v) <= v for k, v in mine["raised"].items())


def run_stages(
    workflow: Workflow,
    folder: RunFolder,
    specs: Mapping[str, StageSpec],
    *,
    client: Any = None,
    until: str | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run what is not finished, in order; returns the figures of the whole run.

    Raises
    ------
    ParameterError : ``until`` is no stage of the workflow.
    """
    stages = workflow.stages
    if until is not None:
        if until not in stages:
            raise ParameterError("--until", expected=f"one of {', '.join(stages)}", found=repr(until))
        stages = stages[: stages.index(until) + 1]
    contents = _contents(workflow, specs)
    digests = {stage: digest(content) for stage, content in contents.items()}
    write_text(folder.path / "workflow.yaml", to_yaml(workflow))
    context = Context(workflow, folder, client, progress)
    for number, stage in enumerate(stages, 1):
        spec, title = specs[stage], f"[{number}/{len(stages)}] {stage}"
        record = folder.read_record(stage)
        if finished(folder, record, digests[stage], left(spec, workflow)):
            log.info("%s: finished before, skipped", title)
            context.figures[stage] = record["figures"]
            continue
        mine = _base(contents[stage], spec.raised)
        goes_on = spec.resumes and _goes_on(record, digests[stage], mine)
        if not goes_on:
            folder.discard(left(spec, workflow))
        log.info("%s: %s", title, "going on where it ended" if goes_on else "started")
        context.figures[stage] = _run_one(stage, spec, title, context, {"digest": digests[stage], **mine})
        _write_figures(context)
    for stage in workflow.stages[len(stages) :]:  # not asked for now: what they left stays, and may be out of date
        record = folder.read_record(stage)
        if finished(folder, record, digests[stage], left(specs[stage], workflow)):
            context.figures[stage] = record["figures"]
        elif record.get("state") == "finished":
            context.stale.append(stage)
    if context.stale:
        log.warning("out of date, for what they stand on has changed: %s", ", ".join(context.stale))
    return _write_figures(context)


def left(spec: StageSpec, workflow: Workflow) -> tuple[str, ...]:
    """Names of all a stage leaves."""
    return (*spec.outputs, *spec.more(workflow))


def finished(folder: RunFolder, record: Mapping[str, Any], expected: str, outputs: tuple[str, ...]) -> bool:
    """Whether the record is of this very stage, done, and everything it left is still there."""
    if record.get("state") != "finished" or record.get("digest") != expected:
        return False
    if not all((folder.path / name).exists() for name in outputs):
        return False
    return bool(record.get("sizes") == folder.sizes(outputs))


def _run_one(stage: str, spec: StageSpec, title: str, context: Context, identity: Mapping[str, Any]) -> dict[str, Any]:
    folder, outputs = context.folder, left(spec, context.workflow)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    folder.write_record(stage, {"stage": stage, "state": "started", **identity, "began": began})
    with Meter() as meter:
        result = spec.function(context)
    figures: dict[str, Any] = plain({**asdict(meter.cost), **result})
    folder.write_record(stage, {
        "stage": stage, "state": "finished", **identity, "began": began,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"), "cryoflow": __version__,
        "sizes": folder.sizes(outputs), "figures": figures,
    })  # fmt: skip
    said = in_words(figures)
    log.info("%s: done in %.1f s (%.1f CPU-s)%s", title, figures["wall_seconds"], figures["cpu_seconds"],
             f"; {said}" if said else "")  # fmt: skip
    return figures


def plain(value: Any) -> Any:
    """Numbers that JSON has: infinity and NaN become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_figures(context: Context) -> dict[str, Any]:
    """``figures.json``: the machine, and the figures of every stage."""
    import psutil

    stages = context.figures
    figures = {
        "name": context.workflow.name,
        "cryoflow": __version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "python": platform.python_version(), "processor": platform.machine(), "cores": psutil.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "stages": stages,
        "cpu_seconds": round(sum(f["cpu_seconds"] for f in stages.values()), 3),
        "wall_seconds": round(sum(f["wall_seconds"] for f in stages.values()), 3),
        "peak_memory_bytes": max((f["peak_memory_bytes"] for f in stages.values()), default=0),
    }  # fmt: skip
    for key in ("resolution", "resolution_half", "particles", "truth_resolution"):
        found = [f[key] for f in stages.values() if key in f]
        if found:
            figures[key] = found[-1]
    if context.stale:
        figures["out_of_date"] = context.stale
    write_text(context.folder.path / "figures.json", json.dumps(figures, indent=1, default=str) + "\n")
    return figures


def open_run(folder: RunFolder, *, echo: bool, needed_bytes: int) -> ExitStack:
    """The folder made, locked and logging, until the stack is closed."""
    folder.prepare(needed_bytes)
    stack = ExitStack()
    try:
        stack.enter_context(folder.lock())
        stack.enter_context(folder.logging(echo=echo))
    except BaseException:
        stack.close()
        raise
    return stack
