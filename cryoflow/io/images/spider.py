"""SPIDER images, volumes and stacks (.spi, .dat and others): a header of 32-bit words, then float32 rows.

Layout: spider-em.github.io/SPIDER/docs/image_doc.html. The header fills whole records of one row each, at least 1024
bytes. A stack has a header of its own, and then a header before each image. Rows are kept in the order of the file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.images.raw_images import RawImages, blocks, check_whole
from cryoflow.io.sources.source import open_source

__all__ = ["open_spider", "read_spider_header", "spider_words", "write_spider"]

_WORDS = {  # positions, counted from 1 as the manual does
    "nz": 1, "ny": 2, "irec": 3, "iform": 5, "imami": 6, "fmax": 7, "fmin": 8, "av": 9, "sig": 10, "nx": 12,
    "labrec": 13, "iangle": 14, "phi": 15, "theta": 16, "gamma": 17, "xoff": 18, "yoff": 19, "zoff": 20, "scale": 21,
    "labbyt": 22, "lenbyt": 23, "istack": 24, "maxim": 26, "imgnum": 27, "pixsiz": 38,
}  # fmt: skip
_FORMS = {1: "image", 3: "volume", -11: "2D Fourier", -12: "2D Fourier", -21: "3D Fourier", -22: "3D Fourier"}
_LARGEST = 1 << 24  # float32 counts no further
HEAD_BYTES = 40 * 4


def spider_words(head: bytes) -> tuple[str, dict[str, float]] | None:
    """Byte order and named words of a SPIDER header, or nothing if these bytes are none. SPIDER has no magic number."""
    if len(head) < HEAD_BYTES:
        return None
    for order in "<>":
        raw = struct.unpack(f"{order}40f", head[:HEAD_BYTES])
        words = {name: raw[place - 1] for name, place in _WORDS.items()}
        counts = [words[name] for name in ("nz", "ny", "nx", "labrec", "labbyt", "lenbyt", "iform", "istack", "maxim")]
        if not all(abs(value) <= _LARGEST and value == int(value) for value in counts):  # also refuses NaN
            continue
        nz, ny, nx, labrec, labbyt, lenbyt = (int(value) for value in counts[:6])
        fits = nz != 0 and ny >= 1 and nx >= 1 and lenbyt == 4 * nx and labbyt == labrec * lenbyt and labbyt >= 1024
        if fits and int(words["iform"]) in _FORMS:
            return order, words
    return None


def read_spider_header(address: str | Path) -> dict[str, float]:
    """The named words of the first header: sizes, angles, offsets, statistics; with ``pixsiz`` 0 where unknown."""
    return _header(open_source(address))[1]


def _header(source: Any) -> tuple[str, dict[str, float]]:
    found = spider_words(source.read(0, min(source.size, HEAD_BYTES)))
    if found is None:
        raise FormatError(
            f"{source.address}, bytes 0-{HEAD_BYTES}", expected="a SPIDER header", found="words that do not agree",
            remedy="This is not a SPIDER image.",
        )  # fmt: skip
    return found


def open_spider(address: str | Path, *, check_size: bool = True) -> RawImages:
    """Open an image, a volume (its slices are the sections) or a stack of images, of either byte order.

    ``check_size=False`` opens a truncated file; sections beyond its end cannot be read.

    Raises
    ------
    FormatError : no SPIDER header, Fourier data, an indexed stack, a stack of volumes, or a wrong size.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> path = tempfile.mkdtemp() + "/a.spi"
    >>> write_spider(path, np.arange(24.0).reshape(2, 3, 4), stack=True)
    >>> open_spider(path).read(1, 1).tolist()
    [[[12.0, 13.0, 14.0, 15.0], [16.0, 17.0, 18.0, 19.0], [20.0, 21.0, 22.0, 23.0]]]
    """
    source = open_source(address)
    order, words = _header(source)
    form, stack = int(words["iform"]), int(words["istack"])
    nz, ny, nx, header = abs(int(words["nz"])), int(words["ny"]), int(words["nx"]), int(words["labbyt"])
    if form not in (1, 3):
        raise FormatError(f"{source.address}, word 5", expected="an image or a volume",
                          found=f"a {_FORMS[form]} transform", remedy="Transform it back in SPIDER.")  # fmt: skip
    if stack < 0:
        raise FormatError(f"{source.address}, word 24", expected="a simple stack", found="an indexed stack",
                          remedy="Copy it to a simple stack in SPIDER.")  # fmt: skip
    if stack and nz > 1:
        raise FormatError(f"{source.address}, words 1 and 24", expected="a stack of images", found="one of volumes",
                          remedy="Write the volumes to files of their own.")  # fmt: skip
    sections = int(words["maxim"]) if stack else nz
    if sections < 1:
        raise FormatError(f"{source.address}, word 26", expected="at least one image", found=f"{sections}")
    image = 4 * nx * ny
    stride = image + header if stack else image
    check_whole(source, offset=header, stride=stride, sections=sections, check_size=check_size,
                what="image" if stack else "slice")  # fmt: skip
    pixel = words["pixsiz"] if 0 < words["pixsiz"] < 1e4 else 0.0
    word = struct.pack(f"{order}f", float(nx))
    return RawImages(
        source, (sections, ny, nx), np.dtype(f"{order}f4"), header + (header if stack else 0), stride,
        (round(pixel, 6),) * 3, (4 * (_WORDS["nx"] - 1), word) if stack else None, nz > 1,
    )  # fmt: skip


def write_spider(
    path: str | Path, images: ArrayLike | xr.DataArray, *, stack: bool, pixel_size: float = 0.0, byte_order: str = "<"
) -> None:
    """Write (n, y, x) images as a stack, or as the slices of one volume (one image, if n is 1), whole or not at all.

    ``pixel_size`` in angstrom, 0 if unknown; ``byte_order`` "<" or ">". A lazy array is written piece by piece.

    Raises
    ------
    ParameterError : not three-dimensional, or another byte order.
    ResourceError : the disk is full.
    """
    where = f"write_spider({path})"
    if byte_order not in ("<", ">"):
        raise ParameterError(where, expected="byte order '<' or '>'", found=repr(byte_order))
    shape = np.shape(images)
    low, high, total, squares = np.inf, -np.inf, 0.0, 0.0
    with atomic(path) as partial, partial.open("wb") as file:
        number = 0
        for block in blocks(images, where):
            n, ny, nx = shape
            if not number:
                file.write(_pack(byte_order, nx, ny, 1 if stack else n, pixel_size, istack=2 if stack else 0, maxim=n))
            for image in block:
                number += 1
                if stack:
                    file.write(_pack(byte_order, nx, ny, 1, pixel_size, imgnum=number, data=image))
                file.write(image.astype(f"{byte_order}f4").data)
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            total += float(block.sum(dtype=np.float64))
            squares += float(np.square(block, dtype=np.float64).sum())
        if not stack:  # the statistics, now that they are known
            mean = total / np.prod(shape)
            sigma = float(np.sqrt(max(0.0, squares / np.prod(shape) - mean**2)))
            file.seek(4 * (_WORDS["imami"] - 1))
            file.write(struct.pack(f"{byte_order}5f", 1.0, high, low, mean, sigma))


def _pack(
    order: str, nx: int, ny: int, nz: int, pixel_size: float, *, istack: int = 0, maxim: int = 0, imgnum: int = 0,
    data: Any = None,
) -> bytes:  # fmt: skip
    records = -(-1024 // (4 * nx))
    words = {
        "nz": nz, "ny": ny, "irec": nz * ny + records, "iform": 3 if nz > 1 else 1, "nx": nx, "labrec": records,
        "labbyt": records * 4 * nx, "lenbyt": 4 * nx, "istack": istack, "maxim": maxim if istack else 0,
        "imgnum": imgnum, "scale": 1.0, "sig": -1.0, "pixsiz": pixel_size,
    }  # fmt: skip
    if data is not None:
        words |= {"imami": 1, "fmax": data.max(), "fmin": data.min(), "av": data.mean(), "sig": data.std()}
    raw = np.zeros(records * nx, f"{order}f4")
    for name, value in words.items():
        raw[_WORDS[name] - 1] = value
    return raw.tobytes()
