"""cisTEM's particle parameters: STAR files with ``_cisTEM...`` labels, and binary files (``cistem_binary``).

Angles and shifts are Frealign's (see ``frealign``): (psi, theta, phi), angstrom, what must be added is minus the
shift. Phase shifts are radian, beam tilts milliradian. Positions are the pixel of the micrograph, the first one's
centre at 0, times its pixel size. Sources: labels and units in cisTEM's published source (cistem_parameters, ctf, its
export to RELION; make_template_result for positions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.given import DEFAULTS, ReadOptions, given_optics
from cryoflow.io.images.new_stack import particles_to_write
from cryoflow.io.particle_table import check_pixel_sizes, with_images, with_stack
from cryoflow.io.programs.border import ctf_variables, names_of, optics_variables, section_names, star_tables
from cryoflow.io.programs.cistem_binary import COLUMNS, packed, unpacked
from cryoflow.io.programs.frealign import frealign_to_matrix, matrix_to_frealign
from cryoflow.io.programs.plain_text import finite, whole
from cryoflow.io.sources.source import read_all
from cryoflow.options import takes
from cryoflow.schema import validate

__all__ = ["read_cistem", "write_cistem"]

_OPTICS = {
    "PixelSize": "pixel_size", "MicroscopeVoltagekV": "voltage", "MicroscopeCsMM": "cs",
    "AmplitudeContrast": "amplitude_contrast", "BeamTiltX": "beam_tilt_x", "BeamTiltY": "beam_tilt_y",
}  # fmt: skip
_POSE = ("AnglePsi", "AngleTheta", "AnglePhi")
_DEFOCUS = ("Defocus1", "Defocus2", "DefocusAngle")
_POSITION = ("OriginalXPosition", "OriginalYPosition")
_PREFIX = "cisTEM"


@takes(ReadOptions, DEFAULTS)
def read_cistem(
    path: str | Path,
    *,
    stack: str | Path | None = None,
    micrograph_pixel_size: float | None = None,
    **options: Unpack[ReadOptions],
) -> xr.Dataset:
    """Read the particle parameters of cisTEM, as STAR or binary, told by the content.

    Parameters
    ----------
    stack : the particle stack; by default what the file's column of stacks names. With neither, metadata alone.
    micrograph_pixel_size : angstrom, where it is not that of the particles in the file: positions in the micrograph
        are angstrom there, and pixels here.
    options : those of ``read_particles``. cisTEM writes absolute names of stacks: ``allow_outside`` accepts them.

    Returns
    -------
    Dataset with dims ``particle, (y, x,) optics``. Distinct pixel sizes, voltages, Cs, amplitude contrasts and beam
    tilts make the optics groups. ``half`` is the assigned subset. Other columns are kept as ``x_cisTEM<name>``.

    Raises
    ------
    FormatError : a damaged file, no pixel size, or an unknown column code or type; file and row or byte are named.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> star = pathlib.Path(tempfile.mkdtemp()) / "p.star"
    >>> labels = "_cisTEMPositionInStack #1\\n_cisTEMXShift #2\\n_cisTEMYShift #3\\n_cisTEMPixelSize #4\\n"
    >>> _ = star.write_text(" \\ndata_\\n \\nloop_\\n" + labels + "1 2.5 -1.0 1.5\\n2 0.0 0.0 1.5\\n")
    >>> read_cistem(star)["shift"].values.tolist()
    [[-2.5, 1.0], [0.0, 0.0]]
    """
    where = str(path)
    table = _table(path, where)
    n = len(next(iter(table.values())))
    ds = xr.Dataset(attrs={"cistem_columns": list(table)})
    ds["particle_id"] = ("particle", np.arange(n, dtype=np.int64))
    columns = {name: finite(table[label], label, where) for label, name in _OPTICS.items() if label in table}
    for a, b in ("xy", "yx"):
        if f"beam_tilt_{a}" in columns and f"beam_tilt_{b}" not in columns:
            columns[f"beam_tilt_{b}"] = np.zeros(n)
    if not columns.get("pixel_size", np.zeros(n)).any():  # cisTEM writes 0 for what it does not know
        columns.pop("pixel_size", None)
    optics_variables(ds, "particle", columns, given_optics(options, where))
    check_pixel_sizes(ds, where, "_cisTEMPixelSize")
    taken = set(_OPTICS)
    taken |= _poses(ds, table, where)
    if set(_POSITION) <= set(table):
        xy = np.stack([finite(table[label], label, where) for label in _POSITION], axis=1)
        pixel = columns.get("pixel_size", ds["pixel_size"].values[ds["optics_group"].values])  # the file's own
        if micrograph_pixel_size is not None:
            pixel = _micrograph_pixels(ds, micrograph_pixel_size, where)
        ds["coordinate"] = (("particle", "xy"), xy / pixel[:, None])
        taken |= set(_POSITION)
    for label, name in (("AssignedSubset", "half"), ("Best2DClass", "class_number")):
        if label in table:
            numbers = whole(table[label], label, where)
            if name == "half" and not ((numbers >= 0) & (numbers <= 2)).all():
                continue  # other programs number tilts here: kept as it is
            ds[name] = ("particle", numbers.astype(np.int32))
            taken.add(label)
    if "OriginalImageFilename" in table:
        ds["micrograph_name"] = ("particle", names_of(table["OriginalImageFilename"], where))
        taken.add("OriginalImageFilename")
    for label, column in table.items():
        if label not in (*taken, "PositionInStack", "StackFilename"):
            ds[f"x_{_PREFIX}{label}"] = ("particle", column if column.dtype.kind in "iuf" else names_of(column, where))
    return validate(_images(ds, table, where, stack, options), where)


def _micrograph_pixels(ds: xr.Dataset, size: float, where: str) -> NDArray[np.float64]:
    """The pixel size of each particle's micrograph, noted in ``ds``."""
    if not np.isfinite(size) or size <= 0:
        raise ParameterError(where, expected="micrograph_pixel_size above 0", found=f"{size}")
    ds["micrograph_pixel_size"] = ("optics", np.full(ds.sizes["optics"], float(size)))
    return np.full(ds.sizes["particle"], float(size))


def _poses(ds: xr.Dataset, table: Mapping[str, NDArray[Any]], where: str) -> set[str]:
    taken: set[str] = set()
    if "AnglePsi" in table and ("AngleTheta" in table or "AnglePhi" in table):  # psi alone: 2D classification
        angles = [finite(table[a], a, where) if a in table else np.zeros(ds.sizes["particle"]) for a in _POSE]
        ds["rotation"] = (("particle", "row", "col"), frealign_to_matrix(*angles))
        taken |= set(_POSE)
    if {"XShift", "YShift"} <= set(table):
        shift = np.stack([finite(table[f"{a}Shift"], f"{a}Shift", where) for a in "XY"], axis=1)
        ds["shift"] = (("particle", "xy"), 0.0 - shift)
        taken |= {"XShift", "YShift"}
    if {"Defocus1", "Defocus2"} <= set(table):
        values = [finite(table[a], a, where) if a in table else np.zeros(ds.sizes["particle"]) for a in _DEFOCUS]
        for name, value in ctf_variables(*values).items():
            ds[name] = ("particle", value)
        taken |= set(_DEFOCUS)
    if "PhaseShift" in table:
        ds["phase_shift"] = ("particle", np.rad2deg(finite(table["PhaseShift"], "PhaseShift", where)))
        taken.add("PhaseShift")
    return taken


def _images(
    ds: xr.Dataset, table: Mapping[str, NDArray[Any]], where: str, stack: str | Path | None, options: ReadOptions
) -> xr.Dataset:
    n = ds.sizes["particle"]
    position = whole(table["PositionInStack"], "PositionInStack", where, low=1, high=(1 << 32) - 1) if (
        "PositionInStack" in table) else np.arange(1, n + 1)  # fmt: skip
    if stack is not None:
        return with_stack(ds, where, stack, position, options)
    if "StackFilename" not in table or not all(str(name) for name in table["StackFilename"]):
        ds["x_cisTEMPositionInStack"] = ("particle", position)
        return ds
    numbered = [f"{i:06d}@{name}" for i, name in zip(position, table["StackFilename"], strict=True)]
    ds["image_name"] = ("particle", names_of(numbered, where))
    return with_images(ds, where, options, label="_cisTEMStackFilename")


def _table(path: str | Path, where: str) -> dict[str, NDArray[Any]]:
    """Columns by label without ``cisTEM``, at least one row."""
    if str(path).lower().endswith(".cistem"):
        table = unpacked(read_all(path), where)
    else:
        blocks = star_tables(path)
        name = next((b for b, t in blocks.items() if any(c.startswith(_PREFIX) for c in t)), None)
        if name is None:
            raise FormatError(
                where, expected="a table with _cisTEM labels", found=f"blocks {', '.join(blocks) or 'none'}"
            )
        frame = blocks[name]
        table = {str(label).removeprefix(_PREFIX): frame[label].to_numpy() for label in frame}
    if not table or not len(next(iter(table.values()))):
        raise FormatError(where, expected="at least one row", found="none", remedy="The selection is empty.")
    return table


def write_cistem(ds: xr.Dataset, path: str | Path, *, images: str | Path | None = None, dtype: str = "float32") -> None:
    """Write particles as cisTEM's STAR file, or as its binary file where the name ends in ``.cistem``.

    Parameters
    ----------
    images : an ``.mrc`` to write the images to; without it the stacks and sections of ``image_name`` are named.
    dtype : of the stack, float32 or float16.

    A source's columns return in their order; a Dataset from elsewhere gets all that cisTEM knows and the Dataset has.
    Binary files hold single precision.

    Raises
    ------
    SchemaError : no pixel size.
    ParameterError : no particles.
    ResourceError : the disk is full; nothing half-written is left.
    """
    where = f"write_cistem({path})"
    ds = particles_to_write(ds, images, where, dtype=dtype)
    table = _columns_of(ds, where, new_stack=images is not None)
    with atomic(path) as partial, partial.open("wb") as file:
        if str(path).lower().endswith(".cistem"):
            file.write(packed(table, ds.sizes["particle"]))
        else:
            for piece in _star(table):
                file.write(piece)


def _columns_of(ds: xr.Dataset, where: str, *, new_stack: bool) -> dict[str, Any]:
    n = ds.sizes["particle"]
    group = ds["optics_group"].values if "optics_group" in ds else np.zeros(n, np.int64)
    found: dict[str, Any] = {
        str(name).removeprefix(f"x_{_PREFIX}"): array.values
        for name, array in ds.variables.items() if str(name).startswith(f"x_{_PREFIX}") and array.dims == ("particle",)
    }  # fmt: skip
    found |= {label: ds[name].values[group] for label, name in _OPTICS.items() if name in ds}
    if "beam_tilt" in ds:
        found |= dict(zip(("BeamTiltX", "BeamTiltY"), ds["beam_tilt"].values[group].T, strict=True))
    if "rotation" in ds:
        found |= dict(zip(_POSE, matrix_to_frealign(ds["rotation"].values), strict=True))
    if "shift" in ds:
        found |= dict(zip(("XShift", "YShift"), 0.0 - ds["shift"].values.T, strict=True))
    if "defocus_u" in ds:
        found |= dict(zip(_DEFOCUS, (ds[v].values for v in ("defocus_u", "defocus_v", "defocus_angle")), strict=True))
    if "phase_shift" in ds:
        found["PhaseShift"] = np.deg2rad(ds["phase_shift"].values)
    if "coordinate" in ds:
        pixel = ds["micrograph_pixel_size" if "micrograph_pixel_size" in ds else "pixel_size"].values[group]
        found |= dict(zip(_POSITION, (ds["coordinate"].values * pixel[:, None]).T, strict=True))
    names = {"AssignedSubset": "half", "Best2DClass": "class_number", "OriginalImageFilename": "micrograph_name"}
    found |= {label: ds[name].values for label, name in names.items() if name in ds}
    if "image_name" in ds:
        files, file, position = section_names(ds, where)
        found["PositionInStack"] = position
        found["StackFilename"] = np.array(files, object)[file]
    elif "PositionInStack" not in found:
        found["PositionInStack"] = np.arange(1, n + 1)
    source = [label for label in ds.attrs.get("cistem_columns", ()) if label in found]
    if not source:
        found = {"ImageActivity": np.ones(n, np.int64), "Occupancy": np.full(n, 100.0)} | found
    else:  # what the source had not and cisTEM does not need stays away
        later = {"StackFilename", *_POSITION}
        if new_stack:
            later.remove("StackFilename")
        found = {k: v for k, v in found.items() if k in source or k not in later}
    order = [*source, *(label for label in COLUMNS if label in found and label not in source)]
    return {label: found[label] for label in [*order, *(label for label in found if label not in order)]}


def _star(table: Mapping[str, Any]) -> Iterator[bytes]:
    """The table as cisTEM reads it: texts in single quotes whatever they are, a blank after each label."""
    import pandas as pd

    from cryoflow.io.star.startext import ROWS, format_column

    labels = "".join(f"_{_PREFIX}{label} #{i}\n" for i, label in enumerate(table, start=1))
    yield f"# Written by cryoflow\n \ndata_\n \nloop_\n{labels}".encode()
    n = len(next(iter(table.values())))
    for first in range(0, n, ROWS):
        pieces = []
        for values in table.values():
            part = np.asarray(values[first : first + ROWS])
            if part.dtype.kind in "iuf":
                pieces.append(format_column(pd.Series(part), str))
            else:
                words = np.array([f"'{word}'".encode("utf-8", "surrogateescape") for word in part], np.bytes_)
                letters = words.view(np.uint8).reshape(len(words), -1)
                pieces.append(np.where(letters == 0, np.uint8(ord(" ")), letters))
            pieces.append(np.full((len(part), 1), ord(" "), np.uint8))
        pieces[-1][:] = ord("\n")
        yield np.concatenate(pieces, axis=1).tobytes()
