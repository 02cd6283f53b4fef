"""What cryoSPARC repeats in every row and an optics group shares: voltage, aberrations, pixel size, exposure group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.io.cryosparc.cs_fields import factorize, numbers, words
from cryoflow.io.cryosparc.cs_file import Columns
from cryoflow.schema import VARIABLES

__all__ = ["EXPOSURE_GROUP", "EXTRA", "GROUP_ID", "OPTICS", "full_name", "read_optics", "short_name", "write_optics"]

GROUP_ID = "x_optics_cs_exp_group_id"
EXTRA = "cryoflow/optics/"
EXPOSURE_GROUP = ("ctf/exp_group_id", "location/exp_group_id", "mscope_params/exp_group_id")

# variable of the optics groups -> fields, the first one that is there
OPTICS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "particle": {
        "pixel_size": ("blob/psize_A",),
        "micrograph_pixel_size": ("location/micrograph_psize_A",),
        "voltage": ("ctf/accel_kv",),
        "cs": ("ctf/cs_mm",),
        "amplitude_contrast": ("ctf/amp_contrast",),
        GROUP_ID: EXPOSURE_GROUP,
    },
    "micrograph": {
        "pixel_size": ("micrograph_blob/psize_A",),
        "voltage": ("ctf/accel_kv", "mscope_params/accel_kv"),
        "cs": ("ctf/cs_mm", "mscope_params/cs_mm"),
        "amplitude_contrast": ("ctf/amp_contrast",),
        GROUP_ID: EXPOSURE_GROUP,
    },
}
_TILT = "ctf/tilt_A"
_FOREIGN = "x_optics_"


def read_optics(cs: Columns, dim: str, where: str) -> tuple[xr.Dataset, tuple[str, ...]]:
    """``optics_group`` and the variables of the groups, which are the distinct combinations; and the fields used up."""
    rows = len(cs["uid"])
    used = {v: f for v, fields in OPTICS[dim].items() for f in reversed(fields) if f in cs}
    values = {variable: numbers(cs, field, where) for variable, field in used.items()}
    tilt = _tilt(cs, values, where)
    if tilt is not None:
        values["beam_tilt"] = tilt
        used["beam_tilt"] = _TILT
    texts: dict[str, NDArray[Any]] = {}
    for field in cs:
        if field.startswith(EXTRA):
            variable = full_name(field.removeprefix(EXTRA), _FOREIGN)
            used[variable], values[variable] = field, cs[field]
            if cs[field].dtype.kind in "SU":
                names, code = words(cs, field, where)
                texts[variable] = np.array(names, np.dtypes.StringDType())[code]
    code = np.zeros(rows, np.int64)
    for variable in sorted(values, key=lambda v: v != GROUP_ID):  # groups in the order of the exposure groups
        part = factorize(_flat(values[variable]))[1].astype(np.int64)
        code = np.unique(code * (int(part.max(initial=0)) + 1) + part, return_inverse=True)[1].astype(np.int64)
    first = np.unique(code, return_index=True)[1]
    ds = xr.Dataset({"optics_group": (dim, code.astype(np.int32))})
    for variable, array in (values | texts).items():
        value = array[first]
        if variable == GROUP_ID:
            value = value.astype(np.int64)
        ds[variable] = (("optics", *_dims(variable, value.shape[1:])), value)
    if "optics_name" not in ds:
        ds["optics_name"] = ("optics", default_names(ds.get(GROUP_ID), len(first)))
    return ds, tuple(used.values())


def short_name(variable: str, foreign: str) -> str:
    """``variable`` without the prefix of foreign columns, where ``full_name`` can tell.

    >>> short_name("x_optics_rlnMtfFileName", "x_optics_"), short_name("voltage", "x_optics_")
    ('rlnMtfFileName', 'voltage')
    """
    name = variable.removeprefix(foreign)
    return name if full_name(name, foreign) == variable else variable


def full_name(name: str, foreign: str) -> str:
    """The inverse of ``short_name``."""
    return name if name in VARIABLES or name.startswith("x_") else foreign + name


def default_names(group: xr.DataArray | None, count: int) -> NDArray[Any]:
    """Names for groups without one, distinct, from the number of their exposure group."""
    ids = group.values.tolist() if group is not None else list(range(1, count + 1))
    names = [f"exposureGroup{i}" + (f"_{ids[:k].count(i) + 1}" if i in ids[:k] else "") for k, i in enumerate(ids)]
    return np.array(names, np.dtypes.StringDType())


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """One comparable value a row."""
    if values.ndim == 1:
        return values
    packed = np.ascontiguousarray(values).reshape(len(values), -1)
    return packed.view(np.dtype((np.void, packed.shape[1] * packed.itemsize))).ravel()


def _dims(variable: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    known = VARIABLES.get(variable)
    if known is not None and len(known.dims) == 1 + len(shape):
        return known.dims[1:]
    return tuple(f"cs{i}_{n}" for i, n in enumerate(shape))


def _tilt(cs: Columns, values: Mapping[str, NDArray[np.float64]], where: str) -> NDArray[np.float64] | None:
    """Beam tilt in mrad, asin(tilt_A / Cs), where that has a meaning."""
    if _TILT not in cs or "cs" not in values:
        return None
    shift = numbers(cs, _TILT, where, 2)
    aberration = 1e7 * values["cs"][:, None]
    if not (aberration > 0).all() or (np.abs(shift) > aberration).any():
        return None
    return np.asarray(1e3 * np.arcsin(shift / aberration))


def write_optics(ds: xr.Dataset, dim: str, fields: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The fields of ``read_optics``, a row each; variables without a field of cryoSPARC's go to ``cryoflow/optics/``.

    ``fields`` are those of the source: where several would do, what was read is written.
    """
    if "optics" not in ds.dims:
        return {}
    group = ds["optics_group"].values if "optics_group" in ds else np.zeros(ds.sizes[dim], np.int64)
    out: dict[str, NDArray[Any]] = {}
    for name, array in ds.variables.items():
        variable = str(name)
        if array.dims[:1] != ("optics",) or (variable == "optics_name" and _is_default(ds)):
            continue
        known = OPTICS[dim].get(variable)
        if known:
            field = next((f for f in known if f in fields), known[0])
            out[field] = array.values[group]
        elif variable == "beam_tilt" and "cs" in ds and (ds["cs"].values > 0).all():
            out[_TILT] = (np.sin(1e-3 * array.values) * 1e7 * ds["cs"].values[:, None])[group]
        else:
            out[EXTRA + short_name(variable, _FOREIGN)] = array.values[group]
    if GROUP_ID not in ds and not fields:
        out[EXPOSURE_GROUP[0]] = np.asarray(group, np.int64) + 1
    return out


def _is_default(ds: xr.Dataset) -> bool:
    said = [str(name) for name in ds["optics_name"].values]
    return said == [str(name) for name in default_names(ds.get(GROUP_ID), len(said))]
