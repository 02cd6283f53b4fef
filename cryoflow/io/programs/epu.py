"""EPU's XML of each exposure: optics, dose, stage and beam shift; and exposure groups from them.

Lengths are metre, AccelerationVoltage volt, Dose electrons per square metre; BeamShift has no unit that is told. With
aberration-free image shift, exposures of one beam shift share their beam tilt: they are an exposure group. In a name
FoilHole_H_Data_A_N_DATE_TIME, H is the foil hole and A the acquisition area of the template. Sources: files and
scripts that were published (D. Morado's EPU_Group_AFIS among them); EPU's own description is not public.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import xarray as xr

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.given import DEFAULTS, Optics, given_optics
from cryoflow.io.programs.border import names_of, optics_variables
from cryoflow.io.programs.groups import cluster
from cryoflow.io.programs.plain_text import number
from cryoflow.io.programs.sniff import epu
from cryoflow.io.programs.xml_events import read_xml
from cryoflow.io.sources.source import open_source, read_all
from cryoflow.io.star.relion import text
from cryoflow.options import takes
from cryoflow.schema import validate

__all__ = ["assign_exposure_groups", "is_epu_folder", "read_epu"]

_NAME = re.compile(r"FoilHole_(\d+)_Data_(\d+)_", re.IGNORECASE)
_OPTICS = ("microscopeData", "optics")
# path below the root: (variable, factor to its unit)
_VALUES: dict[tuple[str, ...], tuple[str, float]] = {
    ("SpatialScale", "pixelSize", "x", "numericValue"): ("pixel_size", 1e10),
    ("microscopeData", "gun", "AccelerationVoltage"): ("voltage", 1e-3),
    (*_OPTICS, "BeamShift", "_x"): ("x_beam_shift_x", 1.0),
    (*_OPTICS, "BeamShift", "_y"): ("x_beam_shift_y", 1.0),
    (*_OPTICS, "BeamTilt", "_x"): ("x_beam_tilt_x", 1.0),
    (*_OPTICS, "BeamTilt", "_y"): ("x_beam_tilt_y", 1.0),
    (*_OPTICS, "Defocus"): ("x_defocus", 1e10),
    (*_OPTICS, "TemMagnification", "NominalMagnification"): ("x_magnification", 1.0),
    ("microscopeData", "acquisition", "camera", "ExposureTime"): ("x_exposure_time", 1.0),
    ("microscopeData", "stage", "Position", "X"): ("x_stage_x", 1.0),
    ("microscopeData", "stage", "Position", "Y"): ("x_stage_y", 1.0),
    ("microscopeData", "stage", "Position", "Z"): ("x_stage_z", 1.0),
    ("microscopeData", "stage", "Position", "A"): ("x_stage_alpha", 1.0),
}
_TIME = ("microscopeData", "acquisition", "acquisitionDateTime")
_PAIR = ("CustomData", "KeyValueOfstringanyType")
_CUSTOM = {"Dose": ("exposure", 1e-20), "AppliedDefocus": ("x_applied_defocus", 1e10)}
_FOLDERS = 200  # that are looked at for a first file
_MOVIES = (
    "_Fractions.mrc",
    "_fractions.tiff",
    "_Fractions.tiff",
    "_fractions.mrc",
    "_EER.eer",
    ".mrc",
    ".tif",
    ".tiff",
)


@takes(Optics, DEFAULTS)
def read_epu(
    files: str | Path | Iterable[str | Path],
    *,
    groups: Literal["beam-shift", "template", "none"] = "beam-shift",
    count: int | None = None,
    **optics: Unpack[Optics],
) -> xr.Dataset:
    """Read EPU's ``FoilHole_*_Data_*.xml`` of a session (a folder and those below it, one file, or a list).

    Parameters
    ----------
    groups : how exposures are grouped: by clusters of their beam shifts, by the acquisition area of the template
        their name tells, or not at all.
    count : number of clusters; by default where the gaps between beam shifts are widest.
    cs, amplitude_contrast : mm and a fraction, which EPU does not tell.
    pixel_size, voltage : angstrom and kV, in place of EPU's (a super-resolution movie has smaller pixels).

    Returns
    -------
    Dataset with dims ``micrograph, optics``: ``micrograph_name`` (the movie or image beside the XML where there is
    one), the optics of each exposure group, ``exposure`` (e/A^2) where EPU tells the dose, ``x_beam_shift_x``, ``_y``,
    ``x_time``, ``x_foil_hole``, ``x_template_area``, stage and defocus. Defoci set are ``x_applied_defocus``, angstrom.

    Raises
    ------
    ParameterError : no such files, or more groups than exposures.
    FormatError : a file that is no XML of EPU, or without pixel size, voltage or, to group by it, beam shift.
    """
    paths = _files(files)
    if not paths:
        raise ParameterError(f"read_epu({files})", expected="files FoilHole_*_Data_*.xml", found="none")
    rows = [_read(path) for path in paths]
    ds = xr.Dataset({"micrograph_name": ("micrograph", names_of([row["name"] for row in rows], str(paths[0])))})
    ds["x_epu_file"] = ("micrograph", text(map(str, paths)))
    if all("x_time" in row for row in rows):
        ds["x_time"] = ("micrograph", text(row["x_time"] for row in rows))
    for name in dict.fromkeys(v for v, _ in (*_VALUES.values(), *_CUSTOM.values())):
        if name not in ("pixel_size", "voltage") and all(name in row for row in rows):
            ds[name] = ("micrograph", np.array([row[name] for row in rows]))
    numbers = [_NAME.search(str(path)) for path in paths]
    if all(numbers):
        for i, name in ((1, "x_foil_hole"), (2, "x_template_area")):
            ds[name] = ("micrograph", text(m[i] for m in numbers if m))
    given = given_optics(optics, "read_epu")
    columns = {}
    for name in (n for n in ("pixel_size", "voltage") if n not in given):
        missing = next((p for p, row in zip(paths, rows, strict=True) if row.get(name, 0) <= 0), None)
        if missing is not None:
            raise FormatError(str(missing), expected=f"a {name.replace('_', ' ')} above 0", found="none",
                              remedy=f"Give {name}=.")  # fmt: skip
        columns[name] = np.array([row[name] for row in rows])
    optics_variables(ds, "micrograph", columns, given)
    ds["usable"] = ("micrograph", np.ones(len(rows), bool))
    ds["reason"] = ("micrograph", text([""] * len(rows)))
    return validate(assign_exposure_groups(ds, groups=groups, count=count), "read_epu")


def assign_exposure_groups(
    ds: xr.Dataset, *, groups: Literal["beam-shift", "template", "none"] = "beam-shift", count: int | None = None
) -> xr.Dataset:
    """Split the optics groups of micrographs further, by beam shift or acquisition area (see ``read_epu``).

    Raises
    ------
    ParameterError : another way to group, more groups than exposures, or no beam shifts or areas to group by.
    """
    where = "assign_exposure_groups"
    n = ds.sizes["micrograph"]
    if groups == "none":
        labels = np.zeros(n, np.int64)
    elif groups == "template":
        if "x_template_area" not in ds:
            raise ParameterError(where, expected="names FoilHole_H_Data_A_...", found="others")
        labels = np.unique([str(v) for v in ds["x_template_area"].values], return_inverse=True)[1]
    elif groups == "beam-shift":
        if "x_beam_shift_x" not in ds or "x_beam_shift_y" not in ds:
            raise ParameterError(where, expected="a beam shift in every file", found="some without",
                                 remedy="Give groups='template' or 'none'.")  # fmt: skip
        shifts = np.stack([ds["x_beam_shift_x"].values, ds["x_beam_shift_y"].values], axis=1)
        labels = cluster(shifts, count)
    else:
        raise ParameterError(where, expected="groups 'beam-shift', 'template' or 'none'", found=repr(groups))
    before = ds["optics_group"].values.astype(np.int64)
    pairs, group = np.unique(np.stack([before, labels]), axis=1, return_inverse=True)
    out = ds.drop_vars([name for name, v in ds.variables.items() if "optics" in v.dims])
    for name, array in ds.variables.items():
        if "optics" in array.dims:
            out[name] = array.isel(optics=pairs[0])
    out["optics_group"] = ("micrograph", group.reshape(-1).astype(np.int32))
    out["optics_name"] = ("optics", text(f"opticsGroup{i + 1}" for i in range(pairs.shape[1])))
    return out


def is_epu_folder(folder: str | Path) -> bool:
    """Whether the XML files of EPU's exposures lie in ``folder`` or below it.

    >>> is_epu_folder("/nonexistent")
    False
    """
    for base, _, names in islice(os.walk(folder), _FOLDERS):
        mine = [n for n in sorted(names) if _NAME.match(n) and n.endswith(".xml") and "raction" not in n]
        if mine:
            with suppress(OSError, CryoflowError):
                source = open_source(Path(base, mine[0]))
                return epu(source.read(0, min(source.size, 4096)), mine[0])
    return False


def _files(files: str | Path | Iterable[str | Path]) -> list[str | Path]:
    if not isinstance(files, str | Path):
        return list(files)
    folder = Path(files)
    if folder.is_dir():
        found = [p for p in folder.rglob("*.xml") if _NAME.match(p.name) and "raction" not in p.name]
        return [*sorted(found, key=lambda p: (p.name, str(p)))]
    return [files]


def _read(path: str | Path) -> dict[str, Any]:
    where = str(path)
    items = read_xml(read_all(path), where, _wanted)
    if not items or items[-1].path != ("MicroscopeImage",):
        raise FormatError(where, expected="XML of EPU (MicroscopeImage)", found=items[-1].path[0] if items else "none")
    row: dict[str, Any] = {"name": _movie(path)}
    key = ""
    for item in items:
        below = item.path[1:]
        value = item.text.strip()
        if below in _VALUES:
            name, factor = _VALUES[below]
            if name not in row and value:
                row[name] = number(value, f"{where}, {below[-1]}") * factor
        elif below == _TIME:
            row["x_time"] = value
        elif below == (*_PAIR, "Key"):
            key = value
        elif below == (*_PAIR, "Value") and key in _CUSTOM and value:
            row[_CUSTOM[key][0]] = number(value, f"{where}, {key}") * _CUSTOM[key][1]
    return row


def _wanted(path: tuple[str, ...]) -> bool:
    below = path[1:]
    return not below or below in _VALUES or below == _TIME or below[:-1] == _PAIR


def _movie(path: str | Path) -> str:
    """The movie or image beside an XML file, else the XML's name as ``.mrc``."""
    base = str(path).rpartition(".")[0]
    if "://" not in base:
        for suffix in _MOVIES:
            if Path(base + suffix).is_file():
                return Path(base + suffix).name
    return base.replace("\\", "/").rpartition("/")[2] + ".mrc"
