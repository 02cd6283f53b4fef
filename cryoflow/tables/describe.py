"""A table in a few lines: how many rows, which columns, in which range."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from cryoflow.io.expression import row_dim

__all__ = ["describe_table"]


def describe_table(ds: xr.Dataset) -> list[str]:
    """Lines about the rows and columns of a table: counts, ranges, different texts. Images are not read.

    >>> describe_table(xr.Dataset({"half": ("particle", [1, 2, 2])}))
    ['3 particles', '  half              1 .. 2']
    """
    dim = row_dim(ds, "describe_table")
    n = ds.sizes[dim]
    lines = [f"{n} {dim}{'' if n == 1 else 's'}"]
    for key, array in ds.variables.items():
        name = str(key)
        if dim in array.dims:
            lines += [f"  {label:<17} {text}" for label, text in _column(name, array)]
    if "optics" in ds.dims:
        lines.append(f"{ds.sizes['optics']} optics group{'' if ds.sizes['optics'] == 1 else 's'}")
        lines += [
            f"  {name!s:<17} {', '.join(_short(v) for v in np.unique(a.values)[:6])}"
            for name, a in ds.variables.items() if a.dims == ("optics",)
        ]  # fmt: skip
    return lines


def _column(name: str, array: xr.Variable) -> list[tuple[str, str]]:
    if array.chunks is not None or array.ndim > 3:
        return [(name, " x ".join(map(str, array.shape[1:])) + f" {array.dtype}, not read")]
    values = array.values
    if name == "rotation":
        from cryoflow.kernels.rotation import matrix_to_euler

        angles = matrix_to_euler(values)
        return [(label, _range(angles[:, i])) for i, label in enumerate(("rot", "tilt", "psi"))]
    if values.ndim > 1:
        flat = values.reshape(len(values), -1)
        return [(f"{name}[{i}]", _range(flat[:, i])) for i in range(min(flat.shape[1], 9))]
    return [(name, _range(values))]


def _range(values: Any) -> str:
    if not len(values):
        return "no rows"
    if values.dtype.kind in tuple("TUO"):
        distinct = len(np.unique(values))
        return f"{distinct} different, the first {values[0]}" if distinct > 1 else str(values[0])
    if values.dtype.kind == "b":
        return f"{int(values.sum())} true"
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        rest = f", {len(values) - len(finite)} not finite" if len(finite) < len(values) else ""
        return (f"{finite.min():g} .. {finite.max():g}" if len(finite) else "none") + rest
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} .. {high}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
