"""Selection of rows by a condition in text, without ``eval``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError

__all__ = ["select"]

_OPERATIONS: Mapping[type[ast.AST], Callable[..., Any]] = MappingProxyType({
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.USub: operator.neg, ast.UAdd: operator.pos,
})  # fmt: skip
_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"abs": np.abs, "sqrt": np.sqrt, "isfinite": np.isfinite}
)
_LONGEST = 4096
_ROWS = ("particle", "micrograph", "movie")


def select(ds: xr.Dataset, condition: str) -> xr.Dataset:
    """The rows of ``ds`` for which ``condition`` holds; images stay lazy.

    A condition has names of variables (those of optics groups count for their rows; ``shift[0]`` is a component),
    numbers, quoted text, ``+ - * /``, comparisons (also chained), ``in (a, b)``, ``not in``, ``and or not`` and
    ``abs() sqrt() isfinite()``. Nothing else: it is read, never evaluated.

    Raises
    ------
    ParameterError : not such a condition, an unknown variable, or no row left.

    Examples
    --------
    >>> ds = xr.Dataset({"defocus_u": ("particle", [9e3, 12e3, 15e3]), "half": ("particle", [1, 1, 2])})
    >>> select(ds, "defocus_u > 10000 and half == 1").defocus_u.values.tolist()
    [12000.0]
    """
    where = f"select({condition[:200]!r})"
    dim = next((d for d in _ROWS if d in ds.dims), None)
    if dim is None:
        raise ParameterError(where, expected=f"rows along {' or '.join(_ROWS)}", found=f"dims {tuple(ds.dims)}")
    if len(condition) > _LONGEST:
        raise ParameterError(where, expected=f"at most {_LONGEST} characters", found=f"{len(condition)}")
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
        keep = _Reader(ds, dim, where).read(tree)
    except (SyntaxError, RecursionError, MemoryError, ValueError, TypeError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(where, expected="a condition such as 'defocus_u > 10000 and half == 1'",
                             found=str(error)) from None  # fmt: skip
    keep = np.asarray(keep)
    if keep.dtype != bool or keep.shape != (ds.sizes[dim],):
        raise ParameterError(where, expected="yes or no for every row", found=f"{keep.dtype} of shape {keep.shape}")
    if not keep.any():
        raise ParameterError(where, expected=f"at least one {dim}", found=f"none of {len(keep)}",
                             remedy="Widen the condition.")  # fmt: skip
    return ds.isel({dim: np.flatnonzero(keep)})


class _Reader:
    """Walks the few kinds of nodes a condition may have."""

    def __init__(self, ds: xr.Dataset, dim: str, where: str) -> None:
        self.ds, self.dim, self.where = ds, dim, where

    def read(self, node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return value
            case ast.Name(id=name):
                return self._variable(name)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as index)):
                return self._variable(name, index)
            case ast.BoolOp(op=op, values=values):
                parts = [np.asarray(self.read(value), bool) for value in values]
                return np.logical_and.reduce(parts) if isinstance(op, ast.And) else np.logical_or.reduce(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~np.asarray(self.read(operand), bool)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATIONS:
                return _OPERATIONS[type(op)](self.read(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
                return _OPERATIONS[type(op)](self.read(left), self.read(right))
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [left, *others]
                tests = [self._compare(a, op, b) for a, op, b in zip(sides, ops, others, strict=False)]
                return np.logical_and.reduce(tests)
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](self.read(argument))
        raise ParameterError(self.where, expected="names, numbers, text, comparisons, and/or/not, + - * /",
                             found=ast.unparse(node)[:80])  # fmt: skip

    def _compare(self, left: ast.AST, op: ast.cmpop, right: ast.AST) -> Any:
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List):
                raise ParameterError(self.where, expected="in (a, b, ...)", found=ast.unparse(right)[:80])
            value = self.read(left)
            found = np.logical_or.reduce([value == self.read(item) for item in right.elts])
            return ~found if isinstance(op, ast.NotIn) else found
        if type(op) not in _OPERATIONS:
            raise ParameterError(self.where, expected="== != < <= > >= in", found=type(op).__name__)
        return _OPERATIONS[type(op)](self.read(left), self.read(right))

    def _variable(self, name: str, index: int | None = None) -> Any:
        array = self.ds.variables.get(name)
        if array is None:
            known = sorted(str(v) for v, a in self.ds.variables.items() if a.ndim == 1)
            raise ParameterError(self.where, expected=f"a variable of {', '.join(known)}", found=repr(name))
        if index is not None and array.ndim == 2 and -array.shape[1] <= index < array.shape[1]:
            array = array[:, index]
        if array.dims not in ((self.dim,), ("optics",)):
            raise ParameterError(self.where, expected=f"one value for each {self.dim}",
                                 found=f"{name!r} with dims {array.dims}",
                                 remedy=f"Take one component, {name}[0] say.")  # fmt: skip
        values = array.values
        return values[self.ds["optics_group"].values] if array.dims == ("optics",) else values
