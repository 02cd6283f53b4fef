"""RELION's tables of particles or micrographs as variables of the schema, and back.

All differences of convention are met here: Euler angles and matrices, origins in pixels (RELION 3.0) or angstrom,
optics in every row (3.0) or in a table of their own (3.1 and later), groups counted from 1, the order of defoci.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.kernels.rotation import euler_to_matrix, matrix_to_euler
from cryoflow.schema import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["from_tables", "split_optics", "text", "to_tables"]

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
# what RELION 3.0 wrote in every row and 3.1 in the table of optics groups
_OPTICS_30 = (
    "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize",
    "rlnPixelSize", "rlnBeamTiltX", "rlnBeamTiltY",
)  # fmt: skip
_PIXEL_SIZES = ("rlnImagePixelSize", "rlnPixelSize")
_MAG = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
_LABELS = {v.star: v.name for v in VARIABLES.values() if v.star and v.dims in (("particle",), ("micrograph",))}
_OPTICS_LABELS = {v.star: v.name for v in VARIABLES.values() if v.star and v.dims == ("optics",)}


def text(values: Any) -> NDArray[Any]:
    """Text as NumPy's variable-width strings (what Zarr gives back; a name of 100 letters takes 100 bytes, not 400)."""
    return np.asarray([str(v) for v in values], dtype=np.dtypes.StringDType())


def split_optics(blocks: Mapping[str, pd.DataFrame], block: str, where: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and optics groups of a file of RELION 3.0 (groups are made from equal optics) or 3.1 and later.

    Raises
    ------
    FormatError : no table of rows, no rows, or rows of an optics group that is not there.
    """
    if "optics" in blocks:
        rows = blocks.get(block)
        optics = blocks["optics"].copy()
        if rows is None:
            raise FormatError(where, expected=f"a block data_{block}", found=f"blocks {', '.join(blocks)}")
        if "rlnOpticsGroup" not in optics:
            raise FormatError(f"{where}, block data_optics", expected="_rlnOpticsGroup", found="no such label")
        rows = rows.copy(deep=False)
        if "rlnOpticsGroup" not in rows:
            if len(optics) > 1:
                raise FormatError(f"{where}, block data_{block}", expected="_rlnOpticsGroup", found="no such label")
            rows["rlnOpticsGroup"] = optics.rlnOpticsGroup.iloc[0]
        unknown = np.flatnonzero(~rows.rlnOpticsGroup.isin(optics.rlnOpticsGroup).to_numpy())
        if len(unknown):
            raise FormatError(
                f"{where}, row {unknown[0] + 1}", expected=f"an optics group of {optics.rlnOpticsGroup.tolist()}",
                found=f"{rows.rlnOpticsGroup.iloc[unknown[0]]}", remedy="Add the group to data_optics.",
            )  # fmt: skip
    else:
        rows = next((b for b in blocks.values() if "rlnImageName" in b or "rlnMicrographName" in b), None)
        if rows is None:
            raise FormatError(
                where, expected="a table with _rlnImageName or _rlnMicrographName", found=f"blocks {list(blocks)}"
            )
        rows, optics = _optics_of_rows(rows.copy(deep=False))
    if len(rows) == 0:
        raise FormatError(where, expected="at least one row", found="none", remedy="The selection is empty.")
    return rows.reset_index(drop=True), optics.reset_index(drop=True)


def _optics_of_rows(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    import pandas as pd

    labels = [label for label in _OPTICS_30 if label in rows]
    if labels:
        groups = rows.groupby(labels, sort=False, dropna=False)
        rows["rlnOpticsGroup"] = groups.ngroup() + 1
        optics = rows.loc[~rows.rlnOpticsGroup.duplicated().to_numpy(), labels]
    else:
        rows["rlnOpticsGroup"] = 1
        optics = pd.DataFrame(index=[0])
    optics["rlnOpticsGroup"] = np.arange(1, len(optics) + 1)
    optics["rlnOpticsGroupName"] = [f"opticsGroup{i}" for i in range(1, len(optics) + 1)]
    if "rlnPixelSize" not in optics and {"rlnMagnification", "rlnDetectorPixelSize"} <= set(labels):
        optics["rlnImagePixelSize"] = optics.rlnDetectorPixelSize * 1e4 / optics.rlnMagnification
    optics = optics.drop(columns=["rlnMagnification", "rlnDetectorPixelSize"], errors="ignore")
    return rows.drop(columns=labels), optics


def _number(table: pd.DataFrame, label: str, where: str) -> NDArray[np.float64]:
    column = table[label]
    if column.dtype.kind in "iufb":
        values = column.to_numpy().astype(np.float64)
    else:
        import pandas as pd

        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise FormatError(
            f"{where}, row {bad[0] + 1}", expected=f"a number for _{label}", found=repr(column.iloc[bad[0]]),
            remedy=f"{len(bad)} rows are affected: correct or remove them.",
        )  # fmt: skip
    return values


def _whole(table: pd.DataFrame, label: str, where: str) -> NDArray[np.int64]:
    return np.rint(_number(table, label, where)).astype(np.int64)


def from_tables(rows: pd.DataFrame, optics: pd.DataFrame, *, dim: str, where: str) -> xr.Dataset:
    """A Dataset of schema variables from the two tables; unknown columns are kept as ``x_<label>`` in their order."""
    ds = xr.Dataset(attrs={"star_columns": list(rows.columns), "star_optics_columns": list(optics.columns)})
    _optics(ds, optics, f"{where}, block data_optics")
    index = {int(group): i for i, group in enumerate(_whole(optics, "rlnOpticsGroup", where))}
    groups = _whole(rows, "rlnOpticsGroup", where)
    ds["optics_group"] = (dim, np.array([index[int(g)] for g in np.unique(groups)], np.int32)[
        np.unique(groups, return_inverse=True)[1]
    ])  # fmt: skip
    taken = {"rlnOpticsGroup"}
    taken |= _pose(ds, rows, dim, where)
    taken |= _defocus(ds, rows, dim, where)
    if {"rlnCoordinateX", "rlnCoordinateY"} <= set(rows.columns):
        xy = [_number(rows, f"rlnCoordinate{a}", where) for a in "XY"]
        ds["coordinate"] = ((dim, "xy"), np.stack(xy, axis=1))
        taken |= {"rlnCoordinateX", "rlnCoordinateY"}
    for label in rows.columns:
        if label in taken:
            continue
        name = _LABELS.get(label)
        if name is None:
            ds[f"x_{label}"] = (dim, _foreign(rows[label]))
        elif VARIABLES[name].kind == "U":
            ds[name] = (dim, text(rows[label]))
        elif VARIABLES[name].kind == "iu":
            ds[name] = (dim, _whole(rows, label, where).astype(np.int32))
        else:
            ds[name] = (dim, _number(rows, label, where))
    if "half" in ds and not set(np.unique(ds.half)) <= {0, 1, 2}:
        raise FormatError(where, expected="_rlnRandomSubset of 0, 1 or 2", found=f"{np.unique(ds.half).tolist()}")
    return ds


def _foreign(column: pd.Series[Any]) -> NDArray[Any]:
    return column.to_numpy() if column.dtype.kind in "iufb" else text(column)


def _optics(ds: xr.Dataset, optics: pd.DataFrame, where: str) -> None:
    pixel = next((label for label in _PIXEL_SIZES if label in optics), None)
    taken = {"rlnOpticsGroup", pixel}
    if pixel:
        ds["pixel_size"] = ("optics", _number(optics, pixel, where))
    if "rlnMicrographPixelSize" not in optics and "rlnMicrographOriginalPixelSize" in optics:
        ds["micrograph_pixel_size"] = ("optics", _number(optics, "rlnMicrographOriginalPixelSize", where))
    for name, labels, shape in (("beam_tilt", _TILT, ("xy",)), ("magnification", _MAG, ("row2", "col2"))):
        if set(labels) <= set(optics.columns):
            stacked = np.stack([_number(optics, label, where) for label in labels], axis=1)
            ds[name] = (("optics", *shape), stacked.reshape(len(optics), *(2,) * len(shape)))
            taken |= set(labels)
    for name, label, extent in (("odd_zernike", "rlnOddZernike", "odd"), ("even_zernike", "rlnEvenZernike", "even")):
        if label in optics:
            ds[name] = (("optics", extent), _coefficients(optics[label], f"{where}, _{label}"))
            taken.add(label)
    for label in optics.columns:
        if label in taken:
            continue
        known = _OPTICS_LABELS.get(label)
        if known is None:
            ds[f"x_optics_{label}"] = ("optics", _foreign(optics[label]))
        else:
            is_text = VARIABLES[known].kind == "U"
            ds[known] = ("optics", text(optics[label]) if is_text else _number(optics, label, where))


def _coefficients(column: pd.Series[Any], where: str) -> NDArray[np.float64]:
    """Rows like ``[0.1,0,2e-3]``; shorter ones are filled with zeros, as absent terms are."""
    try:
        lists = [[float(x) for x in str(row).strip("[]").split(",") if x] for row in column]
    except ValueError as error:
        raise FormatError(where, expected="a list of numbers like [0.1,0,2]", found=str(error)) from None
    out = np.zeros((len(lists), max(map(len, lists))))
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out


def _pose(ds: xr.Dataset, rows: pd.DataFrame, dim: str, where: str) -> set[str]:
    taken: set[str] = set()
    if {"rlnAngleRot", "rlnAngleTilt"} <= set(rows.columns):  # psi alone is a hint of a picker, not a pose
        angles = [_number(rows, a, where) if a in rows else np.zeros(len(rows)) for a in _ANGLES]
        ds["rotation"] = ((dim, "row", "col"), euler_to_matrix(*angles))
        taken |= set(_ANGLES)
    for labels, in_pixels in ((("rlnOriginXAngst", "rlnOriginYAngst"), False), (("rlnOriginX", "rlnOriginY"), True)):
        if set(labels) <= set(rows.columns) and "shift" not in ds:
            shift = np.stack([_number(rows, label, where) for label in labels], axis=1)
            if in_pixels:
                if "pixel_size" not in ds:
                    raise FormatError(where, expected="a pixel size, to read origins in pixels", found="none",
                                      remedy="Give pixel_size= in angstrom.")  # fmt: skip
                shift *= ds.pixel_size.values[ds.optics_group.values][:, None]
            ds["shift"] = ((dim, "xy"), shift)
            taken |= set(labels)
    return taken


def _defocus(ds: xr.Dataset, rows: pd.DataFrame, dim: str, where: str) -> set[str]:
    if "rlnDefocusU" not in rows:
        return set()
    u = _number(rows, "rlnDefocusU", where)
    v = _number(rows, "rlnDefocusV", where) if "rlnDefocusV" in rows else u.copy()
    angle = _number(rows, "rlnDefocusAngle", where) if "rlnDefocusAngle" in rows else np.zeros(len(rows))
    swapped = u < v  # the same astigmatism, with u the larger
    u, v, angle = np.where(swapped, v, u), np.where(swapped, u, v), np.where(swapped, angle + 90, angle)
    outside = (angle <= -90) | (angle > 90)
    ds["defocus_u"], ds["defocus_v"] = (dim, u), (dim, v)
    ds["defocus_angle"] = (dim, np.where(outside, 90 - (90 - angle) % 180, angle))
    return set(_DEFOCUS)


def to_tables(ds: xr.Dataset, *, dim: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables (rows, optics) of RELION 3.1 for the variables of ``ds``; columns of a source keep their order."""
    import pandas as pd

    rows: dict[str, Any] = {}
    n = ds.sizes[dim]
    for name, array in ds.variables.items():
        if array.dims == (dim,) and name != "optics_group":
            label = _label(name, "x_")
            if label is not None and label not in rows:
                rows[label] = _values(array)
    if "rotation" in ds:
        rows |= dict(zip(_ANGLES, np.moveaxis(matrix_to_euler(ds["rotation"].values), -1, 0), strict=True))
    for name, labels in (("shift", ("rlnOriginXAngst", "rlnOriginYAngst")),
                         ("coordinate", ("rlnCoordinateX", "rlnCoordinateY"))):  # fmt: skip
        if name in ds:
            rows |= dict(zip(labels, ds[name].values.T, strict=True))
    if "defocus_u" in ds:
        rows["rlnDefocusU"], rows["rlnDefocusV"] = ds.defocus_u.values, ds.defocus_v.values
        rows["rlnDefocusAngle"] = ds.defocus_angle.values
    rows["rlnOpticsGroup"] = ds["optics_group"].values + 1 if "optics_group" in ds else np.ones(n, np.int64)
    groups = ds.sizes.get("optics", 1)
    optics: dict[str, Any] = {"rlnOpticsGroupName": [f"opticsGroup{i + 1}" for i in range(groups)]}
    optics["rlnOpticsGroup"] = np.arange(1, groups + 1)
    for name, array in ds.variables.items():
        if array.dims == ("optics",):
            label = _label(name, "x_optics_")
            if label is not None:
                optics[label] = _values(array)
    for name, columns in (("beam_tilt", _TILT), ("magnification", _MAG)):
        if name in ds:
            optics |= dict(zip(columns, ds[name].values.reshape(groups, -1).T, strict=True))
    for name, label in (("odd_zernike", "rlnOddZernike"), ("even_zernike", "rlnEvenZernike")):
        if name in ds:
            optics[label] = ["[" + ",".join(f"{x:.12g}" for x in row) + "]" for row in ds[name].values]
    return (
        pd.DataFrame(_ordered(rows, ds.attrs.get("star_columns", ()))),
        pd.DataFrame(_ordered(optics, ds.attrs.get("star_optics_columns", ()))),
    )


def _label(name: Hashable, prefix: str) -> str | None:
    key = str(name)
    if key.startswith(prefix):
        return key.removeprefix(prefix)
    return VARIABLES[key].star if key in VARIABLES else None


def _values(array: xr.Variable) -> Any:
    values = array.values
    return [str(v) for v in values] if values.dtype.kind in "TUO" else values


def _ordered(columns: dict[str, Any], order: Any) -> dict[str, Any]:
    first = [label for label in order if label in columns]
    return {label: columns[label] for label in [*first, *(c for c in columns if c not in set(first))]}
