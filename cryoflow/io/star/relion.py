"""RELION's tables of particles or micrographs as variables of the schema, and back.

All differences of convention are met here: Euler angles and matrices, origins in pixels (RELION 3.0) or angstrom,
optics in every row (3.0) or in a table of their own (3.1 and later), groups counted from 1, the order of defoci.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.star.lazywords import LazyWords, words_behind
from cryoflow.io.star.relion_blocks import join_blocks, split_optics
from cryoflow.io.star.words import STRINGS, Words
from cryoflow.kernels.rotation import euler_to_matrix, matrix_to_euler
from cryoflow.schema import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["from_tables", "split_optics", "text", "to_blocks", "to_tables"]

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
_PIXEL_SIZES = ("rlnImagePixelSize", "rlnPixelSize")
_BY_MAGNIFICATION = ("rlnDetectorPixelSize", "rlnMagnification")  # micrometres, and times
_CONVERTED = {"optics_group", "defocus_u", "defocus_v", "defocus_angle", "defocus_turns"}
_SAME_ROTATION = 1e-6  # of a matrix element: less than the angles' last decimal
_MAG = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
_LABELS = {v.star: v.name for v in VARIABLES.values() if v.star and v.dims in (("particle",), ("micrograph",))}
_OPTICS_LABELS = {v.star: v.name for v in VARIABLES.values() if v.star and v.dims == ("optics",)}


# figures that programs leave undefined where a fit failed
_MAY_BE_MISSING = {"pick_score", "log_likelihood", "max_probability", "ctf_resolution", "ctf_score"}
_ROWS = 1 << 13


def text(values: Any) -> NDArray[Any]:
    """Text as NumPy's variable-width strings (what Zarr gives back; a name of 100 letters takes 100 bytes, not 400)."""
    words = getattr(getattr(values, "array", None), "words", None)  # of a ``WordColumn``
    if isinstance(words, Words):
        return words.strings()
    if hasattr(values, "to_numpy"):
        return np.asarray(values.to_numpy()).astype(STRINGS)
    return np.asarray([str(v) for v in values], dtype=STRINGS)


def _words(table: pd.DataFrame, label: str, where: str) -> Any:
    """A column of text; of a large table it stays in few bytes until it is asked for."""
    words = getattr(table[label].array, "words", None)
    try:
        if isinstance(words, Words):
            words.check()
            return LazyWords.of(words)
        return text(table[label])
    except UnicodeEncodeError:
        row = next(i for i, word in enumerate(table[label]) if not _is_utf8(str(word)))
        raise FormatError(f"{where}, row {row + 1}", expected=f"UTF-8 for _{label}", found=repr(table[label].iloc[row]),
                          remedy="Convert the file, with iconv say.") from None  # fmt: skip


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(
    table: pd.DataFrame, label: str, where: str, *, missing: bool = False, copy: bool = True
) -> NDArray[np.float64]:
    """A column of numbers; without ``copy`` perhaps the table's own, which is not to be written to."""
    column = table[label]
    if column.dtype.kind in "iufb":
        values = column.to_numpy().astype(np.float64, copy=copy)
    else:
        import pandas as pd

        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        missing = False
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad) and not missing:
        raise FormatError(
            f"{where}, row {bad[0] + 1}", expected=f"a number for _{label}", found=repr(column.iloc[bad[0]]),
            remedy=f"{len(bad)} rows are affected: correct or remove them.",
        )  # fmt: skip
    return values


def _whole(table: pd.DataFrame, label: str, where: str) -> NDArray[np.int32] | NDArray[np.int64]:
    if table[label].dtype == np.int32:
        return np.array(table[label])
    values = _number(table, label, where)
    bad = np.flatnonzero((np.rint(values) != values) | (np.abs(values) > 2.0**53))
    if len(bad):
        raise FormatError(f"{where}, row {bad[0] + 1}", expected=f"a whole number for _{label}",
                          found=repr(table[label].iloc[bad[0]]))  # fmt: skip
    if len(values) and np.abs(values).max() >= 2**31:
        return values.astype(np.int64)
    return values.astype(np.int32)


def from_tables(rows: pd.DataFrame, optics: pd.DataFrame, *, dim: str, where: str) -> xr.Dataset:
    """A Dataset of schema variables from the two tables; unknown columns are kept as ``x_<label>`` in their order.

    ``rows`` is used up: a column leaves it when its variable is made, so that a large table is never held twice.
    """
    ds = xr.Dataset(attrs={"star_columns": list(rows.columns), "star_optics_columns": list(optics.columns)})
    if "star_file" in rows.attrs:
        ds.attrs["star_file"] = rows.attrs["star_file"]
    _optics(ds, optics, f"{where}, block data_optics")
    numbers = _whole(optics, "rlnOpticsGroup", where)
    ds["optics_group"] = (dim, _places(_whole(rows, "rlnOpticsGroup", where), numbers))
    _drop(rows, {"rlnOpticsGroup"})
    _drop(rows, _rotation(ds, rows, dim, where))
    _drop(rows, _shift(ds, rows, dim, where))
    _drop(rows, _defocus(ds, rows, dim, where))
    if {"rlnCoordinateX", "rlnCoordinateY"} <= set(rows.columns):
        xy = [_number(rows, f"rlnCoordinate{a}", where, copy=False) for a in "XY"]
        ds["coordinate"] = ((dim, "xy"), np.stack(xy, axis=1))
        _drop(rows, {"rlnCoordinateX", "rlnCoordinateY"})
    for label in list(rows.columns):
        name = _LABELS.get(label)
        if name is None:
            ds[f"x_{label}"] = (dim, _foreign(rows, label, where))
        elif VARIABLES[name].kind == "U":
            ds[name] = (dim, _words(rows, label, where))
        elif VARIABLES[name].kind == "iu":
            ds[name] = (dim, _whole(rows, label, where))
        else:
            ds[name] = (dim, _number(rows, label, where, missing=name in _MAY_BE_MISSING))
        _drop(rows, {label})
    if "half" in ds and not set(np.unique(ds.half)) <= {0, 1, 2}:
        raise FormatError(where, expected="_rlnRandomSubset of 0, 1 or 2", found=f"{np.unique(ds.half).tolist()}")
    return ds


def _places(groups: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.int32]:
    """Where each row's group is among the optics groups' numbers, all of which are there."""
    order = np.argsort(numbers)
    out = np.empty(len(groups), np.int32)
    for first in range(0, len(out), _ROWS):
        piece = slice(first, first + _ROWS)
        out[piece] = order[np.searchsorted(numbers, groups[piece], sorter=order)]
    return out


def _drop(table: pd.DataFrame, labels: set[str]) -> None:
    for label in labels & set(table.columns):
        del table[label]


def _foreign(table: pd.DataFrame, label: str, where: str) -> NDArray[Any]:
    return table[label].to_numpy() if table[label].dtype.kind in "iufb" else _words(table, label, where)


def _optics(ds: xr.Dataset, optics: pd.DataFrame, where: str) -> None:
    pixel = next((label for label in _PIXEL_SIZES if label in optics), None)
    taken = {"rlnOpticsGroup", pixel}
    if pixel:
        ds["pixel_size"] = ("optics", _number(optics, pixel, where))
    elif set(_BY_MAGNIFICATION) <= set(optics.columns):
        detector, magnification = (_number(optics, label, where) for label in _BY_MAGNIFICATION)
        if (magnification <= 0).any():
            raise FormatError(where, expected="_rlnMagnification above 0", found=f"{magnification.min():g}")
        ds["pixel_size"] = ("optics", detector * 1e4 / magnification)
    number = _whole(optics, "rlnOpticsGroup", where)
    if (number != np.arange(1, len(number) + 1)).any():
        ds["x_optics_rlnOpticsGroup"] = ("optics", number)
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
            ds[f"x_optics_{label}"] = ("optics", _foreign(optics, label, where))
        else:
            is_text = VARIABLES[known].kind == "U"
            ds[known] = ("optics", _words(optics, label, where) if is_text else _number(optics, label, where))


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


def _rotation(ds: xr.Dataset, rows: pd.DataFrame, dim: str, where: str) -> set[str]:
    if not {"rlnAngleRot", "rlnAngleTilt"} <= set(rows.columns):  # psi alone is a hint of a picker, not a pose
        return set()
    angles = [_number(rows, a, where, copy=False) if a in rows else np.zeros(len(rows)) for a in _ANGLES]
    ds["rotation"] = ((dim, "row", "col"), _rotations(*angles))
    if not _usual(*angles):
        ds["source_angles"] = ((dim, "angle"), np.stack(angles, axis=1))
    return set(_ANGLES)


def _shift(ds: xr.Dataset, rows: pd.DataFrame, dim: str, where: str) -> set[str]:
    taken: set[str] = set()
    for labels, in_pixels in ((("rlnOriginXAngst", "rlnOriginYAngst"), False), (("rlnOriginX", "rlnOriginY"), True)):
        if set(labels) <= set(rows.columns) and "shift" not in ds:
            shift = np.stack([_number(rows, label, where, copy=False) for label in labels], axis=1)
            if in_pixels:
                if "pixel_size" not in ds:
                    raise FormatError(where, expected="a pixel size, to read origins in pixels", found="none",
                                      remedy="Give pixel_size= in angstrom.")  # fmt: skip
                shift *= ds.pixel_size.values[ds.optics_group.values][:, None]
            ds["shift"] = ((dim, "xy"), shift)
            taken |= set(labels)
    return taken


def _rotations(*angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """``euler_to_matrix`` of many rows, some at a time: its sines and cosines take thrice the memory of the result."""
    out = np.empty((len(angles[0]), 3, 3))
    for first in range(0, len(out), _ROWS):
        piece = slice(first, first + _ROWS)
        out[piece] = euler_to_matrix(*(angle[piece] for angle in angles))
    return out


def _usual(rot: NDArray[np.float64], tilt: NDArray[np.float64], psi: NDArray[np.float64]) -> bool:
    """Whether all triples are those that ``matrix_to_euler`` gives."""
    turned = any(bool((a <= -180).any() or (a > 180).any()) for a in (rot, psi))
    return not turned and bool((tilt > 1e-3).all() and (tilt < 180 - 1e-3).all())


def _angles(ds: xr.Dataset) -> NDArray[np.float64]:
    """(rot, tilt, psi) of the rotations: the source's own where they still say the same rotation."""
    rotation = ds["rotation"].values
    angles: NDArray[np.float64] = matrix_to_euler(rotation)
    if "source_angles" in ds:
        source = ds["source_angles"].values
        same = np.abs(euler_to_matrix(*source.T) - rotation).max(axis=(-2, -1)) < _SAME_ROTATION
        angles = np.where(same[:, None], source, angles)
    return angles


def _defocus(ds: xr.Dataset, rows: pd.DataFrame, dim: str, where: str) -> set[str]:
    if "rlnDefocusU" not in rows:
        return set()
    u = _number(rows, "rlnDefocusU", where)
    v = _number(rows, "rlnDefocusV", where) if "rlnDefocusV" in rows else u.copy()
    angle = _number(rows, "rlnDefocusAngle", where) if "rlnDefocusAngle" in rows else np.zeros(len(rows))
    turns = np.zeros(len(rows), np.int8)
    for first in range(0, len(rows), _ROWS):
        piece = slice(first, first + _ROWS)
        turns[piece] = _turn(u[piece], v[piece], angle[piece])
    ds["defocus_u"], ds["defocus_v"], ds["defocus_angle"] = (dim, u), (dim, v), (dim, angle)
    if turns.any():
        ds["defocus_turns"] = (dim, turns)
    return set(_DEFOCUS)


def _turn(u: NDArray[np.float64], v: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the same astigmatism, with u the larger and the angle in (-90, 90], in place; quarter turns it took."""
    swapped = u < v
    inside = angle - 90.0 * swapped
    inside -= 180 * np.ceil((inside - 90) / 180)
    turns = np.rint((angle - inside) / 90)
    u[swapped], v[swapped] = v[swapped], u[swapped]
    angle[:] = inside
    return np.clip(turns, -128, 127)


def _source_defocus(ds: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """Defoci and angle in the source's form: the same astigmatism, however they were edited."""
    u, v, angle = (ds[name].values for name in ("defocus_u", "defocus_v", "defocus_angle"))
    if "defocus_turns" in ds:
        turns = np.nan_to_num(ds["defocus_turns"].values)
        odd = turns % 2 == 1
        u, v, angle = np.where(odd, v, u), np.where(odd, u, v), angle + 90.0 * turns
    return dict(zip(_DEFOCUS, (u, v, angle), strict=True))


def to_tables(ds: xr.Dataset, *, dim: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables (rows, optics) of RELION 3.1 for the variables of ``ds``; columns of a source keep their order."""
    import pandas as pd

    rows: dict[str, Any] = {}
    exact: list[str] = []
    n = ds.sizes[dim]
    for name, array in ds.variables.items():
        if array.dims == (dim,) and name not in _CONVERTED:
            label = _label(name, "x_")
            if label is not None and label not in rows:
                rows[label] = _values(array)
                exact += [label] * str(name).startswith("x_")
    if "rotation" in ds:
        rows |= dict(zip(_ANGLES, np.moveaxis(_angles(ds), -1, 0), strict=True))
    for name, labels in (("shift", ("rlnOriginXAngst", "rlnOriginYAngst")),
                         ("coordinate", ("rlnCoordinateX", "rlnCoordinateY"))):  # fmt: skip
        if name in ds:
            rows |= dict(zip(labels, ds[name].values.T, strict=True))
    if "defocus_u" in ds:
        rows |= _source_defocus(ds)
    groups = ds.sizes.get("optics", 1)
    number = np.arange(1, groups + 1)
    if "x_optics_rlnOpticsGroup" in ds:
        kept = ds["x_optics_rlnOpticsGroup"].values
        if kept.dtype.kind in "iu" and len(np.unique(kept)) == groups:  # not so after a careless merge
            number = kept
    rows["rlnOpticsGroup"] = number[ds["optics_group"].values] if "optics_group" in ds else np.full(n, number[0])
    optics: dict[str, Any] = {"rlnOpticsGroupName": [f"opticsGroup{i}" for i in number], "rlnOpticsGroup": number}
    for name, array in ds.variables.items():
        if array.dims == ("optics",) and name != "x_optics_rlnOpticsGroup":
            label = _label(name, "x_optics_")
            if label is not None:
                optics[label] = _values(array)
    _settle_pixel_sizes(optics, ds, dim)
    for name, columns in (("beam_tilt", _TILT), ("magnification", _MAG)):
        if name in ds:
            optics |= dict(zip(columns, ds[name].values.reshape(groups, -1).T, strict=True))
    for name, label in (("odd_zernike", "rlnOddZernike"), ("even_zernike", "rlnEvenZernike")):
        if name in ds:
            optics[label] = ["[" + ",".join(f"{x:.12g}" for x in row) + "]" for row in ds[name].values]
    tables = (
        pd.DataFrame(_ordered(rows, ds.attrs.get("star_columns", ())), copy=False),
        pd.DataFrame(_ordered(optics, ds.attrs.get("star_optics_columns", ()))),
    )
    tables[0].attrs["exact"], tables[1].attrs["exact"] = exact, True
    return tables


def _settle_pixel_sizes(optics: dict[str, Any], ds: xr.Dataset, dim: str) -> None:
    """Leave out what was read from another column, and let the detector's pixel follow the image's."""
    original, source = optics.get("rlnMicrographOriginalPixelSize"), ds.attrs.get("star_optics_columns", ())
    ours = optics.get("rlnMicrographPixelSize")
    derived = dim == "particle" and "rlnMicrographPixelSize" not in source
    if derived and ours is not None and original is not None and np.array_equal(ours, original):
        del optics["rlnMicrographPixelSize"]
    if set(_BY_MAGNIFICATION) <= set(optics) and "pixel_size" in ds:
        detector, times = (optics[label] for label in _BY_MAGNIFICATION)
        pixel = ds["pixel_size"].values
        if (np.abs(detector * 1e4 / times - pixel) > 1e-6 * pixel).any():
            optics["rlnDetectorPixelSize"] = pixel * times / 1e4


def to_blocks(
    ds: xr.Dataset, *, dim: str, block: str, version: str = "3.1", where: str = "to_blocks"
) -> dict[str, pd.DataFrame]:
    """All blocks of a file for ``ds``: rows, optics, and what else its source file held, in the source's order.

    Parameters
    ----------
    block : name of the block of rows, "particles" say.
    version : "3.1" (which RELION 3.1 to 5 read), "3.0" (one table, origins in pixels), or "source".

    Raises
    ------
    ParameterError : another version.
    """
    rows, optics = to_tables(ds, dim=dim)
    return join_blocks(rows, optics, ds.attrs.get("star_file", {}), block=block, form=version, where=where)


def _label(name: Hashable, prefix: str) -> str | None:
    key = str(name)
    if key.startswith(prefix):
        return key.removeprefix(prefix)
    return VARIABLES[key].star if key in VARIABLES else None


def _values(array: xr.Variable) -> Any:
    import pandas as pd

    words = words_behind(array)
    if words is not None:
        from cryoflow.io.star.wordcolumn import WordColumn

        return pd.Series(WordColumn(words))
    values = array.values
    return pd.Series(values.astype(object), dtype=object) if values.dtype.kind in "TUO" else values


def _ordered(columns: dict[str, Any], order: Any) -> dict[str, Any]:
    first = [label for label in order if label in columns]
    return {label: columns[label] for label in [*first, *(c for c in columns if c not in set(first))]}
