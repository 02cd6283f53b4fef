"""Readers and writers of the table of formats for files that hold plain images or a map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.images.image_file import open_image_file
from cryoflow.io.images.lazy import CHUNK_BYTES, FileImages, chunk_rows, lazy
from cryoflow.io.images.mrc import read_map, write_map, write_stack
from cryoflow.io.sources.source import normal
from cryoflow.io.star.relion import text
from cryoflow.io.stores.store import save
from cryoflow.schema import require, validate

__all__ = ["open_images", "open_map", "save_images", "save_map", "save_store", "save_tables"]


def open_images(
    address: str | Path, *, pixel_size: float | None = None, chunk_bytes: float = CHUNK_BYTES
) -> xr.Dataset:
    """The images of one file (MRC, TIFF, SPIDER, IMAGIC, HDF5 ...) as a lazy ``image`` (particle, y, x).

    Parameters
    ----------
    pixel_size : angstrom; by default the header's, and no variable of that name where it says none.
    chunk_bytes : size of a chunk of images, bytes of float32.

    Raises
    ------
    FormatError : not a file of images, a damaged one, or pixels that are not square.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.mrcs"
    >>> write_stack(path, xr.DataArray(np.ones((3, 8, 8)), dims=("particle", "y", "x")), pixel_size=1.5)
    >>> ds = open_images(path)
    >>> dict(ds.image.sizes), float(ds.pixel_size[0])
    ({'particle': 3, 'y': 8, 'x': 8}, 1.5)
    """
    address = normal(address)
    file = open_image_file(address)
    count, rows, columns = file.shape
    array = FileImages((file,), np.zeros(count, np.int32), np.arange(count, dtype=np.int32), (rows, columns),
                       np.dtype(np.float32))  # fmt: skip
    across, along = file.voxel[:2]
    if pixel_size is None and min(across, along) > 0 and abs(across - along) > 0.01 * across:
        raise FormatError(
            address, expected="square pixels", found=f"{across:g} x {along:g} angstrom in its header",
            remedy="Give pixel_size= if the header is wrong.",
        )  # fmt: skip
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ParameterError(address, expected="pixel_size above 0", found=f"{pixel_size:g}")
    size = across if pixel_size is None else float(pixel_size)
    name = address.replace("\\", "/").rpartition("/")[2]
    ds = xr.Dataset({
        "image": lazy(("particle", "y", "x"), array, chunk_rows(4 * rows * columns, chunk_bytes)),
        "image_name": ("particle", text(f"{i:06d}@{name}" for i in range(1, count + 1))),
        "particle_id": ("particle", np.arange(count, dtype=np.int64)),
        "optics_group": ("particle", np.zeros(count, np.int32)),
        "optics_name": ("optics", text(["opticsGroup1"])),
    })  # fmt: skip
    if size > 0:
        ds["pixel_size"] = ("optics", [size])
    return validate(ds, address)


def save_images(ds: xr.Dataset, path: str | Path, *, dtype: str = "float32") -> None:
    """Write the images of ``ds`` as an MRC stack of ``dtype`` float32 or float16; nothing else goes into it.

    Raises
    ------
    SchemaError : no images or no pixel size.
    ParameterError : images of several pixel sizes, which one header cannot hold.
    """
    require(ds, f"save_images({path})", ["image", "pixel_size"])
    sizes = np.unique(ds.pixel_size.values)
    if len(sizes) > 1:
        raise ParameterError(f"save_images({path})", expected="one pixel size", found=f"{sizes.tolist()}")
    write_stack(path, ds["image"], pixel_size=float(sizes[0]), dtype=dtype)


def open_map(
    address: str | Path, *, pixel_size: float | None = None, anisotropic: bool = False, volume: int | None = None,
    signed: bool | None = None,
) -> xr.Dataset:  # fmt: skip
    """A map as the Dataset with ``map`` (z, y, x); options and attributes are those of ``read_map``."""
    found = read_map(address, pixel_size=pixel_size, anisotropic=anisotropic, volume=volume, signed=signed)
    return validate(xr.Dataset({"map": found}, attrs=found.attrs), str(address))


def save_map(ds: Any, path: str | Path, *, name: str | None = None, pixel_size: float | None = None) -> None:
    """Write the one map of ``ds`` (or ``name``, where there are several) as MRC.

    Raises
    ------
    ParameterError : no map, or several and no ``name``.
    """
    if isinstance(ds, xr.DataArray):
        write_map(path, ds, pixel_size=pixel_size)
        return
    maps = [str(n) for n, v in ds.data_vars.items() if v.dims == ("z", "y", "x")]
    if name is None and len(maps) != 1:
        raise ParameterError(f"save_map({path})", expected="one map", found=", ".join(maps) or "none",
                             remedy="Give name=.")  # fmt: skip
    require(ds, f"save_map({path})", [name or maps[0]])
    volume = ds[name or maps[0]]
    write_map(path, volume.assign_attrs({**ds.attrs, **volume.attrs}), pixel_size=pixel_size)


def save_store(ds: xr.Dataset, path: str | Path, *, overwrite: bool = False, image_dtype: str = "float32") -> None:
    """Write any Dataset of the schema as a store."""
    save(ds, path, function="write_data", parameters={}, image_dtype=image_dtype, overwrite=overwrite)


def save_tables(tables: Mapping[str, Any], path: str | Path) -> None:
    """Write tables (name to DataFrame, or to labels and values) as the blocks of a STAR file."""
    from cryoflow.io.star.starwrite import write_star

    write_star(path, tables)
