"""From particles to the map: refinement, postprocessing, the comparison with a simulated truth, the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.workflow import parameters as p
from cryoflow.workflow.check import MODELS
from cryoflow.workflow.common import log, opened, options, save
from cryoflow.workflow.folder import write_text
from cryoflow.workflow.runner import Context, plain
from cryoflow.workflow.sources import located, read_stack, true_map

__all__ = ["postprocess", "reference_map", "refine", "report", "sharpen_files"]


def particles_of(context: Context) -> xr.Dataset:
    """The particles refinement starts from, images lazy."""
    if context.workflow.particles is not None:
        return read_stack(context)
    return opened(context, "stores/particles.zarr")


def reference_map(path: Path, *, box: int, pixel_size: float) -> xr.DataArray:
    """A starting map from a map or a model file, on the grid of the particles."""
    from cryoflow.io import model_to_map, read_map

    if path.suffix.lower() in MODELS:
        return model_to_map(path, box=box, pixel_size=pixel_size)
    return read_map(path)


def refine(context: Context) -> dict[str, Any]:
    """Poses and half-maps; goes on at its last finished iteration if it was interrupted."""
    from cryoflow.io import write_map, write_particles
    from cryoflow.refinement import refine as refine_particles

    stage, folder = context.workflow.refine, context.folder.path
    assert stage is not None
    particles = particles_of(context)
    box, pixel = particles.sizes["x"], float(particles["pixel_size"].values[0])
    if stage.reference is not None:
        reference = reference_map(Path(stage.reference), box=box, pixel_size=pixel)
    else:
        reference = true_map(folder, box=box, pixel_size=pixel)
    arguments = options(stage, "reference", "mask")
    if stage.mask is not None:
        arguments["mask"] = reference_map(stage.mask, box=box, pixel_size=pixel)
    result = refine_particles(
        particles, reference, **arguments,
        store=folder / "stores/refine", client=context.client, on_iteration=_tell,
    )  # fmt: skip
    for warning in result.warnings:
        log.warning("refine: %s", warning)
    found = _without_images(result.particles, box)
    if result.excluded:  # rows of the particles given, all of them
        found.attrs["set_aside"] = result.excluded
    source = "stores/imported.zarr" if context.workflow.particles is not None else "stores/particles.zarr"
    files = [Path(path) for path in (stage.reference, stage.mask) if path is not None]
    save(context, found, "stores/poses.zarr", "refine", stage, (source, *files))
    write_particles(_named(found, context), folder / "particles.star")
    if result.excluded:
        aside = _without_images(particles.isel(particle=result.excluded), box)
        write_particles(_named(aside, context), folder / "particles_set_aside.star")
    write_map(folder / "map.mrc", result.map, pixel_size=pixel)
    maps = {f"class{i}": volume for i, volume in enumerate(result.class_maps, 1)}
    if result.half1 is not None and result.half2 is not None:  # several classes have none
        maps = {"half1": result.half1, "half2": result.half2}
    for name, volume in maps.items():
        write_map(folder / f"{name}.mrc", volume, pixel_size=pixel)
    write_text(folder / "iterations.json", json.dumps(plain(result.history), indent=1) + "\n")
    return {
        "particles": found.sizes["particle"],
        "set_aside": len(result.excluded),
        "iterations": len(result.history),
        "converged": bool(result.converged),
        # several classes have no half-sets to tell it
        **({"resolution_refine": float(result.resolution)} if stage.classes == 1 else {}),
        "warnings": list(result.warnings),
    }


def _without_images(particles: xr.Dataset, box: int) -> xr.Dataset:
    """Metadata alone; the box stays with it, for RELION takes no particles without."""
    sizes = ("optics", np.full(particles.sizes["optics"], box))
    return particles.drop_vars("image", errors="ignore").assign(x_optics_rlnImageSize=sizes)


def _named(particles: xr.Dataset, context: Context) -> xr.Dataset:
    """Names in ``particles.star`` as other programs find them; of a given stack they stay where that is near."""
    if context.workflow.particles is None:
        return located(particles, context)
    root, folder = Path(particles.attrs["root"]).resolve(), context.folder.path
    if root in (folder, *folder.parents[:4]):
        return particles
    parts = [str(name).partition("@") for name in particles["image_name"].values]
    names = [f"{number}@{root / name}" if name else str(root / number) for number, _, name in parts]
    return particles.assign(image_name=("particle", np.array(names)))


def _tell(record: dict[str, Any]) -> None:
    """One line of the log an iteration."""
    log.info(
        "  iteration %d: %s, %s, moved %s%.3g px, %.1f s",
        record["iteration"],
        f"{record['resolution']:.2f} A" if math.isfinite(record["resolution"]) else "no resolution",
        f"step {record['step']:.3g} degrees{' local' * record['local']}" if record["step"] else "poses fixed",
        f"{record['angle_change']:.3g} degrees and " if record["iteration"] > 1 else "",  # from where, at first?
        record["shift_change"], record["wall_seconds"],
    )  # fmt: skip


def postprocess(context: Context) -> dict[str, Any]:
    """Mask, FSC curves, resolution and the sharpened map."""
    folder, stage = context.folder.path, context.workflow.postprocess
    refine_stage = context.workflow.refine
    assert refine_stage is not None
    if stage.symmetry is None:
        stage = stage.model_copy(update={"symmetry": refine_stage.symmetry})
    result = sharpen_files(folder / "half1.mrc", folder / "half2.mrc", folder, stage)
    for warning in result.attrs["warnings"]:
        log.warning("postprocess: %s", warning)
    save(context, result, "stores/postprocess.zarr", "postprocess", stage, ("half1.mrc", "half2.mrc"))
    figures: dict[str, Any] = {
        "resolution": float(result.attrs["resolution"]),
        "resolution_range": [float(result.attrs[f"resolution_{end}"]) for end in ("coarse", "fine")],
        "resolution_half": float(result["resolution_50"].sel(curve="corrected")),
        "b_factor": float(result.attrs["b_factor"]),
        "warnings": list(result.attrs["warnings"]),
    }
    refined = context.figures["refine"]["resolution_refine"]
    if refined is None or refined >= refine_stage.ini_high:  # what the halves share is the reference's, not the data's
        figures["resolution"] = figures["resolution_half"] = math.inf
        figures["resolution_range"] = [math.inf, math.inf]
        figures["warnings"].append("no resolution: refinement found nothing beyond the reference's filter")
        log.warning("postprocess: %s", figures["warnings"][-1])
    if context.workflow.simulate is not None:
        figures |= truth_figures(folder, result)
    return figures


def sharpen_files(
    half1: Path, half2: Path, output: Path, stage: p.Postprocess, *, pixel_size: float | None = None
) -> xr.Dataset:
    """Postprocess two half-map files; ``map_sharpened.mrc``, ``mask.mrc`` and ``fsc.csv`` are left in ``output``."""
    from cryoflow.io import read_map, write_map
    from cryoflow.postprocess import postprocess as sharpen

    for path in (half1, half2, *([stage.mask] if stage.mask is not None else [])):
        if not path.is_file():
            raise ParameterError("postprocess", expected="an existing map (.mrc)", found=str(path))
    first, second = read_map(half1, pixel_size=pixel_size), read_map(half2, pixel_size=pixel_size)
    pixel = float(first.attrs["pixel_size"])
    arguments = options(stage, "mask")
    if stage.mask is not None:
        arguments["mask"] = read_map(stage.mask)
    result = sharpen(first, second, pixel_size=pixel, **arguments)
    output.mkdir(parents=True, exist_ok=True)
    write_map(output / "map_sharpened.mrc", result["map_sharpened"], pixel_size=pixel)
    write_map(output / "mask.mrc", result["mask"], pixel_size=pixel)
    _write_fsc(result, output / "fsc.csv")
    return result


def _write_fsc(result: xr.Dataset, path: Path) -> None:
    """All FSC curves as a table: shell, frequency (1/A), resolution (A), one column a curve, and the corrected one's
    standard deviation by chance."""
    import pandas as pd

    frequency = result["frequency"].values
    with np.errstate(divide="ignore"):
        table = pd.DataFrame({"shell": np.arange(frequency.size), "frequency": frequency, "resolution": 1 / frequency})
    for curve in result["curve"].values:
        table[str(curve)] = result["fsc_curves"].sel(curve=curve).values
    table["deviation"] = result["fsc_deviation"].values
    write_text(path, table.to_csv(index=False, float_format="%.6g"))


def truth_figures(folder: Path, result: xr.Dataset) -> dict[str, Any]:
    """Resolution to which the map agrees with the simulated truth: FSC 0.5 inside the mask."""
    from cryoflow.io import read_map
    from cryoflow.kernels.resolution import fsc, resolution_at

    found, mask = read_map(folder / "map.mrc"), result["mask"].values
    box, pixel = mask.shape[0], float(found.attrs["pixel_size"])
    curve = fsc(true_map(folder, box=box, pixel_size=pixel).values * mask, found.values * mask)
    return {"truth_resolution": float(resolution_at(curve, box, pixel, 0.5))}


def report(context: Context) -> dict[str, Any]:
    """One self-contained HTML page about the run."""
    from cryoflow.display.report import report as write_report

    path = write_report(context.folder.path)
    return {"report": str(Path(path).name)}
