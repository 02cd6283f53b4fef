"""Parts of the report about the run: its summary, its warnings, what was run, how to do it again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoflow.display.blocks import Missing, Table, Text, human_bytes, human_seconds
from cryoflow.display.report_map import resolutions
from cryoflow.display.runfolder import RunFiles
from cryoflow.display.wording import COSTS, in_words, with_signs

__all__ = ["Card", "cards", "reproduce_section", "stages_section", "warnings"]


@dataclass(frozen=True, slots=True)
class Card:
    """One figure of the summary."""

    value: str
    label: str
    main: bool = False


def resolution(run: RunFiles) -> float | None:
    """Final resolution in angstrom: infinity where there is none, None where nothing says."""
    if run.stages.get("postprocess", {}).get("resolution", 0) is None:  # refused by the run, whatever the curves say
        return math.inf
    at = resolutions(run)
    if "corrected" in at:
        return at["corrected"][0]
    value = run.figures.get("resolution")
    return float(value) if isinstance(value, int | float) else None


def _by_chance(run: RunFiles, final: float) -> str:
    """How far the resolution may be off, where that is known."""
    ds = run.store("postprocess")
    known = {} if ds is None else ds.attrs
    coarse, fine = (float(known.get(f"resolution_{end}", math.inf)) for end in ("coarse", "fine"))
    said = math.isfinite(final + coarse + fine) and coarse - fine >= 0.01  # no range at the Nyquist limit
    return f"; {coarse:.2f} to {fine:.2f} Å by chance" if said else ""


def cards(run: RunFiles) -> list[Card]:
    """The summary's figures, those that are known."""
    out: list[Card] = []
    final = resolution(run)
    if final is not None:
        value = f"{final:.2f} Å" if math.isfinite(final) else "none"
        out.append(Card(value, "resolution, FSC 0.143" + _by_chance(run, final), main=True))
    count = run.figures.get("particles")
    if count is None and run.particles is not None:
        count = run.particles.sizes["particle"]
    if isinstance(count, int):
        out.append(Card(f"{count:,}", "particles"))
    used = _micrographs(run)
    if used:
        out.append(Card(used, "micrographs used"))
    symmetry = run.parameter("refine", "symmetry")
    if symmetry:
        out.append(Card(str(symmetry), "symmetry"))
    found = run.volume("map")
    if found is not None:
        out.append(Card(f"{found[0].shape[0]}³", f"voxels of {found[1]:g} Å"))
    ds = run.store("postprocess")
    if ds is not None and "b_factor" in ds.attrs:
        out.append(Card(f"{ds.attrs['b_factor']:.0f} Å²".replace("-", "−"), "B-factor applied"))
    for key, label, show in (
        ("cpu_seconds", "CPU time", human_seconds),
        ("wall_seconds", "wall time", human_seconds),
        ("peak_memory_bytes", "peak memory", human_bytes),
    ):
        cost = run.figures.get(key)
        if isinstance(cost, int | float):
            out.append(Card(show(cost), label))
    truth = run.figures.get("truth_resolution")
    if isinstance(truth, int | float) and math.isfinite(truth):
        out.append(Card(f"{truth:.2f} Å", "agreement with the simulated truth, FSC 0.5"))
    return out


def _micrographs(run: RunFiles) -> str:
    ds = run.store("ctf", "micrographs_ctf", "micrographs")
    if ds is None or "usable" not in ds:
        return ""
    usable = np.asarray(ds["usable"].values, dtype=bool)
    return f"{usable.sum()} of {usable.size}"


def warnings(run: RunFiles) -> list[str]:
    """What a reader must know before trusting the map: warnings of the stages, and what the figures say together."""
    found: list[str] = []
    for figures in run.stages.values():
        given = figures.get("warnings", ())
        found += [str(w) for w in given] if isinstance(given, list | tuple) else [str(given)]
    for stage in run.figures.get("out_of_date", ()):
        if stage == "report":  # this is a new one
            continue
        found.insert(0, f"Out of date: {stage} was made before what it stands on changed. Run the workflow again.")
    ds = run.store("postprocess")
    if ds is not None:
        found += [str(w) for w in np.atleast_1d(ds.attrs.get("warnings", []))]
    final = resolution(run)
    start = run.parameter("refine", "ini_high")
    told = any("reference's filter" in warning for warning in found)
    said = told or run.parameter("refine", "poses") == "fixed"
    if final is not None and not math.isfinite(final):
        if not told:
            found.insert(0, "The half-maps do not agree at any resolution: there is no signal in this map.")
    elif final is not None and isinstance(start, int | float) and final >= 0.9 * start and not said:
        found.insert(
            0,
            f"No resolution better than the reference's filter: the map reaches {final:.1f} Å, the reference was "
            f"low-passed to {start:g} Å. What it shows may be the reference, and not the particles.",
        )
    size = run.volume("map")
    ended = any("never falls below" in warning for warning in found)
    if final is not None and size is not None and final < 2.1 * size[1] and not ended:
        found.append(f"The resolution reaches Nyquist ({2 * size[1]:.2f} Å): a smaller pixel may show more.")
    for stage, figures in run.stages.items():
        if figures.get("converged") is False and not any("converged" in warning for warning in found):
            found.append(f"{stage} stopped before it had converged.")
    return [with_signs(warning) for warning in dict.fromkeys(found)]


def stages_section(run: RunFiles) -> list[Any]:
    """What was run, what each stage cost and found, and with which parameters."""
    stages = run.stages
    if not stages:
        raise Missing("figures.json, which tells what was run, is not there or cannot be read.")
    rows = []
    for name, figures in stages.items():
        rows.append((name, *(_cost(figures, key) for key in COSTS), with_signs(in_words(figures))))
    blocks: list[Any] = [
        Table(("stage", "CPU", "wall", "peak memory", "found"), rows, numeric=(1, 2, 3),
              caption="CPU time is that of all processes of a stage on this machine.")
    ]  # fmt: skip
    parameters = [
        (stage, key, _show(value))
        for stage in run.workflow
        if isinstance(run.workflow[stage], dict)
        for key, value in run.workflow[stage].items()
        if value is not None
    ]
    if parameters:
        blocks.append(Table(("stage", "parameter", "value"), parameters, fold="All parameters, defaults included"))
    machine = run.figures.get("machine")
    if isinstance(machine, dict):
        rows = [(k.replace("_bytes", "").replace("_", " "), human_bytes(v) if k.endswith("_bytes") else v)
                for k, v in machine.items()]  # fmt: skip
        blocks.append(
            Table(("machine", ""), [*rows, ("cryoflow", run.figures.get("cryoflow", "?"))], fold="Machine and versions")
        )
    return blocks


def _cost(figures: dict[str, Any], key: str) -> str:
    value = figures.get(key)
    if not isinstance(value, int | float):
        return "–"
    return human_bytes(value) if key.endswith("bytes") else human_seconds(value)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "none"
    return str(value)


def reproduce_section(run: RunFiles) -> list[Any]:
    """The commands that give this map again."""
    path = run.folder / "workflow.yaml"
    if not path.is_file():
        raise Missing("workflow.yaml, from which the run could be repeated, is not there.")
    version = run.figures.get("cryoflow", "of this run")
    return [
        Text(f"With cryoflow {version}, in a folder that holds the workflow as run (workflow.yaml of this folder):"),
        Text("cryoflow run workflow.yaml -o again/\ncryoflow report again/", code=True),
        Text(path.read_text(encoding="utf-8", errors="replace"), code=True, fold="workflow.yaml"),
        Text(
            "Sums are made in an order that belongs to the data, so the same version gives the same bits on one "
            "worker or many. Each store keeps its provenance: function, parameters, versions, digests of inputs."
        ),
    ]
