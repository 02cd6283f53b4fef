"""``convert``: from any format to any other through the schema, and what got lost on the way, as read back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.formats import Format, detect, find_format, open_data, target_format, write_data
from cryoflow.io.named import named
from cryoflow.schema import VARIABLES

__all__ = ["Conversion", "convert", "named_files"]

_NAMES = 20  # rows
_OPTICS = ("pixel_size", "voltage", "cs", "amplitude_contrast")
_OWN = {"image", "micrograph", "movie", "map", "particle_id", "optics_group"}  # not part of a table, or made anew


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written. ``lost``: variables that the target does not give back; ``altered``: largest differences.

    ``files`` are some of the image files that the target names, as it names them.
    """

    source: str
    target: str
    rows: int
    lost: tuple[str, ...] = ()
    altered: Mapping[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def convert(
    source: str | Path,
    path: str | Path,
    *,
    format_in: str | None = None,
    format_out: str | None = None,
    images: str | Path | None = None,
    write_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Conversion:
    """Read ``source``, write it as ``path``, and read that again to tell what the target could not hold.

    Images stay where they are, and image names as they were, unless ``images`` names a stack to write them to.

    Parameters
    ----------
    format_in, format_out : names of formats, where the file or its suffix does not tell them.
    images : stack for the images, in the order of the rows; the new table points to it.
    write_options : for the writer. options : for the reader (``pixel_size``, ``root``, ...).

    Raises
    ------
    FormatError, ParameterError : what reader or writer refuse; nothing is written then.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> text = "data_\\nloop_\\n_rlnImageName\\n_rlnDefocusU\\n_rlnVoltage\\n_rlnRandomSubset\\n_rlnPixelSize\\n"
    >>> _ = (folder / "p.star").write_text(text + "1@p.mrcs 9000 300 1 1.5\\n2@p.mrcs 9100 300 2 1.5\\n")
    >>> done = convert(folder / "p.star", folder / "p.cs", write_options={"box": 128})
    >>> done.target, done.rows, done.lost
    ('cryosparc-particles', 2, ())
    """
    entry = find_format(format_in) if format_in else detect(source)
    if Path(path).exists() and not str(path).endswith(".zarr") and Path(path).resolve() == Path(source).resolve():
        raise ParameterError("convert", expected="another file to write", found=f"{path} itself")
    ds = _opened(source, entry, images is not None or _needs_images(path, format_out), options)
    target = find_format(format_out) if format_out else target_format(ds, Path(path))
    extra = dict(write_options or {})
    if images is not None:
        if target.write is None or "images" not in _takes(target.write):
            raise ParameterError("--images", expected="a table that names a stack", found=target.title)
        extra["images"] = images
    if target.kind == "images" and "image" in getattr(ds, "variables", ()) and "pixel_size" not in ds:
        raise ParameterError(f"convert to {path}", expected="a pixel size", found=f"none in {source}",
                             remedy="Give pixel_size= in angstrom.")  # fmt: skip
    write_data(ds, path, format=target.name, **extra)
    rows = int(next((ds.sizes[d] for d in ("particle", "micrograph", "movie") if d in getattr(ds, "dims", ())), 1))
    if isinstance(ds, dict):
        rows = sum(map(len, ds.values()))
    if not isinstance(ds, xr.Dataset) or target.read is None or target.kind in ("store", "images", "map"):
        lost = _beside_images(ds, target) if target.kind == "images" else ()
        return Conversion(entry.name, target.name, rows, lost)
    back, missing = _read_back(ds, path, target)
    files = named_files(ds) if images is None and {"image_name", "micrograph_name"} & set(back.variables) else ()
    return Conversion(entry.name, target.name, rows, *_compared(ds, back, missing), files)


def named_files(ds: xr.Dataset) -> tuple[str, ...]:
    """The files that the first rows of a table name: stacks of particles, else micrographs.

    >>> named_files(xr.Dataset({"image_name": ("particle", ["1@a.mrcs", "2@a.mrcs"])}))
    ('a.mrcs',)
    """
    column = "image_name" if "image_name" in ds else "micrograph_name"
    if column not in ds:
        return ()
    return tuple(dict.fromkeys(str(name).rpartition("@")[2] for name in ds[column].values[:_NAMES]))


def _takes(function: str) -> list[str]:
    return list(inspect.signature(named(function)).parameters)


def _needs_images(path: str | Path, format_out: str | None) -> bool:
    """Whether the target holds or points to images itself; tables only name them."""
    if format_out is not None:
        return find_format(format_out).kind in ("images", "store")
    suffix = Path(path).suffix.lower()
    from cryoflow.io.formats import FORMATS

    kinds = {f.kind for f in FORMATS if f.write and suffix in f.suffixes}
    return bool(kinds & {"images", "store"})


def _opened(source: str | Path, entry: Format, images: bool, options: Mapping[str, Any]) -> Any:
    """The source with its images where they are needed or can be found (some tables hold their box), else without."""
    if entry.read is None or "images" not in _takes(entry.read):
        return open_data(source, format=entry.name, **options)
    try:
        return open_data(source, format=entry.name, **options)
    except CryoflowError:
        if images:
            raise
        return open_data(source, format=entry.name, images=False, **options)


def _beside_images(ds: Any, target: Format) -> tuple[str, ...]:
    """Row variables of a set whose images alone are written (references hold numbers too)."""
    rows = {"particle", "micrograph"}
    own = _OWN | {"image_name", "pixel_size"}
    text = {str(n) for n, v in ds.variables.items() if v.dtype.kind not in "iufb"}
    kept = own if target.name != "references" else own | (set(map(str, ds.variables)) - text)
    return tuple(str(n) for n, v in ds.variables.items() if v.dims and str(v.dims[0]) in rows and str(n) not in kept)


def _read_back(ds: xr.Dataset, path: str | Path, target: Format) -> tuple[xr.Dataset, set[str]]:
    """What the new file says, and the optics it had to be told again."""
    if target.name == "relion-micrographs":  # the table, not the micrographs, which may lie elsewhere
        from cryoflow.io.micrographs import read_micrograph_table

        return read_micrograph_table(path), set()
    images = target.read is not None and "images" in _takes(target.read)
    options: dict[str, Any] = {"images": False} if images else {}
    try:
        back, told = open_data(path, format=target.name, **options), set()
    except CryoflowError:
        takes = _takes(target.read or "")
        known = {n: float(ds[n].values.ravel()[0]) for n in _OPTICS if n in ds and n in takes and ds[n].size}
        told = set(known)
        try:
            back = open_data(path, format=target.name, **options, **known)
        except CryoflowError as error:
            raise FormatError(str(path), expected="a file that reads back", found=str(error),
                              remedy="It was written, but check it before you use it.") from error  # fmt: skip
    if isinstance(back, xr.DataArray):
        back = back.to_dataset(name=back.name or "values")
    return back, told


def _compared(ds: xr.Dataset, back: xr.Dataset, told: set[str]) -> tuple[tuple[str, ...], dict[str, float]]:
    lost = [str(n) for n in ds.variables if str(n) not in _OWN and (n not in back.variables or str(n) in told)]
    lost = [n for n in lost if n != "optics_name"]
    altered: dict[str, float] = {}
    for name, variable in ds.variables.items():
        key = str(name)
        if key in lost or key in _OWN or key not in back.variables or key not in VARIABLES:
            continue
        other = back[key]
        if variable.dims[:1] == ("optics",):  # groups may be divided or joined: compare what each row gets
            if "optics_group" not in ds or "optics_group" not in back or variable.dtype.kind != "f":
                continue
            a, b = variable.values[ds.optics_group.values], other.values[back.optics_group.values]
        else:
            a, b = variable.values, other.values
        if a.shape != b.shape:
            lost.append(key)
        elif a.dtype.kind in "iufb" and b.dtype.kind in "iufb":
            a, b = a.astype(np.float64), b.astype(np.float64)
            away = np.abs(a - b)[~(np.isnan(a) & np.isnan(b))]
            if away.size and not np.all(away <= 1e-4 + 1e-5 * np.abs(a[~(np.isnan(a) & np.isnan(b))])):
                altered[key] = float(np.nanmax(away))
    return tuple(lost), altered
