"""``CSDAT``: cryoSPARC's compressed tables, columns one after the other.

    magic, 6 bytes     0x95 "CSDAT"
    length, 4 bytes    of the header (little-endian, as all lengths)
    header             JSON: length (rows), dtype ([name, type] or [name, type, shape]), compression, compressed_fields
    for each field     length of its bytes (4 bytes), and these bytes, an LZ4 block where the field is compressed
    the rest           texts, each ended by a zero byte; a text field (type "|O") holds 8-byte positions in here

Source: the documentation and format constants of cryosparc-tools (tools.cryosparc.com).
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError

__all__ = ["MAGIC", "decode"]

MAGIC = b"\x95CSDAT"
_HEADER_BYTES = 1 << 18
_LONGEST_TEXT = 4096  # a path of the operating system
_LZ4_RATIO = 255  # no LZ4 block grows more than that
_REMEDY = "Save it from cryosparc-tools as a NumPy array (format NUMPY_FORMAT)."


def decode(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Columns of a ``CSDAT`` file; text as bytes of equal width.

    Raises
    ------
    FormatError : truncated or damaged, or another compression than LZ4.
    """
    rows, fields, compressed, at = _header(data, where)
    positions: dict[str, NDArray[np.uint64]] = {}
    columns: dict[str, NDArray[Any]] = {}
    for name, dtype in fields if rows else []:
        if at + 4 > len(data):
            raise _damaged(f"{where}, byte {at}", "the length of a column", f"the end of the file, before {name}")
        size = struct.unpack_from("<I", data, at)[0]
        piece = memoryview(data)[at + 4 : at + 4 + size]
        if len(piece) != size:
            raise _damaged(f"{where}, field {name}, byte {at}", f"{size} bytes", f"{len(piece)} up to the file's end")
        kind = np.dtype("<u8") if dtype is None else dtype
        raw = _column(piece, rows * kind.itemsize, name in compressed, f"{where}, field {name}, byte {at}")
        column = np.frombuffer(raw, kind.base).reshape(rows, *kind.shape)
        if dtype is None:
            positions[name] = column
        columns[name] = column
        at += 4 + size
    for name, dtype in fields if not rows else []:
        columns[name] = np.zeros(0, "S1" if dtype is None else dtype)
    heap = data[at:]
    for name, column in positions.items():
        columns[name] = _texts(column, heap, f"{where}, field {name}")
    return columns


def _damaged(where: str, expected: str, found: str) -> FormatError:
    return FormatError(where, expected=expected, found=found, remedy="The file is truncated or damaged: copy it again.")


def _header(data: bytes, where: str) -> tuple[int, list[tuple[str, np.dtype[Any] | None]], set[str], int]:
    from cryoflow.io.cryosparc.cs_file import _distinct, field_dtype

    length = struct.unpack_from("<I", data, 6)[0] if len(data) >= 10 else 0
    if not 0 < length <= min(_HEADER_BYTES, len(data) - 10):
        raise _damaged(where, f"a header of 1 to {min(_HEADER_BYTES, max(0, len(data) - 10))} bytes", f"{length}")
    try:
        header = json.loads(data[10 : 10 + length])
        rows, dtype, compressed = header["length"], header["dtype"], header["compressed_fields"]
        method = header["compression"]
        if type(rows) is not int or rows < 0 or not all(isinstance(name, str) for name in compressed):
            raise ValueError(f"{rows!r} rows, compressed fields {compressed!r}")
        entries = [(name, kind, tuple(rest[0]) if rest else ()) for name, kind, *rest in dtype]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(where, "a CSDAT header", f"{type(error).__name__}: {error}"[:200]) from None
    if compressed and method != "lz4":
        raise FormatError(where, expected="columns compressed by LZ4", found=repr(method)[:80], remedy=_REMEDY)
    fields: list[tuple[str, np.dtype[Any] | None]] = []
    for name, kind, shape in entries:
        text = kind in ("|O", "O") and shape == ()
        checked = field_dtype(name, "<u8" if text else kind, shape, where)
        fields.append((name, None if text else checked))
    _distinct([name for name, _ in fields], where)
    packed = sum(rows * (8 if d is None else d.itemsize) // (_LZ4_RATIO if n in compressed else 1) for n, d in fields)
    if packed > len(data):
        raise _damaged(where, f"at least {packed} bytes for {rows} rows", f"{len(data)}")
    return rows, fields, set(compressed), 10 + length


def _column(piece: memoryview, size: int, compressed: bool, where: str) -> Any:
    """The ``size`` bytes of a column; more or fewer are an error before or after at most ``size`` are allocated."""
    if not compressed:
        if len(piece) != size:
            raise _damaged(where, f"{size} bytes", f"{len(piece)}")
        return piece
    if size > _LZ4_RATIO * len(piece):
        raise _damaged(where, f"at least {math.ceil(size / _LZ4_RATIO)} compressed bytes", f"{len(piece)}")
    from imagecodecs import lz4_decode

    try:
        raw = lz4_decode(bytes(piece), header=False, out=size)
    except (RuntimeError, ValueError) as error:
        raise _damaged(where, "an LZ4 block", f"{error}"[:200]) from None
    if len(raw) != size:
        raise _damaged(where, f"{size} bytes once unpacked", f"{len(raw)}")
    return raw


def _texts(positions: NDArray[np.uint64], heap: bytes, where: str) -> NDArray[np.bytes_]:
    distinct, inverse = np.unique(positions, return_inverse=True)
    words: list[bytes] = []
    for position in distinct.tolist():
        end = heap.find(b"\0", position, position + _LONGEST_TEXT + 1) if position < len(heap) else -1
        if end < 0:
            raise _damaged(where, f"a text of at most {_LONGEST_TEXT} bytes at {position} of {len(heap)}", "none")
        words.append(heap[position:end])
    return np.array(words or [b""], np.bytes_)[inverse]
