"""The stages a run starts with: simulated or recorded micrographs, or a particle stack made elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.workflow.check import micrograph_paths
from cryoflow.workflow.common import log, opened, options, save
from cryoflow.workflow.model import Workflow
from cryoflow.workflow.runner import Context

__all__ = ["import_micrographs", "import_particles", "read_stack", "simulate", "usable", "with_images"]

TRUTH_MAP, TRUTH_STAR = "simulated/truth.mrc", "simulated/truth.star"


def simulate(context: Context) -> dict[str, Any]:
    """Micrographs of a known structure."""
    raise NotImplementedError


def import_micrographs(context: Context) -> dict[str, Any]:
    """Look at every micrograph; the broken ones stay, marked."""
    ds = _open_micrographs(context)
    save(context, ds.drop_vars("micrograph"), "stores/micrographs.zarr", "open_micrographs", _optics(context.workflow))
    return usable(ds)


def _optics(workflow: Workflow) -> Any:
    return workflow.micrographs or workflow.simulate


def _open_micrographs(context: Context) -> xr.Dataset:
    from cryoflow.io import open_micrographs

    stage = _optics(context.workflow)
    optics: dict[str, Any] = {key: getattr(stage, key) for key in ("pixel_size", "voltage", "cs", "amplitude_contrast")}
    if context.workflow.micrographs is not None:
        optics["trust_given"] = context.workflow.micrographs.trust_given
        return open_micrographs(micrograph_paths(context.workflow.micrographs.path), **optics)
    return open_micrographs(sorted((context.folder.path / "simulated" / "micrographs").glob("*.mrc")), **optics)


def with_images(context: Context, name: str) -> xr.Dataset:
    """A store of micrograph metadata, with the lazy images of the files beside it."""
    known, files = opened(context, name), _open_micrographs(context)
    return known.assign(micrograph=files["micrograph"])


def usable(ds: xr.Dataset) -> dict[str, Any]:
    good = np.asarray(ds["usable"].values, dtype=bool)
    if not good.any():
        reasons = "; ".join(f"{n}: {r}" for n, r in zip(ds["micrograph_name"].values[:3], ds["reason"].values[:3]))
        raise ParameterError("micrographs", expected="at least one that can be used", found=f"none ({reasons})")
    for row in np.flatnonzero(~good):
        log.warning("micrograph %s set aside: %s", ds["micrograph_name"].values[row], ds["reason"].values[row])
    return {"micrographs": int(good.size), "usable": int(good.sum())}


def import_particles(context: Context) -> dict[str, Any]:
    """A stack made elsewhere: its metadata is kept, its images stay where they are."""
    ds = read_stack(context)
    save(context, ds.drop_vars("image"), "stores/imported.zarr", "read_particles", context.workflow.particles)
    return {"particles": ds.sizes["particle"], "box": ds.sizes["x"], "with_poses": "rotation" in ds}


def read_stack(context: Context) -> xr.Dataset:
    from cryoflow.io import read_particles

    stage = context.workflow.particles
    assert stage is not None
    return read_particles(stage.path, **options(stage, "path"))
