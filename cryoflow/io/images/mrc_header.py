"""The 1024 bytes that begin an MRC file (MRC2014: Cheng et al. 2015, J. Struct. Biol. 192, 146), and what follows them.

Either byte order; modes 0 (int8, or uint8 where IMOD or the caller says so), 1 (int16), 2 (float32), 6 (uint16),
12 (float16) and 101 (two 4-bit values a byte); any extended header, axis order, origin and start; stacks of volumes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.sources.source import Source, changed, open_source

__all__ = ["Header", "read_header", "read_images"]

_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2", 101: "u1"}
_NOT_IMAGES = {
    3: ("complex numbers of int16, a transform", "Transform it back to an image or a map first."),
    4: ("complex numbers of float32, a transform", "Transform it back to an image or a map first."),
    16: ("colours (RGB)", "Colours are no densities: write one channel in mode 6 or 2."),
}
_IMOD_STAMP = 1146047817
_SIGNED, _FOUR_BITS = 1, 16  # IMOD's flags
_LARGEST = 1 << 24  # no axis is longer: tells the byte orders apart
_VOLUME_STACKS = range(401, 631)


@dataclass(frozen=True, slots=True)
class Header:
    """What the 1024 bytes say, and an ``ImageFile``. ``shape`` is (sections, rows, columns); triples are (x, y, z).

    ``dtype`` is the type of the values in this machine's byte order, ``stored`` that of the file. ``bytes_told`` says,
    in mode 0, who decided whether bytes are signed: "MRC2014", "IMOD" or "caller". ``declared`` is the number of
    sections that the header claims, more than ``shape[0]`` where a truncated file was opened all the same. A stack of
    volumes has ``sections_a_volume``, other files 0. ``packed``: two values a byte.
    """

    path: str
    shape: tuple[int, int, int]
    mode: int
    stored: np.dtype[Any]
    offset: int
    voxel: tuple[float, float, float]
    start: tuple[int, int, int]
    origin: tuple[float, float, float]
    axes: tuple[int, int, int]
    space_group: int
    source: Source | None = None
    bytes_told: str = ""
    packed: bool = False
    declared: int = 0
    sections_a_volume: int = 0
    extended_type: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored.newbyteorder("=")

    @property
    def image_bytes(self) -> int:
        """Bytes of a section in the file; the rows of packed ones begin at whole bytes."""
        if self.packed:
            return self.shape[1] * ((self.shape[2] + 1) // 2)
        return self.shape[1] * self.shape[2] * self.stored.itemsize

    @property
    def volumes(self) -> int:
        """How many volumes the file holds; 1 where it is no stack of volumes."""
        return self.shape[0] // self.sections_a_volume if self.sections_a_volume else 1

    def token(self) -> str:
        """A name of the content."""
        return f"{self.source.token()} {self.stored.str}" if self.source is not None else self.path

    def read(self, first: int, count: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Sections ``first`` to ``first + count``, into ``out`` if given."""
        return read_images(self, first, count, out)


def read_header(path: str | Path, *, check_size: bool = True, signed: bool | None = None) -> Header:
    """Read the header of an MRC file, local or behind a URL, and hold it against the size of the file.

    Parameters
    ----------
    check_size : False opens a file of another size than its header says, with the sections that are whole.
    signed : whether the bytes of mode 0 are signed. By default the file decides: unsigned where IMOD wrote it and did
        not say otherwise, signed as MRC2014 has it in all other files. ``Header.bytes_told`` says who decided.

    Raises
    ------
    FormatError : no MRC header, a mode that holds no images, or a file shorter or longer than its header says.
    """
    source = open_source(path)
    path, size = source.address, source.size
    raw = source.read(0, min(1024, size))
    if len(raw) < 1024:
        raise FormatError(str(path), expected="an MRC header of 1024 bytes", found=f"{len(raw)} bytes")
    order = _byte_order(raw, path)
    nx, ny, nz, mode, *rest = struct.unpack(f"{order}10i", raw[:40])
    if mode not in _MODES:
        found, remedy = _NOT_IMAGES.get(mode, ("no mode of the format", "This is not an MRC file, or it is damaged."))
        raise FormatError(f"{path}, byte 12", expected=f"an MRC mode of {sorted(_MODES)}",
                          found=f"mode {mode}: {found}", remedy=remedy)  # fmt: skip
    cell = struct.unpack(f"{order}3f", raw[40:52])
    axes = struct.unpack(f"{order}3i", raw[64:76])
    axes = axes if sorted(axes) == [1, 2, 3] else (1, 2, 3)  # some old programs leave zeros
    space_group, extended = struct.unpack(f"{order}2i", raw[88:96])
    stamp, flags = struct.unpack(f"{order}2i", raw[152:160])
    kind, told, packed = _bytes(mode, stamp, flags, signed)
    voxel = (_voxel(cell[0], rest[3]), _voxel(cell[1], rest[4]), _voxel(cell[2], rest[5]))
    if packed and mode == 0:  # the header counts bytes along x
        nx *= 2
        voxel = (voxel[1], *voxel[1:])
    by_axis = dict(zip(axes, rest[:3], strict=True))
    mz = rest[5]
    stack = space_group in _VOLUME_STACKS and 0 < mz <= nz and nz % mz == 0
    header = Header(
        path=str(path), shape=(nz, ny, nx), mode=mode, stored=np.dtype(f"{order}{kind}"), offset=1024 + extended,
        voxel=voxel, start=(by_axis[1], by_axis[2], by_axis[3]), origin=struct.unpack(f"{order}3f", raw[196:208]),
        axes=axes, space_group=space_group, source=source, bytes_told=told, packed=packed, declared=nz,
        sections_a_volume=mz if stack else 0, extended_type=raw[104:108].rstrip(b"\0 ").decode("latin-1"),
    )  # fmt: skip
    return _check_size(header, extended, size, check_size)


def _byte_order(raw: bytes, path: str) -> str:
    """The order in which sizes and mode make sense; where both do, the one of the axes, then of the machine stamp."""
    orders = [o for o in "<>" if _plausible(struct.unpack(f"{o}4i", raw[:16]))]
    if not orders:
        raise FormatError(
            f"{path}, bytes 0-15", expected="sizes and a mode of the MRC format",
            found=f"{struct.unpack('<4i', raw[:16])}", remedy="This is not an MRC file.",
        )  # fmt: skip
    if len(orders) > 1:
        by_axes = [o for o in orders if sorted(struct.unpack(f"{o}3i", raw[64:76])) == [1, 2, 3]]
        stamp = {b"\x44": "<", b"\x11": ">"}.get(raw[212:213])
        return by_axes[0] if by_axes else stamp or "<"
    return orders[0]


def _bytes(mode: int, stamp: int, flags: int, signed: bool | None) -> tuple[str, str, bool]:
    """Type of the values, who told whether bytes are signed, and whether two values share a byte."""
    imod = stamp == _IMOD_STAMP
    packed = mode == 101 or (mode == 0 and imod and bool(flags & _FOUR_BITS))
    if packed:
        return "u1", "", True
    if mode != 0:
        return _MODES[mode], "", False
    if signed is not None:
        return ("i1" if signed else "u1"), "caller", False
    if imod:
        return ("i1" if flags & _SIGNED else "u1"), "IMOD", False
    return "i1", "MRC2014", False


def _check_size(header: Header, extended: int, size: int, check_size: bool) -> Header:
    """The header, or the error that says where the file ends and where it should; without a check, what is whole."""
    path, (nz, ny, nx) = header.path, header.shape
    if not 0 <= extended <= size - 1024:
        raise FormatError(f"{path}, bytes 92-95", expected="an extended header within the file",
                          found=f"one of {extended} bytes", remedy="The header is damaged.")  # fmt: skip
    expected = header.offset + nz * header.image_bytes
    if size == expected:
        return header
    whole = (size - header.offset) // header.image_bytes
    if not check_size and whole:
        if whole >= nz:
            return header
        from dataclasses import replace

        return replace(header, shape=(whole, ny, nx), sections_a_volume=0)
    what = f"{expected} bytes ({nz} x {ny} x {nx} of mode {header.mode})"
    if size < expected:
        remedy = f"The file is truncated in section {whole + 1}: copy it again"
        remedy += f", or open its {whole} whole sections with check_size=False." if whole else "."
    else:
        remedy = f"{size - expected} bytes follow the last section: the header is wrong, or the file has grown."
    raise FormatError(path, expected=what, found=f"{size} bytes", remedy=remedy)


def _voxel(extent: float, intervals: int) -> float:
    """Size of a voxel in angstrom (six decimals: the header holds float32), 0 where the header does not say."""
    return round(extent / intervals, 6) if intervals > 0 and math.isfinite(extent) else 0.0


def _plausible(words: tuple[int, ...]) -> bool:
    return all(0 < n <= _LARGEST for n in words[:3]) and 0 <= words[3] <= 128


def read_images(header: Header, first: int, count: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Sections ``first`` to ``first + count`` as stored, in this machine's byte order; into ``out`` if given."""
    source = header.source or open_source(header.path)
    start = header.offset + first * header.image_bytes
    stop = start + count * header.image_bytes
    if first < 0 or stop > source.size:  # the size is that of the file when it was opened
        raise changed(f"{header.path}, section {first + 1}", f"{stop} bytes", f"{source.size}")
    if header.packed:
        return _unpack(header, source.read(start, stop), count, out)
    direct = out is not None and out.dtype == header.stored and out.flags.c_contiguous
    raw = out if direct and out is not None else np.empty((count, *header.shape[1:]), header.stored)
    source.read_into(start, memoryview(raw.reshape(-1).view(np.uint8)))  # type: ignore[arg-type]
    if out is None:
        return raw.astype(header.dtype, copy=False)
    if not direct:
        out[...] = raw
    return out


def _unpack(header: Header, raw: bytes, count: int, out: NDArray[Any] | None) -> NDArray[Any]:
    """Two values a byte, the first in the lower four bits; an odd row ends with half a byte unused."""
    rows, columns = header.shape[1:]
    data = np.frombuffer(raw, np.uint8).reshape(count, rows, (columns + 1) // 2)
    target = np.empty((count, rows, columns), np.uint8) if out is None else out
    target[..., 0::2] = data & 15
    target[..., 1::2] = (data >> 4)[..., : columns // 2]
    return target
