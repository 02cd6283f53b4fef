"""EER movies of Thermo Fisher's detectors: electrons in a BigTIFF file, thousands of frames, summed into fractions.

Rows are kept in the order of the file, as RELION does. The size of a pixel and the dose come from the acquisition's
metadata where it says them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.images.raw_images import check_range
from cryoflow.io.images.tiff import segments
from cryoflow.io.images.tiff_tags import Page, Tag, read_page, read_pages
from cryoflow.io.sources.source import Source, open_binary, open_source

__all__ = ["EerHeader", "EerImages", "open_eer", "read_eer_header"]

_SKIP_BITS = {65000: 8, 65001: 7}  # 65002 says its own
_LARGEST = 1 << 16
_XML_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EerHeader:
    """What a file says of its movie. ``bits``: of a run, and of the place in a pixel along x and y.

    ``exposure_time`` in seconds, ``dose_rate`` in electrons a pixel and second, ``total_dose`` in electrons a pixel,
    ``pixel_size`` in angstrom; 0 where the file does not say. ``metadata`` holds all items as text, with their units
    as "name.unit".
    """

    frames: int
    rows: int
    columns: int
    bits: tuple[int, int, int]
    exposure_time: float
    dose_rate: float
    total_dose: float
    pixel_size: float
    serial_number: str
    timestamp: str
    metadata: dict[str, str]
    offsets: tuple[int, ...]

    @property
    def dose_per_frame(self) -> float:
        """Electrons a square angstrom in one frame; 0 where the file does not say."""
        area = self.pixel_size**2
        return self.total_dose / area / self.frames if area else 0.0


def read_eer_header(address: str | Path) -> EerHeader:
    """Read the directories and the metadata of an EER file; frames that were not written to their end are refused.

    Raises
    ------
    FormatError : no EER file, frames of different shapes, data outside of the file, or metadata that are no XML.
    """
    return _header(open_source(address), check_size=True)


def _header(source: Source, *, check_size: bool) -> EerHeader:
    offsets: list[int] = []
    shape: tuple[int, ...] | None = None
    metadata: dict[str, str] = {}
    try:
        for page in read_pages(source):
            where = f"{source.address}, page {page.number + 1}"
            if page.number == 0:
                metadata = _metadata(page.tags.get(Tag.EER_METADATA, b""), where)
            found = _check_frame(page, source.size, where)
            if found is None:
                continue  # the image that the camera summed, or what a later version adds
            if shape is None:
                shape = found
            if found != shape:
                raise FormatError(where, expected=f"rows, columns and bits {shape}", found=f"{found}")
            offsets.append(page.offset)
    except FormatError:
        if check_size or not offsets:
            raise
    if shape is None:
        raise FormatError(source.address, expected="frames of electrons (EER)", found="a TIFF file without any",
                          remedy="Open it as TIFF.")  # fmt: skip
    declared = _real(metadata, "numberOfFrames")
    if check_size and declared and int(declared) != len(offsets):
        raise FormatError(source.address, expected=f"{int(declared)} frames, as its metadata say",
                          found=f"{len(offsets)}", remedy="The file was not written to its end.")  # fmt: skip
    unit = {"m": 1e10, "nm": 10.0, "um": 1e4, "pm": 0.01, "A": 1.0}.get(
        metadata.get("sensorPixelSize.width.unit", "m"), 0
    )
    pixel = _real(metadata, "sensorPixelSize.width") * unit
    return EerHeader(
        len(offsets), shape[0], shape[1], (shape[2], shape[3], shape[4]), _real(metadata, "exposureTime"),
        _real(metadata, "meanDoseRate"), _real(metadata, "totalDose"), round(pixel, 6) if 0.01 < pixel < 1000 else 0.0,
        metadata.get("serialNumber", ""), metadata.get("timestamp", ""), metadata, tuple(offsets),
    )  # fmt: skip


def _real(metadata: dict[str, str], name: str) -> float:
    try:
        value = float(metadata.get(name, "0"))
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0


def _metadata(raw: Any, where: str) -> dict[str, str]:
    """The items of the acquisition's XML; no document type, so no entities."""
    from xml.etree import ElementTree

    if not isinstance(raw, bytes) or not raw.strip(b"\0 \r\n\t"):
        return {}
    if len(raw) > _XML_BYTES or b"<!" in raw:
        raise FormatError(f"{where}, tag {int(Tag.EER_METADATA)}", expected="plain XML of at most 1 MB",
                          found=f"{len(raw)} bytes, or declarations")  # fmt: skip
    try:
        root = ElementTree.fromstring(raw.strip(b"\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise FormatError(f"{where}, tag {int(Tag.EER_METADATA)}", expected="XML", found=str(error)) from error
    items: dict[str, str] = {}
    for item in root.iter("item"):
        name = item.get("name", "")
        items[name] = (item.text or "").strip()
        if item.get("unit"):
            items[f"{name}.unit"] = str(item.get("unit"))
    return items


def _check_frame(page: Page, size: int, where: str) -> tuple[int, int, int, int, int] | None:
    """Rows, columns and bits of a frame of electrons, or nothing if this page is something else."""
    codec = page.whole(Tag.COMPRESSION, 1)
    if codec not in (65000, 65001, 65002):
        return None
    rows, columns = page.whole(Tag.LENGTH, 0), page.whole(Tag.WIDTH, 0)
    bits = (_SKIP_BITS[codec], 2, 2) if codec != 65002 else (
        page.whole(Tag.EER_SKIP_BITS, 7), page.whole(Tag.EER_HORIZONTAL_BITS, 2), page.whole(Tag.EER_VERTICAL_BITS, 2)
    )  # fmt: skip
    if not (0 < rows <= _LARGEST and 0 < columns <= _LARGEST):
        raise FormatError(where, expected="a height and a width", found=f"{rows} x {columns}")
    if not (2 <= bits[0] <= 12 and 0 <= bits[1] <= 4 and 0 <= bits[2] <= 4):
        raise FormatError(where, expected="2 to 12 bits of runs and 0 to 4 of places", found=f"{bits}")
    total = 0
    for _, _, _, _, start, length in segments(page, where):
        if start + length > size or start <= 0:
            raise FormatError(where, expected=f"{length} bytes at {start}", found=f"a file of {size} bytes",
                              remedy="The file is truncated: copy it again.")  # fmt: skip
        total += length
    if total * 8 // bits[0] * ((1 << bits[0]) - 1) < rows * columns:
        raise FormatError(where, expected=f"electrons of {rows} x {columns} pixels", found=f"{total} bytes",
                          remedy="The file is damaged.")  # fmt: skip
    return rows, columns, *bits


@dataclass(frozen=True, slots=True)
class EerImages:
    """Fractions of an EER movie: section i holds the electrons of frames ``first[i]`` to ``first[i + 1]``.

    Implements ``ImageFile``. ``finer`` is log2 of the samples a pixel and axis.
    """

    source: Source
    header: EerHeader
    first: tuple[int, ...]
    finer: int

    @property
    def path(self) -> str:
        """Path or URL, as messages name it."""
        return self.source.address

    @property
    def shape(self) -> tuple[int, int, int]:
        """(fractions, rows, columns)."""
        return len(self.first) - 1, self.header.rows << self.finer, self.header.columns << self.finer

    @property
    def dtype(self) -> np.dtype[Any]:
        """Counts: a pixel holds one electron a frame at most."""
        frames = max(stop - start for start, stop in zip(self.first, self.first[1:], strict=False))
        return np.dtype(np.uint8 if frames < 256 else np.uint16)

    @property
    def voxel(self) -> tuple[float, float, float]:
        """(x, y, z) in angstrom; 0 where the file does not say."""
        return (round(self.header.pixel_size / (1 << self.finer), 6),) * 3

    def token(self) -> str:
        """A name of the content."""
        return f"{self.source.token()} {self.first} {self.finer}"

    def read(self, first: int, count: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Fractions ``first`` to ``first + count`` as counts (count, rows, columns), into ``out`` if given."""
        from cryoflow.io.images.eer_codec import add_frame

        check_range(self.path, self.shape[0], first, count)
        direct = out is not None and out.dtype == self.dtype
        sums = out if direct and out is not None else np.empty((count, *self.shape[1:]), self.dtype)
        sums[...] = 0
        rows, columns = self.header.rows, self.header.columns
        with open_binary(self.source) as file:
            for i in range(count):
                for frame in range(self.first[first + i], self.first[first + i + 1]):
                    where = f"{self.path}, frame {frame + 1}"
                    page = read_page(self.source, file, frame, self.header.offsets[frame])
                    if _check_frame(page, self.source.size, where) != (rows, columns, *self.header.bits):
                        raise FormatError(where, expected="the frame that was there", found="another",
                                          remedy="The file has changed since it was opened.")  # fmt: skip
                    pieces = []
                    for _, _, _, _, start, length in segments(page, where):
                        file.seek(start)
                        pieces.append(file.read(length))
                    data = np.frombuffer(b"".join(pieces), np.uint8)
                    passed = add_frame(data, *self.header.bits, self.finer, (rows, columns), sums[i])
                    if passed < rows * columns:
                        raise FormatError(where, expected=f"electrons of {rows * columns} pixels", found=f"{passed}",
                                          remedy="The frame is cut off.")  # fmt: skip
        if out is None or direct:
            return sums
        out[...] = sums
        return out


def open_eer(
    address: str | Path, *, frames_per_fraction: int | None = None, fractions: int | None = None, upsampling: int = 1,
    check_size: bool = True,
) -> EerImages:  # fmt: skip
    """Open an EER movie as fractions: sums of frames, as counts of electrons. Only its directories are read.

    Parameters
    ----------
    frames_per_fraction : frames a fraction (RELION's grouping); frames that remain are left out. Default: 1.
    fractions : or how many fractions of (nearly) equal length; no frame is left out.
    upsampling : samples a pixel and axis: 1 (4k), 2 (8k) or 4 (16k), as finely as the detector tells the place.
    check_size : False opens the frames before the first damaged one.

    Raises
    ------
    FormatError : as ``read_eer_header``.
    ParameterError : more fractions than frames, both ways of fractions, or an upsampling that the file has not.
    """
    source = open_source(address)
    header = _header(source, check_size=check_size)
    where, frames = f"open_eer({source.address})", header.frames
    if frames_per_fraction is not None and fractions is not None:
        raise ParameterError(where, expected="frames_per_fraction or fractions", found="both")
    finest = 1 << min(header.bits[1:])
    if not 1 <= upsampling <= finest or upsampling & (upsampling - 1):
        raise ParameterError(where, expected=f"upsampling by a power of two up to {finest}", found=f"{upsampling}")
    number = fractions if fractions is not None else frames // max(1, frames_per_fraction or 1)
    if not 1 <= number <= frames or (frames_per_fraction or 1) < 1:
        raise ParameterError(where, expected=f"1 to {frames} fractions, as there are {frames} frames",
                             found=f"frames_per_fraction={frames_per_fraction}, fractions={fractions}")  # fmt: skip
    first: Sequence[int]
    if fractions is not None:
        first = [frames * i // fractions for i in range(fractions + 1)]
    else:
        first = range(0, number * (frames_per_fraction or 1) + 1, frames_per_fraction or 1)
    return EerImages(source, header, tuple(first), upsampling.bit_length() - 1)
