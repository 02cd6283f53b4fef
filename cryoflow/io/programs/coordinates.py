"""Picked particles of any program: one file or a folder of them as one Dataset, and back as one file a micrograph."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.named import named
from cryoflow.io.programs.border import coordinate_set, names_of, star_tables
from cryoflow.io.programs.eman2_boxes import stem
from cryoflow.io.programs.plain_text import finite
from cryoflow.io.star.star import write_star
from cryoflow.schema import require

__all__ = ["read_coordinate_star", "read_picks", "write_coordinate_star", "write_picks"]

_SCORE = "rlnAutopickFigureOfMerit"
_SUFFIXES = {"eman-box": ".box", "eman-info": "_info.json", "cbox": ".cbox", "spider-doc": ".spi",
             "relion-coordinates": ".star"}  # fmt: skip


def read_coordinate_star(path: str | Path, *, suffix: str = ".mrc") -> xr.Dataset:
    """Read coordinates of a STAR file (RELION, crYOLO, Warp) as a Dataset.

    Micrographs are named as the file says, else like the file with ``suffix``. Other columns are kept as
    ``x_<label>``.

    Raises
    ------
    FormatError : no table with coordinates, or one that is no number.
    """
    where = str(path)
    wanted = {"rlnCoordinateX", "rlnCoordinateY"}
    table = next((t for t in star_tables(path).values() if wanted <= set(t.columns)), None)
    if table is None:
        raise FormatError(where, expected="_rlnCoordinateX and _rlnCoordinateY", found="no such labels")
    xy = np.stack([finite(table[f"rlnCoordinate{a}"].to_numpy(), f"_rlnCoordinate{a}", where) for a in "XY"], axis=1)
    told = "rlnMicrographName" in table
    names = names_of(table["rlnMicrographName"], where) if told else [stem(path) + suffix] * len(table)
    score = finite(table[_SCORE].to_numpy(), f"_{_SCORE}", where) if _SCORE in table else None
    more = {}
    for label in table:
        if label not in (*wanted, _SCORE, "rlnMicrographName"):
            column = table[label]
            more[f"x_{label}"] = column.to_numpy() if column.dtype.kind in "iufb" else names_of(column, where)
    return coordinate_set(xy, list(names), score, **more)


def write_coordinate_star(ds: xr.Dataset, path: str | Path) -> None:
    """Write coordinates, of any number of micrographs, as a STAR file of RELION; ``x_rln...`` columns return."""
    import pandas as pd

    require(ds, f"write_coordinate_star({path})", ["coordinate"])
    columns: dict[str, Any] = {}
    if "micrograph_name" in ds:
        columns["rlnMicrographName"] = [str(name) for name in ds["micrograph_name"].values]
    columns |= dict(zip(("rlnCoordinateX", "rlnCoordinateY"), ds["coordinate"].values.T, strict=True))
    if "pick_score" in ds:
        columns[_SCORE] = ds["pick_score"].values
    for name in ds.variables:
        if str(name).startswith("x_rln"):
            values = ds[name].values
            columns[str(name)[2:]] = values if values.dtype.kind in "iufb" else [str(v) for v in values]
    write_star(path, {"": pd.DataFrame(columns)})


def read_picks(
    files: str | Path | Iterable[str | Path], *, format: str | None = None, flip_height: int | None = None,
    **options: Any,
) -> xr.Dataset:  # fmt: skip
    """Read coordinates of crYOLO, EMAN2, RELION, SPIDER or Topaz from one file, a folder or pattern of them, or a list.

    Parameters
    ----------
    format : name of the format (``cryoflow.io.formats``); by default told by each file's content.
    flip_height : rows of the micrographs, where the program counted y from the other end: y becomes
        ``flip_height - 1 - y`` (a TIFF that was read from its top, for example).
    options : passed to the readers, such as ``suffix`` of the micrographs' names or Topaz's ``scale``.

    Returns
    -------
    Dataset with ``coordinate`` (pixels, first pixel centre 0), ``micrograph_name``, ``pick_score`` if all files have
    one, and those ``x_`` columns that all files have.

    Raises
    ------
    ParameterError : no files.
    FormatError : a file of no known format of coordinates, or a damaged one.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("a", "b"):
    ...     _ = (folder / f"{name}.box").write_text("10 20 64 64\\n")
    >>> read_picks(folder).micrograph_name.values.tolist()
    ['a.mrc', 'b.mrc']
    """
    paths = _files(files)
    if not paths:
        raise ParameterError(f"read_picks({files})", expected="at least one file", found="none")
    return _flipped(_joined([_read(path, format, options) for path in paths]), flip_height)


def _files(files: str | Path | Iterable[str | Path]) -> list[str | Path]:
    if not isinstance(files, str | Path):
        return list(files)
    path = Path(files)
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    if "*" in str(files) and "://" not in str(files):
        import glob

        return [Path(p) for p in sorted(glob.glob(str(files), recursive=True))]  # noqa: PTH207
    return [files]


def _read(path: str | Path, format: str | None, options: dict[str, Any]) -> xr.Dataset:
    from cryoflow.io.formats import detect, find_format

    name = format or detect(path).name
    if name == "relion-coordinates":
        return read_coordinate_star(path, **options)
    if name == "spider-doc":
        from cryoflow.io.programs.spider_doc import read_spider_coordinates

        return read_spider_coordinates(path, **options)
    entry = find_format(name)
    if entry.kind != "coordinates" or entry.read is None:
        raise FormatError(
            str(path), expected="coordinates", found=entry.title, remedy="Name their format with format=."
        )
    from cryoflow.io.formats import open_data

    ds: xr.Dataset = open_data(path, format=name, **options)
    return ds


def _joined(parts: list[xr.Dataset]) -> xr.Dataset:
    common = set(map(str, parts[0].variables))
    for part in parts[1:]:
        common &= set(map(str, part.variables))
    full = [p for p in parts if p.sizes["particle"]] or parts[:1]
    common |= {name for p in full for name in map(str, p.variables) if all(name in q for q in full)}
    kept = [p[[name for name in map(str, full[0].variables) if name in common]] for p in full]
    return kept[0] if len(kept) == 1 else xr.concat(kept, "particle")


def _flipped(ds: xr.Dataset, height: int | None) -> xr.Dataset:
    if height is None:
        return ds
    if height < 1:
        raise ParameterError("flip_height", expected="rows of the micrographs, above 0", found=f"{height}")
    xy = ds["coordinate"].values.copy()
    xy[:, 1] = height - 1 - xy[:, 1]
    return ds.assign(coordinate=(("particle", "xy"), xy))


def write_picks(
    ds: xr.Dataset, folder: str | Path, *, format: str, flip_height: int | None = None, **options: Any
) -> list[Path]:
    """Write coordinates as one file for each micrograph: ``folder/NAME.box``, ``.cbox``, ``_info.json`` ...

    Parameters
    ----------
    format : "eman-box", "eman-info", "cbox", "spider-doc" or "relion-coordinates" (Topaz's table holds all
        micrographs: ``topaz.write_topaz``).
    flip_height : as in ``read_picks``.
    options : passed to the writer, such as ``box_size`` in pixels.

    Returns
    -------
    The files written, in the order of the micrographs' first rows.

    Raises
    ------
    ParameterError : another format, or two micrographs whose files would have one name.
    """
    from cryoflow.io.formats import find_format

    where = f"write_picks({folder})"
    require(ds, where, ["coordinate", "micrograph_name"])
    if format not in _SUFFIXES:
        raise ParameterError(where, expected=f"format one of {', '.join(_SUFFIXES)}", found=repr(format))
    ds = _flipped(ds, flip_height)
    names = np.array([str(n) for n in ds["micrograph_name"].values], object)
    targets = {n: Path(folder) / (_base(n) + _SUFFIXES[format]) for n in dict.fromkeys(names)}
    if len(set(targets.values())) < len(targets):
        raise ParameterError(where, expected="micrographs of different file names", found="two of one name",
                             remedy="Write them to folders of their own.")  # fmt: skip
    write = {"relion-coordinates": "programs.coordinates:write_coordinate_star",
             "spider-doc": "programs.spider_doc:write_spider_coordinates"}.get(format)  # fmt: skip
    function = named(write or str(find_format(format).write))
    for name, target in targets.items():
        function(ds.isel(particle=np.flatnonzero(names == name)), target, **options)
    return list(targets.values())


def _base(name: str) -> str:
    file = name.replace("\\", "/").rpartition("/")[2]
    return file.rpartition(".")[0] or file
