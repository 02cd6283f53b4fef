"""Lazy, picklable arrays of images that lie in files; xarray (and its Dask) reads them chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core import indexing

from cryoflow.io.images.gather import remember
from cryoflow.io.images.image_file import ImageFile
from cryoflow.io.images.lazy_array import LazyImages
from cryoflow.io.sources.source import is_remote
from cryoflow.io.sources.threads import concurrently

__all__ = ["CHUNK_BYTES", "FileImages", "chunk_rows", "lazy"]

CHUNK_BYTES = 16_000_000
_GAP = 1 << 17  # bytes of a remote file that are sooner read than skipped: one block of the cache
_SPAN = 1 << 23  # bytes of one span at most: more are read by several connections


def chunk_rows(row_bytes: int, chunk_bytes: float = CHUNK_BYTES) -> int:
    """Rows of ``row_bytes`` bytes that make a chunk of about ``chunk_bytes``.

    >>> chunk_rows(128 * 128 * 4)
    244
    """
    return max(1, int(chunk_bytes // max(1, row_bytes)))


def lazy(dims: tuple[str, ...], array: LazyImages, rows: int, attrs: dict[str, Any] | None = None) -> xr.Variable:
    """A variable over ``array``, in chunks of ``rows`` along its first dimension; nothing is read."""
    variable = xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs)
    chunked: xr.Variable = variable.chunk({dims[0]: rows}, name=f"images-{array.token()}-")
    remember(str(chunked.data.name), array)
    return chunked


@dataclass(frozen=True)
class FileImages(LazyImages):
    """Images number ``section[i]`` of file ``files[file[i]]``, as rows of one array (row, y, x) of ``dtype``.

    Rows that follow each other in a file are read by one call. Of remote files several parts are read at a time.
    A ``file`` of -1 reads as zeros (a broken micrograph).
    """

    files: tuple[ImageFile, ...]
    file: NDArray[np.int32]
    section: NDArray[np.int32]
    frame: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.file), *self.frame)

    def content(self) -> Iterator[bytes | memoryview]:
        """The rows, and the files as they were when they were opened."""
        yield np.ascontiguousarray(self.file).data
        yield np.ascontiguousarray(self.section).data
        yield str(self.dtype).encode()
        for file in self.files:
            yield f"{file.token()}\n".encode()

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Whole images of ``rows``."""
        out = np.empty((len(rows), *self.frame), self.dtype)
        file, section = self.file[rows], self.section[rows]
        follows = (file[1:] == file[:-1]) & (section[1:] == section[:-1] + 1)
        starts = np.flatnonzero(np.concatenate([[True], ~follows])) if len(rows) else np.zeros(0, int)
        far: list[NDArray[np.int64]] = []
        for first, stop in zip(starts, [*starts[1:], len(rows)], strict=False):
            if file[first] < 0:
                out[first:stop] = 0
            elif is_remote(self.files[file[first]].path):
                far.append(np.arange(first, stop))
            else:
                self._fill(out[first:stop], self.files[file[first]], int(section[first]))
        if far:
            self._read_far(out, file, section, np.concatenate(far))
        return out

    def _read_far(
        self, out: NDArray[Any], file: NDArray[np.int32], section: NDArray[np.int32], rows: NDArray[np.int64]
    ) -> None:
        """Rows of remote files: what lies close together in a file is one span, and spans are read at the same time."""
        rows = rows[np.lexsort((section[rows], file[rows]))]
        image_bytes = max(1, out[0].nbytes)
        apart = (np.diff(file[rows]) != 0) | (np.diff(section[rows]) > 1 + _GAP // image_bytes)
        most = max(1, _SPAN // image_bytes)
        spans = [
            span[np.searchsorted(section[span], low) : np.searchsorted(section[span], low + most)]
            for span in np.split(rows, np.flatnonzero(apart) + 1)
            for low in range(int(section[span[0]]), int(section[span[-1]]) + 1, most)
        ]

        def read(span: NDArray[np.int64]) -> None:
            first, last = int(section[span[0]]), int(section[span[-1]])
            images = np.empty((last - first + 1, *self.frame), self.dtype)
            self._fill(images, self.files[file[span[0]]], first)
            out[span] = images[section[span] - first]

        concurrently(read, [span for span in spans if len(span)])

    def _fill(self, out: NDArray[Any], file: ImageFile, first: int) -> None:
        file.read(first, len(out), out)
