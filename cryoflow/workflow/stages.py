"""The table of stages: what each stands on, what it leaves, whose code and which files decide its result."""

from __future__ import annotations

from pathlib import Path

from cryoflow.workflow.check import micrograph_paths
from cryoflow.workflow.common import options
from cryoflow.workflow.maps import postprocess, refine, report
from cryoflow.workflow.model import Workflow
from cryoflow.workflow.pictures import ctf, extract, pick
from cryoflow.workflow.runner import StageSpec
from cryoflow.workflow.sources import import_micrographs, import_particles, simulate

__all__ = ["STAGES"]


def _micrograph_files(workflow: Workflow) -> list[Path]:
    if workflow.micrographs is None:
        return []
    return [q for p in micrograph_paths(workflow.micrographs.path) for q in (p, *_named(p, workflow))]


def _named(path: Path, workflow: Workflow) -> list[Path]:
    """The micrographs that a STAR file names."""
    from cryoflow.io import open_micrographs

    if path.suffix != ".star":
        return []
    assert workflow.micrographs is not None
    ds = open_micrographs(path, **options(workflow.micrographs, "path"))
    return [q for n in ds["micrograph_name"].values if (q := Path(ds.attrs["root"]) / str(n)).is_file()]


def _stack_files(workflow: Workflow) -> list[Path]:
    """The STAR file and the stacks it names."""
    from cryoflow.io import read_particles

    stage = workflow.particles
    assert stage is not None
    ds = read_particles(stage.path, **options(stage, "path"))
    names = {str(n).rpartition("@")[2] for n in ds["image_name"].values}
    return [stage.path, *(Path(ds.attrs["root"]) / n for n in sorted(names))]


def _refine_files(workflow: Workflow) -> list[Path]:
    assert workflow.refine is not None
    given = [Path(workflow.refine.reference)] if workflow.refine.reference is not None else []
    return given + ([workflow.refine.mask] if workflow.refine.mask is not None else [])


def _maps(workflow: Workflow) -> tuple[str, ...]:
    """Half-maps of one class, or the maps of several."""
    assert workflow.refine is not None
    if workflow.refine.classes == 1:
        return "half1.mrc", "half2.mrc"
    return tuple(f"class{i}.mrc" for i in range(1, workflow.refine.classes + 1))


def _postprocess_files(workflow: Workflow) -> list[Path]:
    return [p for p in (workflow.postprocess.mask, workflow.postprocess.mtf) if p is not None]


STAGES: dict[str, StageSpec] = {
    "simulate": StageSpec(
        simulate, (), ("simulate", "kernels"), ("simulated",),
        lambda w: [w.simulate.source] if w.simulate is not None and w.simulate.source is not None else [],
    ),
    "micrographs": StageSpec(
        import_micrographs, ("simulate",), ("io", "schema"), ("stores/micrographs.zarr",), _micrograph_files
    ),
    "particles": StageSpec(import_particles, (), ("io", "schema"), ("stores/imported.zarr",), _stack_files),
    "ctf": StageSpec(
        ctf, ("micrographs",), ("ctf", "kernels", "engine"), ("stores/ctf.zarr", "micrographs_ctf.star")
    ),
    "pick": StageSpec(pick, ("ctf",), ("picking", "kernels", "engine"), ("stores/picks.zarr", "picks")),
    "extract": StageSpec(
        extract, ("ctf", "pick"), ("particles", "kernels", "engine"),
        ("stores/particles.zarr", "extracted.star", "extracted.mrcs"),
    ),
    "refine": StageSpec(
        refine, ("extract", "particles"), ("refinement", "kernels", "engine"),
        ("stores/refine", "stores/poses.zarr", "iterations.json", "particles.star", "map.mrc"),
        _refine_files, _maps, resumes=True, raised=("limit",),
    ),
    "postprocess": StageSpec(
        postprocess, ("refine", "simulate"), ("postprocess", "kernels"),
        ("stores/postprocess.zarr", "map_sharpened.mrc", "mask.mrc", "fsc.csv"), _postprocess_files,
    ),
    "report": StageSpec(
        report, ("micrographs", "particles", "ctf", "pick", "extract", "refine", "postprocess"), ("display",),
        ("report.html",),
    ),
}  # fmt: skip
