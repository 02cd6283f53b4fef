"""Sums with a fixed shape and a fixed order: nested dicts, lists and tuples of arrays, closed under addition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

__all__ = ["add", "lanes_of", "map_leaves", "tree"]

T = TypeVar("T")


def add(a: Any, b: Any, *, own: bool = False) -> Any:
    """a + b, leaf by leaf; with ``own`` the arrays of ``a`` may be overwritten.

    Raises ``ValueError`` if names, structure or shapes differ.

    >>> add({"n": 1, "s": (2.0, 3.0)}, {"n": 1, "s": (1.0, 1.0)})
    {'n': 2, 's': (3.0, 4.0)}
    """
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            raise ValueError(f"sums {sorted(map(str, a))} and {_names(b)} differ")
        return {k: add(a[k], b[k], own=own) for k in a}
    if isinstance(a, (list, tuple)):
        if not isinstance(b, (list, tuple)) or len(a) != len(b):
            raise ValueError(f"sums of {len(a)} parts and {_names(b)} differ")
        parts = [add(x, y, own=own) for x, y in zip(a, b)]
        return type(a)(*parts) if hasattr(a, "_fields") else type(a)(parts)
    if np.shape(a) != np.shape(b):
        raise ValueError(f"sums of shapes {np.shape(a)} and {np.shape(b)}")
    if own and np.shape(a) and a.dtype == b.dtype and getattr(a.flags, "writeable", True):  # CuPy's have no such flag
        a += b
        return a
    return a + b


def _names(value: Any) -> str:
    return str(sorted(map(str, value))) if isinstance(value, dict) else type(value).__name__


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """``function`` of every leaf of nested dicts, lists and tuples."""
    if isinstance(value, dict):
        return {k: map_leaves(function, v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [map_leaves(function, v) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return function(value)


def lanes_of(chunks: int, lanes: int) -> list[range]:
    """Consecutive chunks of each lane, as equal as can be.

    >>> lanes_of(5, 2)
    [range(0, 3), range(3, 5)]
    """
    lanes = max(1, min(lanes, chunks))
    size, extra = divmod(chunks, lanes)
    starts = [i * size + min(i, extra) for i in range(lanes + 1)]
    return [range(a, b) for a, b in pairwise(starts)]


def tree(leaves: Sequence[T], join: Callable[[int, int, T, T], T]) -> T:
    """The root of the pairwise tree over ``leaves``; ``join(level, i, left, right)`` makes its i-th node of a level.

    The shape of the tree follows from the number of leaves alone.

    >>> tree("abcde", lambda level, i, x, y: f"({x}{y})")
    '(((ab)(cd))e)'
    """
    level, row = 0, list(leaves)
    while len(row) > 1:
        pairs = [join(level, i, row[2 * i], row[2 * i + 1]) for i in range(len(row) // 2)]
        row = pairs + ([row[-1]] if len(row) % 2 else [])
        level += 1
    return row[0]


def nbytes(value: Any) -> int:
    """Bytes of all array leaves."""
    if isinstance(value, dict):
        return sum(nbytes(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(nbytes(v) for v in value)
    return int(value.nbytes) if hasattr(value, "nbytes") else 0
