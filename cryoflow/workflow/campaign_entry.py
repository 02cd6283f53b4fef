"""One entry of a campaign, in a process of its own: a crash here ends this entry alone.

``python -m cryoflow.workflow.campaign_entry JOB.json`` runs what the job says and leaves ``outcome.json`` beside it.
Its standard input is held open by the campaign; when that ends, however it ends, so does this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from cryoflow.errors import CryoflowError
from cryoflow.workflow.folder import write_text
from cryoflow.workflow.model import Workflow, load_workflow

__all__ = ["main", "run_job"]

GRACE = 10.0  # seconds between being interrupted and being ended


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Fetch what is missing (if asked to), then run the entry's workflow; returns its figures."""
    from cryoflow.workflow.check import check_files
    from cryoflow.workflow.execute import run

    root = Path(job["root"]) if job["root"] is not None else None
    catalog = Path(job["catalog"]) if job["catalog"] is not None else None
    if job["fetch"]:
        workflow = load_workflow(job["source"], settings=job["settings"], catalog=catalog)
        root = root or Path(job["output"]).parent / "data"
        _fetch(workflow, root, catalog, job["limit"])
    settings = job["settings"] if job["limit"] is None else _limited(job, root, catalog)
    workflow = load_workflow(job["source"], settings=settings, catalog=catalog)
    if workflow.entry is not None and catalog is not None:
        # with its files found the run stands alone, for commands that know nothing of this catalog
        workflow = check_files(workflow, root=root).model_copy(update={"entry": None})
    return run(
        workflow, output=job["output"], root=root, cluster=job["cluster"], until=job["until"], progress=False
    )


def _fetch(workflow: Workflow, root: Path, catalog: Path | None, limit: int | None) -> None:
    """The files that the workflow starts from and its reference, unless they are there."""
    from cryoflow.catalog import find_reference, read_entry
    from cryoflow.catalog.fetch import fetch, plan_fetch
    from cryoflow.catalog.layout import find_files
    from cryoflow.catalog.start import split_name
    from cryoflow.errors import ParameterError

    root.mkdir(parents=True, exist_ok=True)
    if workflow.entry is not None:
        name, imageset = split_name(workflow.entry)
        entry = read_entry(name, catalog)
        start = imageset or entry.start
        if start is not None:
            try:
                here = len(find_files(entry, start, root)) if entry.imagesets[start].metadata is None else 0
            except ParameterError:
                here = 0
            if here < (limit or 1):
                plan = plan_fetch(entry, [start], root=root, limit=limit)
                sys.stderr.write(f"fetching {plan}\n")
                fetch(plan)
    reference = workflow.refine.reference if workflow.refine is not None else None
    if reference is not None and reference.startswith(("pdb:", "emdb:")):
        find_reference(reference, root, fetch=True)


def _limited(job: dict[str, Any], root: Path | None, catalog: Path | None) -> dict[str, Any]:
    """The settings with no more than ``limit`` micrographs."""
    from cryoflow.catalog import read_entry
    from cryoflow.catalog.layout import find_files
    from cryoflow.catalog.start import split_name

    workflow = load_workflow(job["source"], settings=job["settings"], catalog=catalog)
    settings: dict[str, Any] = {**job["settings"]}
    if workflow.simulate is not None:
        settings["simulate"] = {**settings.get("simulate", {}), "n": min(workflow.simulate.n, job["limit"])}
    given = (job["settings"].get("micrographs") or {}).get("path")
    if workflow.micrographs is not None and workflow.entry is not None and given is None:
        name, imageset = split_name(workflow.entry)
        entry = read_entry(name, catalog)
        found = find_files(entry, imageset or entry.start or "", root or Path(), limit=job["limit"])
        settings["micrographs"] = {**settings.get("micrographs", {}), "path": found}
    return settings


def _ends_with_campaign() -> None:
    """Interrupt this process when the campaign's end of the pipe closes; end it if that does not help."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE)
    os._exit(130)


def main() -> None:
    """Run the job that the command line names."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text(encoding="utf-8"))
    threading.Thread(target=_ends_with_campaign, name="cryoflow-campaign", daemon=True).start()
    outcome: dict[str, Any] = {"digest": job["digest"], "state": "finished", "error_type": "", "error": ""}
    try:
        outcome["figures"] = run_job(job)
    except KeyboardInterrupt:
        outcome |= {"state": "stopped"}
    except Exception as error:
        if not isinstance(error, CryoflowError):
            traceback.print_exc()
        outcome |= {"state": "failed", "error_type": type(error).__name__, "error": str(error) or type(error).__name__}
    write_text(path.with_name("outcome.json"), json.dumps(outcome, indent=1, default=str) + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if outcome["state"] == "finished" else 1)  # a thread that hangs must not keep the campaign


if __name__ == "__main__":
    main()
