"""Formulas over the columns of a table, in text. They are read node by node and never evaluated as Python."""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.schema import VARIABLES

__all__ = ["evaluate", "row_dim", "unknown"]

_OPERATIONS: Mapping[type[ast.AST], Callable[..., Any]] = MappingProxyType({
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: np.mod, ast.Pow: np.float_power,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
})  # fmt: skip


def _degrees(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda angle: function(np.deg2rad(angle))


def _count(values: Any) -> Any:
    """How many rows have the value of each row."""
    import pandas as pd

    values = np.asarray(values)
    codes = pd.factorize(values.astype(object) if values.dtype.kind in "TU" else values)[0]
    return np.bincount(codes + 1)[codes + 1]


def _matches(values: Any, pattern: str) -> Any:
    find = re.compile(pattern).search
    return np.fromiter((find(str(v)) is not None for v in values), bool, len(values))


# name -> (number of arguments, function)
_FUNCTIONS: Mapping[str, tuple[int, Callable[..., Any]]] = MappingProxyType({
    "abs": (1, np.abs), "sqrt": (1, np.sqrt), "exp": (1, np.exp), "log": (1, np.log), "isfinite": (1, np.isfinite),
    "round": (1, np.rint), "floor": (1, np.floor), "ceil": (1, np.ceil),
    "sin": (1, _degrees(np.sin)), "cos": (1, _degrees(np.cos)),
    "minimum": (2, np.minimum), "maximum": (2, np.maximum), "where": (3, np.where), "count": (1, _count),
    "contains": (2, lambda text, part: np.strings.find(np.asarray(text), part) >= 0),
    "startswith": (2, lambda text, part: np.strings.startswith(np.asarray(text), part)),
    "endswith": (2, lambda text, part: np.strings.endswith(np.asarray(text), part)),
    "matches": (2, _matches),
})  # fmt: skip
_EULER = ("rot", "tilt", "psi")
_STAR = {v.star: v.name for v in VARIABLES.values() if v.star}
_STAR_PARTS = {
    "rlnAngleRot": "rot", "rlnAngleTilt": "tilt", "rlnAnglePsi": "psi", "rlnDefocusAngle": "defocus_angle",
    "rlnCoordinateX": "coordinate[0]", "rlnCoordinateY": "coordinate[1]", "rlnOriginXAngst": "shift[0]",
    "rlnOriginYAngst": "shift[1]",
}  # fmt: skip
_LONGEST = 4096
_ROWS = ("particle", "micrograph", "movie")


def row_dim(ds: xr.Dataset, where: str) -> str:
    """The dimension that the rows of a table lie along.

    Raises
    ------
    ParameterError : ``ds`` is no table of particles, micrographs or movies.
    """
    dim = next((d for d in _ROWS if d in ds.dims), None)
    if dim is None:
        raise ParameterError(where, expected=f"rows along {' or '.join(_ROWS)}", found=f"dims {tuple(ds.dims)}")
    return dim


def unknown(name: str, ds: xr.Dataset, where: str) -> ParameterError:
    """The error for a column that is not there; it says which name is nearest."""
    known = sorted(str(v) for v, a in ds.variables.items() if a.ndim)
    near = difflib.get_close_matches(name, known, 1, 0.6)
    near = near or [k for k in known if k.lower().removeprefix("x_") == name.lower().removeprefix("x_")][:1]
    return ParameterError(where, expected=f"a column of {', '.join(known)}", found=repr(name),
                          remedy=f"Did you mean {near[0]}?" if near else "")  # fmt: skip


def evaluate(ds: xr.Dataset, formula: str, *, where: str = "", optics: bool = False) -> Any:
    """The value of ``formula`` for every row of ``ds``, or one value if it names no column.

    A formula has names of columns (those of optics groups count for their rows; ``shift[0]`` is a component; ``rot``,
    ``tilt`` and ``psi`` are the Euler angles of ``rotation``; RELION's labels such as ``rlnDefocusU`` are understood),
    numbers, quoted text, ``+ - * / // % **``, comparisons (also chained), ``in (a, b)``, ``not in``, ``and or not``,
    and the functions ``abs sqrt exp log round floor ceil isfinite``, ``sin cos`` (degrees), ``minimum maximum`` of two,
    ``where(condition, a, b)``, ``count(column)`` (rows of the same value), and for text ``contains startswith endswith
    matches`` (a regular expression). Nothing else.

    Parameters
    ----------
    optics : one value for each optics group instead of each row; only their columns may be named.

    Raises
    ------
    ParameterError : not such a formula, or an unknown column.

    Examples
    --------
    >>> ds = xr.Dataset({"defocus_u": ("particle", [9e3, 12e3]), "defocus_v": ("particle", [8e3, 12e3])})
    >>> evaluate(ds, "(defocus_u + defocus_v) / 2").tolist()
    [8500.0, 12000.0]
    """
    where = where or f"formula {formula[:200]!r}"
    dim = "optics" if optics else row_dim(ds, where)
    if len(formula) > _LONGEST:
        raise ParameterError(where, expected=f"at most {_LONGEST} characters", found=f"{len(formula)}")
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
        with np.errstate(all="ignore"):
            return _Reader(ds, dim, where).read(tree)
    except (SyntaxError, RecursionError, MemoryError, ValueError, TypeError, OverflowError, re.error,
            ZeroDivisionError) as error:  # fmt: skip
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(where, expected="a formula such as 'defocus_u > 10000 and half == 1'",
                             found=str(error) or type(error).__name__) from None  # fmt: skip


class _Reader:
    """Walks the few kinds of nodes a formula may have."""

    def __init__(self, ds: xr.Dataset, dim: str, where: str) -> None:
        self.ds, self.dim, self.where = ds, dim, where

    def read(self, node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return value
            case ast.Name(id=name):
                return self._column(name)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as index)):
                return self._column(name, index)
            case ast.BoolOp(op=op, values=values):
                parts = [np.asarray(self.read(value), bool) for value in values]
                return np.logical_and.reduce(parts) if isinstance(op, ast.And) else np.logical_or.reduce(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~np.asarray(self.read(operand), bool)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATIONS:
                return _OPERATIONS[type(op)](self.read(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
                sides = self.read(left), self.read(right)
                if not isinstance(op, ast.Add) and any(_is_text(s) for s in sides):
                    raise TypeError("arithmetic on text")  # a long text times a large number fills the memory
                return _OPERATIONS[type(op)](*sides)
            case ast.Compare(left=left, ops=ops, comparators=others):
                operands = [left, *others]
                tests = [self._compare(a, op, b) for a, op, b in zip(operands, ops, others, strict=False)]
                return np.logical_and.reduce(tests)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
                count, function = _FUNCTIONS[name]
                if len(arguments) != count:
                    raise ParameterError(self.where, expected=f"{count} arguments of {name}", found=str(len(arguments)))
                return function(*map(self.read, arguments))
        raise ParameterError(self.where, expected="names, numbers, text, comparisons, and/or/not, + - * /, functions",
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

    def _column(self, name: str, index: int | None = None) -> Any:
        array = self.ds.variables.get(name)
        if array is None:
            return self._derived(name)
        if index is not None and array.ndim == 2 and -array.shape[1] <= index < array.shape[1]:
            array = array[:, index]
        if array.dims not in ((self.dim,), ("optics",)):
            raise ParameterError(self.where, expected=f"one value for each {self.dim}",
                                 found=f"{name!r} with dims {array.dims}",
                                 remedy=f"Take one component, {name}[0] say.")  # fmt: skip
        values = array.values
        per_group = array.dims == ("optics",) and self.dim != "optics"
        return values[self.ds["optics_group"].values] if per_group else values

    def _derived(self, name: str) -> Any:
        """Euler angles, and columns called by RELION's labels."""
        if name in _EULER and "rotation" in self.ds and self.dim != "optics":
            from cryoflow.kernels.rotation import matrix_to_euler

            return matrix_to_euler(self.ds["rotation"].values)[:, _EULER.index(name)]
        label = name.removeprefix("_")
        for other in (_STAR_PARTS.get(label), _STAR.get(label), f"x_{label}", f"x_optics_{label}"):
            base, _, part = (other or "").partition("[")
            if base in self.ds.variables:
                return self._column(base, int(part[:-1]) if part else None)
            if other in _EULER and "rotation" in self.ds:
                return self._derived(other)
        raise unknown(name, self.ds, self.where)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or getattr(getattr(value, "dtype", None), "kind", "") in tuple("TUO")
