"""Columns renamed, dropped, computed by a formula, and text edited by a regular expression."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError, SchemaError
from cryoflow.io.expression import evaluate, row_dim, unknown
from cryoflow.schema import VARIABLES, validate

__all__ = ["drop", "rename", "replace_text", "set_column"]

_TARGET = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\[\s*(\d+)\s*\])?\s*=(?!=)(.*)", re.DOTALL)
_EULER = ("rot", "tilt", "psi")


def rename(ds: xr.Dataset, old: str, new: str) -> xr.Dataset:
    """A column under another name, one of the schema or one with the prefix ``x_``.

    Raises
    ------
    ParameterError : no such column, or the new name is taken.
    SchemaError : the schema has no such name, or gives it other dims or another type.

    >>> list(rename(xr.Dataset({"x_rlnBeamTiltClass": ("particle", [1])}), "x_rlnBeamTiltClass", "x_hole"))
    ['x_hole']
    """
    if old not in ds.variables:
        raise unknown(old, ds, f"rename({old!r})")
    if new in ds.variables and new != old:
        raise ParameterError(f"rename({old!r})", expected="a new name", found=f"{new!r}, which is there already",
                             remedy=f"Drop {new} first.")  # fmt: skip
    _check_name(new)
    return validate(ds.rename({old: new}), f"rename({old!r})")


def drop(ds: xr.Dataset, names: Iterable[str]) -> xr.Dataset:
    """``ds`` without some columns; ``x_*`` and the like name several.

    Raises
    ------
    ParameterError : no such column.

    >>> list(drop(xr.Dataset({"half": ("particle", [1]), "x_a": ("particle", [1])}), ["x_*"]))
    ['half']
    """
    from fnmatch import fnmatchcase

    gone: set[Any] = set()
    for name in names:
        found = [v for v in ds.variables if fnmatchcase(str(v), name)]
        if not found:
            raise unknown(name, ds, f"drop({name!r})")
        gone.update(found)
    return ds.drop_vars(gone)


def set_column(ds: xr.Dataset, assignment: str) -> xr.Dataset:
    """A column computed from others: ``"defocus_u = defocus_u + 100"``.

    The left side is a column (a new one if it has the prefix ``x_`` or is one of the schema), a component
    (``shift[0] = 0``), an Euler angle (``psi = psi + 90``) or a column of optics groups, whose right side may then name
    only those. The right side is a formula of ``cryoflow.io.expression.evaluate``. The type of a column stays.

    Raises
    ------
    ParameterError : not an assignment, an unknown column, values that do not fit the column's type.
    SchemaError : a name that the schema does not know.

    Examples
    --------
    >>> ds = xr.Dataset({"defocus_u": ("particle", [9e3, 12e3])})
    >>> set_column(ds, "defocus_u = defocus_u + 100").defocus_u.values.tolist()
    [9100.0, 12100.0]
    """
    where = f"set({assignment[:200]!r})"
    found = _TARGET.fullmatch(assignment)
    if found is None:
        raise ParameterError(where, expected="an assignment such as 'defocus_u = defocus_u + 100'", found=assignment)
    name, index, formula = found[1], found[2], found[3]
    dim = row_dim(ds, where)
    if name in _EULER and name not in ds.variables:
        return _set_angle(ds, name, formula, where, dim)
    old = ds.variables.get(name)
    of_optics = old.dims[:1] == ("optics",) if old is not None else _is_optics(name)
    rows = "optics" if of_optics else dim
    if of_optics and "optics" not in ds.dims:
        raise ParameterError(where, expected="optics groups", found="none")
    values = np.asarray(evaluate(ds, formula, where=where, optics=of_optics))
    if values.ndim == 0:
        values = np.broadcast_to(values, (ds.sizes[rows],))
    if old is None:
        _check_name(name)
        if index is not None:
            raise unknown(name, ds, where)
        kind = VARIABLES[name].kind if name in VARIABLES else ""
        dtype = np.dtype(np.dtypes.StringDType()) if values.dtype.kind in tuple("TUO") else _type(kind, values)
        return validate(ds.assign({name: (rows, _fit(values, dtype, where))}), where)
    if index is None and old.ndim == 1:
        return ds.assign({name: (old.dims, _fit(values, old.dtype, where), old.attrs)})
    if index is None or old.ndim != 2 or int(index) >= old.shape[1]:
        remedy = "Rotations are set by rot, tilt and psi." if name == "rotation" else ""
        raise ParameterError(where, expected=f"one component of {name}, as {name}[0]", found=assignment, remedy=remedy)
    whole = old.values.copy()
    whole[:, int(index)] = _fit(values, old.dtype, where)
    return ds.assign({name: (old.dims, whole, old.attrs)})


def _is_optics(name: str) -> bool:
    return name in VARIABLES and VARIABLES[name].dims == ("optics",)


def _type(kind: str, values: NDArray[Any]) -> np.dtype[Any]:
    if not kind or values.dtype.kind in kind:
        return values.dtype
    return np.dtype({"iu": np.int32, "f": np.float64, "b": np.bool_}.get(kind, values.dtype))


def _fit(values: NDArray[Any], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """``values`` as ``dtype``, if that loses nothing that matters: whole numbers stay whole, text stays text."""
    if (values.dtype.kind in tuple("TUO")) != (dtype.kind in tuple("TUO")):
        raise ParameterError(where, expected=f"values of type {dtype}", found=str(values.dtype))
    if dtype.kind in "iu" and values.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(values) | (values != np.rint(values)))
        if len(wrong):
            raise ParameterError(where, expected="whole numbers", found=f"{values[wrong[0]]} in row {wrong[0] + 1}",
                                 remedy="round(...) makes them whole.")  # fmt: skip
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if len(values) and (values.min() < limits.min or values.max() > limits.max):
            raise ParameterError(
                where, expected=f"numbers that {dtype} holds", found=f"{values.min()} to {values.max()}"
            )
    if dtype.kind == "b" and values.dtype.kind != "b":
        raise ParameterError(where, expected="true or false", found=str(values.dtype))
    return values.astype(dtype)


def _set_angle(ds: xr.Dataset, name: str, formula: str, where: str, dim: str) -> xr.Dataset:
    from cryoflow.kernels.rotation import euler_to_matrix, matrix_to_euler

    n = ds.sizes[dim]
    angles = matrix_to_euler(ds["rotation"].values) if "rotation" in ds else np.zeros((n, 3))
    angles[:, _EULER.index(name)] = _fit(np.asarray(evaluate(ds, formula, where=where)), np.dtype(float), where)
    bad = np.flatnonzero(~np.isfinite(angles).all(axis=1))
    if len(bad):
        raise ParameterError(where, expected="finite angles", found=f"none in row {bad[0] + 1}")
    dtype = ds["rotation"].dtype if "rotation" in ds else np.float64
    return ds.assign(rotation=((dim, "row", "col"), euler_to_matrix(*angles.T).astype(dtype)))


def _check_name(name: str) -> None:
    if name not in VARIABLES and not name.startswith("x_"):
        near = difflib.get_close_matches(name, VARIABLES, 1)
        raise SchemaError(
            "columns", expected="a name of the schema, or one with the prefix x_", found=repr(name),
            remedy=f"Did you mean {near[0]}? Or x_{name}." if near else f"Call it x_{name}.",
        )  # fmt: skip


def replace_text(ds: xr.Dataset, column: str, pattern: str, new: str) -> xr.Dataset:
    r"""A text column with every match of a regular expression replaced; ``\1`` in ``new`` is the first group.

    Raises
    ------
    ParameterError : an unknown column, one that is not text, a pattern that is none, or one that matches nowhere.

    Examples
    --------
    >>> ds = xr.Dataset({"micrograph_name": ("particle", ["MotionCorr/job002/a_01.mrc"])})
    >>> replace_text(ds, "micrograph_name", r".*/(\w+)\.mrc", r"mics/\1.mrc").micrograph_name.values.tolist()
    ['mics/a_01.mrc']
    """
    where = f"replace_text({column!r}, {pattern!r})"
    old = ds.variables.get(column)
    if old is None:
        raise unknown(column, ds, where)
    if old.dtype.kind not in tuple("TUO") or old.ndim != 1:
        raise ParameterError(where, expected="a column of text", found=f"{old.dtype}", remedy="Use a formula (set).")
    values = old.values.astype(object)
    distinct, code = np.unique(values, return_inverse=True)  # names repeat: each is edited once
    try:
        edit = re.compile(pattern)
        edited = [edit.subn(new, str(v)) for v in distinct]
    except (re.error, IndexError) as error:
        raise ParameterError(where, expected="a regular expression and its replacement", found=str(error)) from None
    if not any(count for _, count in edited):
        raise ParameterError(where, expected="at least one match", found=f"none; the first value is {values[:1]}")
    text = np.array([t for t, _ in edited], np.dtypes.StringDType())
    return ds.assign({column: (old.dims, text[code], old.attrs)})
