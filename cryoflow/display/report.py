"""``report``: one self-contained HTML page about a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from cryoflow.display import report_data, report_map, report_run
from cryoflow.display.blocks import Missing, Section
from cryoflow.display.runfolder import READING, RunFiles
from cryoflow.errors import ResourceError

__all__ = ["report"]

SECTIONS: tuple[tuple[str, str, Callable[[RunFiles], list[Any]]], ...] = (
    ("map", "Map", report_map.map_section),
    ("resolution", "Resolution", report_map.resolution_section),
    ("orientations", "Orientations", report_map.orientation_section),
    ("convergence", "Refinement", report_map.convergence_section),
    ("particles", "Particles", report_data.particle_section),
    ("micrographs", "Micrographs and picks", report_data.micrograph_section),
    ("ctf", "CTF", report_data.ctf_section),
    ("flagged", "Set aside", report_data.flagged_section),
    ("stages", "What was run", report_run.stages_section),
    ("reproduce", "Do it again", report_run.reproduce_section),
)


def report(folder: str | Path, *, output: str | Path | None = None, title: str = "") -> Path:
    """Write one HTML page about a run: everything is inside it, nothing is fetched from elsewhere.

    Pictures are inline SVG, which take the page's colours, light or dark, and print well. A section whose inputs are
    missing or broken says so in one line; the others stay.

    Parameters
    ----------
    folder : of the run: the files and stores that ``cryoflow run`` leaves.
    output : the page; ``report.html`` in the folder if not given.
    title : of the page; the workflow's, or the folder's name if not given.

    Returns
    -------
    The path of the page.

    Raises
    ------
    ParameterError : there is no such folder.
    ResourceError : the page cannot be written.
    """
    import jinja2

    run = RunFiles(folder)
    path = run.folder / "report.html" if output is None else Path(output)
    if not os.access(path.parent, os.W_OK):  # known before the work of drawing
        raise ResourceError(
            str(path), expected="a folder that can be written", found=str(path.parent),
            remedy="Choose another place with output.",
        )  # fmt: skip
    name = (
        title or str(run.parameter("report", "title") or "") or str(run.workflow.get("name") or "") or run.folder.name
    )
    sections = [_section(run, key, heading, make) for key, heading, make in SECTIONS]
    here = files("cryoflow.display")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string((here / "report.html").read_text(encoding="utf-8")).render(
        title=name,
        subtitle=_subtitle(run),
        cards=report_run.cards(run),
        warnings=report_run.warnings(run),
        sections=sections,
        css=(here / "report.css").read_text(encoding="utf-8"),
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(
            str(path), expected="a place that can be written", found=error.strerror or str(error),
            remedy="Choose another with output.",
        ) from None  # fmt: skip
    return path


def _section(run: RunFiles, key: str, title: str, make: Callable[[RunFiles], list[Any]]) -> Section:
    try:
        return Section(key, title, make(run))
    except Missing as missing:
        return Section(key, title, missing=str(missing))
    except (*READING, ImportError, IndexError, ArithmeticError, AttributeError) as error:
        return Section(key, title, missing=f"This section could not be made: {type(error).__name__}: {error}")


def _subtitle(run: RunFiles) -> str:
    parts = [f"cryoflow {run.figures['cryoflow']}"] if "cryoflow" in run.figures else ["cryoflow"]
    if run.figures.get("written"):
        parts.append(str(run.figures["written"]).replace("T", " ").replace("Z", " UTC"))
    if run.workflow.get("entry"):
        parts.append(str(run.workflow["entry"]))
    return " · ".join(parts)
