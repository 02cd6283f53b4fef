"""What the columns of a table say about themselves: units, signs, outliers, duplicates, half-sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from cryoflow.io.expression import row_dim
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["check_columns", "describe_columns"]

# name -> (least, most, what a value outside looks like)
_OPTICS = {
    "voltage": (40, 1500, "kV"), "cs": (0, 20, "mm"), "amplitude_contrast": (0, 1, "a fraction"),
    "pixel_size": (0.05, 50, "angstrom"), "micrograph_pixel_size": (0.05, 50, "angstrom"),
}  # fmt: skip
_DEEP = 100_000  # angstrom of underfocus that no one takes in single-particle work


def describe_columns(ds: xr.Dataset, out: Inspection) -> None:
    """Facts: counts, optics, ranges of columns."""
    from cryoflow.tables.describe import describe_table

    dim = row_dim(ds, out.address)
    out.facts[f"{dim}s"] = ds.sizes[dim]
    for name in ("micrograph_name",):
        if name in ds and dim == "particle":
            out.facts["micrographs"] = len(np.unique(ds[name].values))
    optics = {
        str(n): ", ".join(f"{v:g}" for v in np.unique(a.values))
        for n, a in ds.variables.items()
        if a.dims == ("optics",) and a.dtype.kind in "fiu" and not str(n).startswith("x_")
    }  # fmt: skip
    if optics:
        out.facts["optics"] = {"groups": ds.sizes["optics"], **optics}
    columns = {}
    for line in describe_table(ds)[1:]:
        name, _, text = line.strip().partition(" ")
        if line.startswith("  ") and name not in optics and text:
            columns[name] = text.strip()
        elif not line.startswith("  "):
            break
    out.facts["columns"] = columns


def check_columns(ds: xr.Dataset, out: Inspection) -> None:
    """Findings about columns; nothing is read but them."""
    dim = row_dim(ds, out.address)
    _optics(ds, out)
    _finite(ds, dim, out)
    _defocus(ds, out)
    if dim == "particle":
        _duplicates(ds, out)
        _halves(ds, out)
        _poses(ds, out)


def _optics(ds: xr.Dataset, out: Inspection) -> None:
    for name, (least, most, unit) in _OPTICS.items():
        if name not in ds or ds[name].dims != ("optics",):
            continue
        values = ds[name].values
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= least) & (values <= most)))
        if len(wrong):
            out.add("error", f"optics group {wrong[0] + 1}", f"{name} {values[wrong[0]]:g} is no value in {unit}",
                    f"Correct it, or give --{name.replace('_', '-')} when it is opened.")  # fmt: skip
    if "pixel_size" in ds and ds.sizes["optics"] > 1 and "optics_group" in ds:
        used = ds["pixel_size"].values[np.unique(ds["optics_group"].values)]
        if used.max() - used.min() > 1e-3 * used.max():
            out.options["mixed_pixel_sizes"] = ""
            out.add("error", out.address, "optics groups of different pixel sizes: "
                    + ", ".join(f"{p:g}" for p in np.unique(used)) + " A", "Rescale the groups to one pixel size, or"
                    " keep one of them (cryoflow table --mixed-pixel-sizes --query 'pixel_size < ...').")  # fmt: skip
    if "optics_group" in ds and "optics" in ds.dims:
        unused = ds.sizes["optics"] - len(np.unique(ds["optics_group"].values))
        if unused:
            out.add("note", out.address, f"{unused} of {ds.sizes['optics']} optics groups have no rows",
                    "cryoflow table --renumber optics leaves them out.")  # fmt: skip


def _finite(ds: xr.Dataset, dim: str, out: Inspection) -> None:
    for key, array in ds.variables.items():
        if dim in array.dims and array.chunks is None and array.dtype.kind == "f":
            bad = ~np.isfinite(array.values.reshape(len(array), -1)).all(axis=1)
            if bad.any():
                out.add("error", f"row {int(np.argmax(bad)) + 1}", f"{key} is not a number in {int(bad.sum())} rows",
                        f"cryoflow table --query 'isfinite({key})' leaves them out.")  # fmt: skip


def _defocus(ds: xr.Dataset, out: Inspection) -> None:
    if "defocus_u" not in ds:
        if "image_name" in ds:
            out.add("note", out.address, "no defocus: there is no CTF to correct", "Estimate or join the CTFs.")
        return
    u = ds["defocus_u"].values
    u = u[np.isfinite(u)]
    if not len(u):
        return
    middle = float(np.median(u))
    if not u.any():
        out.add("warning", out.address, "all defoci are 0", "Estimate the CTFs.")
    elif 0 < abs(middle) < 50:
        out.add("error", out.address, f"defoci of about {middle:g} look like micrometres, not angstrom",
                "cryoflow table --set 'defocus_u = defocus_u * 10000' and the same for defocus_v.")  # fmt: skip
    elif middle < 0:
        out.add("error", out.address, "defoci are negative: underfocus is positive here",
                "cryoflow table --set 'defocus_u = -defocus_u' and the same for defocus_v.")  # fmt: skip
    else:
        beyond = int((u > _DEEP).sum() + (u <= 0).sum())
        if beyond:
            out.add("warning", out.address, f"{beyond} rows have a defocus of 0 or less, or above {_DEEP // 10000} um",
                    f"cryoflow table --query 'defocus_u > 0 and defocus_u < {_DEEP}' leaves them out.")  # fmt: skip


def _duplicates(ds: xr.Dataset, out: Inspection) -> None:
    import pandas as pd

    n = ds.sizes["particle"]
    if "image_name" in ds:
        codes = pd.factorize(ds["image_name"].values.astype(object))[0]
        twice = n - int(codes.max(initial=-1)) - 1
        if twice and "x_parent_id" not in ds:
            pose: list[Any] = [ds[v].values.reshape(n, -1) for v in ("rotation", "shift") if v in ds]
            whole = np.concatenate([codes[:, None].astype(float), *pose], axis=1)
            same = n - len(np.unique(whole.round(4), axis=0))
            if same:
                out.add("warning", out.address, f"{same} of {n} rows are there twice (image and pose)",
                        "Merge files without their common rows: cryoflow table --difference.")  # fmt: skip
            if twice > same:
                out.add("note", out.address, f"{twice - same} rows share an image in another pose: symmetry copies, or"
                        " duplicates")  # fmt: skip
    if "particle_id" in ds:
        ids = ds["particle_id"].values
        double = len(ids) - len(np.unique(ids))
        if double:
            out.add("error", out.address, f"{double} rows have an id (uid) that another row has",
                    "Selections cannot tell them apart: cryoflow table --merge gives new ids.")  # fmt: skip


def _halves(ds: xr.Dataset, out: Inspection) -> None:
    if "rotation" not in ds and "half" not in ds:
        return
    if "half" not in ds:
        out.add("note", out.address, "no half-sets: a refinement will make them at random")
        return
    none, one, two = (int((ds["half"].values == i).sum()) for i in (0, 1, 2))
    out.facts["half-sets"] = f"{one} and {two}" + (f", {none} in none" if none else "")
    if none and (one or two):
        out.add("warning", out.address, f"{none} rows are in neither half-set", "cryoflow table --halves random.")
    if min(one, two) == 0 and one + two > 0:
        out.add("warning", out.address, f"half-set {1 if one == 0 else 2} is empty", "cryoflow table --halves random.")
    elif abs(one - two) > max(0.1 * (one + two), 3 * np.sqrt(one + two)):
        out.add("warning", out.address, f"half-sets are unequal: {one} and {two}", "cryoflow table --halves random.")


def _poses(ds: xr.Dataset, out: Inspection) -> None:
    if "rotation" in ds and ds.sizes["particle"] > 1:
        poses = ds["rotation"].values
        if np.allclose(poses, poses[0], atol=1e-6):
            out.add("note", out.address, "all poses are the same: not aligned yet")
    if "coordinate" in ds and (ds["coordinate"].values < -1).any():
        outside = int((ds["coordinate"].values < -1).any(axis=1).sum())
        out.add("warning", out.address, f"{outside} coordinates lie outside of their micrograph (negative)")
