"""EMAN2's lists of particles (``.lst``) with their poses and CTFs.

Poses are Transforms (``eman_transform``). Images count from 0. EMAN2Ctf: defocus and dfdiff (u - v) in micrometre,
ampcont in percent. Sources: EMAN2's published documentation and source (EMAN2jsondb, e2reliontoeman, LSXFile),
github.com/azazellochg/3DEM-conventions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.files import atomic
from cryoflow.io.given import DEFAULTS, ReadOptions, given_optics
from cryoflow.io.images.new_stack import particles_to_write
from cryoflow.io.particle_table import check_pixel_sizes, with_images
from cryoflow.io.programs.border import ctf_variables, names_of, optics_variables, section_names
from cryoflow.io.programs.eman_transform import eman_to_matrix, matrix_to_eman, transforms
from cryoflow.io.programs.plain_json import dump_json, json_numbers, parse_json, parse_or_keep
from cryoflow.io.programs.plain_text import read_text
from cryoflow.io.star.relion import text
from cryoflow.options import takes
from cryoflow.schema import validate

__all__ = [
    "eman_to_matrix",
    "matrix_to_eman",
    "read_eman_list",
    "write_eman_list",
]

_ABOUT = (
    "# This file is in fast LST format. All lines after the next line have exactly the number of characters shown on "
    "the next line. This MUST be preserved if editing."
)
_CTF_REST = {"bfactor": 200.0, "dsbg": 0.0, "background": [], "snr": []}


@takes(ReadOptions, DEFAULTS)
def read_eman_list(path: str | Path, **options: Unpack[ReadOptions]) -> xr.Dataset:
    """Read a list (``#LST`` or ``#LSX``) of EMAN2 with the attributes its rows carry.

    Parameters
    ----------
    options : those of ``read_particles``. Names of files are relative to the project, whose ``sets/`` lies one below.

    Returns
    -------
    Dataset with dims ``particle, (y, x,) optics``. ``xform.projection`` gives ``rotation`` and ``shift``, ``ctf`` the
    defoci and optics, a ``class`` of 0 and 1 alone ``half``. Every attribute but the pose is kept as ``x_<key>``,
    as numbers, or as JSON; those that only some rows have, as JSON in ``x_more``.

    Raises
    ------
    FormatError : no list, or a damaged row (file and line are named), or no pixel size.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> lst = pathlib.Path(tempfile.mkdtemp()) / "a.lst"
    >>> pose = '{"xform.projection":{"type":"eman","az":10,"alt":20,"phi":30,"tx":2,"ty":-1}}'
    >>> _ = lst.write_text(f"#LST\\n0\\tp.hdf\\t{pose}\\n")
    >>> read_eman_list(lst, images=False, pixel_size=1.5)["shift"].values.tolist()
    [[-3.0, 1.5]]
    """
    where = str(path)
    lines, section, names, attributes = _rows(read_text(path), where)
    n = len(section)
    ds = xr.Dataset({"particle_id": ("particle", np.arange(n, dtype=np.int64))})
    poses = [a.pop("xform.projection", None) for a in attributes]
    ctf = [_fields(a.get("ctf")) for a in attributes]
    at = [f"{where}, line {line}" for line in lines]
    columns = _ctf_columns(ds, ctf, at)
    for a in ("apix_x", "apix"):
        if "pixel_size" not in columns and all(isinstance(row.get(a), int | float) for row in attributes):
            columns["pixel_size"] = np.array(json_numbers([row[a] for row in attributes], where))
    optics_variables(ds, "particle", columns, given_optics(options, where))
    check_pixel_sizes(ds, where, "ctf or apix of its rows")
    if any(pose is not None for pose in poses):
        rotation, move = transforms(poses, at)
        ds["rotation"] = (("particle", "row", "col"), rotation)
        shift = -move * ds.pixel_size.values[ds.optics_group.values][:, None]
        ds["shift"] = (("particle", "xy"), shift + 0.0)
    _attributes(ds, attributes)
    if "x_class" in ds and ds.x_class.dtype.kind == "i" and set(np.unique(ds.x_class)) <= {0, 1}:
        ds["half"] = ("particle", ds.x_class.values.astype(np.int32) + 1)
        ds = ds.drop_vars("x_class")
    ds["image_name"] = (
        "particle",
        names_of([f"{i + 1:06d}@{name}" for i, name in zip(section, names, strict=True)], where),
    )
    return validate(with_images(ds, where, options, label="a file in each row"), where)


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(data: str, where: str) -> tuple[list[int], NDArray[np.int64], list[str], list[dict[str, Any]]]:
    """Line numbers, sections from 0, files and attributes."""
    if data[:4] not in ("#LST", "#LSX"):
        raise FormatError(f"{where}, line 1", expected="#LST or #LSX", found=repr(data[:20]))
    lines, section, names, attributes = [], [], [], []
    for number, line in enumerate(data.split("\n"), start=1):
        if line.startswith("#") or not line.strip():
            continue
        words = line.rstrip().split("\t", 2)
        words = words if len(words) > 1 else line.split(None, 2)
        at = f"{where}, line {number}"
        if len(words) < 2 or not (words[0].isascii() and words[0].strip().isdigit()) or len(words[0]) > 12:
            raise FormatError(at, expected="an image number (from 0) and a file", found=repr(line[:60]))
        if int(words[0]) >= 1 << 31:
            raise FormatError(at, expected="an image number below 2^31", found=words[0])
        lines.append(number)
        section.append(int(words[0]))
        names.append(words[1].strip())
        rest = words[2].strip() if len(words) > 2 else ""
        fields = parse_json(rest, at) if rest.startswith("{") else ({"comment": rest} if rest else {})
        attributes.append(fields)
    if not section:
        raise FormatError(where, expected="at least one row", found="none", remedy="The selection is empty.")
    return lines, np.array(section, np.int64), names, attributes


def _ctf_columns(ds: xr.Dataset, ctf: list[dict[str, Any]], where: list[str]) -> dict[str, NDArray[np.float64]]:
    """Defoci into ``ds``, and the columns of the optics, where every row has a CTF."""
    needed = ("defocus", "voltage", "cs", "ampcont", "apix")
    if not all(set(needed) <= set(row) for row in ctf):
        return {}
    keys = (*needed, "dfdiff", "dfang")
    table = np.array([json_numbers([row.get(k, 0.0) for k in keys], at) for row, at in zip(ctf, where, strict=True)])
    defocus, voltage, cs, ampcont, apix, difference, angle = table.T
    for name, value in ctf_variables(1e4 * (defocus + difference / 2), 1e4 * (defocus - difference / 2), angle).items():
        ds[name] = ("particle", value)
    return {"pixel_size": apix, "voltage": voltage, "cs": cs, "amplitude_contrast": ampcont / 100}


def _attributes(ds: xr.Dataset, attributes: list[dict[str, Any]]) -> None:
    """Keys that every row has as ``x_<key>``, integers, numbers or JSON; what only some have as JSON in ``x_more``."""
    common = [key for key in attributes[0] if key != "more" and all(key in row for row in attributes)]
    for key in common:
        values = [row.pop(key) for row in attributes]
        kinds = {type(v) for v in values}
        if kinds == {int} and all(abs(v) < 1 << 62 for v in values):
            column: Any = np.array(values, np.int64)
        elif kinds <= {int, float} and all(abs(v) < 1e300 for v in values):
            column = np.array(values, np.float64)
        else:
            column = text(dump_json(value) for value in values)
        ds[f"x_{key}"] = ("particle", column)
    if any(attributes):
        ds["x_more"] = ("particle", text(dump_json(row) if row else "" for row in attributes))


def write_eman_list(
    ds: xr.Dataset, path: str | Path, *, images: str | Path | None = None, dtype: str = "float32"
) -> None:
    """Write particles as a list (``#LSX``) of EMAN2, with their poses, CTFs, half-sets and ``x_`` attributes.

    Parameters
    ----------
    images : an ``.mrcs`` to write the images to, which EMAN2 reads; without it the rows name the files of
        ``image_name``.
    dtype : of the stack, float32 or float16.

    Raises
    ------
    SchemaError : no pixel size.
    FormatError : neither ``images`` nor image names.
    ParameterError : no particles.
    ResourceError : the disk is full; nothing half-written is left.
    """
    where = f"write_eman_list({path})"
    ds = particles_to_write(ds, images, where, dtype=dtype)
    files, file, section = section_names(ds, where)
    rows = [f"{s - 1}\t{files[f]}\t{dump_json(a)}" for s, f, a in zip(section, file, _row_attributes(ds), strict=True)]
    lines = [row.encode("utf-8", "surrogateescape") for row in rows]
    width = max(map(len, lines)) + 1
    with atomic(path) as partial, partial.open("wb") as out:
        out.write(f"#LSX\n{_ABOUT}\n# {width}\n".encode())
        out.writelines(line.ljust(width - 1) + b"\n" for line in lines)


def _row_attributes(ds: xr.Dataset) -> list[dict[str, Any]]:
    n = ds.sizes["particle"]
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    for name, array in ds.variables.items():
        key = str(name)
        if not key.startswith("x_") or array.dims != ("particle",) or key.startswith("x_optics_"):
            continue
        values = array.values
        number = values.dtype.kind in "iufb"
        for row, value in zip(rows, values.tolist() if number else map(str, values), strict=True):
            if number:
                row[key[2:]] = value
            elif value:
                parsed = parse_or_keep(value)
                row.update(parsed if key == "x_more" and isinstance(parsed, dict) else {key[2:]: parsed})
    group = ds["optics_group"].values if "optics_group" in ds else np.zeros(n, np.int64)
    if "rotation" in ds:
        shift = ds["shift"].values if "shift" in ds else np.zeros((n, 2))
        move = -shift / ds["pixel_size"].values[group][:, None] + 0.0
        matrix = np.concatenate([ds["rotation"].values, np.zeros((n, 3, 1))], axis=2)
        matrix[:, :2, 3] = move
        for row, flat in zip(rows, matrix.reshape(n, 12), strict=True):
            numbers = ",".join(f"{v:.9g}" for v in flat + 0.0)
            row["xform.projection"] = {"__class__": "Transform", "matrix": f"[{numbers}]"}
    if "defocus_u" in ds and {"voltage", "cs", "amplitude_contrast"} <= set(ds.variables):
        u, v, angle = (ds[name].values for name in ("defocus_u", "defocus_v", "defocus_angle"))
        optics = {key: ds[name].values[group].tolist() for key, name in
                  (("voltage", "voltage"), ("cs", "cs"), ("apix", "pixel_size"))}  # fmt: skip
        ampcont = (100 * ds["amplitude_contrast"].values[group]).round(9).tolist()
        for i, row in enumerate(rows):
            row["ctf"] = _CTF_REST | _fields(row.get("ctf")) | {
                "__class__": "EMAN2Ctf", "defocus": round((u[i] + v[i]) / 2e4, 10), "ampcont": ampcont[i],
                "dfdiff": round((u[i] - v[i]) / 1e4, 10), "dfang": float(angle[i]),
                **{key: values[i] for key, values in optics.items()},
            }  # fmt: skip
    if "half" in ds:
        for row, half in zip(rows, ds["half"].values.tolist(), strict=True):
            if half in (1, 2):
                row["class"] = half - 1
    return rows
