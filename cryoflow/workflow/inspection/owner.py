"""Whose folder it is: a run of cryoflow, a project or job of another program, an entry of an archive."""

from __future__ import annotations

import re
import shlex
from itertools import islice
from pathlib import Path

from cryoflow.io.programs.epu import is_epu_folder

__all__ = ["owner_of"]


def owner_of(folder: Path) -> tuple[str, str]:
    """Whose folder it is, and what to inspect or import next; empty where nothing tells."""

    def has(name: str) -> bool:
        return (folder / name).exists()

    if has("workflow.yaml") and (has("stages") or has("stores")):
        return "run of cryoflow", f"cryoflow run {folder}/workflow.yaml -o {folder}"
    if has("default_pipeline.star") or has(".gui_projectdir"):
        return "RELION project", ""
    if has("job_pipeline.star") or (has("job.star") and has("run.out")):
        data = sorted(p.name for p in folder.glob("*.star") if re.fullmatch(r"(run_.*)?(data|particles)\.star", p.name))
        return "job of RELION", f"cryoflow import {folder / data[-1]} -o NAME.zarr" if data else ""
    if has("job.json") and re.fullmatch(r"J\d+", folder.name):
        data = sorted(p.name for p in folder.glob("*particles*.cs") if "passthrough" not in p.name)
        return "job of cryoSPARC", f"cryoflow import {folder / data[-1]} -o NAME.zarr" if data else ""
    if has("project.json") or any(re.fullmatch(r"J\d+", p.name) for p in islice(folder.glob("J*"), 50)):
        return "project of cryoSPARC", ""
    if re.fullmatch(r"(EMPIAR-)?1\d{4}", folder.name) and (has("data") or has(f"{folder.name[-5:]}.xml")):
        return "entry of EMPIAR", f"cryoflow catalog show EMPIAR-{folder.name[-5:]}"
    if is_epu_folder(folder):
        options = "--format-in epu --cs MM --amplitude-contrast FRACTION"
        return "session of EPU", f"cryoflow convert {shlex.quote(str(folder))} micrographs.star {options}"
    return "", ""
