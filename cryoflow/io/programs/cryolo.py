"""crYOLO's boxes: ``.cbox`` (STAR with blocks global, cryolo, cryolo_include) and its first, tab-separated form.

Coordinates are the corner of least x and y, in pixels. ``<NA>`` says that a value is not there. Sources: crYOLO's
published documentation and source. Its ``.box`` files are EMAN's (``io.eman2_boxes``), its ``.star`` files RELION's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.files import atomic
from cryoflow.io.programs.border import box_sides, coordinate_set, star_tables
from cryoflow.io.programs.eman2_boxes import one_micrograph, stem
from cryoflow.io.programs.plain_text import finite, number_rows, optional, read_text

__all__ = ["read_cbox", "write_cbox"]

_CORNER = ("CoordinateX", "CoordinateY", "Width", "Height")
_LABELS = (
    "CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Depth", "EstWidth", "EstHeight", "Confidence",
    "NumBoxes", "Angle",
)  # fmt: skip
_FIRST_FORM = ("CoordinateX", "CoordinateY", "Width", "Height", "Confidence", "EstWidth", "EstHeight")


def read_cbox(path: str | Path, *, suffix: str = ".mrc") -> xr.Dataset:
    """Read a ``.cbox`` file of crYOLO: one micrograph, named like the file with ``suffix``.

    Returns
    -------
    Dataset with ``coordinate`` (corner plus half a box), ``pick_score`` (the confidence), ``x_box_width``,
    ``x_box_height`` and the other columns as ``x_cbox_<label>``, NaN where a value is not there.

    Raises
    ------
    FormatError : no such table, or a coordinate that is no number; file and row are named.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> box = pathlib.Path(tempfile.mkdtemp()) / "mic.cbox"
    >>> head = "data_global\\n\\n_cbox_format_version 1.0\\n\\ndata_cryolo\\n\\nloop_\\n"
    >>> labels = "".join(f"_{label} #{i}\\n" for i, label in enumerate(_LABELS, 1))
    >>> _ = box.write_text(head + labels + "10 20 <NA> 64 64 1 60 58 0.75 1 <NA>\\n")
    >>> ds = read_cbox(box)
    >>> ds.coordinate.values.tolist(), ds.pick_score.values.tolist()
    ([[42.0, 52.0]], [0.75])
    """
    where = str(path)
    data = read_text(path)
    if "data_" not in data:
        table = _first_form(data, where)
    else:
        blocks = star_tables(path)
        frame = next((t for t in blocks.values() if set(_CORNER) <= {str(c) for c in t}), None)
        if frame is None:
            raise FormatError(where, expected=f"a table with {', '.join(f'_{label}' for label in _CORNER)}",
                              found=f"blocks {', '.join(blocks) or 'none'}")  # fmt: skip
        table = {str(label): frame[label].to_numpy() for label in frame}
    x, y, width, height = (finite(table[label], f"_{label}", where) for label in _CORNER)
    xy = np.stack([x + width / 2, y + height / 2], axis=1)
    more = {f"x_cbox_{k}": optional(v, f"_{k}", where) for k, v in table.items() if k not in (*_CORNER, "Confidence")}
    score = optional(table["Confidence"], "_Confidence", where) if "Confidence" in table else None
    return coordinate_set(xy, [stem(path) + suffix] * len(x), score, x_box_width=width, x_box_height=height, **more)


def _first_form(data: str, where: str) -> dict[str, NDArray[Any]]:
    lines = [(i, line) for i, line in enumerate(data.split("\n"), start=1) if line.strip()]
    if not lines:
        return {label: np.empty(0) for label in _FIRST_FORM}
    values = number_rows(lines, where, expected="numbers, or a STAR file")
    if values.shape[1] < len(_FIRST_FORM):
        raise FormatError(f"{where}, line {lines[0][0]}", expected=f"a STAR file, or {', '.join(_FIRST_FORM)}",
                          found=f"{values.shape[1]} values")  # fmt: skip
    return dict(zip(_FIRST_FORM, values.T, strict=False))


def write_cbox(ds: xr.Dataset, path: str | Path, *, box_size: float | None = None) -> None:
    """Write the coordinates of one micrograph as a ``.cbox`` file, format 1.0.

    ``box_size`` (pixels) defaults to the boxes of the source.

    Raises
    ------
    ParameterError : coordinates of several micrographs, or no box size.
    ResourceError : the disk is full; nothing half-written is left.
    """
    where = f"write_cbox({path})"
    one_micrograph(ds, where)
    n = ds.sizes["particle"]
    sides = box_sides(ds, box_size, where)
    corner = ds["coordinate"].values - sides / 2
    nothing = np.full(n, np.nan)
    columns = {label: ds[f"x_cbox_{label}"].values if f"x_cbox_{label}" in ds else nothing for label in _LABELS}
    columns |= dict(zip(_CORNER, (*corner.T, *sides.T), strict=True))
    if "x_cbox_Depth" not in ds:
        columns["Depth"] = np.ones(n)
    columns["Confidence"] = ds["pick_score"].values if "pick_score" in ds else np.ones(n)
    for name in ds.variables:
        if str(name).startswith("x_cbox_"):
            columns.setdefault(str(name).removeprefix("x_cbox_"), ds[name].values)
    labels = "".join(f"_{label} #{i}\n" for i, label in enumerate(columns, start=1))
    slices = np.unique(columns["CoordinateZ"][np.isfinite(columns["CoordinateZ"])])
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"\ndata_global\n\n_cbox_format_version 1.0\n\n\ndata_cryolo\n\nloop_\n{labels}")
        for row in zip(*columns.values(), strict=True):
            file.write(" ".join("<NA>" if not np.isfinite(v) else f"{round(float(v), 6):.10g}" for v in row) + "\n")
        file.write("\n\ndata_cryolo_include\n\nloop_\n_slice_index #1\n")
        file.writelines(f"{z:.10g}\n" for z in slices)
        file.write("\n")
