"""JSON of other programs, read as data and nothing else."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

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


def json_numbers(words: Any, where: str) -> list[float]:
    """The finite numbers of a list of JSON, or of words; truth values are none."""
    try:
        values = [float(w) for w in words if w is not True and w is not False]
    except (TypeError, ValueError, OverflowError):
        raise FormatError(where, expected="numbers", found=repr(words)[:80]) from None
    if not all(map(isfinite, values)):
        raise FormatError(where, expected="finite numbers", found=repr(words)[:80])
    return values


def dump_json(value: Any) -> str:
    """JSON without blanks, keys in order."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def parse_or_keep(value: str) -> Any:
    """What JSON says, or the text itself where it is none."""
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return value  # text of another program
