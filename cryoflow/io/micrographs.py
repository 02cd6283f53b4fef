"""Micrographs: a folder, a list or a STAR file of them as one lazy Dataset; STAR files of CTFs and coordinates."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import CryoflowError, FormatError, ParameterError, ResourceError
from cryoflow.io.files import inside
from cryoflow.io.given import DEFAULTS, MicrographOptions, check_optics, put_optics
from cryoflow.io.images.image_file import ImageFile, open_image_file
from cryoflow.io.images.lazy import FileImages, lazy
from cryoflow.io.images.together import Together
from cryoflow.io.sources.project import project_folder
from cryoflow.io.star.relion import from_tables, split_optics, text, to_blocks
from cryoflow.io.star.star import read_star, write_star
from cryoflow.options import takes
from cryoflow.schema import validate

__all__ = [
    "open_micrographs", "read_coordinates", "read_micrograph_table", "write_coordinates", "write_micrographs",
]  # fmt: skip

_MRC = {".mrc", ".mrcs", ".map"}
_TIFF = {".tif", ".tiff"}


@takes(MicrographOptions, DEFAULTS)
def open_micrographs(
    root_or_paths: str | Path | Iterable[str | Path], **options: Unpack[MicrographOptions]
) -> xr.Dataset:
    """Open micrographs lazily, one to a chunk; broken ones stay as rows with ``usable`` False and a ``reason``.

    Parameters
    ----------
    root_or_paths : a folder (its .mrc and .tif files), a pattern with ``*``, one file, a list of files, or a STAR file
        of micrographs (its optics are used where a parameter below is not given).
    pixel_size, voltage, cs, amplitude_contrast : angstrom, kV, mm and a fraction.
    trust_given : accept a pixel size that headers contradict by more than 1 %; else an error where most do, and the
        micrograph set aside where few do.
    root : folder that the names of a STAR file are relative to; by default the first of its own and those above it that
        holds them. Files that are given need none.
    allow_outside : accept names in a STAR file that lead out of ``root``.

    Returns
    -------
    Dataset with ``micrograph`` (micrograph, y, x) in the type of the files (float32 if they differ),
    ``micrograph_name`` (relative to ``attrs["root"]``), ``usable``, ``reason`` and the optics. The shape is the
    commonest; a micrograph that is truncated, unreadable or of another shape reads as zeros. Rows of a TIFF count from
    the bottom, as in RELION and IMOD, so that hands agree with MRC.

    Raises
    ------
    ParameterError : no files, a root that is no folder or has no use, optics missing or out of range, or a pixel size
        that the headers contradict.
    FormatError : none of the files can be read, or a damaged STAR file.
    ResourceError : a place that does not answer.
    """
    where = f"open_micrographs({root_or_paths})" if isinstance(root_or_paths, str | Path) else "open_micrographs"
    root, names, ds = _sources(root_or_paths, where, options)
    put_optics(ds, options, where)
    check_optics(ds, where, required=True)
    together = _opened([root / name for name in names], [str(p) for p in ds["reason"].values])
    together.require(where, "readable micrograph")
    if not options["trust_given"]:
        together.check_pixel_sizes(ds, where)
    frame = together.one_frame()
    files, file, dtype = together.packed()
    ds["micrograph_name"] = ("micrograph", text(names))
    ds["usable"] = ("micrograph", ds["usable"].values & np.array([not p for p in together.problems]))
    ds["reason"] = ("micrograph", text(together.problems))
    array = FileImages(files, file, np.zeros(len(names), np.int32), frame, dtype)
    ds["micrograph"] = lazy(("micrograph", "y", "x"), array, 1)
    ds.attrs["root"] = str(root)
    return validate(ds, where)


def read_micrograph_table(star: str | Path) -> xr.Dataset:
    """What a STAR file says of micrographs, which need not exist: names, optics, CTFs, ``usable`` and ``reason``.

    Raises
    ------
    FormatError : a damaged STAR file, or one without micrograph names.
    """
    return validate(_from_star(Path(star), None, True)[2], str(star))


def _sources(source: Any, where: str, options: MicrographOptions) -> tuple[Path, list[str], xr.Dataset]:
    """Root, names relative to it, and what is known of them so far."""
    if isinstance(source, str | Path) and Path(source).suffix == ".star":
        return _from_star(Path(source), options["root"], options["allow_outside"])
    if options["root"] is not None:
        raise ParameterError(f"{where}, root", expected="none: files are where they are", found=str(options["root"]))
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in _MRC | _TIFF and p.is_file())
            root = path
        elif path.is_file():
            files, root = [path], path.parent
        else:
            files = [Path(p) for p in sorted(glob.glob(str(source), recursive=True))]  # noqa: PTH207
            root = _common(files)
    else:
        files = [Path(p) for p in source]
        root = _common(files)
    if not files:
        raise ParameterError(where, expected="micrographs (.mrc, .tif)", found="no such file", remedy="Check the path.")
    names = [str(f.relative_to(root)) for f in files]
    ds = xr.Dataset({
        "optics_name": ("optics", text(["opticsGroup1"])),
        "optics_group": ("micrograph", np.zeros(len(names), np.int32)),
        "usable": ("micrograph", np.ones(len(names), bool)),
        "reason": ("micrograph", text([""] * len(names))),
    })  # fmt: skip
    return root, names, ds


def _common(files: list[Path]) -> Path:
    folders = {f.parent for f in files}
    if not folders:
        return Path()
    if len(folders) == 1:
        return folders.pop()
    parts = list(zip(*(f.parts for f in folders), strict=False))
    same = [p[0] for p in parts if len(set(p)) == 1]
    return Path(*same[: next((i for i, p in enumerate(parts) if len(set(p)) > 1), len(parts))])


def _from_star(
    star: Path, given: str | Path | None, allow_outside: bool
) -> tuple[Path, list[str], xr.Dataset]:
    if given is not None and not Path(given).is_dir():
        raise ParameterError(f"{star}, root", expected="a folder", found=str(given))
    rows, optics = split_optics(read_star(star), "micrographs", str(star))
    if "rlnMicrographName" not in rows:
        raise FormatError(str(star), expected="_rlnMicrographName", found=f"labels {', '.join(rows.columns)}")
    names = [str(n) for n in rows.rlnMicrographName]
    ds = from_tables(rows, optics, dim="micrograph", where=str(star))
    if "micrograph_pixel_size" in ds:  # here the images are the micrographs
        ds["pixel_size"] = ds["micrograph_pixel_size"]
        ds = ds.drop_vars("micrograph_pixel_size")
    marked = ds["x_cryoflowUsable"].values == 1 if "x_cryoflowUsable" in ds else np.ones(len(names), bool)
    ds["usable"] = ("micrograph", marked)
    reasons = ds["x_cryoflowReason"].values if "x_cryoflowReason" in ds else [""] * len(names)
    ds["reason"] = ("micrograph", text("" if r == "none" else r for r in reasons))
    ds = ds.drop_vars(["x_cryoflowUsable", "x_cryoflowReason"], errors="ignore")
    root = Path(project_folder(star.parent, names) if given is None else given)
    for i, name in enumerate(names):
        inside(name, root, where=f"{star}, row {i + 1}", allow_outside=allow_outside)
    return root, names, ds


def _opened(paths: list[Path], reasons: list[str]) -> Together:
    """The files, and why others cannot be read; ``reasons`` are those of a STAR file."""
    together = Together()
    for path, reason in zip(paths, reasons, strict=True):
        try:
            together.add(_frame(path), reason)
        except ResourceError:  # no answer says nothing about the micrograph
            raise
        except (CryoflowError, OSError, ValueError) as error:
            together.add(None, str(error).replace(str(path), path.name) or type(error).__name__)
    return together


def _frame(path: Path) -> ImageFile:
    image = open_image_file(path)
    if image.shape[0] != 1:
        raise FormatError(path.name, expected="one image", found=f"{image.shape[0]}", remedy="Align movies first.")
    return image


def write_micrographs(ds: xr.Dataset, star: str | Path) -> None:
    """Write micrographs and their CTFs as RELION's ``micrographs_ctf.star`` (3.1 to 5).

    Micrographs that are not usable are kept and marked: ``_cryoflowUsable`` 0 and ``_cryoflowReason``. RELION keeps
    columns it does not know. Only variables of one value a micrograph are written.
    """
    where = f"write_micrographs({star})"
    validate(ds, where, required=["micrograph_name", "pixel_size"])
    if ds.sizes["micrograph"] == 0:
        raise ParameterError(where, expected="at least one micrograph", found="none")
    ds = ds.assign(micrograph_pixel_size=ds["pixel_size"]).drop_vars(["micrograph", "pixel_size"], errors="ignore")
    if "x_optics_rlnMicrographOriginalPixelSize" not in ds:
        ds["x_optics_rlnMicrographOriginalPixelSize"] = ds["micrograph_pixel_size"]
    usable = ds["usable"].values if "usable" in ds else np.ones(ds.sizes["micrograph"], bool)
    reason = ds["reason"].values if "reason" in ds else [""] * len(usable)
    broken = [name for name in ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "ctf_resolution", "ctf_score")
              if name in ds]  # fmt: skip
    for name in broken:  # a micrograph that could not be fitted: zeros, which every program reads
        ds[name] = (ds[name].dims, np.nan_to_num(ds[name].values, nan=0.0, posinf=0.0, neginf=0.0))
    reasons = [str(r).replace('"', "'").replace("\n", " ") or "none" for r in reason]
    ds = ds.drop_vars(["usable", "reason"], errors="ignore").assign(
        x_cryoflowUsable=("micrograph", np.asarray(usable, int)), x_cryoflowReason=("micrograph", text(reasons))
    )  # fmt: skip
    write_star(star, to_blocks(ds, dim="micrograph", block="micrographs", where=where))


def read_coordinates(star: str | Path) -> NDArray[np.float64]:
    """Particle centres (n, 2) of a coordinate STAR file: x right and y along the rows, in pixels from 0.

    Raises
    ------
    FormatError : no coordinates, or one that is not a number.
    """
    for table in read_star(star).values():
        if {"rlnCoordinateX", "rlnCoordinateY"} <= set(table.columns):
            xy = np.stack([_floats(table[f"rlnCoordinate{axis}"], str(star)) for axis in "XY"], axis=1)
            return np.ascontiguousarray(xy)
    raise FormatError(str(star), expected="_rlnCoordinateX and _rlnCoordinateY", found="no such labels")


def _floats(column: Any, where: str) -> NDArray[np.float64]:
    if column.dtype.kind not in "iuf" or not np.isfinite(column.to_numpy()).all():
        raise FormatError(where, expected=f"numbers for _{column.name}", found="something else")
    return np.asarray(column.to_numpy(), np.float64)


def write_coordinates(star: str | Path, coordinate: ArrayLike, **columns: ArrayLike) -> None:
    """Write particle centres (n, 2) as a coordinate STAR file; ``columns`` are further ones by RELION's label.

    >>> import tempfile, pathlib
    >>> star = pathlib.Path(tempfile.mkdtemp()) / "picks.star"
    >>> write_coordinates(star, [[10.5, 20.25]], rlnAutopickFigureOfMerit=[0.75])
    >>> read_coordinates(star).tolist()
    [[10.5, 20.25]]
    """
    import pandas as pd

    xy = np.asarray(coordinate, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise ParameterError(f"write_coordinates({star})", expected="finite (n, 2)", found=f"shape {xy.shape}")
    table = {"rlnCoordinateX": xy[:, 0], "rlnCoordinateY": xy[:, 1]}
    write_star(star, {"": pd.DataFrame(table | {k: np.asarray(v) for k, v in columns.items()})})
