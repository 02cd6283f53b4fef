"""Chunks of a store in the making, written whole or not at all; kernels of the engine."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.files import disk_errors
from cryoflow.io.stores.journal import Target, checksum, crc32c, enter
from cryoflow.io.stores.store import cast

__all__ = ["bad_images", "fill_chunk", "fill_rows"]

PIECE = 1 << 21  # bytes that stay in a processor's cache, and many enough that the calls around them cost nothing


def fill_chunk(image: NDArray[Any], row: NDArray[np.int64], *, target: Target) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write one chunk, whole or not at all, and enter it in the journal; ``bad`` marks images with NaN or infinities.

    A kernel of the engine: ``image`` are the rows ``row`` of the array, exactly those of one chunk.
    """
    bad = bad_images(image)
    with disk_errors(target.array):
        enter(target, target.chunk_at(int(row[0])), _write(image, target.chunk_at(int(row[0])), target), row[bad])
    return {"bad": bad}, {}


def fill_rows(row: NDArray[np.int64], *, target: Target, array: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same for plain chunks of images that lie in files: read, looked at and written while they are in cache.

    ``array`` reads rows: ``array.read(row)``.
    """
    chunk, bad = target.chunk_at(int(row[0])), np.zeros(len(row), bool)
    step = max(1, PIECE // (4 * math.prod(target.shape[1:])))

    def pieces() -> Iterator[NDArray[Any]]:
        for first in range(0, len(row), step):
            part = slice(first, first + step)
            block = cast(array.read(row[part]), np.dtype(target.dtype), target.array)
            bad[part] = bad_images(block)
            yield block

    with disk_errors(target.array):
        target.file(chunk).parent.mkdir(parents=True, exist_ok=True)
        enter(target, chunk, _write_plain(pieces(), chunk, target), row[bad])
    return {"bad": bad}, {}


def _write(image: NDArray[Any], chunk: int, target: Target) -> int:
    """Write the file of a chunk; its checksum."""
    file = target.file(chunk)
    file.parent.mkdir(parents=True, exist_ok=True)
    if target.dtype is not None:
        return _write_plain([np.ascontiguousarray(image, target.dtype)], chunk, target)
    import zarr

    at, per = target.index(chunk), target.chunk
    region = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(at, per, target.shape, strict=True))
    array = zarr.open_array(target.array, mode="r+", zarr_format=3).with_config({"write_empty_chunks": True})
    array[region] = image.reshape(tuple(r.stop - r.start for r in region))
    return checksum(file)


def _write_plain(blocks: Iterable[NDArray[Any]], chunk: int, target: Target) -> int:
    """Write pieces of a chunk one after the other and fill it up; the checksum is taken while they are at hand."""
    scratch, dtype = Path(target.journal, f".{uuid.uuid4().hex}"), np.dtype(target.dtype)
    left, crc = math.prod(target.chunk), 0
    with scratch.open("wb", buffering=0) as stream:
        for block in blocks:
            crc, left = _put(stream, block, crc), left - block.size
        if left:  # the last chunk is as long as the others
            crc = _put(stream, np.full(left, np.nan if dtype.kind == "f" else 0, dtype), crc)
    scratch.replace(target.file(chunk))
    return crc


def _put(stream: Any, block: NDArray[Any], crc: int) -> int:
    view = memoryview(block.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while view:  # one call writes 2 GiB at most
        view = view[stream.write(view) :]
    return crc32c(block, crc)


def bad_images(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Which images hold a NaN or an infinity.

    >>> bad_images(np.array([[[1, 2]], [[np.nan, 0]], [[3e38, 3e38]]], "f4")).tolist()
    [False, True, False]
    """
    if image.dtype.kind != "f" or not image.size:
        return np.zeros(len(image), bool)
    flat = image.reshape(len(image), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        bad: NDArray[np.bool_] = ~np.isfinite(flat.sum(1))  # a quick look; the sum of large numbers may overflow
    for i in np.flatnonzero(bad):
        bad[i] = not np.isfinite(flat[i]).all()
    return bad
