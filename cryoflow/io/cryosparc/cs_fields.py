"""The meaning of cryoSPARC's fields: which variables of the schema they are, and the conversion in both directions.

=====================================  ===========================  =================================================
field                                  variable                     relation
=====================================  ===========================  =================================================
alignments3D/pose                      rotation                     A = transpose of the active rotation by |v|
                                                                    radians about v
alignments3D/shift                     shift                        pixels of alignments3D/psize_A, same sign
alignments3D/split                     half                         0 -> 1, 1 -> 2; all 0: not assigned
alignments3D/class, alignments2D/...   class_number                 counted from 0 there, from 1 here
ctf/df1_A, df2_A, df_angle_rad         defocus_u, _v, _angle        u is the larger here
ctf/phase_shift_rad                    phase_shift                  radians there, degrees here
location/center_x_frac, center_y_frac  coordinate                   fraction of the columns, of the rows from the first
blob/path, blob/idx                    image_name                   counted from 0 there, from 1 here
=====================================  ===========================  =================================================

Source of pose and shift: the published conversions of pyem and helicon, which agree with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.cryosparc.cs_file import Columns
from cryoflow.kernels.rotation import rotation_to_vector, vector_to_rotation

__all__ = ["BLOCK", "LINKS", "Link", "factorize", "numbers", "words"]

BLOCK = 65536  # rows of text at a time: bounds the memory
_LARGEST_TURN = 1e3  # radians; a pose of cryoSPARC stays near pi


@dataclass(frozen=True, slots=True)
class Link:
    """Fields that mean the same as some variables.

    ``read`` makes the variables, all of a row each, from ``fields`` and ``needs``; ``write`` makes ``fields`` from the
    variables and ``needs``. ``needs`` are fields of their own, which a link only looks at.
    """

    fields: tuple[str, ...]
    variables: tuple[str, ...]
    read: Callable[[Columns, str], dict[str, NDArray[Any]]]
    write: Callable[[Mapping[str, NDArray[Any]], Columns], dict[str, NDArray[Any]]]
    needs: tuple[str, ...] = ()


def numbers(cs: Columns, name: str, where: str, width: int = 0) -> NDArray[np.float64]:
    """Column ``name`` as finite float64, shape (rows,) or (rows, width).

    Raises
    ------
    FormatError : another shape or type, or a value that is no number; names the row.
    """
    column = cs[name]
    if column.dtype.kind not in "iuf" or column.shape[1:] != ((width,) if width else ()):
        raise FormatError(
            f"{where}, field {name}", expected=f"{width or 1} numbers a row",
            found=f"{column.dtype.str} of shape {column.shape[1:]}",
        )  # fmt: skip
    values = column.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))[0])
        raise FormatError(
            f"{where}, field {name}, row {row + 1}", expected="finite numbers", found=f"{column[row].tolist()}",
            remedy="Correct or remove such rows.",
        )  # fmt: skip
    return values


def factorize(column: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Distinct values of a column and for each row which it is; fast where equal ones follow each other."""
    first = np.ones(len(column), bool)
    first[1:] = column[1:] != column[:-1]
    distinct, code = np.unique(column[first], return_inverse=True)
    return distinct, code[np.cumsum(first) - 1].astype(np.int32)


def words(cs: Columns, name: str, where: str) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct texts of a column, and for each row which it is.

    Raises
    ------
    FormatError : a column of another type, or bytes that are not UTF-8.
    """
    column = cs[name]
    if column.dtype.kind not in "SU" or column.ndim != 1:
        raise FormatError(f"{where}, field {name}", expected="text", found=f"{column.dtype.str} of {column.shape[1:]}")
    distinct, code = factorize(column)
    texts = []
    for value in distinct.tolist():
        try:
            text = value.decode() if isinstance(value, bytes) else str(value)
            text.encode()
        except UnicodeError as error:
            raise FormatError(f"{where}, field {name}", expected="text in UTF-8", found=f"{error}"[:200]) from None
        texts.append(text)
    return texts, code


def _text(names: list[str], code: NDArray[np.int32]) -> NDArray[Any]:
    return np.array(names, np.dtypes.StringDType())[code]


def _bytes(values: NDArray[Any]) -> NDArray[np.bytes_]:
    return np.array([str(v).encode() for v in values.tolist()] or [b""], np.bytes_)[: len(values)]


def _whole(values: NDArray[np.float64], field: str, low: int, high: int, where: str) -> NDArray[np.int64]:
    bad = np.flatnonzero((values < low) | (values > high) | (values != np.rint(values)))
    if len(bad):
        raise FormatError(f"{where}, field {field}, row {bad[0] + 1}", expected=f"a whole number from {low} to {high}",
                          found=f"{values[bad[0]]:g}")  # fmt: skip
    return values.astype(np.int64)


def _read_pose(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
    vector = numbers(cs, "alignments3D/pose", where, 3)
    far = np.flatnonzero(np.abs(vector).max(axis=1, initial=0) > _LARGEST_TURN)
    if len(far):
        raise FormatError(
            f"{where}, field alignments3D/pose, row {far[0] + 1}", expected="a rotation vector in radians",
            found=f"{vector[far[0]].tolist()}",
        )  # fmt: skip
    return {"rotation": vector_to_rotation(-np.rad2deg(vector))}  # the transpose turns the other way


def _write_pose(ds: Mapping[str, NDArray[Any]], _cs: Columns) -> dict[str, NDArray[Any]]:
    return {"alignments3D/pose": -np.deg2rad(rotation_to_vector(ds["rotation"]))}


def _read_shift(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
    pixel = numbers(cs, "alignments3D/psize_A", where)
    if len(pixel) and not pixel.min() > 0:
        raise FormatError(f"{where}, field alignments3D/psize_A, row {np.argmin(pixel) + 1}", expected="above 0",
                          found=f"{pixel.min():g}")  # fmt: skip
    return {"shift": numbers(cs, "alignments3D/shift", where, 2) * pixel[:, None]}


def _write_shift(ds: Mapping[str, NDArray[Any]], cs: Columns) -> dict[str, NDArray[Any]]:
    return {"alignments3D/shift": ds["shift"] / cs["alignments3D/psize_A"].astype(np.float64)[:, None]}


def _read_half(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
    split = _whole(numbers(cs, "alignments3D/split", where), "alignments3D/split", 0, 1, where)
    return {"half": (split + 1 if split.any() else split).astype(np.int32)}


def _write_half(ds: Mapping[str, NDArray[Any]], _cs: Columns) -> dict[str, NDArray[Any]]:
    return {"alignments3D/split": np.maximum(ds["half"], 1) - 1}


def _class(field: str) -> Link:
    def read(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
        return {"class_number": (_whole(numbers(cs, field, where), field, 0, 2**31 - 2, where) + 1).astype(np.int32)}

    def write(ds: Mapping[str, NDArray[Any]], _cs: Columns) -> dict[str, NDArray[Any]]:
        return {field: np.maximum(ds["class_number"], 1) - 1}

    return Link((field,), ("class_number",), read, write)


def _read_defocus(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
    u, v = numbers(cs, "ctf/df1_A", where), numbers(cs, "ctf/df2_A", where)
    angle = np.rad2deg(numbers(cs, "ctf/df_angle_rad", where))
    swapped = u < v  # the same astigmatism, with u the larger
    u, v, angle = np.where(swapped, v, u), np.where(swapped, u, v), np.where(swapped, angle + 90, angle)
    outside = (angle <= -90) | (angle > 90)
    return {"defocus_u": u, "defocus_v": v, "defocus_angle": np.where(outside, 90 - (90 - angle) % 180, angle)}


def _write_defocus(ds: Mapping[str, NDArray[Any]], _cs: Columns) -> dict[str, NDArray[Any]]:
    angle = np.deg2rad(ds["defocus_angle"])
    return {"ctf/df1_A": ds["defocus_u"], "ctf/df2_A": ds["defocus_v"], "ctf/df_angle_rad": angle}


def _read_coordinate(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
    rows, columns = numbers(cs, "location/micrograph_shape", where, 2).T
    x, y = numbers(cs, "location/center_x_frac", where), numbers(cs, "location/center_y_frac", where)
    return {"coordinate": np.stack([x * columns, y * rows], axis=1)}


def _write_coordinate(ds: Mapping[str, NDArray[Any]], cs: Columns) -> dict[str, NDArray[Any]]:
    rows, columns = np.maximum(cs["location/micrograph_shape"].astype(np.float64), 1).T
    x, y = ds["coordinate"].T
    return {"location/center_x_frac": x / columns, "location/center_y_frac": y / rows}


def _scaled(field: str, variable: str, factor: float = 1.0) -> Link:
    def read(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
        return {variable: numbers(cs, field, where) * factor}

    def write(ds: Mapping[str, NDArray[Any]], _cs: Columns) -> dict[str, NDArray[Any]]:
        return {field: ds[variable] / factor}

    return Link((field,), (variable,), read, write)


def _named(field: str, variable: str) -> Link:
    def read(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
        names, code = words(cs, field, where)
        return {variable: _text([name.removeprefix(">") for name in names], code)}

    def write(ds: Mapping[str, NDArray[Any]], _cs: Columns) -> dict[str, NDArray[Any]]:
        return {field: _bytes(ds[variable])}

    return Link((field,), (variable,), read, write)


def _read_image(cs: Columns, where: str) -> dict[str, NDArray[Any]]:
    names, code = words(cs, "blob/path", where)
    index = _whole(numbers(cs, "blob/idx", where), "blob/idx", 0, 2**31 - 2, where)
    names = [name.removeprefix(">") for name in names]  # the mark of names relative to the table
    out = np.empty(len(code), np.dtypes.StringDType())
    for at in range(0, len(code), BLOCK):
        rows = zip(index[at : at + BLOCK].tolist(), code[at : at + BLOCK].tolist(), strict=True)
        out[at : at + BLOCK] = [f"{i + 1:06d}@{names[c]}" for i, c in rows]
    return {"image_name": out}


def _write_image(ds: Mapping[str, NDArray[Any]], _cs: Columns) -> dict[str, NDArray[Any]]:
    parts = [str(name).partition("@") for name in ds["image_name"].tolist()]
    numbered = [p if p[1] and p[0].isdigit() else ("1", "@", "".join(p)) for p in parts]
    path = np.array([p[2].encode() for p in numbered] or [b""], np.bytes_)[: len(parts)]
    return {"blob/path": path, "blob/idx": np.array([int(p[0]) - 1 for p in numbered], np.int64)}


_CTF = (
    Link(("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad"), ("defocus_u", "defocus_v", "defocus_angle"), _read_defocus,
         _write_defocus),
    _scaled("ctf/phase_shift_rad", "phase_shift", 180 / np.pi),
    _scaled("ctf/ctf_fit_to_A", "ctf_resolution"),
    _scaled("ctf/cross_corr_ctffind4", "ctf_score"),
)  # fmt: skip

# by the dimension of the rows; of two links to one variable the first whose fields are there is taken
LINKS: Mapping[str, tuple[Link, ...]] = {
    "particle": (
        Link(("blob/path", "blob/idx"), ("image_name",), _read_image, _write_image),
        *_CTF,
        _scaled("ctf/bfactor", "ctf_b_factor"),
        _scaled("ctf/scale", "ctf_scale"),
        _named("location/micrograph_path", "micrograph_name"),
        Link(("location/center_x_frac", "location/center_y_frac"), ("coordinate",), _read_coordinate, _write_coordinate,
             ("location/micrograph_shape",)),
        _scaled("pick_stats/ncc_score", "pick_score"),
        Link(("alignments3D/pose",), ("rotation",), _read_pose, _write_pose),
        Link(("alignments3D/shift",), ("shift",), _read_shift, _write_shift, ("alignments3D/psize_A",)),
        Link(("alignments3D/split",), ("half",), _read_half, _write_half),
        _class("alignments3D/class"),
        _class("alignments2D/class"),
    ),
    "micrograph": (
        _named("micrograph_blob/path", "micrograph_name"),
        *_CTF,
        _scaled("mscope_params/total_dose_e_per_A2", "exposure"),
    ),
}  # fmt: skip
