"""EMAN's boxes: ``.box`` files and the ``boxes`` of EMAN2's ``info/NAME_info.json``.

A ``.box`` row is the corner of least x and y, then width and height; rows of EMAN count from the bottom of its
display, which is the first row of an MRC file, so they are ours. Boxes in ``info`` files are centres. Source:
github.com/azazellochg/3DEM-conventions, EMAN2's published documentation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.programs.border import box_sides, coordinate_set
from cryoflow.io.programs.plain_json import dump_json, json_numbers, parse_json, parse_or_keep
from cryoflow.io.programs.plain_text import number_rows, read_text
from cryoflow.schema import require

__all__ = ["one_micrograph", "read_eman_box", "read_eman_info", "stem", "write_eman_box", "write_eman_info"]


def read_eman_box(path: str | Path, *, suffix: str = ".mrc") -> xr.Dataset:
    """Read boxes (``.box`` of EMAN, EMAN2, crYOLO): one micrograph, named like the file with ``suffix``.

    Returns
    -------
    Dataset with ``coordinate`` (the corner plus half a box), ``micrograph_name``, ``x_box_width`` and ``_height``,
    and further columns as ``x_box_5`` ...; no rows where the file is empty.

    Raises
    ------
    FormatError : a line that is not at least four numbers; file and line are named.

    >>> import tempfile, pathlib
    >>> box = pathlib.Path(tempfile.mkdtemp()) / "mic.box"
    >>> _ = box.write_text("10\\t20\\t64\\t64\\n")
    >>> read_eman_box(box).coordinate.values.tolist()
    [[42.0, 52.0]]
    """
    where = str(path)
    lines = [(i, line) for i, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    name = stem(path) + suffix
    if not lines:
        return coordinate_set(np.empty((0, 2)), [], x_box_width=np.empty(0), x_box_height=np.empty(0))
    table = number_rows(lines, where, expected="numbers: corner x, y, width, height")
    if table.shape[1] < 4:
        raise FormatError(f"{where}, line {lines[0][0]}", expected="at least 4 numbers: corner x, y, width, height",
                          found=f"{table.shape[1]}")  # fmt: skip
    more = {f"x_box_{i + 1}": table[:, i] for i in range(4, table.shape[1])}
    return coordinate_set(
        table[:, :2] + table[:, 2:4] / 2, [name] * len(table), x_box_width=table[:, 2], x_box_height=table[:, 3], **more
    )


def stem(path: str | Path) -> str:
    return str(path).rstrip("/").rpartition("/")[2].rpartition(".")[0]


def write_eman_box(ds: xr.Dataset, path: str | Path, *, box_size: float | None = None) -> None:
    """Write the coordinates of one micrograph as a ``.box`` file: corner x, y, width, height.

    ``box_size`` (pixels) defaults to the boxes of the source. Whole numbers are written where the corners are whole.

    Raises
    ------
    ParameterError : coordinates of several micrographs, or no box size.
    """
    where = f"write_eman_box({path})"
    one_micrograph(ds, where)
    sides = box_sides(ds, box_size, where)
    corner = ds["coordinate"].values - sides / 2
    rows = np.concatenate([corner, sides], axis=1)
    numbered = sorted(int(str(v)[6:]) for v in ds.variables if str(v).startswith("x_box_") and str(v)[6:].isdigit())
    more = [ds[f"x_box_{number}"].values for number in numbered]
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for i, row in enumerate(rows):
            file.write("\t".join(f"{round(float(v), 6):.10g}" for v in (*row, *(m[i] for m in more))) + "\n")


def one_micrograph(ds: xr.Dataset, where: str) -> None:
    """Refuse coordinates of several micrographs, where a file holds those of one."""
    require(ds, where, ["coordinate"])
    names = set(map(str, ds["micrograph_name"].values)) if "micrograph_name" in ds else set()
    if len(names) > 1:
        raise ParameterError(where, expected="coordinates of one micrograph", found=f"{len(names)} micrographs",
                             remedy="Use write_picks, which writes one file for each.")  # fmt: skip


def read_eman_info(path: str | Path, *, suffix: str = ".mrc") -> xr.Dataset:
    """Read the ``boxes`` of an EMAN2 ``info/NAME_info.json``: centres of one micrograph; else its ``boxes_3d``.

    The third entry of a box (how it was picked) is kept as ``x_box_kind``; of ``boxes_3d`` z is ``x_box_z``.

    Raises
    ------
    FormatError : no JSON object, or boxes of another form.
    """
    where = str(path)
    document = parse_json(read_text(path), where)
    if not isinstance(document, dict):
        raise FormatError(where, expected="a JSON object", found=type(document).__name__)
    flat = "boxes" in document or "boxes_3d" not in document
    boxes = document.get("boxes" if flat else "boxes_3d", [])
    least = 2 if flat else 3
    if not isinstance(boxes, list) or any(not isinstance(b, list) or len(b) < least for b in boxes):
        raise FormatError(where, expected=f"boxes: lists of at least {least} entries", found=repr(boxes)[:80])
    numbers = [json_numbers(b[:least], f"{where}, box {i}") for i, b in enumerate(boxes, start=1)]
    if any(len(row) != least for row in numbers):
        raise FormatError(where, expected=f"{least} numbers at the start of each box", found="others")
    table = np.array(numbers).reshape(-1, least)
    name = stem(path).removesuffix("_info") + suffix
    rest = [dump_json(b[least:]) for b in boxes]
    more = {} if flat else {"x_box_z": table[:, 2]}
    return coordinate_set(table[:, :2], [name] * len(table), x_box_kind=np.array(rest, object), **more)


def write_eman_info(ds: xr.Dataset, path: str | Path) -> None:
    """Write the coordinates of one micrograph as ``boxes`` of an ``info`` file; what else is in the file stays.

    Raises
    ------
    ParameterError : coordinates of several micrographs.
    FormatError : the file exists and is no JSON object.
    """
    where = f"write_eman_info({path})"
    one_micrograph(ds, where)
    document: Mapping[str, Any] = {}
    if Path(path).exists():
        document = parse_json(read_text(path), str(path))
        if not isinstance(document, dict):
            raise FormatError(str(path), expected="a JSON object", found=type(document).__name__)
    n = ds.sizes["particle"]
    kinds = map(str, ds["x_box_kind"].values) if "x_box_kind" in ds else ['["manual"]'] * n
    rest = [parse_or_keep(kind) for kind in kinds]
    xy = [[int(v) if v == int(v) else v for v in row] for row in ds["coordinate"].values.tolist()]
    if "x_box_z" in ds:
        xy = [[*row, z] for row, z in zip(xy, ds["x_box_z"].values.tolist(), strict=True)]
    key = "boxes_3d" if "x_box_z" in ds else "boxes"
    boxes = [[*row, *(r if isinstance(r, list) else [r])] for row, r in zip(xy, rest, strict=True)]
    with atomic(path) as partial:
        partial.write_text(json.dumps({**document, key: boxes}, indent=1), encoding="utf-8")
