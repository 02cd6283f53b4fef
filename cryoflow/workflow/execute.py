"""``run``: a workflow from its file to its report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryoflow.errors import ParameterError
from cryoflow.workflow.check import check_files, needed_bytes
from cryoflow.workflow.folder import RunFolder
from cryoflow.workflow.model import Workflow, load_workflow
from cryoflow.workflow.runner import left, open_run, run_stages

__all__ = ["run"]

log = logging.getLogger("cryoflow")


def run(
    workflow: Workflow | str | Path | Mapping[str, Any],
    *,
    output: Path | str,
    root: Path | str | None = None,
    client: Any = None,
    cluster: str | None = None,
    until: str | None = None,
    progress: bool | None = None,
    performance_report: Path | None = None,
    echo: bool = False,
) -> dict[str, Any]:
    """Run a workflow; everything is checked before anything starts, and what is finished already is skipped.

    Parameters
    ----------
    workflow : a ``Workflow``, or what ``load_workflow`` takes: a YAML file, a particles STAR file, a catalog entry.
    output : folder of the run, made if it does not exist.
    root : folder that file names of the workflow are relative to; the working folder if not given.
    client : a Dask client; or ``cluster``, an address for ``cryoflow.connect``. This machine's cores if neither.
    until : stop after this stage.
    progress : draw progress lines; None: where stderr is a terminal or a notebook.
    performance_report : write Dask's performance report here (needs ``client`` or ``cluster``).
    echo : write the log to stderr too.

    Returns
    -------
    The figures of the run, as in ``figures.json``: cost of each stage, counts, resolution.

    Raises
    ------
    ParameterError : a wrong workflow, or a folder of something else, before anything starts.
    ResourceError : the folder cannot be written, its disk is too full, or another run holds it.

    Examples
    --------
    >>> run("EMPIAR-10146", output="apo", root="/nowhere")
    Traceback (most recent call last):
    cryoflow.errors.ParameterError: --root: expected an existing folder; found /nowhere.
    """
    if client is not None and cluster is not None:
        raise ParameterError("run", expected="client or cluster", found="both")
    if performance_report is not None and client is None and cluster is None:
        raise ParameterError(
            "--performance-report", expected="a cluster to report on", found="none", remedy="Give --cluster local:2."
        )
    from cryoflow.engine.cluster import connect, parse_address
    from cryoflow.engine.cluster import performance_report as report_of
    from cryoflow.workflow.stages import STAGES

    if not isinstance(workflow, Workflow):
        workflow = load_workflow(workflow)
    if until is not None and until not in workflow.stages:
        raise ParameterError("--until", expected=f"one of {', '.join(workflow.stages)}", found=repr(until))
    if cluster is not None:
        parse_address(cluster)
    workflow = check_files(workflow, root=root)
    folder = RunFolder(output)
    folder.claim([name for stage in workflow.stages for name in left(STAGES[stage], workflow)], workflow.source)
    with open_run(folder, echo=echo, needed_bytes=needed_bytes(workflow)) as stack:
        last = len(workflow.stages) if until is None else workflow.stages.index(until) + 1
        log.info("cryoflow run in %s: %s", folder.path, " -> ".join(workflow.stages[:last]))
        try:
            if cluster is not None:
                client = stack.enter_context(connect(cluster, report=performance_report))
            elif performance_report is not None:
                stack.enter_context(report_of(client, performance_report))
            return run_stages(workflow, folder, STAGES, client=client, until=until, progress=progress)
        except Exception as error:
            # the caller is told by the error itself
            log.error("stopped: %s", error, exc_info=log.isEnabledFor(logging.DEBUG), extra={"told": True})
            raise
        except KeyboardInterrupt:
            log.error("interrupted", extra={"told": True})
            raise
