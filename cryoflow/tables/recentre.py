"""Where particles are: shifts brought into the coordinates, the centre moved within the map, poses forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.expression import row_dim
from cryoflow.schema import require

__all__ = ["centres", "move_centre", "recentre", "reset_poses"]

_POSE = (
    "rotation", "shift", "class_number", "norm", "log_likelihood", "max_probability", "significant", "rotation_width",
    "shift_width",
)  # fmt: skip
_SHOWN = ("image", "image_name")


def centres(ds: xr.Dataset, *, aligned: bool = True, where: str = "centres") -> tuple[NDArray[Any], NDArray[Any]]:
    """Centres (n, 2) of the particles in pixels of their micrographs, and the size of those pixels (n,) in angstrom.

    ``aligned``: coordinate - shift / pixel size, for ``shift`` is what must be added to a particle to centre it.

    Raises
    ------
    ParameterError : no pixel size of the micrographs.
    SchemaError : no coordinates.
    """
    require(ds, where, ["coordinate"])
    if "micrograph_pixel_size" not in ds or "optics_group" not in ds:
        raise ParameterError(
            where, expected="the pixel size of the micrographs", found="none",
            remedy="Give it: set_column(ds, 'micrograph_pixel_size = 1.5') (--set).",
        )  # fmt: skip
    pixel = ds["micrograph_pixel_size"].values[ds["optics_group"].values].astype(np.float64)
    place = ds["coordinate"].values.astype(np.float64)
    if not (np.isfinite(pixel).all() and (pixel > 0).all() and np.isfinite(place).all()):
        raise ParameterError(where, expected="finite coordinates and pixel sizes above 0", found="others")
    if aligned and "shift" in ds:
        place = place - ds["shift"].values.astype(np.float64) / pixel[:, None]
    return place, pixel


def recentre(ds: xr.Dataset, *, whole_pixels: bool = False) -> xr.Dataset:
    """``ds`` with its shifts brought into the coordinates, ready to be extracted again.

    coordinate' = coordinate - shift / micrograph pixel size, shift' = 0. With ``whole_pixels`` the coordinates are
    those of the nearest pixel, and what is left stays in ``shift`` (``extract_particles`` does that by itself). The
    images, which show the old boxes, are left out; their names are kept in ``x_rlnImageOriginalName``.

    Raises
    ------
    ParameterError : no pixel size of the micrographs.
    SchemaError : no coordinates or no shifts.

    Examples
    --------
    >>> ds = xr.Dataset({
    ...     "coordinate": (("particle", "xy"), [[100.0, 50.0]]), "shift": (("particle", "xy"), [[3.0, -1.5]]),
    ...     "optics_group": ("particle", [0]), "micrograph_pixel_size": ("optics", [1.5])})
    >>> recentre(ds).coordinate.values.tolist()
    [[98.0, 51.0]]
    """
    require(ds, "recentre", ["coordinate", "shift"])
    dim = row_dim(ds, "recentre")
    place, pixel = centres(ds, where="recentre")
    new = np.floor(place + 0.5) if whole_pixels else place
    left = (new - place) * pixel[:, None]
    out = ds.drop_vars([n for n in _SHOWN if n in ds])
    if "image_name" in ds:
        out["x_rlnImageOriginalName"] = ds["image_name"]
    return out.assign(
        coordinate=((dim, "xy"), new), shift=((dim, "xy"), left.astype(ds["shift"].dtype))
    )  # fmt: skip


def move_centre(ds: xr.Dataset, vector: ArrayLike, *, defocus_hand: int = 0) -> xr.Dataset:
    """``ds`` with the centre of its particles moved to the point ``vector`` (x, y, z; angstrom) of the map.

    shift' = shift - (A v)_xy: the point v of the map is seen at (A v)_xy - shift, and is the new origin. The new
    images are those of the map moved by -v.

    Parameters
    ----------
    vector : from the centre of the map, for all particles, or (n, 3) one for each.
    defocus_hand : 0 leaves the defocus; 1 takes (A v)_z from it, for points nearer to the source than the centre are
        less underfocused; -1 adds it, where the map has the other hand.

    Raises
    ------
    SchemaError : no poses.
    ParameterError : not a finite vector.

    Examples
    --------
    >>> ds = xr.Dataset({"rotation": (("particle", "row", "col"), np.eye(3)[None]),
    ...                  "shift": (("particle", "xy"), [[1.0, 2.0]])})
    >>> move_centre(ds, (10, 0, 5))["shift"].values.tolist()
    [[-9.0, 2.0]]
    """
    require(ds, "move_centre", ["rotation"])
    dim = row_dim(ds, "move_centre")
    v = np.asarray(vector, np.float64)
    if v.shape not in ((3,), (ds.sizes[dim], 3)) or not np.isfinite(v).all():
        raise ParameterError("move_centre", expected="a vector (x, y, z) in angstrom", found=f"{vector!r}"[:80])
    if defocus_hand not in (-1, 0, 1):
        raise ParameterError("move_centre", expected="defocus_hand of -1, 0 or 1", found=str(defocus_hand))
    seen = np.einsum("nij,nj->ni", ds["rotation"].values, np.broadcast_to(v, (ds.sizes[dim], 3)))
    old = ds["shift"].values if "shift" in ds else np.zeros((ds.sizes[dim], 2))
    out = ds.assign(shift=((dim, "xy"), old - seen[:, :2]))
    for name in ("defocus_u", "defocus_v"):
        if defocus_hand and name in ds:
            out[name] = (dim, ds[name].values - defocus_hand * seen[:, 2], ds[name].attrs)
    return out


def reset_poses(ds: xr.Dataset, *, halves: bool = False) -> xr.Dataset:
    """``ds`` without rotations, shifts, classes and what else a refinement found; with ``halves`` without half-sets.

    >>> list(reset_poses(xr.Dataset({"half": ("particle", [1]), "shift": (("particle", "xy"), [[0.0, 1.0]])})))
    ['half']
    """
    names = (*_POSE, "half") if halves else _POSE
    return ds.drop_vars([name for name in names if name in ds])
