"""Images for rows of metadata: the lazy ``image`` of a particle set, from files that its names tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.given import DEFAULTS, ImageOptions
from cryoflow.io.images.image_file import ImageFile, open_image_files
from cryoflow.io.images.lazy import FileImages, chunk_rows, lazy
from cryoflow.io.images.mrc import check_pixel_size, contradicts
from cryoflow.io.sources.address import resolve
from cryoflow.io.sources.project import project_folder
from cryoflow.io.sources.source import normal
from cryoflow.options import takes

__all__ = ["attach_images"]

_ROWS = 1 << 16  # rows looked at together


@takes(ImageOptions, DEFAULTS)
def attach_images(
    ds: xr.Dataset,
    names: Sequence[str],
    file: ArrayLike,
    section: ArrayLike,
    *,
    where: str,
    base: str | Path | None = None,
    **options: Unpack[ImageOptions],
) -> xr.Dataset:
    """Give ``ds`` its lazy ``image`` (particle, y, x): row i is section ``section[i]`` of ``names[file[i]]``.

    Parameters
    ----------
    ds : particles; ``pixel_size`` (optics) and ``optics_group``, where they are there, are held against the headers.
    names : the distinct files as the metadata call them.
    file, section : for each row the index of its file and the section in it, from 0.
    where : the metadata file, for messages.
    base : folder or URL of the metadata file; by default the folder ``where`` lies in.
    root : folder or URL that the names are relative to; by default the first of ``base`` and the four folders above it
        in which one of the files is found.
    allow_outside : accept names that lead out of ``root``: ``..``, absolute, by a link, or a URL.
    trust_given : accept a pixel size that the headers contradict.
    chunk_bytes : size of a chunk of images, bytes of float32.

    Returns
    -------
    ``ds`` with ``image`` (float32) and ``attrs["root"]``. Nothing but the headers is read.

    Raises
    ------
    FormatError : a file that is missing, damaged or outside, a section beyond its file, or mixed boxes.
    ParameterError : the headers contradict the pixel size.
    ResourceError : a server that does not answer.
    """
    file, section = np.asarray(file, np.int32), np.asarray(section, np.int64)
    first_row = _first_rows(file, len(names))
    at = [f"{where}, row {row + 1}" for row in first_row]
    given = options["root"]
    root = normal(given if given is not None else project_folder(base or Path(where).parent, names))
    images = _open(names, root, at, options["allow_outside"])
    _check_sections(images, names, file, section, where)
    frame = _one_box(images)
    if "x_optics_rlnImageSize" in ds:
        said = ds["x_optics_rlnImageSize"].values[np.unique(ds.optics_group.values)]
        if np.any(said != frame[0]):
            raise FormatError(
                f"{where}, optics", expected=f"_rlnImageSize {frame[0]}, the box of {images[0].path}",
                found=f"{said.tolist()}",
            )  # fmt: skip
    if not options["trust_given"] and "pixel_size" in ds and "optics_group" in ds:
        _check_pixel_sizes(images, file, ds, where)
    array = FileImages(images, file, section.astype(np.int32), frame, np.dtype(np.float32))
    attrs = {"long_name": "particle image"}
    rows = chunk_rows(4 * frame[0] * frame[1], options["chunk_bytes"])
    image = lazy(("particle", "y", "x"), array, rows, attrs)
    return ds.assign(image=image).assign_attrs(root=root)


def _first_rows(file: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """For each file the first row that names it."""
    first = np.zeros(count, np.int64)
    for rows in reversed(_pieces(len(file))):
        first[file[rows][::-1]] = np.arange(rows.stop - 1, rows.start - 1, -1)
    return first


def _pieces(count: int) -> list[slice]:
    """All rows, some at a time: what is made for a check takes no memory that goes with their number."""
    return [slice(first, min(first + _ROWS, count)) for first in range(0, count, _ROWS)]


def _open(names: Sequence[str], root: str, at: list[str], allow_outside: bool) -> tuple[ImageFile, ...]:
    addresses = [resolve(n, root, where=w, allow_outside=allow_outside) for n, w in zip(names, at, strict=True)]
    opened = open_image_files(addresses)
    images = [image for image in opened if not isinstance(image, CryoflowError)]
    if len(images) == len(opened):
        return tuple(images)
    missing = [i for i, image in enumerate(opened) if isinstance(image, FormatError) and image.found == "nothing there"]
    broken = next((image for image in opened if isinstance(image, CryoflowError)), None)
    if missing and opened[missing[0]] is broken:
        raise FormatError(
            at[missing[0]], expected=f"the stack {names[missing[0]]} below {root}",
            found=f"none ({len(missing)} of {len(names)} missing)",
            remedy="Give root=, or pass images=False to read the metadata alone.",
        )  # fmt: skip
    assert broken is not None
    raise broken


def _check_sections(
    images: tuple[ImageFile, ...], names: Sequence[str], file: NDArray[np.int32], section: NDArray[np.int64], where: str
) -> None:
    depth = np.array([image.shape[0] for image in images], np.int64)
    pieces = [(section[rows] < 0) | (section[rows] >= depth[file[rows]]) for rows in _pieces(len(file))]
    bad = np.flatnonzero(np.concatenate([np.zeros(0, bool), *pieces]))
    if len(bad):
        row = bad[0]
        raise FormatError(
            f"{where}, row {row + 1}", expected=f"an image number from 1 to {depth[file[row]]} of {names[file[row]]}",
            found=f"{section[row] + 1} (so in {len(bad)} of {len(file)} rows)",
        )  # fmt: skip


def _one_box(images: tuple[ImageFile, ...]) -> tuple[int, int]:
    first = images[0]
    for image in images:
        if image.shape[1:] != first.shape[1:]:
            raise FormatError(
                image.path, expected=f"images of {first.shape[1:]} as in {first.path}", found=f"{image.shape[1:]}",
                remedy="Extract or rescale all particles to one box.",
            )  # fmt: skip
    if first.shape[1] != first.shape[2]:
        raise FormatError(first.path, expected="square images", found=f"{first.shape[1:]}")
    return first.shape[1], first.shape[2]


def _check_pixel_sizes(images: tuple[ImageFile, ...], file: NDArray[np.int32], ds: xr.Dataset, where: str) -> None:
    group = np.asarray(ds.optics_group.values)
    found = [np.unique(group[rows].astype(np.int64) * len(images) + file[rows]) for rows in _pieces(len(file))]
    pairs = np.unique(np.concatenate([np.zeros(0, np.int64), *found]))  # groups and the files that hold their images
    for number in np.unique(pairs // len(images)):
        named = [images[i] for i in pairs[pairs // len(images) == number] % len(images)]
        given = float(ds.pixel_size[number])
        check_pixel_size(named, given, where)
        for image in named:
            if contradicts(image, given):  # one stack of another pixel size would pass unseen among many
                raise ParameterError(
                    where, expected=f"stacks of {given:.4f} angstrom a pixel",
                    found=f"{image.voxel[0]:.4f} in the header of {image.path}",
                    remedy="Rescale or leave out that stack, or pass trust_given=True if its header is wrong.",
                )  # fmt: skip
