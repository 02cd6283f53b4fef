"""cryoSPARC's tables, ``.cs``: a NumPy structured array, or the compressed stream ``CSDAT``; columns by field name.

A field is called ``group/name`` (``ctf/df1_A``); ``uid`` alone has no group. Nothing is unpickled: a header is a Python
literal or JSON of at most 256 KiB, and the sizes it tells are held against the file before anything is allocated.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.sources.source import normal, open_source

__all__ = ["MAGIC", "Columns", "describe_fields", "field_dtype", "read_cs", "write_cs"]

Columns = Mapping[str, NDArray[Any]]

MAGIC = b"\x93NUMPY"
HEADER_BYTES = 1 << 18
_NESTING = 8  # brackets in brackets; cryoSPARC's headers have 3
_NAME = re.compile(r"(?!.*__)[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*")
_REMEDY = "Export the results again from cryoSPARC, or save them as a NumPy array with numpy.save."


def read_cs(address: str | Path) -> dict[str, NDArray[Any]]:
    """Every column of a ``.cs`` file, in file order and in the file's own types; text stays bytes.

    Parameters
    ----------
    address : path or URL.

    Raises
    ------
    FormatError : not such a file, truncated, Python objects in it, no ``uid``, or field names that are not
        cryoSPARC's; says the file and what is wrong.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "p.cs"
    >>> write_cs(path, {"uid": np.array([7, 9], "u8"), "ctf/df1_A": np.array([9000, 9100], "f4")})
    >>> read_cs(path)["ctf/df1_A"].tolist()
    [9000.0, 9100.0]
    """
    from cryoflow.io.cryosparc import csdat

    source = open_source(address)
    where = normal(address)
    head = source.read(0, min(source.size, 12))
    if head.startswith(csdat.MAGIC):
        columns = csdat.decode(source.read(0, source.size), where)
    elif head.startswith(MAGIC):
        columns = _read_npy(source, where)
    else:
        raise FormatError(where, expected="a cryoSPARC .cs file", found=f"bytes {head[:8]!r}", remedy=_REMEDY)
    if "uid" not in columns or columns["uid"].dtype.kind not in "iu" or columns["uid"].ndim != 1:
        raise FormatError(where, expected="a field uid of whole numbers", found=f"fields {', '.join(columns)}"[:300])
    return columns


def _read_npy(source: Any, where: str) -> dict[str, NDArray[Any]]:
    begin, header = _npy_header(source, where)
    dtype, rows = _described(header, where)
    stop = begin + rows * dtype.itemsize
    if stop != source.size:
        raise FormatError(
            where, expected=f"{stop} bytes ({rows} rows of {dtype.itemsize} bytes)", found=f"{source.size} bytes",
            remedy="The file is truncated or damaged: copy it again.",
        )  # fmt: skip
    table = np.frombuffer(source.read(begin, stop), dtype)
    return {name: table[name] for name in dtype.names or ()}


def _npy_header(source: Any, where: str) -> tuple[int, dict[str, Any]]:
    """Where the rows begin, and the header's dictionary."""
    head = source.read(0, min(source.size, 12))
    if len(head) < 12 or head[6] not in (1, 2, 3):
        raise FormatError(where, expected="a NumPy file of version 1, 2 or 3", found=f"bytes {head[:8]!r}")
    begin, length = (10, struct.unpack("<H", head[8:10])[0]) if head[6] == 1 else (12, *struct.unpack("<I", head[8:]))
    if length > HEADER_BYTES or begin + length > source.size:
        limit = min(HEADER_BYTES, source.size - begin)
        raise FormatError(where, expected=f"a header of at most {limit} bytes", found=f"{length} bytes")
    raw = source.read(begin, begin + length)
    return begin + length, _literal(raw, "utf-8" if head[6] == 3 else "latin-1", where)


def _literal(raw: bytes, encoding: str, where: str) -> dict[str, Any]:
    depth = deepest = 0
    for byte in raw:
        depth += (byte in b"([{") - (byte in b")]}")
        deepest = max(deepest, depth)
    try:
        if deepest > _NESTING:
            raise ValueError(f"brackets {deepest} deep")
        header = ast.literal_eval(raw.decode(encoding).strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise FormatError(where, expected="a NumPy header", found=f"{error}"[:200], remedy=_REMEDY) from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise FormatError(where, expected="a NumPy header of descr, fortran_order and shape", found=repr(header)[:200])
    return header


def _described(header: dict[str, Any], where: str) -> tuple[np.dtype[Any], int]:
    shape = header["shape"]
    if not (isinstance(shape, tuple) and len(shape) == 1 and type(shape[0]) is int and shape[0] >= 0):
        raise FormatError(where, expected="one dimension of rows", found=f"shape {shape!r}"[:200], remedy=_REMEDY)
    descr = header["descr"]
    if not isinstance(descr, list):
        raise FormatError(where, expected="a table of named fields", found=f"an array of {descr!r}"[:200])
    fields = []
    for entry in descr:
        if not (isinstance(entry, tuple) and len(entry) in (2, 3)):
            raise FormatError(where, expected="fields as (name, type)", found=repr(entry)[:200])
        fields.append((entry[0], field_dtype(entry[0], entry[1], entry[2] if len(entry) == 3 else (), where)))
    _distinct([name for name, _ in fields], where)
    try:
        return np.dtype(fields), shape[0]
    except (ValueError, TypeError) as error:
        raise FormatError(where, expected="a table of fields", found=f"{error}"[:200]) from None


def _distinct(names: list[str], where: str) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]] if len(set(names)) < len(names) else []
    if twice:
        raise FormatError(where, expected="distinct field names", found=f"{twice[0]!r} twice")


def field_dtype(name: Any, kind: Any, shape: Any, where: str) -> np.dtype[Any]:
    """The type of one field as a file describes it: numbers or text, at most three dimensions of its own.

    Raises
    ------
    FormatError : Python objects (they would have to be unpickled), dates, records, or a name that is not a field's.
    """
    if not isinstance(name, str) or len(name) > 200 or _NAME.fullmatch(name) is None:
        raise FormatError(where, expected="field names like ctf/df1_A", found=repr(name)[:200], remedy=_REMEDY)
    whole = isinstance(shape, tuple | list) and all(type(n) is int and 0 < n < 1 << 16 for n in shape)
    try:
        if not whole or len(shape) > 3 or not isinstance(kind, str) or len(kind) > 20:
            raise ValueError(f"{kind!r} of shape {shape!r}")
        dtype = np.dtype(kind)
        if dtype.kind == "O":
            raise FormatError(
                f"{where}, field {name}", expected="numbers or text", remedy=_REMEDY,
                found="Python objects, which are never unpickled",
            )  # fmt: skip
        if dtype.kind not in "iufcbSU" or dtype.shape or dtype.itemsize * math.prod(shape) >= 1 << 31:
            raise ValueError(f"{kind!r} of shape {shape!r}")
        return np.dtype((dtype, tuple(shape))) if shape else dtype
    except CryoflowError:
        raise
    except (ValueError, TypeError, SyntaxError, OverflowError) as error:
        raise FormatError(f"{where}, field {name}", expected="numbers or text", found=f"{error}"[:200]) from None


def describe_fields(columns: Columns) -> list[str]:
    """Name, type and own shape of every field, as text that attributes can hold.

    >>> describe_fields({"uid": np.zeros(2, "u8"), "ctf/tilt_A": np.zeros((2, 2), "f4")})
    ['uid <u8', 'ctf/tilt_A <f4 2']
    """
    return [" ".join([name, c.dtype.str, *map(str, c.shape[1:])]) for name, c in columns.items()]


def write_cs(path: str | Path, columns: Columns) -> None:
    """Write ``columns`` as a NumPy structured array (format version 1), which cryoSPARC imports; whole or not at all.

    Raises
    ------
    ParameterError : no ``uid``, columns of unequal length, or a type that cryoSPARC has no column for.
    ResourceError : the disk is full.
    """
    where = f"write_cs({path})"
    if "uid" not in columns:
        raise ParameterError(where, expected="a column uid", found=", ".join(columns) or "none")
    rows = len(columns["uid"])
    for name, column in columns.items():
        if len(column) != rows or column.dtype.kind not in "iufcSU" or _NAME.fullmatch(name) is None:
            raise ParameterError(
                where, expected=f"{rows} numbers or texts called like ctf/df1_A",
                found=f"{name!r}: {len(column)} of {column.dtype}",
            )  # fmt: skip
    dtype = np.dtype([(name, c.dtype, c.shape[1:]) if c.ndim > 1 else (name, c.dtype) for name, c in columns.items()])
    piece = max(1, (16 << 20) // dtype.itemsize)
    with atomic(path) as partial, partial.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, rows, piece):
            block = np.zeros(min(piece, rows - first), dtype)
            for name, column in columns.items():
                block[name] = column[first : first + len(block)]
            file.write(block.tobytes())
