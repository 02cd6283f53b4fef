"""Micrographs of Warp, WarpTools and M: one XML file for each, with its CTF and whether it is selected.

Defocus and DefocusDelta (u - v) are micrometre, DefocusAngle degree, PhaseShift half turns (pi radian), Voltage kV,
Cs mm, Amplitude a fraction. A micrograph is left out where UnselectManual is True, or where it is not set and
UnselectFilter is True. The average of NAME.xml is average/NAME.mrc. Source: Warp's published source (Movie, CTF).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.programs.border import ctf_variables, optics_variables
from cryoflow.io.programs.plain_text import number
from cryoflow.io.programs.xml_events import Item, read_xml
from cryoflow.io.sources.source import read_all
from cryoflow.io.star.relion import text
from cryoflow.schema import require, validate

__all__ = ["read_warp", "read_warp_grid", "write_warp_selection"]

_ROOTS = ("Movie", "TiltSeries")
_CTF = {"PixelSize": "pixel_size", "Voltage": "voltage", "Cs": "cs", "Amplitude": "amplitude_contrast"}
_NUMBERS = {"CTFResolutionEstimate": "ctf_resolution", "MeanFrameMovement": "x_MeanFrameMovement",
            "MaskPercentage": "x_MaskPercentage", "Bfactor": "x_Bfactor", "Weight": "x_Weight"}  # fmt: skip


def read_warp(files: str | Path | Iterable[str | Path], *, averages: str | Path | None = None) -> xr.Dataset:
    """Read the XML files of a Warp folder (or one, or a list) as micrographs.

    Parameters
    ----------
    averages : folder of the micrographs; by default ``average/`` beside each XML file, as a name relative to it.

    Returns
    -------
    Dataset with dims ``micrograph, optics``: ``micrograph_name``, ``usable`` and ``reason``, defoci, ``phase_shift``,
    ``ctf_resolution``, optics (``pixel_size, voltage, cs, amplitude_contrast``, beam tilt where it is there),
    ``x_warp_file``, and what Warp measured as ``x_...``. A file without a CTF has ``usable`` False and says so.

    Raises
    ------
    ParameterError : no XML files.
    FormatError : a file that is no XML of Warp, or a value that is no number; file and value are named.
    """
    paths = _xml_files(files)
    if not paths:
        raise ParameterError(f"read_warp({files})", expected="at least one .xml of Warp", found="none")
    rows = [_read(path, averages) for path in paths]
    known = [row for row in rows if row["ctf"]]
    if not known:
        raise FormatError(str(paths[0]), expected="a CTF in at least one file", found="none in any",
                          remedy="Fit the CTFs first.")  # fmt: skip
    template = known[0]["ctf"]
    ctf: dict[str, NDArray[np.float64]] = {
        key: np.array([row["ctf"].get(key, value if key in _CTF else 0.0) for row in rows])
        for key, value in template.items()
    }
    ds = xr.Dataset({"micrograph_name": ("micrograph", text(row["name"] for row in rows))})
    ds["usable"] = ("micrograph", np.array([not row["reason"] for row in rows]))
    ds["reason"] = ("micrograph", text(row["reason"] for row in rows))
    ds["x_warp_file"] = ("micrograph", text(str(path) for path in paths))
    columns = {name: ctf[key] for key, name in _CTF.items() if key in ctf}
    columns |= {f"beam_tilt_{a}": ctf[f"BeamTilt{a}"] for a in "xy" if f"BeamTilt{a}" in ctf}
    optics_variables(ds, "micrograph", columns, {})
    delta = ctf.get("DefocusDelta", np.zeros(len(rows)))
    mean = ctf.get("Defocus", np.zeros(len(rows)))
    angle = ctf.get("DefocusAngle", np.zeros(len(rows)))
    for name, value in ctf_variables(1e4 * (mean + delta / 2), 1e4 * (mean - delta / 2), angle).items():
        ds[name] = ("micrograph", value)
    if "PhaseShift" in ctf:
        ds["phase_shift"] = ("micrograph", 180 * ctf["PhaseShift"])
    for attribute, name in _NUMBERS.items():
        if all(attribute in row["numbers"] for row in rows):
            ds[name] = ("micrograph", np.array([row["numbers"][attribute] for row in rows]))
    return validate(ds, "read_warp")


def _xml_files(files: str | Path | Iterable[str | Path]) -> list[str | Path]:
    if not isinstance(files, str | Path):
        return list(files)
    if Path(files).is_dir():
        return sorted(Path(files).glob("*.xml"))
    return [files]


def _read(path: str | Path, averages: str | Path | None) -> dict[str, Any]:
    where = str(path)
    items = read_xml(read_all(path), where, _wanted)
    root = next((item for item in items if len(item.path) == 1), None)
    if root is None or root.path[0] not in _ROOTS:
        raise FormatError(where, expected="XML of Warp (Movie or TiltSeries)", found=root.path[0] if root else "none")
    ctf: dict[str, float] = {}
    for item in items:
        if len(item.path) == 3:
            name, value = item.attributes.get("Name", ""), item.attributes.get("Value", "")
            if name == "BeamTilt":
                pair = value.split(",")
                if len(pair) == 2:
                    ctf |= {f"BeamTilt{a}": number(v, f"{where}, BeamTilt") for a, v in zip("xy", pair, strict=True)}
            elif name in (*_CTF, "Defocus", "DefocusDelta", "DefocusAngle", "PhaseShift"):
                ctf[name] = number(value, f"{where}, CTF {name}")
    manual = root.attributes.get("UnselectManual", "null").lower()
    by_filter = root.attributes.get("UnselectFilter", "False").lower() == "true"
    reason = "unselected by hand in Warp" if manual == "true" else ""
    reason = reason or ("unselected by a filter of Warp" if by_filter and manual != "false" else "")
    if "Defocus" not in ctf or not set(_CTF) <= set(ctf) or ctf["PixelSize"] <= 0:
        ctf, reason = {}, reason or "no CTF in its XML file"
    numbers = {}
    for name in _NUMBERS:
        if name in root.attributes:
            numbers[name] = number(root.attributes[name], f"{where}, {name}")
    base = where.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] + ".mrc"
    name = f"average/{base}" if averages is None else f"{averages}/{base}"
    return {"ctf": ctf, "reason": reason, "numbers": numbers, "name": name}


def _wanted(path: tuple[str, ...]) -> bool:
    return len(path) == 1 or (len(path) == 3 and path[1:] == ("CTF", "Param"))


def read_warp_grid(path: str | Path, name: str = "GridCTF") -> NDArray[np.float64]:
    """The values (depth, height, width) of a grid of a Warp XML: GridCTF (defocus, micrometre), GridMovementX ...

    Raises
    ------
    FormatError : no such grid, or nodes that do not fill it once each.
    """
    where = f"{path}, {name}"
    items = read_xml(
        read_all(path), str(path), lambda p: len(p) in (2, 3) and p[1] == name and (len(p) == 2 or p[2] == "Node")
    )
    grid = next((item for item in items if len(item.path) == 2), None)
    if grid is None:
        raise FormatError(where, expected="a grid of that name", found="none")
    nodes = [item for item in items if len(item.path) == 3]
    shape = tuple(_count(grid, key, where) for key in ("Depth", "Height", "Width"))
    if shape[0] * shape[1] * shape[2] != len(nodes):
        raise FormatError(where, expected=f"{shape} nodes", found=f"{len(nodes)}")
    out = np.full(shape, np.nan)
    for node in nodes:
        z, y, x = (number(node.attributes.get(key, ""), where) for key in "ZYX")
        if not (0 <= z < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]):
            raise FormatError(where, expected=f"nodes inside {shape}", found=f"{(z, y, x)}")
        out[int(z), int(y), int(x)] = number(node.attributes.get("Value", ""), where)
    if np.isnan(out).any():
        raise FormatError(where, expected="each node once", found="some twice, some missing")
    return out


def _count(item: Item, key: str, where: str) -> int:
    word = item.attributes.get(key, "")
    if not (word.isascii() and word.isdigit() and 0 < int(word[:10]) <= 1 << 20):
        raise FormatError(where, expected=f"{key} above 0", found=repr(word[:20]))
    return int(word)


def write_warp_selection(ds: xr.Dataset) -> int:
    """Set ``UnselectManual`` of the XML files the micrographs came from, so that Warp goes on with ``usable`` ones.

    Nothing else of a file changes. Returns the number of files that changed.

    Raises
    ------
    SchemaError : no ``usable`` or ``x_warp_file``.
    FormatError : a file that is no XML of Warp any more.
    """
    import re

    require(ds, "write_warp_selection", ["usable", "x_warp_file"])
    changed = 0
    for name, usable in zip(map(str, ds["x_warp_file"].values), ds["usable"].values.tolist(), strict=True):
        raw = read_all(name)
        if _read(name, None)["reason"].startswith("unselected") == (not usable):
            continue
        wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        data = raw.decode("utf-16" if wide else "utf-8", "strict" if wide else "surrogateescape")
        head, sign, rest = data.partition(f"<{'Movie' if '<Movie' in data else 'TiltSeries'}")
        tag, close, tail = rest.partition(">")
        value = f'UnselectManual="{not usable}"'
        tag, count = re.subn(r'UnselectManual="[^"]*"', value, tag, count=1)
        slash = tag.endswith("/") and not count
        tag = tag if count else f"{tag.rstrip('/')} {value}{'/' if slash else ''}"
        with atomic(name) as partial:
            new = head + sign + tag + close + tail
            partial.write_bytes(new.encode("utf-16") if wide else new.encode("utf-8", "surrogateescape"))
        changed += 1
    return changed
