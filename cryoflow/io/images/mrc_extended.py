"""What microscopes write between the header of an MRC file and its images: one record a section.

FEI1 and FEI2 (Thermo Fisher's EPU and Tomography), SERI (SerialEM, by its bit flags), AGAR (the older layout of FEI and
of Agard's laboratory), CCP4 (symmetry operators). The layouts of FEI1 and FEI2 come with ``mrcfile``.
"""

from __future__ import annotations

import struct
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.images.mrc_header import Header, read_header
from cryoflow.io.sources.source import Source, open_source

__all__ = ["extended_kind", "read_extended", "symmetry_operators"]

_FEI = ("FEI1", "FEI2")
# SerialEM: flag, name, values, what one is divided by; the bits that later versions reserve take their bytes as well
_SERI = (
    (1, "tilt_angle", 1, 100.0), (2, "piece", 3, 1.0), (4, "stage", 2, 25.0), (8, "magnification", 1, 0.01),
    (16, "intensity", 1, 25000.0), (32, "dose", 2, 0.0), (64, "", 1, 1.0), (128, "", 2, 1.0), (256, "", 1, 1.0),
    (512, "", 2, 1.0), (1024, "", 1, 1.0),
)  # fmt: skip
# Agard's record: float32 in the order of the file, in SI units and degrees
_AGARD = (
    "tilt_angle", "tilt_beta", "stage_x", "stage_y", "stage_z", "shift_x", "shift_y", "defocus", "exposure_time",
    "mean_intensity", "tilt_axis", "pixel_size", "magnification", "voltage", "binning", "applied_defocus",
)  # fmt: skip
_FACTORS = {"stage_x": 1e6, "stage_y": 1e6, "stage_z": 1e6, "defocus": -1e10, "applied_defocus": -1e10,
            "pixel_size": 1e10, "voltage": 1e-3}  # fmt: skip
# names of ours for FEI's fields, and what one of their units is in ours
_NAMES = {
    "HT": ("voltage", 1e-3), "Dose": ("dose", 1e-20),
    "Alpha tilt": ("tilt_angle", 1.0), "Beta tilt": ("tilt_beta", 1.0),
    "X-Stage": ("stage_x", 1e6), "Y-Stage": ("stage_y", 1e6), "Z-Stage": ("stage_z", 1e6),
    "Tilt axis angle": ("tilt_axis", 1.0), "Pixel size X": ("pixel_size", 1e10), "Defocus": ("defocus", -1e10),
    "Applied defocus": ("applied_defocus", -1e10), "Magnification": ("magnification", 1.0),
    "Integration time": ("exposure_time", 1.0), "Slit width": ("slit_width", 1.0), "Camera name": ("camera", 1.0),
}  # fmt: skip


def extended_kind(header: Header) -> str:
    """ "FEI1", "FEI2", "SERI", "AGAR", "CCP4", another code that the file gives, or "" where it has none.

    Files older than 2014 give no code: there SerialEM is known by flags that fit its record, Agard's layout by its
    count of reals, and symmetry operators by their length.
    """
    length = header.offset - 1024
    if not length:
        return ""
    if header.extended_type:
        return header.extended_type
    integers, reals = _counts(header)
    if integers and _seri_bytes(reals) == integers:
        return "SERI"
    if reals and not length % (4 * (integers + reals)):
        return "AGAR"
    return "CCP4" if not length % 80 else ""


def read_extended(path: str | Path) -> list[dict[str, Any]]:
    """One dictionary a section of what the extended header says; an empty list where it says nothing known.

    Names that all kinds share: ``voltage`` (kV), ``pixel_size`` (angstrom), ``dose`` (electrons a square angstrom),
    ``tilt_angle``, ``tilt_axis`` (degrees), ``stage_x``, ``stage_y``, ``stage_z`` (micrometres), ``defocus`` and
    ``applied_defocus`` (angstrom, underfocus positive), ``exposure_time`` (s), ``magnification``, ``slit_width`` (eV),
    ``camera``, ``time``. FEI's other fields keep their own names and units. Fields that FEI's bit masks mark as not
    valid are left out. ``pandas.DataFrame(read_extended(path))`` makes a table of it.

    Raises
    ------
    FormatError : not an MRC file, or records that do not fit the extended header.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from cryoflow.io import write_map
    >>> path = tempfile.mkdtemp() + "/m.mrc"
    >>> write_map(path, np.ones((4, 4, 4)), pixel_size=2.0)
    >>> read_extended(path)
    []
    """
    header = read_header(path, check_size=False)
    source = header.source or open_source(path)
    kind = extended_kind(header)
    if kind in _FEI:
        return _fei(header, source, kind)
    if kind == "SERI":
        return _seri(header, source)
    if kind == "AGAR":
        return _agard(header, source)
    return []


def symmetry_operators(path: str | Path) -> list[str]:
    """Lines of 80 letters that crystallographers keep there, such as "X,  Y,  Z"; none in other files."""
    header = read_header(path, check_size=False)
    if extended_kind(header) != "CCP4":
        return []
    raw = (header.source or open_source(path)).read(1024, header.offset)
    lines = [raw[at : at + 80].decode("latin-1").strip("\0 ") for at in range(0, len(raw), 80)]
    return [line for line in lines if line]


def _counts(header: Header) -> tuple[int, int]:
    """IMOD's two short integers at byte 128."""
    source = header.source or open_source(header.path)
    integers, reals = struct.unpack(f"{_order(header, source)}2h", source.read(128, 132))
    return integers, reals


# FEI -----------------------------------------------------------------------------------------------------------------


def _fei(header: Header, source: Source, kind: str) -> list[dict[str, Any]]:
    from mrcfile.dtypes import get_ext_header_dtype

    length, order = header.offset - 1024, _order(header, source)
    size = int.from_bytes(source.read(1024, 1028), "little" if order == "<" else "big") if length >= 4 else 0
    if not 128 <= size <= length:
        raise FormatError(
            f"{header.path}, byte 1024", expected=f"the size of a record of {kind}", found=f"{size} bytes",
            remedy="The extended header is damaged; the images are not.",
        )  # fmt: skip
    full = get_ext_header_dtype(kind.encode(), order)
    names = [n for n in full.names if full.fields[n][1] + full.fields[n][0].itemsize <= size]
    fields = np.dtype({"names": names, "formats": [full.fields[n][0] for n in names],
                       "offsets": [full.fields[n][1] for n in names], "itemsize": size})  # fmt: skip
    count = min(length // size, header.declared)
    records = np.frombuffer(source.read(1024, 1024 + count * size), fields)
    return [_fei_record(record, names) for record in records if record["Metadata size"] == size]


def _fei_record(record: Any, names: list[str]) -> dict[str, Any]:
    """The valid fields of one record. Each mask has a bit for each field after it; six reserved ones are one here."""
    found: dict[str, Any] = {}
    mask, bit = 0, 0
    for name in names:
        if name.startswith("Bitmask"):
            mask, bit = int(record[name]), 0
            continue
        valid = name.startswith("Metadata") or mask >> bit & 1
        bit += 6 if name == "Unused range" else 0 if name.startswith("Metadata") else 1
        if not valid or "reserved" in name or name in ("Unused range", "Metadata size"):
            continue
        value = record[name].item()
        value = value.split(b"\0")[0].decode("latin-1").strip() if isinstance(value, bytes) else value
        ours, factor = _NAMES.get(name, (name, 1.0))
        found[ours] = value if isinstance(value, str | bool) or factor == 1.0 else value * factor
        if name == "Timestamp" and isinstance(value, float) and 0 < value < 1e6:  # days, as OLE counts them
            found["time"] = (datetime(1899, 12, 30) + timedelta(days=value)).isoformat(timespec="milliseconds")
    return found


def _order(header: Header, source: Source) -> str:
    """The byte order of the file; one byte a value does not tell it in the type."""
    if header.stored.itemsize > 1:
        return ">" if header.stored.newbyteorder("=") != header.stored else "<"
    return ">" if int.from_bytes(source.read(0, 4), "little") > 1 << 24 else "<"


# SerialEM and Agard --------------------------------------------------------------------------------------------------


def _seri_bytes(flags: int) -> int:
    """Bytes of a record with these flags; 0 for flags that SerialEM does not have."""
    return sum(2 * number for flag, _, number, _ in _SERI if flags & flag) if 0 < flags < 2048 else 0


def _seri(header: Header, source: Source) -> list[dict[str, Any]]:
    size, flags = _counts(header)
    if size <= 0 or _seri_bytes(flags) != size:
        raise FormatError(
            f"{header.path}, bytes 128-131", expected="flags of SerialEM that fit the size of its records",
            found=f"flags {flags} and {size} bytes",
        )  # fmt: skip
    count = min((header.offset - 1024) // size, header.declared)
    raw = np.frombuffer(source.read(1024, 1024 + count * size), f"{_order(header, source)}i2").reshape(count, size // 2)
    return [_seri_record(row, flags) for row in raw]


def _seri_record(row: NDArray[np.int16], flags: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    at = 0
    for flag, name, number, divisor in _SERI:
        if not flags & flag:
            continue
        values, at = [int(v) for v in row[at : at + number]], at + number
        if name == "piece":
            found["piece"] = values
        elif name == "stage":
            found["stage_x"], found["stage_y"] = (v / divisor for v in values)
        elif name == "dose":
            found["dose"] = _short_real(*values)
        elif name:
            found[name] = values[0] / divisor
    return found


def _short_real(first: int, second: int) -> float:
    """SerialEM's real number of two short integers: a mantissa of 15 + 8 bits, an exponent of 7, and two signs."""
    mantissa = abs(first) * 256 + abs(second) % 256
    exponent = abs(second) // 256
    return (1 if first >= 0 else -1) * mantissa * 2.0 ** (exponent if second >= 0 else -exponent)


def _agard(header: Header, source: Source) -> list[dict[str, Any]]:
    integers, reals = _counts(header)
    length = header.offset - 1024
    if integers < 0 or reals <= 0:
        integers, reals = 0, 32  # 128 bytes a record, as FEI wrote it
    size = 4 * (integers + reals)
    count = min(length // size, header.declared)
    raw = np.frombuffer(source.read(1024, 1024 + count * size), f"{_order(header, source)}f4").reshape(count, size // 4)
    names = _AGARD[:reals]
    return [
        {name: float(value) * _FACTORS.get(name, 1.0) for name, value in zip(names, row[integers:], strict=False)}
        for row in raw
    ]
