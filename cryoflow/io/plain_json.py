"""JSON of other programs, read as data and nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError

__all__ = ["dump_json", "json_numbers", "parse_json", "parse_or_keep"]


def parse_json(data: str, where: str) -> Any:
    """JSON and nothing else; numbers that are none, and nesting beyond reason, are refused."""
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(where, expected="JSON", found=f"{type(error).__name__}: {error}"[:120]) from None


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def json_numbers(words: Any, where: str) -> NDArray[np.float64]:
    try:
        values = np.array([float(w) for w in words if not isinstance(w, bool)], np.float64)
    except (TypeError, ValueError, OverflowError):
        raise FormatError(where, expected="numbers", found=repr(words)[:80]) from None
    if not np.isfinite(values).all():
        raise FormatError(where, expected="finite numbers", found=repr(words)[:80])
    return values


def dump_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def parse_or_keep(value: str) -> Any:
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return value  # text of another program
