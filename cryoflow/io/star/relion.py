"""RELION's tables of particles or micrographs as variables of the schema, and back.

All differences of convention are met here: Euler angles and matrices, origins in pixels (RELION 3.0) or angstrom,
optics in every row (3.0) or in a table of their own (3.1 and later), groups counted from 1, the order of defoci.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.star.relion_blocks import split_optics
from cryoflow.io.star.relion_columns import (
    ANGLES,
    BY_MAGNIFICATION,
    DEFOCUS,
    MAG,
    TILT,
    any_column,
    drop,
    number_column,
    text,
    text_column,
    whole_column,
)
from cryoflow.io.star.relion_write import to_blocks, to_tables
from cryoflow.kernels.rotation import euler_to_matrix
from cryoflow.schema import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["from_tables", "split_optics", "text", "to_blocks", "to_tables"]

_PIXEL_SIZES = ("rlnImagePixelSize", "rlnPixelSize")
_LABELS = {v.star: v.name for v in VARIABLES.values() if v.star and v.dims in (("particle",), ("micrograph",))}
_OPTICS_LABELS = {v.star: v.name for v in VARIABLES.values() if v.star and v.dims == ("optics",)}
# figures that programs leave undefined where a fit failed
_MAY_BE_MISSING = {"pick_score", "log_likelihood", "max_probability", "ctf_resolution", "ctf_score"}
_ROWS = 1 << 13


def from_tables(rows: pd.DataFrame, optics: pd.DataFrame, *, dim: str, where: str) -> xr.Dataset:
    """A Dataset of schema variables from the two tables; unknown columns are kept as ``x_<label>`` in their order.

    ``rows`` is used up: a column leaves it when its variable is made, so that a large table is never held twice.
    """
    ds = xr.Dataset(attrs={"star_columns": list(rows.columns), "star_optics_columns": list(optics.columns)})
    if "star_file" in rows.attrs:
        ds.attrs["star_file"] = rows.attrs["star_file"]
    _optics(ds, optics, f"{where}, block data_optics")
    numbers = whole_column(optics, "rlnOpticsGroup", where)
    ds["optics_group"] = (dim, _places(whole_column(rows, "rlnOpticsGroup", where), numbers))
    drop(rows, {"rlnOpticsGroup"})
    drop(rows, _rotation(ds, rows, dim, where))
    drop(rows, _shift(ds, rows, dim, where))
    drop(rows, _defocus(ds, rows, dim, where))
    if {"rlnCoordinateX", "rlnCoordinateY"} <= set(rows.columns):
        xy = [number_column(rows, f"rlnCoordinate{a}", where, copy=False) for a in "XY"]
        ds["coordinate"] = ((dim, "xy"), np.stack(xy, axis=1))
        drop(rows, {"rlnCoordinateX", "rlnCoordinateY"})
    for label in list(rows.columns):
        name = _LABELS.get(label)
        if name is None:
            ds[f"x_{label}"] = (dim, any_column(rows, label, where))
        elif VARIABLES[name].kind == "U":
            ds[name] = (dim, text_column(rows, label, where))
        elif VARIABLES[name].kind == "iu":
            ds[name] = (dim, whole_column(rows, label, where))
        else:
            ds[name] = (dim, number_column(rows, label, where, missing=name in _MAY_BE_MISSING))
        drop(rows, {label})
    if "half" in ds and not set(np.unique(ds.half)) <= {0, 1, 2}:
        raise FormatError(where, expected="_rlnRandomSubset of 0, 1 or 2", found=f"{np.unique(ds.half).tolist()}")
    return ds


def _places(groups: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.int32]:
    """Where each row's group is among the optics groups' numbers, all of which are there."""
    order = np.argsort(numbers)
    out = np.empty(len(groups), np.int32)
    for first in range(0, len(out), _ROWS):
        piece = slice(first, first + _ROWS)
        out[piece] = order[np.searchsorted(numbers, groups[piece], sorter=order)]
    return out


def _optics(ds: xr.Dataset, optics: pd.DataFrame, where: str) -> None:
    pixel = next((label for label in _PIXEL_SIZES if label in optics), None)
    taken = {"rlnOpticsGroup", pixel}
    if pixel:
        ds["pixel_size"] = ("optics", number_column(optics, pixel, where))
    elif set(BY_MAGNIFICATION) <= set(optics.columns):
        detector, magnification = (number_column(optics, label, where) for label in BY_MAGNIFICATION)
        if (magnification <= 0).any():
            raise FormatError(where, expected="_rlnMagnification above 0", found=f"{magnification.min():g}")
        ds["pixel_size"] = ("optics", detector * 1e4 / magnification)
    number = whole_column(optics, "rlnOpticsGroup", where)
    if (number != np.arange(1, len(number) + 1)).any():
        ds["x_optics_rlnOpticsGroup"] = ("optics", number)
    if "rlnMicrographPixelSize" not in optics and "rlnMicrographOriginalPixelSize" in optics:
        ds["micrograph_pixel_size"] = ("optics", number_column(optics, "rlnMicrographOriginalPixelSize", where))
    for name, labels, shape in (("beam_tilt", TILT, ("xy",)), ("magnification", MAG, ("row2", "col2"))):
        if set(labels) <= set(optics.columns):
            stacked = np.stack([number_column(optics, label, where) for label in labels], axis=1)
            ds[name] = (("optics", *shape), stacked.reshape(len(optics), *(2,) * len(shape)))
            taken |= set(labels)
    for name, label, extent in (("odd_zernike", "rlnOddZernike", "odd"), ("even_zernike", "rlnEvenZernike", "even")):
        if label in optics:
            ds[name] = (("optics", extent), _coefficients(optics[label], f"{where}, _{label}"))
            taken.add(label)
    for label in optics.columns:
        if label in taken:
            continue
        known = _OPTICS_LABELS.get(label)
        if known is None:
            ds[f"x_optics_{label}"] = ("optics", any_column(optics, label, where))
        else:
            is_text = VARIABLES[known].kind == "U"
            ds[known] = (
                "optics",
                text_column(optics, label, where) if is_text else number_column(optics, label, where),
            )


def _coefficients(column: pd.Series[Any], where: str) -> NDArray[np.float64]:
    """Rows like ``[0.1,0,2e-3]``; shorter ones are filled with zeros, as absent terms are."""
    try:
        lists = [[float(x) for x in str(row).strip("[]").split(",") if x] for row in column]
    except ValueError as error:
        raise FormatError(where, expected="a list of numbers like [0.1,0,2]", found=str(error)) from None
    out = np.zeros((len(lists), max(map(len, lists))))
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out


def _rotation(ds: xr.Dataset, rows: pd.DataFrame, dim: str, where: str) -> set[str]:
    if not {"rlnAngleRot", "rlnAngleTilt"} <= set(rows.columns):  # psi alone is a hint of a picker, not a pose
        return set()
    angles = [number_column(rows, a, where, copy=False) if a in rows else np.zeros(len(rows)) for a in ANGLES]
    ds["rotation"] = ((dim, "row", "col"), _rotations(*angles))
    if not _usual(*angles):
        ds["source_angles"] = ((dim, "angle"), np.stack(angles, axis=1))
    return set(ANGLES)


def _shift(ds: xr.Dataset, rows: pd.DataFrame, dim: str, where: str) -> set[str]:
    taken: set[str] = set()
    for labels, in_pixels in ((("rlnOriginXAngst", "rlnOriginYAngst"), False), (("rlnOriginX", "rlnOriginY"), True)):
        if set(labels) <= set(rows.columns) and "shift" not in ds:
            shift = np.stack([number_column(rows, label, where, copy=False) for label in labels], axis=1)
            if in_pixels:
                if "pixel_size" not in ds:
                    raise FormatError(where, expected="a pixel size, to read origins in pixels", found="none",
                                      remedy="Give pixel_size= in angstrom.")  # fmt: skip
                shift *= ds.pixel_size.values[ds.optics_group.values][:, None]
            ds["shift"] = ((dim, "xy"), shift)
            taken |= set(labels)
    return taken


def _rotations(*angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """``euler_to_matrix`` of many rows, some at a time: its sines and cosines take thrice the memory of the result."""
    out = np.empty((len(angles[0]), 3, 3))
    for first in range(0, len(out), _ROWS):
        piece = slice(first, first + _ROWS)
        out[piece] = euler_to_matrix(*(angle[piece] for angle in angles))
    return out


def _usual(rot: NDArray[np.float64], tilt: NDArray[np.float64], psi: NDArray[np.float64]) -> bool:
    """Whether all triples are those that ``matrix_to_euler`` gives."""
    turned = any(bool((a <= -180).any() or (a > 180).any()) for a in (rot, psi))
    return not turned and bool((tilt > 1e-3).all() and (tilt < 180 - 1e-3).all())


def _defocus(ds: xr.Dataset, rows: pd.DataFrame, dim: str, where: str) -> set[str]:
    if "rlnDefocusU" not in rows:
        return set()
    u = number_column(rows, "rlnDefocusU", where)
    v = number_column(rows, "rlnDefocusV", where) if "rlnDefocusV" in rows else u.copy()
    angle = number_column(rows, "rlnDefocusAngle", where) if "rlnDefocusAngle" in rows else np.zeros(len(rows))
    turns = np.zeros(len(rows), np.int8)
    for first in range(0, len(rows), _ROWS):
        piece = slice(first, first + _ROWS)
        turns[piece] = _turn(u[piece], v[piece], angle[piece])
    ds["defocus_u"], ds["defocus_v"], ds["defocus_angle"] = (dim, u), (dim, v), (dim, angle)
    if turns.any():
        ds["defocus_turns"] = (dim, turns)
    return set(DEFOCUS)


def _turn(u: NDArray[np.float64], v: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the same astigmatism, with u the larger and the angle in (-90, 90], in place; quarter turns it took."""
    swapped = u < v
    inside = angle - 90.0 * swapped
    inside -= 180 * np.ceil((inside - 90) / 180)
    turns = np.rint((angle - inside) / 90)
    u[swapped], v[swapped] = v[swapped], u[swapped]
    angle[:] = inside
    return np.clip(turns, -128, 127)
