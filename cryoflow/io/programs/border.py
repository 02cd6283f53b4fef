"""What the readers of other programs' tables share: optics groups, the order of defoci, names, sets of coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.star.relion import text
from cryoflow.io.star.star import read_star

__all__ = [
    "box_sides", "coordinate_set", "ctf_variables", "names_of", "optics_variables", "section_names", "star_tables",
]  # fmt: skip


def star_tables(address: str | Path) -> dict[str, Any]:
    """The tables of a STAR file whose labels and values are UTF-8; a ``FormatError`` where they are not."""
    try:
        return dict(read_star(address))
    except UnicodeEncodeError as error:
        raise FormatError(str(address), expected="text in UTF-8", found=repr(error.object)[:80]) from None


def ctf_variables(u: ArrayLike, v: ArrayLike, angle: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """``defocus_u``, ``_v``, ``_angle`` of the schema: u the larger, the angle in (-90, 90].

    >>> {k: float(x) for k, x in ctf_variables(9000.0, 9500.0, 80.0).items()}
    {'defocus_u': 9500.0, 'defocus_v': 9000.0, 'defocus_angle': -10.0}
    """
    u, v, angle = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (u, v, angle)))
    swapped = u < v  # the same astigmatism, with u the larger
    u, v, angle = np.where(swapped, v, u), np.where(swapped, u, v), np.where(swapped, angle + 90, angle)
    outside = (angle <= -90) | (angle > 90)
    return {"defocus_u": u, "defocus_v": v, "defocus_angle": np.where(outside, 90 - (90 - angle) % 180, angle)}


def optics_variables(ds: xr.Dataset, dim: str, columns: Mapping[str, ArrayLike], given: Mapping[str, float]) -> None:
    """Give ``ds`` its optics groups: one for each distinct row of ``columns`` (name to one value a row).

    ``given`` values (of ``given_optics``) replace the column of their name. Names are those of the schema with dims
    ``optics``; two columns ``beam_tilt_x`` and ``_y`` become ``beam_tilt``.
    """
    n = ds.sizes[dim]
    values = {name: np.broadcast_to(np.asarray(column, np.float64), (n,)) for name, column in columns.items()}
    values |= {name: np.full(n, float(value)) for name, value in given.items()}
    group = np.zeros(n, np.int64)
    for column in values.values():
        _, inverse = np.unique(column, return_inverse=True)
        _, group = np.unique(group * (inverse.max(initial=0) + 1) + inverse, return_inverse=True)
    first = np.unique(group, return_index=True)[1]
    order = np.argsort(first)  # groups in the order in which they appear
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ds["optics_group"] = (dim, rank[group].astype(np.int32))
    ds["optics_name"] = ("optics", text(f"opticsGroup{i + 1}" for i in range(len(first))))
    rows = first[order]
    for name, column in values.items():
        if name not in ("beam_tilt_x", "beam_tilt_y"):
            ds[name] = ("optics", column[rows].copy())
    if "beam_tilt_x" in values:
        ds["beam_tilt"] = (("optics", "xy"), np.stack([values[f"beam_tilt_{a}"][rows] for a in "xy"], axis=1))


def names_of(values: Sequence[Any] | NDArray[Any], where: str) -> NDArray[Any]:
    """Names as text; a ``FormatError`` where one of them is not UTF-8."""
    try:
        return text(values)
    except UnicodeEncodeError as error:
        raise FormatError(where, expected="names in UTF-8", found=repr(error.object)[:80]) from None


def coordinate_set(
    xy: ArrayLike, micrographs: Sequence[str], score: ArrayLike | None = None, **columns: Any
) -> xr.Dataset:
    """Picked particles: ``coordinate`` (particle, xy), ``micrograph_name``, ``pick_score`` and further ``columns``.

    >>> coordinate_set([[1.5, 2.0]], ["a.mrc"], x_box_width=[64.0]).x_box_width.values.tolist()
    [64.0]
    """
    ds = xr.Dataset({
        "coordinate": (("particle", "xy"), np.asarray(xy, np.float64).reshape(-1, 2)),
        "micrograph_name": ("particle", text(micrographs)),
    })  # fmt: skip
    if score is not None:
        ds["pick_score"] = ("particle", np.asarray(score, np.float64))
    for name, values in columns.items():
        array = np.asarray(values)
        ds[name] = ("particle", array if array.dtype.kind in "iufb" else text(array))
    return ds


def box_sides(ds: xr.Dataset, box_size: float | None, where: str) -> NDArray[np.float64]:
    """Width and height (n, 2) of the boxes around coordinates: ``box_size``, else those of the source.

    Raises
    ------
    ParameterError : neither, or not above 0.
    """
    n = ds.sizes["particle"]
    if box_size is not None:
        sides = np.full((n, 2), float(box_size))
    elif "x_box_width" in ds and "x_box_height" in ds:
        sides = np.stack([ds["x_box_width"].values, ds["x_box_height"].values], axis=1).astype(np.float64)
    else:
        raise ParameterError(where, expected="a box size", found="none", remedy="Give box_size= in pixels.")
    if not (sides > 0).all():
        raise ParameterError(where, expected="box sizes above 0", found=f"{sides.min()}")
    return sides


def section_names(ds: xr.Dataset, where: str) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]]:
    """Of ``image_name`` ("000001@file"): the distinct files, the file of each row, and its section from 1.

    Raises
    ------
    FormatError : no image names, or one of another form.
    """
    if "image_name" not in ds:
        raise FormatError(where, expected="image_name", found="none", remedy="Give images= to write a stack as well.")
    files: dict[str, int] = {}
    file = np.empty(ds.sizes["particle"], np.int32)
    section = np.empty(len(file), np.int64)
    for row, name in enumerate(map(str, ds["image_name"].values)):
        number, at, path = name.partition("@")
        if not at or not (number.isascii() and number.isdigit()) or len(number) > 10:
            raise FormatError(
                f"{where}, row {row + 1}", expected="an image name like 000001@stack.mrcs", found=repr(name)
            )
        file[row], section[row] = files.setdefault(path, len(files)), int(number)
    return list(files), file, section
