"""Images of uncompressed stacks as a Zarr array that is never written: references to the bytes where they lie.

The file follows kerchunk's format (version 1), which fsspec's ``reference://`` file system, zarr and xarray read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.images.gather import Gathered, source_of
from cryoflow.io.images.image_file import ImageFile
from cryoflow.io.images.lazy import FileImages
from cryoflow.io.images.mrc_header import Header
from cryoflow.io.sources.source import is_remote
from cryoflow.schema import require

__all__ = ["write_references"]

_ROWS = {"image": "particle", "micrograph": "micrograph"}


def write_references(ds: xr.Dataset, path: str | Path) -> None:
    """Write references to the images of ``ds``, in its order, one image a chunk; nothing is copied.

    Parameters
    ----------
    ds : particles or micrographs whose lazy images lie in uncompressed MRC files of one type and byte order.
    path : the ``.json`` file. Local stacks are named by their absolute paths: the file is of use on this machine, or
        wherever the stacks lie in the same place.

    Raises
    ------
    ParameterError : images in memory, computed or from a store; compressed or other files; mixed types; a broken
        micrograph among them. The file and row at fault are named.
    ResourceError : the disk is full.

    Examples
    --------
    >>> import fsspec, tempfile, zarr
    >>> from cryoflow.io import write_stack
    >>> from cryoflow.io.datasets import open_images
    >>> folder = tempfile.mkdtemp()
    >>> image = xr.DataArray(np.arange(128.0).reshape(2, 8, 8), dims=("particle", "y", "x"))
    >>> write_stack(f"{folder}/p.mrcs", image, pixel_size=1.0)
    >>> write_references(open_images(f"{folder}/p.mrcs"), f"{folder}/p.json")
    >>> there = fsspec.filesystem("reference", fo=f"{folder}/p.json", asynchronous=True, remote_protocol="file",
    ...                           remote_options={"asynchronous": True, "auto_mkdir": False})
    >>> there = zarr.storage.FsspecStore(there, read_only=True, path="")
    >>> float(zarr.open_group(there, mode="r")["image"][1, 0, 3])
    67.0
    """
    where = f"write_references({path})"
    name = next((n for n in _ROWS if n in ds), None)
    if name is None:
        require(ds, where, ["image"])
    assert name is not None
    files, file, section = _located(ds[name].variable, name, where)
    headers = _uncompressed(files, file, where)
    first = headers[int(file[0])]
    refs: dict[str, Any] = {".zgroup": json.dumps({"zarr_format": 2})}
    refs[f"{name}/.zarray"] = json.dumps({
        "zarr_format": 2, "shape": [len(file), *first.shape[1:]], "chunks": [1, *first.shape[1:]],
        "dtype": first.stored.str, "compressor": None, "filters": None, "fill_value": None, "order": "C",
    })  # fmt: skip
    refs[f"{name}/.zattrs"] = json.dumps({"_ARRAY_DIMENSIONS": [_ROWS[name], "y", "x"]})
    for label, variable in ds.variables.items():
        if variable.dims in ((_ROWS[name],), ("optics",)) and variable.dtype.kind in "iufb":
            refs |= _inline(str(label), variable)
    size = first.image_bytes
    for row, (number, at) in enumerate(zip(file.tolist(), section.tolist(), strict=True)):
        header = headers[number]
        refs[f"{name}/{row}.0.0"] = [_url(header.path), header.offset + at * size, size]
    with atomic(path) as partial:
        partial.write_text(json.dumps({"version": 1, "refs": refs}))


def _located(
    variable: xr.Variable, name: str, where: str
) -> tuple[tuple[ImageFile, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Files, and for each row the number of its file and its section."""
    array = source_of(variable)
    parts = array.parts if isinstance(array, Gathered) else (array,)
    if not all(isinstance(part, FileImages) for part in parts) or not len(variable):
        raise ParameterError(
            where, expected=f"{name!r} that lies in files", found="images in memory, computed, or in a store",
            remedy="Open the particle set itself; a store is Zarr already.",
        )  # fmt: skip
    readers = [part for part in parts if isinstance(part, FileImages)]
    files = tuple(file for reader in readers for file in reader.files)
    offsets = np.cumsum([0, *(len(reader.files) for reader in readers)])
    part, row = (array.part, array.row) if isinstance(array, Gathered) else (
        np.zeros(len(readers[0].file), np.int32), np.arange(len(readers[0].file)))  # fmt: skip
    file = np.empty(len(row), np.int64)
    section = np.empty(len(row), np.int64)
    for i, reader in enumerate(readers):
        here = part == i
        own = reader.file[row[here]].astype(np.int64)
        file[here] = np.where(own < 0, -1, own + offsets[i])
        section[here] = reader.section[row[here]]
    return files, file, section


def _uncompressed(files: tuple[ImageFile, ...], file: NDArray[np.int64], where: str) -> dict[int, Header]:
    """The headers of the files that rows lie in, all of one type, size and byte order."""
    headers: dict[int, Header] = {}
    for number in np.unique(file):
        row = int(np.flatnonzero(file == number)[0]) + 1
        one = files[number] if number >= 0 else None
        if one is None:
            raise ParameterError(f"{where}, row {row}", expected="an image in a file", found="a broken micrograph",
                                 remedy="Select the usable ones first.")  # fmt: skip
        if not isinstance(one, Header) or one.shape[0] < 1 or one.packed:
            raise ParameterError(
                f"{where}, row {row}", expected="an uncompressed MRC file", found=f"{one.path} ({type(one).__name__})",
                remedy="Import it: `cryoflow import`.",
            )  # fmt: skip
        first = next(iter(headers.values()), one)
        if (one.shape[1:], one.stored) != (first.shape[1:], first.stored):
            raise ParameterError(
                f"{where}, row {row}",
                expected=f"images of {first.shape[1:]} and type {first.stored.str} as in {first.path}",
                found=f"{one.shape[1:]} and {one.stored.str} in {one.path}",
                remedy="One Zarr array has one shape and type: import the set instead, or split it.",
            )  # fmt: skip
        headers[int(number)] = one
    return headers


def _url(path: str) -> str:
    return path if is_remote(path) or path.startswith("file://") else str(Path(path).resolve())


def _inline(name: str, variable: xr.Variable) -> dict[str, Any]:
    """A small array inside the file itself: kerchunk's base64 chunk."""
    import base64

    data = np.ascontiguousarray(variable.values)
    if not data.size:
        return {}
    meta = {"zarr_format": 2, "shape": list(data.shape), "chunks": list(data.shape), "dtype": data.dtype.str,
            "compressor": None, "filters": None, "fill_value": None, "order": "C"}  # fmt: skip
    return {
        f"{name}/.zarray": json.dumps(meta),
        f"{name}/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": [str(d) for d in variable.dims]}),
        f"{name}/{'.'.join('0' * data.ndim)}": "base64:" + base64.b64encode(data.tobytes()).decode(),
    }
