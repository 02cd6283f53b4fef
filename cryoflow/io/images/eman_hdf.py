"""EMAN2 HDF5 files: /MDF/images/N/image, with what EMAN2 knows of each image as attributes of its group.

Attributes are numbers, text, and transforms of 3 x 4 numbers; nothing is ever unpickled. Images of reduced bits
(``EMAN.stored_renderbits``) are scaled back to their values: min + stored / (2^bits - 1) (max - min).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.images.raw_images import blocks, check_range, foreign_errors, into
from cryoflow.io.sources.source import Source, open_binary, open_source

__all__ = ["HdfImages", "open_hdf", "read_attributes", "write_hdf"]

_GROUP = "MDF/images"
_LARGEST = 1 << 24
_DEFLATE = 1032  # no deflated byte holds more


@dataclass(frozen=True, slots=True)
class HdfImages:
    """The images of a file, or the sections of its one volume. Implements ``ImageFile``."""

    source: Source
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    voxel: tuple[float, float, float]
    volume: bool

    @property
    def path(self) -> str:
        """Path or URL, as messages name it."""
        return self.source.address

    def token(self) -> str:
        """A name of the content."""
        return self.source.token()

    def read(self, first: int, count: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Sections ``first`` to ``first + count`` as (count, rows, columns), into ``out`` if given."""
        check_range(self.path, self.shape[0], first, count)
        target = np.empty((count, *self.shape[1:]), self.dtype) if out is None else out
        with _images(self.source) as group:
            if self.volume:
                node, data = _image(group, 0, self.path)
                target[...] = _scaled(node, data, slice(first, first + count))
                return target
            for i in range(count):
                node, data = _image(group, first + i, self.path)
                if _two_dimensional(data) != self.shape[1:]:
                    raise FormatError(
                        f"{self.path}, image {first + i + 1}", expected=f"shape {self.shape[1:]}",
                        found=f"{data.shape}", remedy="Images of one size belong in one file.",
                    )  # fmt: skip
                target[i] = _scaled(node, data, ...).reshape(self.shape[1:])
        return into(out, target, self.dtype)


def open_hdf(address: str | Path, *, check_size: bool = True) -> HdfImages:
    """Open an EMAN2 HDF5 file: a stack of images, or one volume.

    ``check_size=False`` opens a file in which images are missing; those cannot be read.

    Raises
    ------
    FormatError : no HDF5 file, none of EMAN2, no images, several volumes, or numbers that are not real.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> path = tempfile.mkdtemp() + "/a.hdf"
    >>> write_hdf(path, np.arange(24.0).reshape(2, 3, 4), pixel_size=1.5)
    >>> open_hdf(path).shape, open_hdf(path).voxel[0], float(open_hdf(path).read(1, 1).max())
    ((2, 3, 4), 1.5, 23.0)
    """
    source = open_source(address)
    with _images(source) as group:
        total = _number(group.attrs.get("imageid_max"), -1) + 1
        present = len(group)
        if not 0 < total <= _LARGEST:
            raise FormatError(f"{source.address}, /{_GROUP}", expected="imageid_max of 0 or more", found=f"{total - 1}")
        if check_size and present < total:
            missing = next(i for i in range(total) if str(i) not in group)
            raise FormatError(f"{source.address}, image {missing + 1}", expected=f"{total} images", found=f"{present}",
                              remedy="Images were deleted, or the file was not written to its end.")  # fmt: skip
        node, data = _image(group, 0, source.address)
        volume = data.ndim == 3 and data.shape[0] > 1
        if volume and total > 1:
            raise FormatError(source.address, expected="images, or one volume", found=f"{total} volumes",
                              remedy="Write each volume to a file of its own.")  # fmt: skip
        rendered = _rendered(node) is not None
        shape = data.shape if volume else (total, *_two_dimensional(data))
        voxel = (round(_real(node.attrs.get(f"EMAN.apix_{axis}")), 6) for axis in "xyz")
        dtype = np.dtype(np.float32) if rendered else data.dtype.newbyteorder("=")
        return HdfImages(source, shape, dtype, tuple(voxel), volume)  # type: ignore[arg-type]


def read_attributes(address: str | Path, image: int = 0) -> dict[str, Any]:
    """What EMAN2 notes of one image (counted from 0), by its own names without "EMAN.": numbers, text and lists.

    A transform (a pose) comes as three rows of four numbers. ``ctf`` stays the text that EMAN2 writes.
    """
    source = open_source(address)
    with _images(source) as group:
        name = str(image)
        if name not in group:
            raise FormatError(f"{source.address}, image {image + 1}", expected="an image", found="none")
        attributes = group[name].attrs
        return {key.removeprefix("EMAN."): _plain(attributes[key]) for key in attributes}


@contextmanager
def _images(source: Source) -> Iterator[Any]:
    """The group of images of an open file; whatever HDF5 finds wrong is a ``FormatError``."""
    import h5py

    whole = foreign_errors(source.address, "an HDF5 file that is whole")
    with whole, open_binary(source) as raw, h5py.File(raw, "r") as file:
        group = file.get(_GROUP)
        if not isinstance(group, h5py.Group):
            raise FormatError(source.address, expected=f"the group /{_GROUP} of EMAN2",
                              found=", ".join(list(file)[:8]) or "nothing")  # fmt: skip
        yield group


def _image(group: Any, number: int, where: str) -> tuple[Any, Any]:
    """Group and data set of one image, its declared size held against the bytes that are stored."""
    import h5py

    where = f"{where}, image {number + 1}"
    node = group.get(str(number), getlink=True)
    if not isinstance(node, h5py.HardLink):  # no link may lead to another file
        raise FormatError(where, expected="an image", found="none" if node is None else "a link")
    node = group[str(number)]
    link = node.get("image", getlink=True) if isinstance(node, h5py.Group) else None
    data = node["image"] if isinstance(link, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.ndim not in (2, 3) or 0 in data.shape:
        raise FormatError(where, expected="a data set of 2 or 3 dimensions", found="none")
    if data.dtype.kind not in "iuf" or data.is_virtual or data.external:
        raise FormatError(where, expected="real numbers in this file", found=f"type {data.dtype}, or another file")
    stored = data.id.get_storage_size()
    if data.size * data.dtype.itemsize > stored * (_DEFLATE if data.chunks else 1):
        raise FormatError(where, expected=f"{data.size * data.dtype.itemsize} bytes", found=f"{stored} stored bytes",
                          remedy="The file was not written to its end, or it is damaged.")  # fmt: skip
    if data.chunks and np.prod(data.chunks, dtype=float) > 2.0 * max(1 << 22, data.size):
        raise FormatError(where, expected="chunks no larger than the image", found=f"{data.chunks}")
    return node, data


def _two_dimensional(data: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in (data.shape[1:] if data.ndim == 3 and data.shape[0] == 1 else data.shape))


def _rendered(node: Any) -> tuple[int, float, float] | None:
    """Bits, minimum and maximum of an image of reduced bits."""
    bits = _number(node.attrs.get("EMAN.stored_renderbits"), 0)
    low, high = (_real(node.attrs.get(f"EMAN.stored_render{end}")) for end in ("min", "max"))
    return (bits, low, high) if 0 < bits <= 24 and high > low else None


def _scaled(node: Any, data: Any, key: Any) -> NDArray[Any]:
    values, scale = data[key], _rendered(node)
    if scale is None:
        return np.asarray(values)
    bits, low, high = scale
    return np.asarray(low + values.astype(np.float32) * np.float32((high - low) / (2**bits - 1)), np.float32)


def _real(value: Any) -> float:
    try:
        number = float(np.asarray(value).ravel()[0])
    except (TypeError, ValueError, IndexError):
        return 0.0
    return number if np.isfinite(number) else 0.0


def _number(value: Any, otherwise: int) -> int:
    try:
        return int(np.asarray(value).ravel()[0])
    except (TypeError, ValueError, IndexError, OverflowError):
        return otherwise


def _plain(value: Any) -> Any:
    """An attribute as a number, a text, or lists of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").rstrip("\0")
    array = np.asarray(value)
    if array.dtype.names and array.size == 1 and len(array.dtype.names) == 12:  # a transform
        return np.array(list(array.ravel()[0].tolist()), np.float64).reshape(3, 4).tolist()
    if array.dtype.kind == "S":
        return str(array.ravel()[0].decode("utf-8", "replace")) if array.size == 1 else [str(v) for v in array.ravel()]
    if array.dtype.kind not in "iufbU":
        return str(value)
    if array.dtype == np.int8 and array.size == 1 and array.ravel()[0] in (ord("T"), ord("F")):  # EMAN2's booleans
        return bool(array.ravel()[0] == ord("T"))
    return array.ravel()[0].item() if array.size == 1 else array.tolist()


def write_hdf(
    path: str | Path, images: ArrayLike | xr.DataArray, *, pixel_size: float = 0.0, volume: bool = False,
    attributes: Sequence[Mapping[str, Any]] = (), compress: bool = False,
) -> None:  # fmt: skip
    """Write (n, y, x) images as a stack that EMAN2 reads, or a volume as its one image, whole or not at all.

    ``attributes[i]`` are further ones of image i by EMAN2's names, as ``read_attributes`` gives them: numbers, text,
    flat lists, and transforms of three rows of four. A lazy array is written piece by piece, as float32.

    Raises
    ------
    ParameterError : not three-dimensional, or an attribute that is none of these.
    ResourceError : the disk is full.
    """
    import h5py

    where, shape = f"write_hdf({path})", np.shape(images)
    options: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compress else {}
    with atomic(path) as partial, h5py.File(partial, "w", libver="earliest") as file:
        group = file.create_group(_GROUP)
        number = 0
        for block in blocks(images, where):
            if volume:
                if not number:
                    node = group.create_group("0")
                    data = node.create_dataset("image", shape, np.float32, **options)
                data[number : number + len(block)] = block
                number += len(block)
                continue
            for image in block:
                node = group.create_group(str(number))
                node.create_dataset("image", data=image, **options)
                _note(
                    node, image.shape[::-1], pixel_size, attributes[number] if number < len(attributes) else {}, where
                )
                number += 1
        if volume:
            _note(node, shape[::-1], pixel_size, attributes[0] if attributes else {}, where)
        group.attrs["imageid_max"] = np.int32(0 if volume else number - 1)


def _note(node: Any, sizes: Sequence[int], pixel_size: float, more: Mapping[str, Any], where: str) -> None:
    nx, ny, nz = (*sizes, 1)[:3]
    # datatype 7 is EMAN2's float; keys given take precedence, but not over what the data are
    notes: dict[str, Any] = {f"apix_{axis}": float(pixel_size) for axis in "xyz"} if pixel_size > 0 else {}
    notes |= dict(more) | {"nx": nx, "ny": ny, "nz": nz, "datatype": 7, "is_complex": 0}
    stale = ("stored_renderbits", "stored_rendermin", "stored_rendermax", "stored_truemin", "stored_truemax")
    for name in sorted(set(notes) - set(stale)):
        node.attrs[f"EMAN.{name}"] = _attribute(notes[name], f"{where}, attribute {name}")


def _attribute(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return np.bytes_(value.encode() + b"\0")
    array = np.asarray(value)
    if array.shape == (3, 4) and array.dtype.kind in "iuf":
        fields = [(f"{row}{column}", "<f4") for row in range(3) for column in range(4)]
        return np.array([tuple(np.float32(v) for v in array.ravel())], np.dtype(fields))
    if array.dtype.kind not in "iufb" or array.ndim > 1:
        raise ParameterError(where, expected="a number, text, a flat list or a 3 x 4 transform", found=repr(value)[:80])
    if array.dtype.kind == "b" and array.ndim == 0:
        return np.array([ord("T" if array else "F")], np.int8)
    if array.dtype.kind in "iu" and array.size and max(abs(int(array.max())), abs(int(array.min()))) > 2**31 - 1:
        raise ParameterError(where, expected="whole numbers of 32 bits", found=repr(value)[:80])
    return np.atleast_1d(array).astype(np.float32 if array.dtype.kind == "f" else np.int32)
