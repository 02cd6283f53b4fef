"""IMAGIC images and volumes: a header file (.hed, 256 words an image) beside a data file (.img) of plain rows.

Layout: imagescience.de/formats.html. Types REAL (float32), LONG (int32), INTG (int16) and PACK (uint8), both byte
orders. The sections of a volume are images of their own. Rows are kept in the order of the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import FormatError
from cryoflow.io.files import atomic
from cryoflow.io.images.raw_images import RawImages, blocks, check_whole
from cryoflow.io.sources.source import normal, open_source

__all__ = ["ImagicHeader", "open_imagic", "pair", "read_imagic_header", "write_imagic"]

# positions of words, counted from 1 as the manual does
_IMN, _IFOL, _NBLOCKS, _RSIZE, _LINES, _PIXELS, _TYPE, _IZLP, _I4LP, _REALTYPE = 1, 2, 4, 11, 13, 14, 15, 61, 62, 69
_AVERAGE, _SIGMA, _HIGH, _LOW = 18, 19, 22, 23
_TYPES = {b"REAL": "f4", b"LONG": "i4", b"INTG": "i2", b"PACK": "u1"}
_RECORD = 1024
_LARGEST = 1 << 24
# the REALTYPE word: four equal bytes, so that it reads the same in either order
_ORDERS = {2: "<", 4: ">"}


@dataclass(frozen=True, slots=True)
class ImagicHeader:
    """What the first record says. ``sections`` counts all images, or all sections of all volumes."""

    sections: int
    rows: int
    columns: int
    stored: np.dtype[Any]
    blocks: int
    sections_a_volume: int
    name: str


def pair(address: str | Path) -> tuple[str, str]:
    """Header and data file, from the address of either one.

    >>> pair("set/a.img")
    ('set/a.hed', 'set/a.img')
    """
    text = normal(address)
    body, mark, query = text.partition("?") if "://" in text else (text, "", "")
    stem, end = body[:-4], body[-4:]
    if end.lower() not in (".hed", ".img"):
        raise FormatError(text, expected="a name ending with .hed or .img", found=repr(end))
    other = {".hed": (".hed", ".img"), ".HED": (".HED", ".IMG")}[".HED" if end.isupper() else ".hed"]
    return stem + other[0] + mark + query, stem + other[1] + mark + query


def read_imagic_header(address: str | Path) -> ImagicHeader:
    """The first record of the header file, checked against the size of that file.

    Raises
    ------
    FormatError : no such file, VAX numbers, complex data, or sizes that do not fit the file.
    """
    source = open_source(pair(address)[0])
    raw = source.read(0, min(source.size, _RECORD))
    if len(raw) < _RECORD:
        raise FormatError(source.address, expected="an IMAGIC header of 1024 bytes", found=f"{len(raw)} bytes")
    order = _byte_order(raw, source.address)
    words = struct.unpack(f"{order}256i", raw)

    def word(place: int) -> int:
        return int(words[place - 1])

    kind = raw[4 * (_TYPE - 1) : 4 * _TYPE]
    if kind not in _TYPES:
        complex_ = kind in (b"COMP", b"RECO")
        raise FormatError(
            f"{source.address}, word 15", expected="REAL, LONG, INTG or PACK", found=repr(kind.decode("latin-1")),
            remedy="Complex images are transforms: transform them back." if complex_ else "This is no IMAGIC header.",
        )  # fmt: skip
    header = ImagicHeader(
        sections=word(_IFOL) + 1, rows=word(_LINES), columns=word(_PIXELS), stored=np.dtype(f"{order}{_TYPES[kind]}"),
        blocks=max(1, word(_NBLOCKS)), sections_a_volume=max(1, word(_IZLP)), name=_name(raw),
    )  # fmt: skip
    if not (0 < header.rows <= _LARGEST and 0 < header.columns <= _LARGEST and header.sections > 0):
        raise FormatError(f"{source.address}, words 2, 13, 14", expected="numbers of images, lines and pixels",
                          found=f"{header.sections}, {header.rows}, {header.columns}")  # fmt: skip
    if source.size != header.sections * header.blocks * _RECORD:
        raise FormatError(
            source.address, expected=f"{header.sections} headers of {header.blocks * _RECORD} bytes",
            found=f"{source.size} bytes", remedy="The header file is truncated, or it belongs to other images.",
        )  # fmt: skip
    return header


def _byte_order(raw: bytes, where: str) -> str:
    real = raw[4 * (_REALTYPE - 1) : 4 * _REALTYPE]
    if real in (b"\x00\x00\x00\x01", b"\x01\x00\x00\x00"):  # 16777216
        raise FormatError(f"{where}, word 69", expected="IEEE numbers", found="those of a VAX",
                          remedy="Convert the images on a VAX, or with IMAGIC's own tools.")  # fmt: skip
    if len(set(real)) == 1 and real[0] in _ORDERS:
        return _ORDERS[real[0]]
    for order in "<>":  # old files leave the word empty
        rows, columns = struct.unpack_from(f"{order}2i", raw, 4 * (_LINES - 1))
        if 0 < rows < 65536 and 0 < columns < 65536:
            return order
    raise FormatError(f"{where}, words 13-14", expected="numbers of lines and pixels", found=repr(raw[48:56]),
                      remedy="This is no IMAGIC header.")  # fmt: skip


def _name(raw: bytes) -> str:
    return raw[116:196].split(b"\0")[0].decode("latin-1").strip()


def open_imagic(address: str | Path, *, check_size: bool = True) -> RawImages:
    """Open the images of a .hed/.img pair, given either name; the header holds no pixel size.

    Raises
    ------
    FormatError : one of the two files is missing, damaged, of complex type, or of another size than it says.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> path = tempfile.mkdtemp() + "/a.hed"
    >>> write_imagic(path, np.arange(24.0).reshape(2, 3, 4))
    >>> open_imagic(path).shape, float(open_imagic(path).read(1, 1).max())
    ((2, 3, 4), 23.0)
    """
    header = read_imagic_header(address)
    source = open_source(pair(address)[1])
    image = header.rows * header.columns * header.stored.itemsize
    check_whole(source, offset=0, stride=image, sections=header.sections, check_size=check_size, what="image")
    shape = (header.sections, header.rows, header.columns)
    return RawImages(source, shape, header.stored, 0, image, volume=header.sections_a_volume == header.sections > 1)


def write_imagic(path: str | Path, images: ArrayLike | xr.DataArray, *, volume: bool = False) -> None:
    """Write (n, y, x) images, or the sections of one volume, as a little-endian pair of type REAL.

    ``path`` is the name of either file. A lazy array is written piece by piece; the header file comes last, so that a
    pair with both names is whole.

    Raises
    ------
    ParameterError : not three-dimensional.
    ResourceError : the disk is full.
    """
    header, data = pair(path)
    shape = np.shape(images)
    Path(header).unlink(missing_ok=True)
    with atomic(header) as second, second.open("wb") as head, atomic(data) as partial, partial.open("wb") as file:
        number = 0
        for block in blocks(images, f"write_imagic({path})"):
            file.write(block.astype("<f4", copy=False).data)
            for image in block:
                number += 1
                head.write(_pack(image, number, shape[0], volume))


def _pack(image: NDArray[np.float32], number: int, total: int, volume: bool) -> bytes:
    now = datetime.now()
    rows, columns = image.shape
    raw = bytearray(_RECORD)

    def put(place: int, form: str, *values: Any) -> None:
        struct.pack_into(f"<{form}", raw, 4 * (place - 1), *values)

    put(_IMN, "4i", number, total - number if number == 1 else 0, 0, 1)
    put(5, "6i", now.month, now.day, now.year, now.hour, now.minute, now.second)
    put(_RSIZE, "4i", 4 * rows * columns, rows * columns, rows, columns)
    put(_TYPE, "4s", b"REAL")
    put(_AVERAGE, "2f", float(image.mean()), float(image.std()))
    put(_HIGH, "2f", float(image.max()), float(image.min()))
    put(_IZLP, "2i", total if volume else 1, 1 if volume else total)
    put(_REALTYPE, "4B", 2, 2, 2, 2)
    raw[116:124] = b"cryoflow"
    return bytes(raw)
