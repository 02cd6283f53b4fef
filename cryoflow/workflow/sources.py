"""The stages a run starts with: simulated or recorded micrographs, or a particle stack made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.workflow.check import micrograph_paths
from cryoflow.workflow.common import log, opened, options, save, text
from cryoflow.workflow.model import Workflow
from cryoflow.workflow.runner import Context

__all__ = [
    "import_micrographs",
    "import_particles",
    "located",
    "read_stack",
    "simulate",
    "true_map",
    "usable",
    "with_images",
]


def simulate(context: Context) -> dict[str, Any]:
    """Micrographs of a known structure; its map, poses and places are kept beside them."""
    from cryoflow.simulate import save_simulation, simulate_micrographs

    stage = context.workflow.simulate
    assert stage is not None
    micrographs, truth = simulate_micrographs(**options(stage))
    save_simulation(micrographs, truth, context.folder.path / "simulated")
    return {"micrographs": stage.n, "particles": truth.sizes["particle"], "snr": stage.snr}


def true_map(folder: Path, *, box: int, pixel_size: float) -> xr.DataArray:
    """The simulated structure on the grid of the particles."""
    from cryoflow.io import read_map
    from cryoflow.simulate.source import regrid

    return regrid(read_map(folder / "simulated/truth.mrc"), box=box, pixel_size=pixel_size)


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
    optics = {key: getattr(stage, key) for key in ("pixel_size", "voltage", "cs", "amplitude_contrast")}
    if context.workflow.micrographs is None:
        return open_micrographs(context.folder.path / "simulated" / "micrographs", **optics)
    paths = micrograph_paths(stage.path)
    source = paths[0] if len(paths) == 1 else paths
    given = {key: getattr(stage, key) for key in ("root", "trust_given", "allow_outside")}
    return open_micrographs(source, **optics, **given)


def located(ds: xr.Dataset, context: Context) -> xr.Dataset:
    """Micrograph names as other programs find them: relative to the run's folder where they lie in it, else absolute.

    Stores keep the short names.
    """
    if "micrograph_name" not in ds:
        return ds
    root, base = Path(opened(context, "stores/micrographs.zarr").attrs["root"]).resolve(), context.folder.path
    inner = root.is_relative_to(base)
    prefix = root.relative_to(base) if inner else root
    names = [str(prefix / str(name)) for name in ds["micrograph_name"].values]
    return ds.assign(micrograph_name=(ds["micrograph_name"].dims, np.array(names)))


def with_images(context: Context, name: str) -> xr.Dataset:
    """A store of micrograph metadata, with the lazy images of the files beside it."""
    known, files = opened(context, name).load(), _open_micrographs(context)
    names = ("micrograph", text(known["micrograph_name"]))
    return known.assign(micrograph=files["micrograph"], micrograph_name=names)


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
    stage = context.workflow.particles
    assert stage is not None
    save(context, ds.drop_vars("image"), "stores/imported.zarr", "read_particles", stage, (stage.path,))
    return {"particles": ds.sizes["particle"], "box": ds.sizes["x"], "with_poses": "rotation" in ds}


def read_stack(context: Context) -> xr.Dataset:
    from cryoflow.io import read_particles

    stage = context.workflow.particles
    assert stage is not None
    return read_particles(stage.path, **options(stage, "path"))
