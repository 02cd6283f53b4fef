"""Optics groups of several tables as one list, and groups that no row uses taken out."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.expression import row_dim
from cryoflow.tables.join import blank

__all__ = ["reconcile", "renumber_groups", "renumber_optics"]

# what the absence of a column means
_NEUTRAL: dict[str, Any] = {"beam_tilt": 0.0, "odd_zernike": 0.0, "even_zernike": 0.0, "magnification": np.eye(2)}


def reconcile(
    tables: list[xr.Dataset], *, missing: str, ignore_names: bool, notes: list[str]
) -> tuple[dict[str, xr.Variable], list[NDArray[np.int32]] | None]:
    """The optics variables of all sets, each distinct group once, and for each set the group of every row.

    Groups are one where their names and all values are equal to six digits.
    """
    if not any("optics" in t.dims for t in tables):
        return {}, None
    for i, table in enumerate(tables):
        if "optics_group" not in table or "optics" not in table.dims:
            raise ParameterError("merge", expected="optics groups in every set", found=f"none in set {i + 1}",
                                 remedy="Give its pixel size, voltage and Cs when it is opened.")  # fmt: skip
    columns = _same_columns(tables, missing, notes)
    names = list(columns[0])
    keys: dict[Any, int] = {}
    chosen: list[tuple[int, int]] = []
    membership = []
    for i, table in enumerate(tables):
        number = np.empty(table.sizes["optics"], np.int32)
        for group in range(table.sizes["optics"]):
            key = tuple(
                _digits(columns[i][n].values[group]) for n in names
                if not (n == "optics_name" and ignore_names) and not n.endswith("rlnOpticsGroup")
            )  # fmt: skip
            if key not in keys:
                keys[key] = len(keys)
                chosen.append((i, group))
            number[group] = keys[key]
        membership.append(number[table["optics_group"].values])
    merged = {}
    for name in names:
        like = columns[0][name]
        rows = [columns[i][name].values[group] for i, group in chosen]
        dtype = like.dtype if like.dtype.kind in tuple("TU") else np.result_type(*(c[name].dtype for c in columns))
        merged[name] = xr.Variable(like.dims, np.array(rows, dtype), like.attrs)
    if "optics_name" in merged:
        merged["optics_name"] = _unique_names(merged["optics_name"], notes)
    return merged, membership


def _digits(value: Any) -> Any:
    values = np.atleast_1d(np.asarray(value)).ravel()
    return tuple(f"{float(v):.6g}" if values.dtype.kind in "fiu" else str(v) for v in values)


def _same_columns(tables: list[xr.Dataset], missing: str, notes: list[str]) -> list[dict[str, xr.Variable]]:
    found = [{str(n): a for n, a in t.variables.items() if "optics" in a.dims and n != "optics"} for t in tables]
    every = list(dict.fromkeys(n for columns in found for n in columns))
    partial = [n for n in every if not all(n in c for c in found) and n not in _NEUTRAL]
    if partial and missing == "error":
        raise ParameterError("merge", expected="the same optics in every set", found=f"{', '.join(partial)} in some",
                             remedy="missing='fill' fills them, missing='drop' leaves them out.")  # fmt: skip
    if partial:
        notes.append(f"optics of some sets alone {'filled' if missing == 'fill' else 'left out'}: {', '.join(partial)}")
    out = []
    for table, columns in zip(tables, found):
        complete = {}
        for name in every:
            if name in partial and missing == "drop":
                continue
            like = [c[name] for c in found if name in c]
            length = max(v.shape[-1] for v in like)
            value = columns.get(name)
            if value is None:
                shape = (table.sizes["optics"], *like[0].shape[1:-1], *((length,) if like[0].ndim > 1 else ()))
                filler = np.broadcast_to(_NEUTRAL.get(name, blank(like[0].dtype)), shape)
                value = xr.Variable(like[0].dims, filler.astype(like[0].dtype), like[0].attrs)
            elif name.endswith("zernike") and value.shape[-1] < length:
                value = value.pad({value.dims[-1]: (0, length - value.shape[-1])}, constant_values=0.0)
            complete[name] = value
        out.append(complete)
    return out


def _unique_names(names: xr.Variable, notes: list[str]) -> xr.Variable:
    taken: set[str] = set()
    out = []
    for name in map(str, names.values):
        new, i = name, 2
        while new in taken:
            new, i = f"{name}_{i}", i + 1
        if new != name:
            notes.append(f"optics group {name} has other values in another set: it is now {new}")
        taken.add(new)
        out.append(new)
    return xr.Variable(names.dims, np.array(out, np.dtypes.StringDType()), names.attrs)


def renumber_optics(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` without the optics groups that none of its rows has; the others keep their order.

    >>> ds = xr.Dataset({"optics_group": ("particle", [2, 2, 0]), "voltage": ("optics", [300.0, 120.0, 200.0])})
    >>> out = renumber_optics(ds)
    >>> out.optics_group.values.tolist(), out.voltage.values.tolist()
    ([1, 1, 0], [300.0, 200.0])
    """
    dim = row_dim(ds, "renumber_optics")
    if "optics_group" not in ds:
        raise ParameterError("renumber_optics", expected="optics groups", found="none")
    used, code = np.unique(ds["optics_group"].values, return_inverse=True)
    return ds.isel(optics=used).assign(optics_group=(dim, code.astype(np.int32)))


def renumber_groups(ds: xr.Dataset, by: str = "micrograph_name") -> xr.Dataset:
    """Noise and scale groups (``group``) numbered anew from 1, one for each value of a column, in order of appearance.

    >>> ds = xr.Dataset({"micrograph_name": ("particle", ["b", "a", "b"])})
    >>> renumber_groups(ds).group.values.tolist()
    [1, 2, 1]
    """
    from cryoflow.tables.keys import codes

    dim = row_dim(ds, "renumber_groups")
    code = codes([ds], by, f"renumber_groups({by!r})")[0]
    return ds.assign(group=(dim, (code + 1).astype(np.int32)))
