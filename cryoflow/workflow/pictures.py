"""From micrographs to particles: CTF, picking, extraction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.workflow.common import log, opened, options, save, text
from cryoflow.workflow.runner import Context
from cryoflow.workflow.sources import located, usable, with_images

__all__ = ["ctf", "extract", "pick"]


def ctf(context: Context) -> dict[str, Any]:
    """Defocus of every micrograph; those that show no rings are marked."""
    from cryoflow.ctf import estimate_ctf
    from cryoflow.engine import compute
    from cryoflow.io import write_micrographs

    stage = context.workflow.ctf
    found = estimate_ctf(with_images(context, "stores/micrographs.zarr"), **options(stage), client=context.client)
    (ds,) = compute(found.drop_vars("micrograph"), client=context.client, progress=context.progress, label="ctf")
    figures = usable(ds)
    save(context, ds, "stores/ctf.zarr", "estimate_ctf", stage, ("stores/micrographs.zarr",))
    write_micrographs(located(ds, context), context.folder.path / "micrographs_ctf.star")
    good = ds.isel(micrograph=np.flatnonzero(ds["usable"].values))
    return figures | {
        "mean_defocus": float(0.5 * (good["defocus_u"] + good["defocus_v"]).mean()),
        "median_ctf_resolution": float(np.median(good["ctf_resolution"])),
    }


def pick(context: Context) -> dict[str, Any]:
    """Particle centres."""
    from cryoflow.engine import compute
    from cryoflow.picking import pick_particles

    stage = context.workflow.pick
    micrographs = with_images(context, "stores/ctf.zarr")
    picks = pick_particles(micrographs, **options(stage), client=context.client)
    (picks,) = compute(picks, client=context.client, progress=context.progress, label="pick")
    if picks.sizes["particle"] == 0:
        raise ParameterError(
            "pick", expected="particles", found="none in any micrograph",
            remedy="Lower pick.threshold, or check pick.diameter and the contrast.",
        )  # fmt: skip
    save(context, picks, "stores/picks.zarr", "pick_particles", stage, ("stores/ctf.zarr",))
    _write_picks(picks, context.folder.path / "picks")
    names, counts = np.unique(text(picks["micrograph_name"]), return_counts=True)
    good = text(micrographs["micrograph_name"])[micrographs["usable"].values]
    for name in sorted(set(good) - set(names)):
        log.warning("micrograph %s: no particle picked", name)
    return {"particles": int(counts.sum()), "particles_per_micrograph": float(counts.mean())}


def _write_picks(picks: xr.Dataset, folder: Path) -> None:
    """One STAR file of coordinates a micrograph."""
    from cryoflow.io import write_coordinates

    names = text(picks["micrograph_name"])
    folder.mkdir(exist_ok=True)
    for name in np.unique(names):
        mine = picks.isel(particle=np.flatnonzero(names == name))
        score = {"rlnAutopickFigureOfMerit": mine["pick_score"].values} if "pick_score" in mine else {}
        write_coordinates(folder / f"{Path(name).stem}_picks.star", mine["coordinate"].values, **score)


def extract(context: Context) -> dict[str, Any]:
    """Normalised particle images, in the store and as a stack for other programs."""
    from cryoflow.io import write_particles
    from cryoflow.particles import extract_particles

    stage = context.workflow.extract
    micrographs, picks = with_images(context, "stores/ctf.zarr"), opened(context, "stores/picks.zarr").load()
    particles = extract_particles(micrographs, picks, **options(stage), client=context.client)
    if particles.sizes["particle"] == 0:
        raise ParameterError(
            "extract", expected="particles whose box lies inside their micrograph", found="none",
            remedy="Take a smaller extract.box.",
        )  # fmt: skip
    stack = [f"{i:06d}@extracted.mrcs" for i in range(1, particles.sizes["particle"] + 1)]
    particles = particles.assign(image_name=("particle", np.array(stack)))
    inputs = ("stores/ctf.zarr", "stores/picks.zarr")
    save(context, particles, "stores/particles.zarr", "extract_particles", stage, inputs)
    stored = opened(context, "stores/particles.zarr")
    folder = context.folder.path
    write_particles(located(stored, context), folder / "extracted.star", images=folder / "extracted.mrcs")
    return {"particles": stored.sizes["particle"], "box": stored.sizes["x"]} | _set_aside(particles)


def _set_aside(ds: xr.Dataset) -> dict[str, Any]:
    """How many a stage set aside and which, and what it dropped; nothing where there was none."""
    found: dict[str, Any] = {}
    if ds.attrs.get("dropped"):
        found["dropped"] = ", ".join(ds.attrs["dropped"])
    if ds.attrs.get("set_aside"):
        named = list(ds.attrs["set_aside"])
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        found |= {"set_aside": len(named), "warnings": [f"set aside: {'; '.join(named[:5])}{more}"]}
    return found
