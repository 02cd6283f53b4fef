"""Images that lie uncompressed in a file, one after another, with or without a header before each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.sources.source import Source, check_span

__all__ = ["RawImages", "blocks", "check_range", "check_whole", "foreign_errors", "into"]

BLOCK_BYTES = 16_000_000


@dataclass(frozen=True, slots=True)
class RawImages:
    """Sections of type ``stored`` that begin at ``offset`` and every ``stride`` bytes of ``source``.

    Implements ``ImageFile``. ``gap_word``, if given, is (position in the gap before a section, bytes it must hold): how
    SPIDER tells an image that was never written. ``volume``: the sections make one volume.
    """

    source: Source
    shape: tuple[int, int, int]
    stored: np.dtype[Any]
    offset: int
    stride: int
    voxel: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gap_word: tuple[int, bytes] | None = None
    volume: bool = False

    @property
    def path(self) -> str:
        """Path or URL, as messages name it."""
        return self.source.address

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, in this machine's byte order."""
        return self.stored.newbyteorder("=")

    @property
    def image_bytes(self) -> int:
        """Bytes of one section."""
        return self.shape[1] * self.shape[2] * self.stored.itemsize

    def token(self) -> str:
        """A name of the content."""
        return f"{self.source.token()} {self.offset} {self.stored.str}"

    def read(self, first: int, count: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Sections ``first`` to ``first + count`` as (count, rows, columns), into ``out`` if given."""
        check_range(self.path, self.shape[0], first, count)
        shape = (count, *self.shape[1:])
        if count == 0:
            return np.empty(shape, self.dtype) if out is None else out
        stop = self.offset + (first + count - 1) * self.stride + self.image_bytes
        check_span(self.source, self.offset + first * self.stride, stop)  # before anything is allocated
        gap = self.stride - self.image_bytes
        if not gap:
            direct = out is not None and out.dtype == self.stored and out.flags.c_contiguous
            raw = out if direct and out is not None else np.empty(shape, self.stored)
            view = memoryview(raw.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            self.source.read_into(self.offset + first * self.stride, view)
        else:
            begin = self.offset + first * self.stride - (gap if self.gap_word else 0)
            buffer = self.source.read(begin, stop)
            self._check_gaps(buffer, first, count)
            strides = (self.stride, self.shape[2] * self.stored.itemsize, self.stored.itemsize)
            raw = np.ndarray(shape, self.stored, buffer, gap if self.gap_word else 0, strides)
        return into(out, raw, self.dtype)

    def _check_gaps(self, buffer: bytes, first: int, count: int) -> None:
        if self.gap_word is None:
            return
        at, word = self.gap_word
        for i in range(count):
            found = buffer[i * self.stride + at : i * self.stride + at + len(word)]
            if found != word:
                raise FormatError(
                    f"{self.path}, image {first + i + 1}", expected="the header of an image", found="an empty place",
                    remedy="This image of the stack was never written.",
                )  # fmt: skip


def into(out: NDArray[Any] | None, raw: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """``raw`` in ``dtype``, or copied into ``out`` (of any type) where that is given."""
    if out is None:
        return np.ascontiguousarray(raw, dtype)
    if out is not raw:
        out[...] = raw
    return out


def check_range(path: str, sections: int, first: int, count: int) -> None:
    """Refuse sections that a file does not have."""
    if first < 0 or count < 0 or first + count > sections:
        raise ParameterError(
            f"{path}, sections {first + 1} to {first + count}", expected=f"some of {sections}", found="others"
        )


def check_whole(
    source: Source, *, offset: int, stride: int, sections: int, check_size: bool = True, what: str = "section"
) -> None:
    """Refuse a file that does not end with its last section.

    Raises
    ------
    FormatError : naming the section in which the file ends, or the bytes that follow the last one.
    """
    expected = offset + sections * stride
    if source.size < expected and check_size:
        whole = max(0, source.size - offset) // stride
        raise FormatError(
            source.address, expected=f"{expected} bytes ({sections} {what}s)", found=f"{source.size} bytes",
            remedy=f"The file is truncated in {what} {whole + 1}: copy it again.",
        )  # fmt: skip
    if source.size > expected and check_size:
        raise FormatError(
            source.address, expected=f"{expected} bytes ({sections} {what}s)", found=f"{source.size} bytes",
            remedy=f"{source.size - expected} bytes follow the last {what}: a wrong header, or a file that has grown.",
        )  # fmt: skip


@contextmanager
def foreign_errors(where: str, expected: str) -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into a ``FormatError``."""
    try:
        yield
    except CryoflowError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # our own error, as a library passed it on
            if isinstance(cause, CryoflowError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        found = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise FormatError(where, expected=expected, found=found[:300]) from error


def blocks(images: ArrayLike | xr.DataArray, where: str) -> Iterator[NDArray[np.float32]]:
    """The images (row, y, x) in pieces of about 16 MB, or as they are chunked, as float32 in C order.

    Raises
    ------
    ParameterError : not three-dimensional, or empty.
    """
    data = images if isinstance(images, xr.DataArray) else xr.DataArray(np.asarray(images))
    shape = data.shape
    if len(shape) != 3 or 0 in shape:
        raise ParameterError(where, expected="images (n, y, x), at least one", found=f"shape {shape}")
    chunks = data.chunksizes.get(data.dims[0])
    step = max(1, BLOCK_BYTES // (4 * shape[1] * shape[2]))
    counts = chunks or tuple(min(step, shape[0] - first) for first in range(0, shape[0], step))
    first = 0
    for count in counts:
        yield np.ascontiguousarray(data[first : first + count].values, np.float32)
        first += count
