"""Lazy, picklable arrays of images that lie in files; xarray (and its Dask) reads them chunk by chunk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from cryoflow.io.gather import remember
from cryoflow.io.image_file import ImageFile

__all__ = ["CHUNK_BYTES", "FileImages", "chunk_rows", "lazy"]

CHUNK_BYTES = 16_000_000


def chunk_rows(row_bytes: int, chunk_bytes: float = CHUNK_BYTES) -> int:
    """Rows of ``row_bytes`` bytes that make a chunk of about ``chunk_bytes``.

    >>> chunk_rows(128 * 128 * 4)
    244
    """
    return max(1, int(chunk_bytes // max(1, row_bytes)))


def lazy(dims: tuple[str, ...], array: BackendArray, rows: int, attrs: dict[str, Any] | None = None) -> xr.Variable:
    """A variable over ``array``, in chunks of ``rows`` along its first dimension; nothing is read."""
    variable = xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs)
    chunked: xr.Variable = variable.chunk({dims[0]: rows}, name=f"images-{array.token()}-")  # type: ignore[attr-defined]
    remember(str(chunked.data.name), array)
    return chunked


@dataclass(frozen=True)
class FileImages(BackendArray):
    """Images number ``section[i]`` of file ``files[file[i]]``, as rows of one array (row, y, x) of ``dtype``.

    Rows that follow each other in a file are read by one call. A ``file`` of -1 reads as zeros (a broken micrograph).
    """

    files: tuple[ImageFile, ...]
    file: NDArray[np.int32]
    section: NDArray[np.int32]
    frame: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.file), *self.frame)

    @property
    def ndim(self) -> int:
        return 3

    def token(self) -> str:
        """Name of the content: the files, as they were when they were opened, and the rows."""
        digest = hashlib.sha256(self.file.tobytes() + self.section.tobytes() + str(self.dtype).encode())
        for file in self.files:
            digest.update(f"{file.token()}\n".encode())
        return digest.hexdigest()[:32]

    def __dask_tokenize__(self) -> str:
        return self.token()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        rows = np.arange(len(self.file))[key[0]]
        images = self.read(np.atleast_1d(rows))
        if np.ndim(rows) == 0:
            return np.asarray(images[0][key[1:]])
        return np.asarray(images[(slice(None), *key[1:])])

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Whole images of ``rows``."""
        out = np.empty((len(rows), *self.frame), self.dtype)
        file, section = self.file[rows], self.section[rows]
        follows = (file[1:] == file[:-1]) & (section[1:] == section[:-1] + 1)
        starts = np.flatnonzero(np.concatenate([[True], ~follows])) if len(rows) else np.zeros(0, int)
        for first, stop in zip(starts, [*starts[1:], len(rows)], strict=False):
            if file[first] < 0:
                out[first:stop] = 0
            else:
                self._fill(out[first:stop], self.files[file[first]], int(section[first]))
        return out

    def _fill(self, out: NDArray[Any], file: ImageFile, first: int) -> None:
        file.read(first, len(out), out)
