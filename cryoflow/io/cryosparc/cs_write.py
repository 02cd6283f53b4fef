"""Datasets as cryoSPARC's ``.cs`` and ``.csg``: uids, names and shapes of images, and what the source said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.cryosparc.cs_defaults import digests
from cryoflow.io.cryosparc.cs_fields import factorize
from cryoflow.io.cryosparc.cs_file import Columns, field_dtype, write_cs
from cryoflow.io.cryosparc.cs_table import TOLERANCE, UID, gather, to_columns
from cryoflow.io.cryosparc.csg import join, read_columns, write_csg
from cryoflow.io.images.mrc import write_stack
from cryoflow.io.sources.source import normal
from cryoflow.io.star.relion import text
from cryoflow.schema import require, validate

__all__ = ["CONTRAST", "write_cryosparc"]

_TEXT = 2e-6  # what six decimals leave of a number
CONTRAST = {-1.0: "dark", 1.0: "bright"}  # blob/sign: what the images are multiplied by to make particles bright


def write_cryosparc(
    ds: xr.Dataset,
    path: str | Path,
    *,
    images: str | Path | None = None,
    dtype: str = "float32",
    original: str | Path | None = None,
    names: Literal["kept", "absolute"] = "kept",
    micrograph_shape: tuple[int, int] | None = None,
    flip_y: bool = False,
    box: int | None = None,
    new_uids: bool = False,
    group: str | None = None,
) -> None:
    """Write particles or micrographs as ``NAME.cs`` and ``NAME.csg``, which cryoSPARC's "Import Result Group" reads.

    Rows that came from cryoSPARC keep their ``uid``, and every field that was not touched its bytes: a selection
    returns to its job. For other data a uid is made from the image's name, the same every time.

    Parameters
    ----------
    path : of either file; the other is written beside it.
    images : an ``.mrc`` or ``.mrcs`` to write the images to, chunk by chunk, as ``dtype``.
    original : the ``.cs`` or ``.csg`` these rows came from, where they went through a program that keeps ``uid`` (as
        ``_ucsfUid`` in STAR) and not cryoSPARC's fields: those are taken from it, by uid.
    names : "absolute" writes the full paths of images, below ``ds.attrs["root"]``.
    micrograph_shape : (rows, columns) of the micrographs, needed for coordinates that did not come from cryoSPARC.
    flip_y : as given to ``read_cryosparc``: the rows of coordinates are counted from the other end.
    box : pixels of the images, where neither they nor the metadata say.
    new_uids : make new uids for all rows (for copies of particles, as after symmetry expansion).
    group : name of the result group; "particles" or "exposures" by default.

    Raises
    ------
    ParameterError : no rows, repeated uids, an unknown box.
    SchemaError : no names of images, or a variable that breaks the schema.
    ResourceError : the disk is full; nothing half-written is left.
    """
    target = Path(path).with_suffix(".cs")
    where = f"write_cryosparc({path})"
    validate(ds, where)
    dim = "micrograph" if "micrograph" in ds.dims and "particle" not in ds.dims else "particle"
    rows = ds.sizes.get(dim, 0)
    if rows == 0:
        raise ParameterError(where, expected="at least one row", found="none", remedy="The selection is empty.")
    sign: float | None = None
    if images is not None:
        require(ds, where, ["image", "pixel_size"])
        write_stack(images, ds["image"], pixel_size=float(ds.pixel_size.values[0]), dtype=dtype)
        sign = _sign(ds)
        stack, folder = Path(images).resolve(), target.resolve().parent
        name = stack.relative_to(folder) if stack.is_relative_to(folder) else stack
        ds = ds.assign(image_name=(dim, text(f"{i:06d}@{name}" for i in range(1, rows + 1))))
    elif names == "absolute":
        ds = _absolute(ds, dim, where)
    uid = _uids(ds, dim, new_uids, where)
    kept, template = _kept(ds, dim)
    tolerance = TOLERANCE
    if original is not None:
        source = read_columns(original)
        kept, template = _of_original(source, uid, normal(original)), {f: _dtype(c) for f, c in source.items()}
        tolerance = _TEXT
    if dim == "particle" and ("image_name" in ds or "blob/shape" in kept):
        _blob(ds, kept, rows, box, sign, images is not None, where)
    if dim == "micrograph" and "micrograph" in ds and "micrograph_blob/shape" not in kept:
        kept["micrograph_blob/shape"] = np.tile(np.array(ds["micrograph"].shape[1:], np.uint32), (rows, 1))
    if micrograph_shape is not None and "location/micrograph_shape" not in kept:
        kept["location/micrograph_shape"] = np.tile(np.array(micrograph_shape, np.uint32), (rows, 1))
    if flip_y and "coordinate" in ds and "location/micrograph_shape" in kept:
        flipped = ds["coordinate"].values.astype(np.float64)
        flipped[:, 1] = kept["location/micrograph_shape"][:, 0] - 1.0 - flipped[:, 1]
        ds = ds.assign(coordinate=(ds["coordinate"].dims, flipped))
    columns = to_columns(ds, uid, kept, dim=dim, template=template, where=where, tolerance=tolerance)
    write_cs(target, columns)
    title = group or ("particles" if dim == "particle" else "exposures")
    write_csg(target.with_suffix(".csg"), columns, target.name, dim=dim, name=title)


def _absolute(ds: xr.Dataset, dim: str, where: str) -> xr.Dataset:
    if "root" not in ds.attrs:
        raise ParameterError(where, expected="a Dataset that knows where its images lie (attrs['root'])", found="none")
    root = Path(str(ds.attrs["root"])).resolve()
    variable = "image_name" if dim == "particle" else "micrograph_name"
    parts = [str(n).rpartition("@") for n in ds[variable].values.tolist()]
    return ds.assign({variable: (dim, text(f"{a}{at}{root / name.removeprefix('>')}" for a, at, name in parts))})


def _uids(ds: xr.Dataset, dim: str, new: bool, where: str) -> NDArray[np.uint64]:
    """The uids that rows brought from cryoSPARC, or new ones from the names of images."""
    known = _numbers(ds[UID].values, where) if UID in ds else None
    if known is None and "particle_id" in ds:
        ours = ds["particle_id"].dtype != np.uint64 and "cs_fields" not in ds.attrs  # numbers from 0
        known = None if ours else ds["particle_id"].values
    if known is None or new:
        names = ds["image_name"] if "image_name" in ds else ds.get("micrograph_name")
        texts = [str(n) for n in names.values.tolist()] if names is not None else [""] * ds.sizes[dim]
        marks = [f"{n}\0{u}" for n, u in zip(texts, known.tolist(), strict=True)] if known is not None else texts
        _, code = factorize(np.array(marks, object))
        order = np.argsort(code, kind="stable")
        start = np.concatenate([[0], np.flatnonzero(np.diff(code[order])) + 1])
        copy = np.empty(len(code), np.int64)
        copy[order] = np.arange(len(code)) - np.repeat(start, np.diff([*start, len(code)]))
        known = digests([f"{m}\0{k}" if k else m for m, k in zip(marks, copy.tolist(), strict=True)])
    uid = known.astype(np.uint64)
    if len(np.unique(uid)) < len(uid):
        raise ParameterError(where, expected="distinct uids", found=f"{len(uid) - len(np.unique(uid))} repeated",
                             remedy="Remove duplicates, or pass new_uids=True for copies of particles.")  # fmt: skip
    return np.asarray(uid)


def _numbers(values: NDArray[Any], where: str) -> NDArray[np.uint64]:
    """uids that went through text: exact, whatever their size."""
    try:
        exact = [int(v) for v in values.tolist()]
        return np.array(exact, np.uint64) if min(exact) >= 0 else np.array(exact, np.int64).astype(np.uint64)
    except (ValueError, OverflowError) as error:
        raise ParameterError(where, expected="uids: whole numbers of 64 bits", found=f"{error}"[:200]) from None


def _kept(ds: xr.Dataset, dim: str) -> tuple[dict[str, NDArray[Any]], dict[str, np.dtype[Any]]]:
    """What ``x_cs_`` variables keep of the source, and the types of all its fields in their order."""
    template = {}
    for line in ds.attrs.get("cs_fields", ()):
        field, kind, *shape = str(line).split(" ")
        template[field] = field_dtype(field, kind, [int(n) for n in shape], "attrs['cs_fields']")
    return gather(ds, dim, template), template


def _dtype(column: NDArray[Any]) -> np.dtype[Any]:
    return np.dtype((column.dtype, column.shape[1:])) if column.ndim > 1 else column.dtype


def _of_original(source: Columns, uid: NDArray[np.uint64], where: str) -> dict[str, NDArray[Any]]:
    joined = join({"uid": uid}, {where: source}, "the Dataset")
    return {f: c for f, c in joined.items() if f != "uid"}


def _sign(ds: xr.Dataset) -> float:
    said = ds["image"].attrs.get("contrast") if "image" in ds else None
    return next((sign for sign, contrast in CONTRAST.items() if said == contrast), 1.0)


def _blob(
    ds: xr.Dataset, kept: dict[str, NDArray[Any]], rows: int, box: int | None, sign: float | None, new: bool, where: str
) -> None:
    """Shape and sign of the images, which no variable holds for each row."""
    if "image" in ds:
        box = ds.sizes["x"]
    elif box is None and "x_optics_rlnImageSize" in ds:
        box = int(ds["x_optics_rlnImageSize"].values[0])
    if new or "blob/shape" not in kept:
        if box is None:
            raise ParameterError(where, expected="the box of the images", found="none", remedy="Give box= in pixels.")
        kept["blob/shape"] = np.full((rows, 2), box, np.uint32)
    if sign is None and "blob/sign" not in kept:
        sign = _sign(ds)
    if sign is not None:
        kept["blob/sign"] = np.full(rows, sign, np.float32)
