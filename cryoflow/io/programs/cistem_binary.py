"""cisTEM's binary parameter files (``.cistem``): columns by codes and types, then rows.

Two int32 (columns, rows), for each column an int64 code and a one-byte type, then the rows, packed, little-endian; a
text is an int32 length and so many bytes. Source: cisTEM's published source (cistem_parameters).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError

__all__ = ["COLUMNS", "packed", "unpacked"]

# types of columns
_INTEGER, _FLOAT, _LONG, _DOUBLE, _TEXT, _UNSIGNED = 2, 3, 5, 6, 8, 9
# label: (code, type), in the order in which cisTEM writes columns
COLUMNS: dict[str, tuple[int, int]] = {
    "PositionInStack": (0, _UNSIGNED), "AnglePsi": (2, _FLOAT), "AngleTheta": (22, _FLOAT), "AnglePhi": (23, _FLOAT),
    "XShift": (3, _FLOAT), "YShift": (4, _FLOAT), "Defocus1": (5, _FLOAT), "Defocus2": (6, _FLOAT),
    "DefocusAngle": (7, _FLOAT), "PhaseShift": (8, _FLOAT), "ImageActivity": (1, _INTEGER), "Occupancy": (9, _FLOAT),
    "LogP": (10, _FLOAT), "Sigma": (11, _FLOAT), "Score": (12, _FLOAT), "ScoreChange": (13, _FLOAT),
    "PixelSize": (14, _FLOAT), "MicroscopeVoltagekV": (15, _FLOAT), "MicroscopeCsMM": (16, _FLOAT),
    "AmplitudeContrast": (17, _FLOAT), "BeamTiltX": (18, _FLOAT), "BeamTiltY": (19, _FLOAT),
    "ImageShiftX": (20, _FLOAT), "ImageShiftY": (21, _FLOAT), "Best2DClass": (27, _INTEGER),
    "BeamTiltGroup": (28, _INTEGER), "StackFilename": (24, _TEXT), "OriginalImageFilename": (25, _TEXT),
    "Reference3DFilename": (26, _TEXT), "ParticleGroup": (29, _INTEGER), "AssignedSubset": (32, _INTEGER),
    "PreExposure": (30, _FLOAT), "TotalExposure": (31, _FLOAT), "OriginalXPosition": (33, _FLOAT),
    "OriginalYPosition": (34, _FLOAT),
}  # fmt: skip
_CODES = {1 << bit: label for label, (bit, _) in COLUMNS.items()}
_TYPES = {_INTEGER: "<i4", _FLOAT: "<f4", _LONG: "<i8", _DOUBLE: "<f8", _UNSIGNED: "<u4"}


def unpacked(raw: bytes, where: str) -> dict[str, NDArray[Any]]:
    """The columns of a binary file by their labels.

    Raises
    ------
    FormatError : counts, codes, types or a size that cannot be; the byte is named.
    """
    if len(raw) < 8:
        raise FormatError(where, expected="a cisTEM file of at least 8 bytes", found=f"{len(raw)} bytes")
    count, rows = struct.unpack_from("<2i", raw)
    if not 0 < count <= 256 or rows < 0 or len(raw) < 8 + 9 * count:
        raise FormatError(f"{where}, byte 0", expected="the counts of columns (1 to 256) and rows",
                          found=f"{count} and {rows} in a file of {len(raw)} bytes")  # fmt: skip
    labels, types = [], []
    for i in range(count):
        code, kind = struct.unpack_from("<qB", raw, 8 + 9 * i)
        label = _CODES.get(code, f"Code{code}")
        if kind not in (*_TYPES, _TEXT) or label in labels:
            raise FormatError(
                f"{where}, byte {8 + 9 * i}", expected=f"a new column of type {sorted([*_TYPES, _TEXT])}",
                found=f"{label} of type {kind}", remedy="Convert the file to STAR with cisTEM.",
            )  # fmt: skip
        labels.append(label)
        types.append(kind)
    start = 8 + 9 * count
    least = sum(4 if kind == _TEXT else int(_TYPES[kind][2]) for kind in types)
    if _TEXT in types:
        if rows * least > len(raw) - start:
            raise FormatError(where, expected=f"at least {start + rows * least} bytes for {rows} rows",
                              found=f"{len(raw)}")  # fmt: skip
        return _with_text(raw, start, rows, labels, types, where)
    if len(raw) != start + rows * least:
        raise FormatError(where, expected=f"{start + rows * least} bytes ({rows} rows of {least})", found=f"{len(raw)}",
                          remedy="The file is truncated or damaged: copy it again.")  # fmt: skip
    record = np.dtype([(label, _TYPES[kind]) for label, kind in zip(labels, types, strict=True)])
    table = np.frombuffer(raw, record, count=rows, offset=start)
    return {label: np.ascontiguousarray(table[label]) for label in labels}


def _with_text(
    raw: bytes, at: int, rows: int, labels: list[str], types: list[int], where: str
) -> dict[str, NDArray[Any]]:
    """Rows with texts (int32 length, then so many bytes), one after the other."""
    kinds = [
        None if kind == _TEXT else struct.Struct(f"<{ {2: 'i', 3: 'f', 5: 'q', 6: 'd', 9: 'I'}[kind] }")
        for kind in types
    ]
    columns: list[list[Any]] = [[] for _ in labels]
    for row in range(rows):
        for column, kind in zip(columns, kinds, strict=True):
            size = 4 if kind is None else kind.size
            length = struct.unpack_from("<i", raw, at)[0] if kind is None and at + 4 <= len(raw) else 0
            if at + size > len(raw) or length < 0 or at + size + length > len(raw):
                raise FormatError(f"{where}, row {row + 1}, byte {at}", expected="a value inside the file",
                                  found=f"{len(raw)} bytes in all", remedy="The file is truncated.")  # fmt: skip
            if kind is None:
                column.append(raw[at + 4 : at + 4 + length].decode("utf-8", "surrogateescape"))
            else:
                column.append(kind.unpack_from(raw, at)[0])
            at += size + length
    if at != len(raw):
        raise FormatError(where, expected=f"{at} bytes", found=f"{len(raw)}")
    dtypes: list[Any] = [object if kind == _TEXT else _TYPES[kind] for kind in types]
    return {label: np.array(c, dtype=t) for label, c, t in zip(labels, columns, dtypes, strict=True)}


def packed(table: Mapping[str, Any], rows: int) -> bytes:
    """A binary file of the columns of ``table`` that have a code, in single precision."""
    kinds = {label: COLUMNS[label][1] if label in COLUMNS else None for label in table}
    for label, kind in kinds.items():
        if kind is None and label.startswith("Code") and label[4:].lstrip("-").isdigit():
            known = {"i": _INTEGER, "u": _UNSIGNED, "f": _FLOAT}.get(np.asarray(table[label]).dtype.kind, _TEXT)
            kinds[label] = known
    used = {label: kind for label, kind in kinds.items() if kind is not None}
    head = struct.pack("<2i", len(used), rows)
    for label, kind in used.items():
        code = 1 << COLUMNS[label][0] if label in COLUMNS else int(label[4:])
        head += struct.pack("<qB", code, kind)
    if _TEXT not in used.values():
        record = np.empty(rows, np.dtype([(label, _TYPES[kind]) for label, kind in used.items()]))
        for label in used:
            record[label] = table[label]
        return head + record.tobytes()
    pieces = [head]
    columns = []
    for label, kind in used.items():
        if kind == _TEXT:
            words = [str(v).encode("utf-8", "surrogateescape") for v in table[label]]
            columns.append([struct.pack("<i", len(word)) + word for word in words])
        else:
            flat = np.asarray(table[label]).astype(_TYPES[kind])
            columns.append([value.tobytes() for value in flat])
    pieces += [b"".join(row) for row in zip(*columns, strict=True)]
    return b"".join(pieces)
