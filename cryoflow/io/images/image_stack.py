"""Files of images in the formats of other programs as Datasets: stacks, volumes and movies, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.images.image_file import ImageFile, open_image_file
from cryoflow.io.images.lazy import CHUNK_BYTES, FileImages, chunk_rows, lazy
from cryoflow.schema import validate

__all__ = ["open_images_or_map", "open_movie", "write_hdf_images", "write_imagic_images", "write_spider_images"]


def open_images_or_map(
    address: str | Path, *, pixel_size: float | None = None, chunk_bytes: float = CHUNK_BYTES
) -> xr.Dataset:
    """Open a file of images lazily: ``image`` (particle, y, x), or ``map`` (z, y, x) where the file is one volume.

    ``pixel_size`` (angstrom) overrides what the file says; where neither says it, the Dataset has none.

    Raises
    ------
    FormatError : a file that no reader knows, or a damaged one.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from cryoflow.io.images.spider import write_spider
    >>> path = tempfile.mkdtemp() + "/a.spi"
    >>> write_spider(path, np.ones((8, 8, 8)), stack=False, pixel_size=2.0)
    >>> ds = open_images_or_map(path)
    >>> ds["map"].shape, ds.attrs["pixel_size"]
    ((8, 8, 8), 2.0)
    """
    file = open_image_file(address)
    if not getattr(file, "volume", False):
        from cryoflow.io.datasets import open_images

        return open_images(address, pixel_size=pixel_size, chunk_bytes=chunk_bytes)
    size = _pixel(file, pixel_size)
    attrs: dict[str, Any] = {"source": Path(file.path).name, "voxel_size": list(file.voxel)}
    if size:
        attrs["pixel_size"] = size
    rows = chunk_rows(4 * file.shape[1] * file.shape[2], chunk_bytes)
    volume = _rows(file, ("z", "y", "x"), np.float32, rows)
    return validate(xr.Dataset({"map": volume.assign_attrs(attrs)}, attrs=attrs), str(address))


def open_movie(
    address: str | Path, *, pixel_size: float | None = None, frames_per_fraction: int | None = None,
    fractions: int | None = None, upsampling: int = 1, check_size: bool = True,
) -> xr.Dataset:  # fmt: skip
    """Open one movie lazily as ``movie`` (movie, frame, y, x) in the type of the file, a frame a chunk.

    ``frames_per_fraction``, ``fractions`` and ``upsampling`` are for EER (see ``eer.open_eer``). ``dose_per_frame``
    (electrons a square angstrom) is there where the file tells it.

    Raises
    ------
    FormatError : a file that no reader knows, or a damaged one.
    ParameterError : options of EER for another format.
    """
    options = {"frames_per_fraction": frames_per_fraction, "fractions": fractions}
    eer: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if upsampling != 1:
        eer["upsampling"] = upsampling
    is_eer = str(address).partition("?")[0].lower().endswith(".eer")
    if eer and not is_eer:
        raise ParameterError(f"open_movie({address})", expected=f"an EER file for {', '.join(eer)}", found="another")
    file: ImageFile
    dose = 0.0
    if is_eer:
        from cryoflow.io.images.eer import open_eer

        file = opened = open_eer(address, check_size=check_size, **eer)
        dose = opened.header.dose_per_frame * (opened.first[1] - opened.first[0])
    else:
        file = open_image_file(address, check_size=check_size)
    frames = _rows(file, ("frame", "y", "x"), file.dtype, 1)
    ds = xr.Dataset({"movie": frames.expand_dims({"movie": 1})}, attrs={"source": Path(file.path).name})
    ds["optics_group"] = ("movie", np.zeros(1, np.int32))
    ds["optics_name"] = ("optics", np.array(["opticsGroup1"], object))
    size = _pixel(file, pixel_size)
    if size:
        ds["pixel_size"] = ("optics", [size])
    if dose:
        ds["dose_per_frame"] = ("movie", [dose])
    return validate(ds, str(address))


def _pixel(file: ImageFile, given: float | None) -> float:
    """Pixel size in angstrom, 0 where nobody says it."""
    if given is not None:
        if not np.isfinite(given) or given <= 0:
            raise ParameterError(file.path, expected="a pixel size above 0", found=f"{given}")
        return float(given)
    x, y = file.voxel[:2]
    if x > 0 and abs(x - y) > 0.01 * x:
        raise FormatError(file.path, expected="square pixels", found=f"{x:g} x {y:g} angstrom",
                          remedy="Give pixel_size= if the file is wrong.")  # fmt: skip
    return max(0.0, x)


def _rows(file: ImageFile, dims: tuple[str, ...], dtype: Any, rows: int) -> xr.DataArray:
    n, y, x = file.shape
    array = FileImages((file,), np.zeros(n, np.int32), np.arange(n, dtype=np.int32), (y, x), np.dtype(dtype))
    return xr.DataArray(lazy(dims, array, rows))


# back ----------------------------------------------------------------------------------------------------------------


def _content(ds: xr.Dataset | xr.DataArray, where: str) -> tuple[xr.DataArray, bool, float]:
    """The images or the map of ``ds``, whether it is a map, and the pixel size (0: not known)."""
    if isinstance(ds, xr.DataArray):
        array, volume = ds, ds.dims == ("z", "y", "x")
    elif "image" in ds:
        array, volume = ds["image"], False
    elif "map" in ds:
        array, volume = ds["map"], True
    else:
        raise ParameterError(where, expected="image or map", found=", ".join(map(str, ds.variables)) or "nothing")
    several = isinstance(ds, xr.Dataset) and "pixel_size" in ds
    sizes: NDArray[Any] = np.unique(ds["pixel_size"].values) if several else np.zeros(0)
    size = sizes[0] if len(sizes) == 1 else array.attrs.get("pixel_size", ds.attrs.get("pixel_size", 0.0))
    return array, volume, float(size)


def write_spider_images(ds: xr.Dataset | xr.DataArray, path: str | Path, **options: Any) -> None:
    """Write the images of ``ds`` as a SPIDER stack, or its map as a volume (``spider.write_spider``)."""
    from cryoflow.io.images.spider import write_spider

    array, volume, size = _content(ds, f"write_spider({path})")
    write_spider(path, array, stack=not volume, pixel_size=size, **options)


def write_imagic_images(ds: xr.Dataset | xr.DataArray, path: str | Path, **options: Any) -> None:
    """Write the images of ``ds`` as an IMAGIC pair, or the sections of its map (``imagic.write_imagic``)."""
    from cryoflow.io.images.imagic import write_imagic

    array, volume, _ = _content(ds, f"write_imagic({path})")
    write_imagic(path, array, volume=volume, **options)


def write_hdf_images(ds: xr.Dataset | xr.DataArray, path: str | Path, **options: Any) -> None:
    """Write the images of ``ds`` as an EMAN2 stack, or its map as one volume (``eman_hdf.write_hdf``)."""
    from cryoflow.io.images.eman_hdf import write_hdf

    array, volume, size = _content(ds, f"write_hdf({path})")
    write_hdf(path, array, volume=volume, pixel_size=size, **options)
