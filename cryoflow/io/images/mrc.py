"""MRC files (MRC2014: Cheng et al. 2015, J. Struct. Biol. 192, 146): maps, stacks and their headers.

The header is read by ``mrc_header``, an extended one by ``mrc_extended``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.images.mrc_header import Header, read_header, read_images

__all__ = [
    "Header", "check_pixel_size", "pack_header", "read_header", "read_images", "read_map", "write_map", "write_stack",
]  # fmt: skip

_BLOCK_BYTES = 1 << 24


def read_map(
    path: str | Path, *, pixel_size: float | None = None, anisotropic: bool = False, volume: int | None = None,
    signed: bool | None = None,
) -> xr.DataArray:  # fmt: skip
    """Read a map as ``map`` (z, y, x) float32, whatever the order of the axes in the file.

    ``attrs``: ``pixel_size`` (angstrom), ``origin`` (x, y, z; angstrom), ``start`` (x, y, z; voxels) and
    ``voxel_size`` (x, y, z). ``pixel_size`` overrides the header. Voxels that are not cubes within 1 % are
    refused unless ``anisotropic``; ``attrs`` then has no ``pixel_size``. Of a stack of volumes, ``volume`` (from 0) is
    the one to read. ``signed`` tells how to read bytes (mode 0); ``attrs["bytes"]`` says how they were read, and who
    told: "unsigned (IMOD)".

    Raises
    ------
    FormatError : not an MRC file, truncated, voxels not cubic, no voxel size at all, or a stack of volumes of which
        none is asked for.
    """
    header = read_header(path, signed=signed)
    first, depth = 0, header.shape[0]
    if header.volumes > 1 or volume is not None:
        if volume is None or not 0 <= volume < header.volumes:
            raise FormatError(
                f"{path}, byte 88", expected="one map", found=f"a stack of {header.volumes}",
                remedy=f"Give volume=, 0 to {header.volumes - 1}.",
            )  # fmt: skip
        depth = header.sections_a_volume or depth
        first = volume * depth
    data = np.empty((depth, *header.shape[1:]), np.float32)
    step = max(1, _BLOCK_BYTES // header.image_bytes)
    for at in range(0, depth, step):
        read_images(header, first + at, min(step, depth - at), data[at : at + step])
    on_disk = header.axes[::-1]  # which of x=1, y=2, z=3 the array's axes are
    data = data.transpose([on_disk.index(axis) for axis in (3, 2, 1)])
    voxel = header.voxel if pixel_size is None else (float(pixel_size),) * 3
    attrs: dict[str, Any] = {
        "origin": list(header.origin), "start": list(header.start), "voxel_size": list(voxel),
        "source": Path(path).name,
    }  # fmt: skip
    if header.bytes_told:
        attrs["bytes"] = f"{'signed' if header.dtype == np.int8 else 'unsigned'} ({header.bytes_told})"
    size = float(np.mean(voxel))
    if size <= 0 or min(voxel) <= 0:
        raise FormatError(
            f"{path}, bytes 28-51", expected="a voxel size", found=f"{voxel}", remedy="Give pixel_size= in angstrom."
        )
    if max(voxel) - min(voxel) <= 0.01 * size:
        attrs["pixel_size"] = voxel[0]
    elif not anisotropic:
        raise FormatError(
            f"{path}, bytes 28-51", expected="cubic voxels", found=f"{voxel[0]:.4f} x {voxel[1]:.4f} x {voxel[2]:.4f}",
            remedy="Give pixel_size= if the header is wrong, or anisotropic=True to read the map as it is.",
        )  # fmt: skip
    return xr.DataArray(np.ascontiguousarray(data, np.float32), dims=("z", "y", "x"), name="map", attrs=attrs)


def pack_header(
    shape: tuple[int, int, int],
    *,
    mode: int,
    pixel_size: float,
    stack: bool,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    start: tuple[int, int, int] = (0, 0, 0),
    statistics: tuple[float, float, float, float] = (0.0, -1.0, -2.0, -1.0),
) -> bytes:
    """The 1024 bytes of a little-endian MRC2014 header. ``statistics``: minimum, maximum, mean, root mean square."""
    nz, ny, nx = shape
    low, high, mean, rms = statistics
    raw = bytearray(1024)
    struct.pack_into("<10i", raw, 0, nx, ny, nz, mode, *start, nx, ny, 1 if stack else nz)
    cell = (nx * pixel_size, ny * pixel_size, (1 if stack else nz) * pixel_size)
    struct.pack_into("<6f3i3f", raw, 40, *cell, 90.0, 90.0, 90.0, 1, 2, 3, low, high, mean)
    struct.pack_into("<2i", raw, 88, 0 if stack else 1, 0)
    struct.pack_into("<i", raw, 108, 20140)
    struct.pack_into("<3f4s4s f i", raw, 196, *origin, b"MAP ", b"DD\0\0", rms, 1)
    label = b"cryoflow"
    raw[224 : 224 + 80] = label.ljust(80)
    return bytes(raw)


def write_map(
    path: str | Path, volume: ArrayLike | xr.DataArray, *, pixel_size: float | None = None,
    origin: tuple[float, float, float] | None = None,
) -> None:  # fmt: skip
    """Write a (z, y, x) volume (or a (y, x) picture) as float32, whole or not at all.

    ``pixel_size`` (angstrom) and ``origin`` (x, y, z; angstrom) default to those in the attrs of a DataArray.

    Raises
    ------
    ParameterError : no pixel size, or an array that is not two- or three-dimensional.
    ResourceError : the disk is full.
    """
    attrs = volume.attrs if isinstance(volume, xr.DataArray) else {}
    size = attrs.get("pixel_size") if pixel_size is None else pixel_size
    if size is None or not np.isfinite(size) or size <= 0:
        raise ParameterError(f"write_map({path})", expected="a pixel size above 0", found=f"{size}")
    data = np.asarray(volume, dtype="<f4")
    if data.ndim not in (2, 3) or 0 in data.shape:
        raise ParameterError(f"write_map({path})", expected="a (z, y, x) or (y, x) array", found=f"shape {data.shape}")
    data = data.reshape((1,) * (3 - data.ndim) + data.shape)
    mean = float(data.mean(dtype=np.float64))
    rms = float(data.std(dtype=np.float64))
    header = pack_header(
        data.shape, mode=2, pixel_size=float(size), stack=False,
        origin=tuple(origin if origin is not None else attrs.get("origin", (0.0, 0.0, 0.0))),
        start=tuple(attrs.get("start", (0, 0, 0))),
        statistics=(float(data.min()), float(data.max()), mean, rms),
    )  # fmt: skip
    with atomic(path) as partial, partial.open("wb") as file:
        file.write(header)
        file.write(np.ascontiguousarray(data).data)


def write_stack(path: str | Path, image: xr.DataArray, *, pixel_size: float, dtype: str = "float32") -> None:
    """Write (row, y, x) images to an ``.mrcs`` of mode 2 or 12 (``dtype`` float32 or float16), chunk by chunk.

    A lazy ``image`` is never in memory as a whole. Statistics in the header are those of all images.

    Raises
    ------
    ParameterError : another dtype, no images, or values that float16 cannot hold.
    ResourceError : the disk is full.
    """
    where = f"write_stack({path})"
    if dtype not in ("float32", "float16"):
        raise ParameterError(where, expected="dtype 'float32' or 'float16'", found=repr(dtype))
    if image.ndim != 3 or 0 in image.shape:
        raise ParameterError(where, expected="images (particle, y, x), at least one", found=f"shape {image.shape}")
    row = image.dims[0]
    chunks = image.chunksizes.get(row) or _equal_pieces(image.shape[0], max(1, (16 << 20) // (4 * image[0].size)))
    low, high, total, squares, first = np.inf, -np.inf, 0.0, 0.0, 0
    mode = 2 if dtype == "float32" else 12
    shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
    with atomic(path) as partial, partial.open("wb") as file:
        file.write(bytes(1024))
        for count in chunks:
            block = np.asarray(image.isel({row: slice(first, first + count)}).values, np.float32)
            if mode == 12 and np.abs(block[np.isfinite(block)]).max(initial=0) > np.finfo(np.float16).max:
                raise ParameterError(where, expected="values within float16", found="larger", remedy="Use float32.")
            stored = np.ascontiguousarray(block, dtype="<f4" if mode == 2 else "<f2")
            low, high = min(low, float(stored.min())), max(high, float(stored.max()))
            total += float(stored.sum(dtype=np.float64))
            squares += float(np.square(stored, dtype=np.float64).sum())
            file.write(stored.data)
            first += count
        mean = total / image.size
        statistics = (low, high, mean, float(np.sqrt(max(0.0, squares / image.size - mean**2))))
        file.seek(0)
        file.write(pack_header(shape, mode=mode, pixel_size=pixel_size, stack=True, statistics=statistics))


class HasVoxel(Protocol):
    """Any image file: what checks of pixel sizes need of it."""

    @property
    def voxel(self) -> tuple[float, float, float]:
        """(x, y, z) in angstrom."""


def contradicts(header: HasVoxel, given: float) -> bool:
    """Whether a header says another pixel size by more than 1 %; one of 0 or 1 angstrom says nothing."""
    size = header.voxel[0]
    return size > 0 and abs(size - 1) > 1e-4 and abs(size - given) > 0.01 * given


def check_pixel_size(headers: Iterable[HasVoxel], given: float, where: str) -> None:
    """Refuse a pixel size that most headers contradict by more than 1 %; headers of 0 or 1 angstrom say nothing.

    Raises
    ------
    ParameterError : most of the headers that say something say something else.
    """
    sizes = np.array([h.voxel[0] for h in headers])
    sizes = sizes[(sizes > 0) & (np.abs(sizes - 1) > 1e-4)]
    wrong = np.abs(sizes - given) > 0.01 * given
    if len(sizes) and wrong.mean() > 0.5:
        raise ParameterError(
            where, expected=f"a pixel size of {np.median(sizes):.4f} angstrom, as {wrong.sum()} file headers say",
            found=f"{given:.4f}", remedy="Correct pixel_size, or pass trust_given=True if the headers are wrong.",
        )  # fmt: skip


def _equal_pieces(total: int, size: int) -> tuple[int, ...]:
    return tuple(min(size, total - first) for first in range(0, total, size))
