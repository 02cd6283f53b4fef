"""Types of cryoSPARC's columns: what NumPy holds as those that its tables know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.cryosparc.cs_defaults import default_dtype

__all__ = ["as_type", "plain", "type_of"]


def type_of(field: str, values: NDArray[Any], template: Mapping[str, np.dtype[Any]]) -> np.dtype[Any]:
    """The type of a field: the source's, else cryoSPARC's, else that of its values; text as wide as it must be."""
    known = template[field].base if field in template else default_dtype(field)
    if values.dtype.kind == "T" or (known is not None and known.kind in "SU"):
        kind, width = ("S", 1) if known is None else (known.kind, known.itemsize // (4 if known.kind == "U" else 1))
        raw = [_encode(v) for v in values.tolist()]
        longest = max((len(v.decode() if kind == "U" else v) for v in raw), default=1)
        return np.dtype(f"{kind}{max(width, longest, 1)}")
    return known or plain(values, field, "").dtype


def plain(values: NDArray[Any], name: str, where: str) -> NDArray[Any]:
    """``values`` as a type that cryoSPARC's tables know."""
    if values.dtype.kind in "TUO":
        return np.array([str(v).encode() for v in values.tolist()] or [b""], np.bytes_)[: len(values)]
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype == np.float16:
        return values.astype(np.float32)
    if values.ndim > 4 or values.dtype.kind not in "iufcS" or max(values.shape[1:], default=0) >= 1 << 16:
        raise ParameterError(where, expected=f"{name!r} as numbers or text, at most three dimensions a row",
                             found=f"{values.dtype} of {values.shape[1:]}", remedy="Drop it first.")  # fmt: skip
    return values


def as_type(values: NDArray[Any], dtype: np.dtype[Any], field: str, where: str) -> NDArray[Any]:
    """``values`` as ``dtype``; whole numbers that it does not hold are refused."""
    if dtype.kind in "SU":
        if values.dtype.kind == dtype.kind:
            return values.astype(dtype)
        texts = [_encode(v) for v in values.tolist()]
        return np.array(texts if dtype.kind == "S" else [t.decode() for t in texts], dtype)
    if dtype.kind in "iu" and values.dtype.kind in "iuf":
        limits = np.iinfo(dtype)
        if len(values) and not (limits.min <= int(values.min()) and int(values.max()) <= limits.max):
            raise ParameterError(f"{where}, field {field}", expected=f"whole numbers that {dtype} holds",
                                 found=f"{values.min()} to {values.max()}")  # fmt: skip
        values = np.rint(values) if values.dtype.kind == "f" else values
    try:
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    except ValueError as error:
        raise ParameterError(f"{where}, field {field}", expected=f"{dtype}", found=f"{error}"[:200]) from None


def _encode(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
