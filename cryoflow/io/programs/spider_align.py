"""SPIDER's alignment documents: what "AP SH" and "AP REF" write of each particle, and "RB 3F" reconstructs from.

Of a row's 15 values the first eight are its pose: psi, theta, phi of the reference projection, its number, the
particle's number, and the rotation (degree) and shift (pixels) that "RT SQ" brings the particle onto it with: first it
turns the image counter-clockwise as displayed, then it moves it. In coordinates from the centre, x along the columns
and y along the rows as they are stored, what lies at q comes to p = Rz(rot) q + s. So the particle has the rotation
A = Rz(psi - rot) Ry(theta) Rz(phi), and what must be added to it before rotating is Rz(-rot) s. Where a mirrored
reference fitted better (a negative last value), psi, theta, phi are those of the mirrored projection already.

Sources: SPIDER's manual ("AP SH", "RT SQ", "RB 3F", euler) and published source: RTSQ, BP3F, and AP_ENDS, which adds
one alignment to another as p = Rz(rot2) (Rz(rot1) q + s1) + s2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.given import DEFAULTS, ReadOptions, given_optics
from cryoflow.io.images.new_stack import particles_to_write
from cryoflow.io.particle_table import check_pixel_sizes, stack_beside, with_stack
from cryoflow.io.programs.border import optics_variables, section_names
from cryoflow.io.programs.plain_text import whole
from cryoflow.io.programs.spider_doc import matrix_to_spider, read_spider_doc, spider_to_matrix, write_spider_doc
from cryoflow.options import takes
from cryoflow.schema import require, validate

__all__ = ["read_spider_alignment", "write_spider_alignment"]

_POSE = 8  # columns of it
# column: variable that keeps it
_KEPT = {
    1: "x_spider_psi", 4: "x_spider_reference", 5: "x_spider_image", 9: "x_spider_searched", 10: "x_spider_change",
    11: "x_spider_correlation", 12: "x_spider_last_rotation", 13: "x_spider_last_x", 14: "x_spider_last_y",
    15: "x_spider_mirror",
}  # fmt: skip
_WHOLE = (4, 5, 9)
_TITLE = (
    " ; KEY     PSI,    THE,    PHI,   REF#,    EXP#,  CUM.{ROT,   SX,    SY},  NPROJ,   DIFF,      CCROT,    "
    "ROT,     SX,     SY,   MIR-CC"
)


@takes(ReadOptions, DEFAULTS)
def read_spider_alignment(
    path: str | Path, *, stack: str | Path | None = None, **options: Unpack[ReadOptions]
) -> xr.Dataset:
    """Read the poses of an alignment document ("AP SH", "AP REF") of SPIDER.

    Parameters
    ----------
    stack : the particles, of which the fifth value of a row is the number; by default a file beside the document with
        its name (``.stk``, ``.mrcs``, ``.spi``, ...). Without any, the metadata alone are read.
    options : those of ``read_particles``; documents hold no optics, so ``pixel_size`` must be given.

    Returns
    -------
    Dataset with dims ``particle, (y, x,) optics``: ``rotation``, ``shift``, and the other columns as ``x_spider_...``.
    A particle that no reference was found for has ``x_spider_reference`` 0.

    Raises
    ------
    FormatError : a damaged document, rows of fewer than eight values, or no pixel size.

    Examples
    --------
    >>> import tempfile
    >>> doc = Path(tempfile.mkdtemp()) / "align.doc"
    >>> _ = doc.write_text(" ; KEY PSI, THE, PHI, REF#, EXP#, CUM.{ROT, SX, SY}\\n 1 8 0 40 10 3 1 90 2 0\\n")
    >>> read_spider_alignment(doc, pixel_size=1.5)["shift"].values.round(6).tolist()  # moved after it was turned
    [[0.0, 3.0]]
    """
    where = str(path)
    table = read_spider_doc(path)
    values = table.to_numpy()
    short = np.flatnonzero(np.isnan(values[:, :_POSE]).any(axis=1)) if values.shape[1] >= _POSE else np.zeros(1, int)
    if len(short):
        raise FormatError(
            f"{where}, key {table.index[short[0]]}", expected="the values of 'AP SH' or 'AP REF': psi, theta, phi, "
            "reference, image, rotation, x, y, ...", found=f"{int((~np.isnan(values[short[0]])).sum())} values",
            remedy="Angles alone, or those of older operations: read_spider_doc and spider_rotations.",
        )  # fmt: skip
    psi, theta, phi, _, _, turn, x, y = values[:, :_POSE].T
    ds = xr.Dataset(attrs={"spider_comments": list(table.attrs["comments"]), "spider_columns": values.shape[1]})
    ds["particle_id"] = ("particle", np.arange(len(values), dtype=np.int64))
    optics_variables(ds, "particle", {}, given_optics(options, where))
    check_pixel_sizes(ds, where, "which SPIDER's documents do not hold")
    ds["rotation"] = (("particle", "row", "col"), spider_to_matrix(psi - turn, theta, phi))
    shift = _turned(np.stack([x, y], axis=1), -turn) * float(ds["pixel_size"].values[0])
    ds["shift"] = (("particle", "xy"), shift + 0.0)
    for column, name in _KEPT.items():
        if column <= values.shape[1]:
            kept = values[:, column - 1]
            ds[name] = ("particle", whole(kept, name, where) if column in _WHOLE and not np.isnan(kept).any() else kept)
    number = whole(values[:, 4], "the image's number", where, low=1)
    stack = stack_beside(path) if stack is None else stack
    return validate(ds if stack is None else with_stack(ds, path, stack, number, options), where)


def _turned(xy: NDArray[np.float64], degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rz(degrees) xy, row by row."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.stack([c * xy[:, 0] + s * xy[:, 1], c * xy[:, 1] - s * xy[:, 0]], axis=1)


def write_spider_alignment(
    ds: xr.Dataset, path: str | Path, *, images: str | Path | None = None, dtype: str = "float32"
) -> None:
    """Write particles as an alignment document, which "AP SH", "AP REF", "RT SQ" and "RB 3F" of SPIDER read.

    psi is the source's, else 0 as of SPIDER's references, and the rest of the in-plane rotation is in the sixth
    column. Keys and image numbers are the sections of ``image_name``.

    Parameters
    ----------
    images : a stack to write the images to; particles are then numbered from 1. Without it, all ``image_name`` must
        lie in one stack.
    dtype : of the stack, float32 or float16.

    Raises
    ------
    SchemaError : no pose or no pixel size.
    ParameterError : no particles, image names in several stacks, or an image twice.
    ResourceError : the disk is full; nothing half-written is left.
    """
    where = f"write_spider_alignment({path})"
    require(ds, where, ["rotation"])
    ds = particles_to_write(ds, images, where, dtype=dtype)
    n = ds.sizes["particle"]
    number = _numbers(ds, where)
    psi, theta, phi = matrix_to_spider(ds["rotation"].values)
    own = _column(ds, "x_spider_psi", n)
    turn = (own - psi).round(9) % 360
    group = ds["optics_group"].values if "optics_group" in ds else np.zeros(n, np.int64)
    shift = ds["shift"].values / ds["pixel_size"].values[group][:, None] if "shift" in ds else np.zeros((n, 2))
    moved = _turned(shift, turn).round(9) + 0.0
    columns = {name: _column(ds, name, n) for name in _KEPT.values()}
    table = np.stack(
        [own, theta, phi, columns["x_spider_reference"], number, turn, *moved.T,
         *(columns[_KEPT[column]] for column in range(_POSE + 1, 16))], axis=1,
    )[:, : int(ds.attrs.get("spider_columns", 15))]  # fmt: skip
    write_spider_doc(path, table, keys=number.tolist(), comments=ds.attrs.get("spider_comments") or [_TITLE])


def _column(ds: xr.Dataset, name: str, n: int) -> NDArray[np.float64]:
    return np.asarray(ds[name].values, np.float64) if name in ds else np.zeros(n)


def _numbers(ds: xr.Dataset, where: str) -> NDArray[Any]:
    """The number of each particle's image, each once."""
    if "image_name" in ds:
        files, _, number = section_names(ds, where)
        if len(files) > 1:
            raise ParameterError(where, expected="particles of one stack", found=f"{len(files)} stacks",
                                 remedy="Give images= to write them into one.")  # fmt: skip
    elif "x_spider_image" in ds:
        number = np.asarray(ds["x_spider_image"].values, np.int64)
    else:
        number = np.arange(1, ds.sizes["particle"] + 1)
    twice = len(number) - len(np.unique(number))
    if twice:
        raise ParameterError(where, expected="one row for each image", found=f"{twice} rows of an image that has one",
                             remedy="Keys are image numbers there: give images= to write each row's own.")  # fmt: skip
    return number
