"""The directories of a TIFF or BigTIFF file, read without its images and held against the size of the file.

A few bytes of a damaged file can claim any size or lead in a circle: everything is checked here before a library
decodes a page.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.sources.source import Source, open_binary

__all__ = ["Page", "Tag", "is_tiff", "read_page", "read_pages"]

_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "2I", 6: "b", 7: "s", 8: "h", 9: "i", 10: "2i", 11: "f", 12: "d", 13: "I",
          16: "Q", 17: "q", 18: "Q"}  # fmt: skip
_MOST_PAGES = 1 << 20
_MOST_TAGS = 4096
_SHORT = 1 << 10  # bytes kept of a tag that is not long


class Tag(IntEnum):
    """The tags that are read."""

    WIDTH = 256
    LENGTH = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    DESCRIPTION = 270
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_COUNTS = 279
    X_RESOLUTION = 282
    Y_RESOLUTION = 283
    PLANAR = 284
    UNIT = 296
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_COUNTS = 325
    SAMPLE_FORMAT = 339
    EER_METADATA = 65001
    EER_SKIP_BITS = 65007
    EER_HORIZONTAL_BITS = 65008
    EER_VERTICAL_BITS = 65009


_WANTED = frozenset(Tag)
_LONG = {Tag.DESCRIPTION, Tag.STRIP_OFFSETS, Tag.STRIP_COUNTS, Tag.TILE_OFFSETS, Tag.TILE_COUNTS, Tag.EER_METADATA}


@dataclass(frozen=True, slots=True)
class Page:
    """One directory: number from 0, position, byte order ("<" or ">"); tags as arrays, pairs of numbers, or bytes."""

    number: int
    offset: int
    order: str
    tags: dict[int, Any] = field(repr=False)

    def whole(self, tag: int, otherwise: int) -> int:
        """The first value of ``tag`` as a whole number."""
        value = self.tags.get(tag)
        return int(value[0]) if isinstance(value, np.ndarray) and value.ndim == 1 and len(value) else otherwise

    def text(self, tag: int) -> str:
        """The text of ``tag``, up to its first zero byte."""
        value = self.tags.get(tag, b"")
        return value.split(b"\0")[0].decode("utf-8", "replace") if isinstance(value, bytes) else ""

    def numbers(self, tag: int) -> NDArray[Any]:
        """All values of ``tag``."""
        value = self.tags.get(tag)
        return value.ravel() if isinstance(value, np.ndarray) else np.zeros(0, int)


def is_tiff(head: bytes) -> bool:
    """The first bytes of TIFF or BigTIFF, of either byte order."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_pages(source: Source) -> Iterator[Page]:
    """All directories in their order, with the tags of ``Tag``; values that leave the file are refused.

    Raises
    ------
    FormatError : no TIFF file, a directory or a value outside of it, or directories in a circle.
    """
    with open_binary(source) as file:
        order, big, offset = _start(file, source)
        seen: set[int] = set()
        kept = 0
        while offset:
            where = f"{source.address}, page {len(seen) + 1}"
            if offset in seen or len(seen) >= _MOST_PAGES:
                raise FormatError(where, expected="a new directory", found="one that came before")
            tags, following = _directory(file, source.size, offset, order, big, where)
            kept += sum(memoryview(value).nbytes for value in tags.values())
            if kept > 4 * source.size + (1 << 20):
                raise FormatError(where, expected="directories of their own values", found="ones that share them",
                                  remedy="The file is damaged.")  # fmt: skip
            yield Page(len(seen), offset, order, tags)
            seen.add(offset)
            offset = following


def read_page(source: Source, file: BinaryIO, number: int, offset: int) -> Page:
    """The directory at ``offset`` alone; ``file`` is the open source."""
    order, big, _ = _start(file, source)
    tags, _ = _directory(file, source.size, offset, order, big, f"{source.address}, page {number + 1}")
    return Page(number, offset, order, tags)


def _start(file: BinaryIO, source: Source) -> tuple[str, bool, int]:
    """Byte order, whether it is BigTIFF, and the offset of the first directory."""
    file.seek(0)
    head = file.read(16)
    if not is_tiff(head):
        raise FormatError(f"{source.address}, bytes 0-3", expected="a TIFF file", found=repr(head[:4]))
    order, big = "<" if head[:2] == b"II" else ">", b"+" in head[2:4]
    if len(head) < (16 if big else 8):
        raise FormatError(source.address, expected="the header of a TIFF file", found=f"{len(head)} bytes")
    if big and struct.unpack(f"{order}2H", head[4:8]) != (8, 0):
        raise FormatError(f"{source.address}, bytes 4-7", expected="BigTIFF with offsets of 8 bytes", found="others")
    return order, big, struct.unpack(f"{order}{'Q' if big else 'I'}", head[8:16] if big else head[4:8])[0]


def _directory(file: BinaryIO, size: int, offset: int, order: str, big: bool, where: str) -> tuple[dict[int, Any], int]:
    """The tags of a directory, and the offset of the next one."""
    head, entry, tail = (8, 20, 8) if big else (2, 12, 4)
    integer = f"{order}{'Q' if big else 'I'}"
    count = struct.unpack(f"{order}{'Q' if big else 'H'}", _bytes(file, size, offset, head, where))[0]
    if not 0 < count <= _MOST_TAGS:
        raise FormatError(where, expected=f"1 to {_MOST_TAGS} tags", found=f"{count}")
    raw = _bytes(file, size, offset + head, count * entry + tail, where)
    tags: dict[int, Any] = {}
    for at in range(0, count * entry, entry):
        tag, kind = struct.unpack_from(f"{order}2H", raw, at)
        if kind not in _TYPES:
            continue  # the standard: types that a reader does not know are passed over
        number = struct.unpack_from(integer, raw, at + 4)[0]
        length = number * struct.calcsize(f"={_TYPES[kind]}")
        place = at + entry - tail
        if length > tail:
            position = struct.unpack_from(integer, raw, place)[0]
            if position + length > size:
                raise FormatError(
                    f"{where}, tag {tag}", expected=f"{length} bytes at {position}", found=f"a file of {size} bytes",
                    remedy="The file is truncated or damaged.",
                )  # fmt: skip
        if tag not in _WANTED or tag in tags:
            continue
        length = length if tag in _LONG else min(length, _SHORT)
        value = raw[place : place + length] if length <= tail else _bytes(file, size, position, length, where)
        tags[tag] = _values(order, _TYPES[kind], value)
    return tags, struct.unpack_from(integer, raw, count * entry)[0]


def _values(order: str, form: str, raw: bytes) -> Any:
    if form == "s":
        return raw
    if form[0] == "2":
        flat = np.frombuffer(raw, np.dtype(f"{order}{form[1]}"))
        return flat.reshape(-1, 2).astype(float)
    return np.frombuffer(raw, np.dtype(f"{order}{form}"))


def _bytes(file: BinaryIO, size: int, start: int, length: int, where: str) -> bytes:
    if start + length > size:
        raise FormatError(
            where, expected=f"{length} bytes at {start}", found=f"a file of {size} bytes",
            remedy="The file is truncated or damaged.",
        )  # fmt: skip
    file.seek(start)
    return file.read(length)
