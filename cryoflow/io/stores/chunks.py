"""Uncompressed chunks of a Zarr array read by offset: one copy from the page cache into the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import StoreError
from cryoflow.io.images.lazy_array import LazyImages

__all__ = ["RawChunks", "chunk_file"]


def chunk_file(array: Path, *index: int) -> Path:
    """File of the chunk ``index``, one number a dimension."""
    return array.joinpath("c", *map(str, index))


@dataclass(frozen=True)
class RawChunks(LazyImages):
    """Rows of an array whose chunks are plain little-endian files; read as ``dtype`` whatever they are stored as."""

    folder: str
    extent: tuple[int, ...]
    chunk: int
    stored: np.dtype[Any]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.extent

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.extent[1:], dtype=np.int64)) * self.stored.itemsize

    def content(self) -> Iterator[bytes]:
        """The folder and its grid, and when it was made."""
        yield f"{self} {Path(self.folder, 'zarr.json').stat().st_mtime_ns}".encode()

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Whole ``rows``, in their order."""
        out = np.empty((len(rows), *self.extent[1:]), self.dtype)
        chunk = rows // self.chunk
        follows = (chunk[1:] == chunk[:-1]) & (rows[1:] == rows[:-1] + 1)
        starts = np.flatnonzero(np.concatenate([[True], ~follows])) if len(rows) else np.zeros(0, int)
        for first, stop in zip(starts, [*starts[1:], len(rows)], strict=False):
            part = out[first:stop]
            raw = part if self.stored == self.dtype else np.empty(part.shape, self.stored)
            self._fill(raw, int(chunk[first]), int(rows[first] % self.chunk))
            if raw is not part:
                part[...] = raw
        return out

    def _fill(self, raw: NDArray[Any], chunk: int, row: int) -> None:
        file = chunk_file(Path(self.folder), chunk, *(0,) * (self.ndim - 1))
        view = memoryview(raw.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        done = 0
        try:
            with file.open("rb", buffering=0) as stream:
                stream.seek(row * self.row_bytes)
                while done < len(view):
                    step = stream.readinto(view[done:])
                    if not step:
                        break
                    done += step
        except FileNotFoundError:
            pass
        if done < len(view):
            raise StoreError(str(file), expected=f"{len(view)} bytes of a chunk", found=f"{done}",
                             remedy="The store is damaged: make it again, or restore this file.")  # fmt: skip
