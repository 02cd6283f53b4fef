"""A table of cryoSPARC as variables of the schema and back, so that what was not touched returns bit by bit.

A field that its conversion does not reproduce exactly, or that has none, is kept as ``x_cs_<group>__<name>``; one of
two to 16 numbers a row as ``x_cs_<group>__<name>__0`` and so on, columns like any other, which STAR holds too. On the
way back a row whose variable still says what the kept field says gets the kept bytes. What no field of cryoSPARC can
hold goes into fields ``cryoflow/<variable>``, which cryoSPARC does not look at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.cryosparc.cs_defaults import complete
from cryoflow.io.cryosparc.cs_fields import BLOCK, LINKS, Link, words
from cryoflow.io.cryosparc.cs_file import Columns, describe_fields
from cryoflow.io.cryosparc.cs_names import EXTRA, lengthened, shortened
from cryoflow.io.cryosparc.cs_optics import full_name, read_optics, short_name, write_optics
from cryoflow.io.cryosparc.cs_types import as_type, plain, type_of
from cryoflow.schema import VARIABLES

__all__ = ["KEPT", "UID", "field_of", "from_columns", "gather", "to_columns", "variable_of"]

KEPT = "x_cs_"
UID = "x_ucsfUid"  # the label under which pyem keeps uid in STAR files
_IMAGES = ("image", "micrograph", "power_spectrum")  # which lie in files of their own
_COMPONENTS = 16
_COMPONENT = re.compile(r"(x_cs_.+)__(\d{1,2})")
TOLERANCE = 1e-10


def variable_of(field: str) -> str:
    """
    >>> variable_of("alignments3D/error")
    'x_cs_alignments3D__error'
    """
    return KEPT + field.replace("/", "__")


def field_of(variable: str) -> str:
    """
    >>> field_of("x_cs_alignments3D__error")
    'alignments3D/error'
    """
    return variable.removeprefix(KEPT).replace("__", "/")


# reading -------------------------------------------------------------------------------------------------------------


def from_columns(cs: Columns, *, dim: str, where: str) -> xr.Dataset:
    """The Dataset of a table; see the module.

    Raises
    ------
    FormatError : a field of the wrong type, a value out of range (with its row), or no rows.
    """
    if len(cs["uid"]) == 0:
        raise FormatError(where, expected="at least one row", found="none", remedy="The selection is empty.")
    source, cs = cs, lengthened(cs, where)
    ds, used = read_optics(cs, dim, where)
    kept: dict[str, None] = {}
    rebuilt = write_optics(ds, dim, tuple(cs))
    kept |= {f: None for f in used if f in rebuilt and not f.startswith(EXTRA) and not _same(rebuilt[f], cs[f])}
    taken = set(used)
    for link in LINKS[dim]:
        if not set(link.fields + link.needs) <= set(cs) or link.variables[0] in ds:
            continue
        values = link.read(cs, where)
        for name, array in values.items():
            ds[name] = ((dim, *VARIABLES[name].dims[1:]), array)
        taken |= set(link.fields)
        kept |= dict.fromkeys(_not_reproduced(link, values, cs))
    for field, column in cs.items():
        if field in kept or (field not in taken and field != "uid" and not field.startswith(EXTRA)):
            _keep(ds, cs, field, dim, where)
        elif field.startswith(EXTRA) and field not in taken:
            name = full_name(field.removeprefix(EXTRA), "x_")
            dims = VARIABLES[name].dims[1:] if name in VARIABLES else None
            ds[name] = _variable(cs, field, dim, where, dims if dims and len(dims) == column.ndim - 1 else None)
    ds[UID] = (dim, _native(cs["uid"]))
    ds.attrs["cs_fields"] = describe_fields(source)
    return ds


def _keep(ds: xr.Dataset, cs: Columns, field: str, dim: str, where: str) -> None:
    column = cs[field]
    if column.ndim == 2 and column.shape[1] <= _COMPONENTS and column.dtype.kind not in "SU":
        for i in range(column.shape[1]):
            ds[f"{variable_of(field)}__{i}"] = (dim, _native(column[:, i]))
    else:
        ds[variable_of(field)] = _variable(cs, field, dim, where)


def gather(ds: xr.Dataset, dim: str, template: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The fields that ``x_cs_`` variables keep, text as bytes; components are put together again."""
    kept: dict[str, NDArray[Any]] = {}
    parts: dict[str, dict[int, NDArray[Any]]] = {}
    for name, array in ds.variables.items():
        if not str(name).startswith(KEPT) or array.dims[:1] != (dim,):
            continue
        values = plain(array.values, str(name), "x_cs_ variables") if array.dtype.kind in "TUO" else array.values
        component = _COMPONENT.fullmatch(str(name))
        if component and field_of(str(name)) not in template:
            parts.setdefault(field_of(component[1]), {})[int(component[2])] = values
        else:
            kept[field_of(str(name))] = values
    for field, found in parts.items():
        if sorted(found) == list(range(len(found))):  # not where a table program dropped one
            kept[field] = np.stack([found[i] for i in range(len(found))], axis=1)
    return kept


def _not_reproduced(link: Link, values: Mapping[str, NDArray[Any]], cs: Columns) -> set[str]:
    """The fields of ``link`` that its variables do not give back bit by bit."""
    kept: set[str] = set()
    for at in range(0, len(cs["uid"]), BLOCK):
        rows = slice(at, at + BLOCK)
        fields = {f: cs[f][rows] for f in (*link.fields, *link.needs)}
        rebuilt = link.write({n: v[rows] for n, v in values.items()}, fields)
        kept |= {f for f in link.fields if f not in kept and not _same(rebuilt[f], fields[f])}
        if len(kept) == len(link.fields):
            break
    return kept


def _same(rebuilt: NDArray[Any], column: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(rebuilt.astype(column.dtype))
    return values.tobytes() == np.ascontiguousarray(column).tobytes()


def _native(column: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(column, column.dtype.newbyteorder("="))


def _variable(cs: Columns, field: str, dim: str, where: str, dims: tuple[str, ...] | None = None) -> xr.Variable:
    column = cs[field]
    if column.dtype.kind in "SU" and column.ndim == 1:
        names, code = words(cs, field, where)
        return xr.Variable((dim,), np.array(names, np.dtypes.StringDType())[code])
    if column.dtype.kind in "SU":
        raise FormatError(f"{where}, field {field}", expected="one text a row", found=f"{column.shape[1:]}")
    return xr.Variable((dim, *(dims or (f"cs{i}_{n}" for i, n in enumerate(column.shape[1:])))), _native(column))


# writing -------------------------------------------------------------------------------------------------------------


def to_columns(
    ds: xr.Dataset, uid: NDArray[np.uint64], kept: Mapping[str, NDArray[Any]], *, dim: str,
    template: Mapping[str, np.dtype[Any]], where: str, tolerance: float = TOLERANCE,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Columns of cryoSPARC for ``ds``.

    Parameters
    ----------
    uid : of each row.
    kept : fields as the source had them, row by row; they stand where nothing was changed.
    template : type of each field of the source, in its order.
    tolerance : a variable this near (relative) to what its kept field says was not changed.
    """
    written: dict[str, NDArray[Any]] = dict(write_optics(ds, dim, tuple(template)))
    variables = {str(n): a.values for n, a in ds.variables.items() if a.dims[:1] == (dim,) and n not in _IMAGES}
    links = _choose(dim, set(variables), set(template) | set(kept))
    context = complete(dict(kept), variables, written, uid, {f for link in links for f in link.fields}, template)
    for field in set(written) & set(kept):  # what an optics group says, where it is what the source said
        same = _near(kept[field].astype(np.float64), np.asarray(written[field], np.float64), tolerance)
        written[field] = np.where(_rows(same, written[field]), kept[field], written[field])
    extras: dict[str, NDArray[Any]] = {}
    for link in links:
        if not set(link.needs) <= set(context):
            extras |= {v: variables[v] for v in link.variables}
            continue
        mine = {v: variables[v] for v in link.variables}
        out = {f: as_type(v, type_of(f, v, template), f, where) for f, v in link.write(mine, context).items()}
        out = _restore(link, out, mine, context, kept, where, tolerance)
        written |= out
        back = link.read({**context, **out}, where)
        lossless = {"image_name"}  # but for the zeros before its number
        extras |= {v: a for v, a in mine.items() if v not in lossless and not _near(back[v], a, 2e-6).all()}
    linked = {v for link in links for v in link.variables} | {"optics_group", "particle_id", UID}
    if "usable" in variables and variables["usable"].all():
        linked |= {"usable", "reason"}
    extras |= {n: a for n, a in variables.items() if n not in linked and not n.startswith(KEPT)}
    columns = {**context, **written, "uid": uid}
    columns |= {EXTRA + short_name(n, "x_"): plain(a, n, where) for n, a in extras.items()}
    columns = shortened(columns)
    order = [f for f in template if f in columns]
    order += [f for f in columns if f not in template]
    order = ["uid", *(f for f in order if f != "uid")] if "uid" not in template else order
    return {f: as_type(columns[f], type_of(f, columns[f], template), f, where) for f in order}


def _choose(dim: str, variables: set[str], fields: set[str]) -> list[Link]:
    """One link for each variable: the one whose fields the source had, else the first that makes a whole group."""
    chosen: dict[str, Link] = {}
    groups = {field.partition("/")[0] for field in fields}
    groups |= {"blob", "ctf", "pick_stats", "micrograph_blob", "mscope_params"}
    groups |= {"alignments3D"} if "rotation" in variables else set()
    for link in LINKS[dim]:
        if set(link.variables) <= variables and link.fields[0].partition("/")[0] in groups:
            known = set(link.fields) <= fields
            if link.variables[0] not in chosen or (known and not set(chosen[link.variables[0]].fields) <= fields):
                chosen[link.variables[0]] = link
    return list(chosen.values())


def _restore(
    link: Link, out: dict[str, NDArray[Any]], mine: dict[str, NDArray[Any]], context: Columns, kept: Columns,
    where: str, tolerance: float,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """``out`` with the source's bytes in the rows where the variables still say the same."""
    source = {f: kept[f] for f in link.fields if f in kept}
    if not source:
        return out
    try:
        said = link.read({**context, **out, **source}, where)
    except FormatError:
        return out
    same = np.logical_and.reduce([_near(said[v], mine[v], tolerance) for v in link.variables])
    return {f: np.where(_rows(same, a), source[f].astype(a.dtype), a) if f in source else a for f, a in out.items()}


def _rows(which: NDArray[np.bool_], like: NDArray[Any]) -> NDArray[np.bool_]:
    return which.reshape(-1, *(1,) * (like.ndim - 1))


def _near(first: NDArray[Any], second: NDArray[Any], tolerance: float) -> NDArray[np.bool_]:
    """For each row whether two arrays agree; numbers to a relative ``tolerance``."""
    if first.dtype.kind != "f" or second.dtype.kind != "f":
        agree = np.asarray(first == second)
    else:
        agree = np.abs(first - second) <= tolerance * (1 + np.abs(second))
    return np.asarray(agree.reshape(len(agree), -1).all(axis=1))
