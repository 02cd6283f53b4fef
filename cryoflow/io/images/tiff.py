"""TIFF and BigTIFF images: strips or tiles, plain, PackBits, LZW, deflate or ZSTD, with predictors; pages as sections.

Rows are counted from the bottom, as RELION and IMOD do, so that hands agree with MRC. The directories are read by
``tiff_tags``; imagecodecs decompresses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.images.raw_images import check_range, foreign_errors
from cryoflow.io.images.tiff_tags import Page, Tag, read_page, read_pages
from cryoflow.io.sources.source import Source, open_binary, open_source

__all__ = ["TiffImages", "open_tiff", "pixel_size", "segments"]

# compression: name, and how many bytes one compressed byte can become at most
_CODECS = {
    1: ("none", 1), 5: ("lzw", 4096), 8: ("zlib", 1032), 32946: ("zlib", 1032), 32773: ("packbits", 64),
    50000: ("zstd", 32768),
}  # fmt: skip
_REFUSED = {2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "JPEG (lossy)", 7: "JPEG (lossy)", 34712: "JPEG 2000",
            65000: "EER", 65001: "EER", 65002: "EER"}  # fmt: skip
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_COLOURS = {2: "RGB", 3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
_LARGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class TiffImages:
    """The pages of a file, read one by one where they lie (``offsets``). Implements ``ImageFile``.

    ``as_stored``: rows in the order of the file, as those of EER; a gain reference (.gain) of EER has them so.
    """

    source: Source
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    voxel: tuple[float, float, float]
    offsets: tuple[int, ...]
    as_stored: bool = False

    @property
    def path(self) -> str:
        """Path or URL, as messages name it."""
        return self.source.address

    def token(self) -> str:
        """A name of the content."""
        return f"{self.source.token()} {self.as_stored}"

    def read(self, first: int, count: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Pages ``first`` to ``first + count`` as (count, rows, columns), into ``out`` if given."""
        check_range(self.path, self.shape[0], first, count)
        target = np.empty((count, *self.shape[1:]), self.dtype) if out is None else out
        with open_binary(self.source) as file:
            for i in range(count):
                page = read_page(self.source, file, first + i, self.offsets[first + i])
                where = f"{self.path}, page {first + i + 1}"
                _check_page(page, self.source.size, where)
                as_stored = self.as_stored or page.whole(Tag.ORIENTATION, 1) == 4
                _decode(page, file, target[i] if as_stored else target[i, ::-1], where)
        return target


def open_tiff(address: str | Path, *, check_size: bool = True) -> TiffImages:
    """Open a TIFF file whose pages are grey images of one shape and type; only its directories are read.

    ``check_size=False`` keeps the pages before the first damaged one.

    Raises
    ------
    FormatError : no TIFF file, colours, a compression that is lossy or not known, pages of different shapes, or a page
        whose data leave the file.

    Examples
    --------
    >>> import tempfile, numpy as np, tifffile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> tifffile.imwrite(path, np.arange(40, dtype=np.uint8).reshape(2, 4, 5), compression="lzw")
    >>> open_tiff(path).read(0, 1).tolist()  # rows from the bottom
    [[[15, 16, 17, 18, 19], [10, 11, 12, 13, 14], [5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]]
    """
    source = open_source(address)
    offsets: list[int] = []
    first: tuple[tuple[int, int], np.dtype[Any]] | None = None
    voxel = 0.0, 0.0, 0.0
    try:
        for page in read_pages(source):
            where = f"{source.address}, page {page.number + 1}"
            found = _check_page(page, source.size, where)
            if first is None:
                first, voxel = found, pixel_size(page)
            if found != first:
                raise FormatError(where, expected=f"{_told(first)}, as page 1", found=_told(found))
            offsets.append(page.offset)
    except FormatError:
        if check_size or not offsets:
            raise
    if first is None:
        raise FormatError(source.address, expected="at least one page", found="none")
    gain = source.address.partition("?")[0].lower().endswith(".gain")
    return TiffImages(source, (len(offsets), *first[0]), first[1], voxel, tuple(offsets), gain)


def _told(found: tuple[tuple[int, int], np.dtype[Any]]) -> str:
    return f"{found[0][0]} x {found[0][1]} of {found[1]}"


def _check_page(page: Page, size: int, where: str) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Shape and type of a page that can be read; nothing is allocated for one whose data do not suffice."""
    rows, columns = page.whole(Tag.LENGTH, 0), page.whole(Tag.WIDTH, 0)
    if not (0 < rows <= _LARGEST and 0 < columns <= _LARGEST):
        raise FormatError(where, expected="a height and a width", found=f"{rows} x {columns}")
    colour = page.whole(Tag.PHOTOMETRIC, 1)
    if page.whole(Tag.SAMPLES, 1) != 1 or colour not in (0, 1):
        found = _COLOURS.get(colour, f"{page.whole(Tag.SAMPLES, 1)} samples a pixel")
        raise FormatError(where, expected="one grey image", found=found, remedy="Colours are no densities.")
    codec = page.whole(Tag.COMPRESSION, 1)
    if codec not in _CODECS:
        raise FormatError(
            where, expected=f"no compression, or {', '.join(sorted({n for n, _ in _CODECS.values() if n != 'none'}))}",
            found=_REFUSED.get(codec, f"compression {codec}"),
            remedy="Open it as EER." if codec in (65000, 65001, 65002) else "Write it anew without loss.",
        )  # fmt: skip
    if page.whole(Tag.ORIENTATION, 1) not in (1, 4):
        raise FormatError(where, expected="rows from the top or from the bottom (orientation 1 or 4)",
                          found=f"orientation {page.whole(Tag.ORIENTATION, 1)}")  # fmt: skip
    bits, kind = page.whole(Tag.BITS, 1), page.whole(Tag.SAMPLE_FORMAT, 1)
    if bits not in (8, 16, 32, 64) or kind not in _KINDS or (kind == 3 and bits == 8):
        raise FormatError(where, expected="8, 16, 32 or 64 bits of whole or real numbers",
                          found=f"{bits} bits of sample format {kind}")  # fmt: skip
    dtype = np.dtype(f"{_KINDS[kind]}{bits // 8}")
    predictor = page.whole(Tag.PREDICTOR, 1)
    if predictor not in (1, 2, 3) or (predictor == 3) > (kind == 3):
        raise FormatError(where, expected="predictor 1, 2 or, for real numbers, 3", found=f"{predictor}")
    for _, height, _, width, start, length in segments(page, where):
        needed, name = height * width * dtype.itemsize, _CODECS[codec][0]
        if start + length > size or start <= 0:
            raise FormatError(where, expected=f"{length} bytes at {start}", found=f"a file of {size} bytes",
                              remedy="The file is truncated: copy it again.")  # fmt: skip
        if length * _CODECS[codec][1] < needed or length == 0:
            raise FormatError(where, expected=f"{height} x {width} pixels of {dtype}",
                              found=f"{length} bytes ({name})", remedy="The file is damaged.")  # fmt: skip
    return (rows, columns), dtype


def segments(page: Page, where: str) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Strips or tiles as (first row, rows stored, first column, columns stored, offset, bytes)."""
    rows, columns = page.whole(Tag.LENGTH, 0), page.whole(Tag.WIDTH, 0)
    tiled = Tag.TILE_OFFSETS in page.tags
    height = page.whole(Tag.TILE_LENGTH, 0) if tiled else min(rows, page.whole(Tag.ROWS_PER_STRIP, rows))
    width = page.whole(Tag.TILE_WIDTH, 0) if tiled else columns
    offsets = page.numbers(Tag.TILE_OFFSETS if tiled else Tag.STRIP_OFFSETS)
    lengths = page.numbers(Tag.TILE_COUNTS if tiled else Tag.STRIP_COUNTS)
    if not (0 < height <= _LARGEST and 0 < width <= _LARGEST):
        raise FormatError(where, expected="a size of strips or tiles", found=f"{height} x {width}")
    down, across = -(-rows // height), -(-columns // width)
    if not len(offsets) == len(lengths) == down * across:
        raise FormatError(where, expected=f"{down * across} {'tiles' if tiled else 'strips'}",
                          found=f"{len(offsets)} offsets and {len(lengths)} lengths")  # fmt: skip
    for i in range(down * across):
        top, left = i // across * height, i % across * width
        stored = height if tiled else min(height, rows - top)  # tiles are whole, the last strip is not
        yield top, stored, left, width, int(offsets[i]), int(lengths[i])


def _decode(page: Page, file: BinaryIO, out: NDArray[Any], where: str) -> None:
    """Fill ``out`` (rows, columns; of any type), its first row the file's first."""
    import imagecodecs

    codec, predictor = _CODECS[page.whole(Tag.COMPRESSION, 1)][0], page.whole(Tag.PREDICTOR, 1)
    kind = f"{page.order}{_KINDS[page.whole(Tag.SAMPLE_FORMAT, 1)]}{page.whole(Tag.BITS, 1) // 8}"
    dtype = np.dtype(kind)
    for top, height, left, width, start, length in segments(page, where):
        file.seek(start)
        raw = file.read(length)
        needed = height * width * dtype.itemsize
        with foreign_errors(f"{where}, row {top + 1}", f"{codec} data"):
            if codec != "none":
                raw = getattr(imagecodecs, f"{codec}_decode")(raw, out=needed)
            if len(raw) < needed:
                raise FormatError(f"{where}, row {top + 1}", expected=f"{needed} bytes", found=f"{len(raw)}",
                                  remedy="The file is damaged.")  # fmt: skip
            block = np.frombuffer(raw, dtype, height * width).reshape(height, width)
            if predictor == 2:
                whole = block.view(block.dtype.str.replace("f", "u"))  # differences are of bits, also of real numbers
                block = np.cumsum(whole, axis=1, dtype=whole.dtype.newbyteorder("=")).view(dtype.newbyteorder("="))
            elif predictor == 3:
                block = imagecodecs.floatpred_decode(block.astype(dtype, copy=True), axis=-1)
            shown = out[top : top + height, left : left + width]
            shown[...] = block[: shown.shape[0], : shown.shape[1]]


# what a file says of its pixels ---------------------------------------------------------------------------------------

_UNITS = {
    "nm": 10.0, "nanometer": 10.0, "um": 1e4, "µm": 1e4, "μm": 1e4, "micron": 1e4, "microns": 1e4, "\\u00b5m": 1e4,
    "å": 1.0, "\\u00c5": 1.0, "a": 1.0, "angstrom": 1.0, "angstroms": 1.0, "pm": 0.01, "mm": 1e7,
}  # fmt: skip


def pixel_size(page: Page) -> tuple[float, float, float]:
    """(x, y, z) in angstrom, from SerialEM's, ImageJ's or OME's description, or the resolution tags; 0 if not said.

    Resolutions that mean a printer (pixels above 1000 angstrom) say nothing.
    """
    text = page.text(Tag.DESCRIPTION)[:100_000]
    found = re.search(r"^\s*PixelSpacing\s*=\s*([0-9.eE+-]+)", text, re.MULTILINE)  # SerialEM, angstrom
    if found:
        return _sane(found[1], found[1])
    ome = [re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', text) for axis in "XY"]
    if ome[0]:
        units = [re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', text) for axis in "XY"]
        factor = [_UNITS.get(unit[1].lower(), 0.0) if unit else 1e4 for unit in units]
        y = ome[1] or ome[0]
        return _sane(ome[0][1], y[1], *factor)
    x, y_ = (_per_unit(page, tag) for tag in (Tag.X_RESOLUTION, Tag.Y_RESOLUTION))
    if not x or not y_:
        return 0.0, 0.0, 0.0
    if text.startswith("ImageJ="):
        unit = re.search(r"^unit=(.+)$", text, re.MULTILINE)
        scale = _UNITS.get(unit[1].strip().lower(), 0.0) if unit else 0.0
    else:
        scale = {2: 2.54e8, 3: 1e8}.get(page.whole(Tag.UNIT, 2), 0.0)
    return _sane(1 / x, 1 / y_, scale, scale)


def _sane(x: Any, y: Any, scale_x: float = 1.0, scale_y: float = 1.0) -> tuple[float, float, float]:
    try:
        sizes = float(x) * scale_x, float(y) * scale_y
    except ValueError:
        return 0.0, 0.0, 0.0
    if not all(math.isfinite(size) and 0.001 < size < 1000 for size in sizes):
        return 0.0, 0.0, 0.0
    return round(sizes[0], 6), round(sizes[1], 6), round(sizes[0], 6)


def _per_unit(page: Page, tag: int) -> float:
    value = page.tags.get(tag)
    if not isinstance(value, np.ndarray) or value.shape[1:] != (2,) or not len(value) or value[0, 1] == 0:
        return 0.0
    return float(value[0, 0] / value[0, 1])
