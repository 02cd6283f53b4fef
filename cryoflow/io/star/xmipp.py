"""Particles of Xmipp's metadata files (.xmd): STAR with labels of its own, one table of rows with everything in it.

Angles are RELION's (rot, tilt, psi); ``shiftX``/``shiftY`` are pixels to add, before anything else. Where ``flip`` is 1
the image is mirrored in x first and shifted after: with F = diag(-1, 1) the centred image is the projection of F A, and
since a projection has no depth, that of the rotation diag(-1, 1, -1) A, with the shift F s (de la Rosa-Trevin et al.
2013, J. Struct. Biol. 184:321; Sorzano et al. 2014, J. Struct. Biol. 186:122). ``ctfQ0`` may be negative in old files:
its size counts, and CTFs follow our sign.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from cryoflow.errors import FormatError
from cryoflow.io.files import atomic
from cryoflow.io.given import DEFAULTS, ReadOptions, given_optics
from cryoflow.io.images.new_stack import particles_to_write
from cryoflow.io.particle_table import check_pixel_sizes, with_images
from cryoflow.io.sources.address import folder_of
from cryoflow.io.sources.source import normal
from cryoflow.io.star.relion import from_tables, split_optics, to_tables
from cryoflow.io.star.relion_blocks import join_blocks
from cryoflow.io.star.star import read_star
from cryoflow.io.star.starwrite import star_bytes
from cryoflow.options import takes
from cryoflow.schema import describe, require, validate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_xmipp", "write_xmipp"]

_HEADER = b"# XMIPP_STAR_1 * \n# \n"
_LABELS = {
    "image": "rlnImageName", "micrograph": "rlnMicrographName", "angleRot": "rlnAngleRot",
    "angleTilt": "rlnAngleTilt", "anglePsi": "rlnAnglePsi", "shiftX": "rlnOriginX", "shiftY": "rlnOriginY",
    "ctfDefocusU": "rlnDefocusU", "ctfDefocusV": "rlnDefocusV", "ctfDefocusAngle": "rlnDefocusAngle",
    "ctfVPPphaseshift": "rlnPhaseShift", "ctfVoltage": "rlnVoltage", "ctfSphericalAberration": "rlnSphericalAberration",
    "ctfQ0": "rlnAmplitudeContrast", "ctfSamplingRate": "rlnImagePixelSize", "xcoor": "rlnCoordinateX",
    "ycoor": "rlnCoordinateY",
}  # fmt: skip
# labels of Xmipp 3.0 and before, which it still reads
_OLD = {"Xoff": "shiftX", "Yoff": "shiftY", "CTF_Defocus_U": "ctfDefocusU", "CTF_Defocus_V": "ctfDefocusV",
        "CTF_Voltage": "ctfVoltage", "CTF_Spherical_aberration": "ctfSphericalAberration", "CTF_Q0": "ctfQ0",
        "CTF_Sampling_rate": "ctfSamplingRate", "Xcoor": "xcoor", "Ycoor": "ycoor", "Flip": "flip"}  # fmt: skip
_BACK = {relion: label for label, relion in _LABELS.items()}
_SUFFIXES = (":mrcs", ":mrc", ":ems", ":stk", ":spi")  # tell Xmipp the format of a file of another name


@takes(ReadOptions, DEFAULTS)
def read_xmipp(path: str | Path, **options: Unpack[ReadOptions]) -> xr.Dataset:
    """Read particles of an Xmipp metadata file; ``image`` is lazy.

    Rows with ``enabled`` -1 stay, with ``x_enabled`` -1.

    Parameters
    ----------
    options : those of ``read_particles``; ``pixel_size`` is needed where the file has no ``ctfSamplingRate``.

    Raises
    ------
    FormatError : a damaged file, no ``_image``, no pixel size, or images that are missing or outside.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/p.xmd"
    >>> rows = " _image\\n _shiftX\\n _shiftY\\n _flip\\n 000001@p.stk 1 2 0\\n 000002@p.stk 1 2 1\\n"
    >>> _ = open(path, "w").write("# XMIPP_STAR_1 * \\n# \\ndata_noname\\nloop_\\n" + rows)
    >>> read_xmipp(path, images=False, pixel_size=1.5)["shift"].values.tolist()
    [[1.5, 3.0], [-1.5, 3.0]]
    """
    where = normal(path)
    blocks = read_star(where)
    name = next((n for n, b in blocks.items() if "image" in b and not b.attrs.get("list")), None)
    if name is None:
        raise FormatError(where, expected="a table with _image", found=f"blocks {', '.join(map(repr, blocks))[:300]}")
    table = blocks[name].rename(columns=_OLD)
    columns = [str(label) for label in table.columns]
    table = table.rename(columns=_LABELS)
    if table.columns.duplicated().any():
        twice = table.columns[table.columns.duplicated()][0]
        raise FormatError(where, expected="each label once", found=f"{twice} twice, by its old name and its new")
    for given, value in given_optics(options, f"read_xmipp({where})").items():
        table[describe(given).star] = value
    if "rlnAmplitudeContrast" in table and table["rlnAmplitudeContrast"].dtype.kind in "if":
        table["rlnAmplitudeContrast"] = table["rlnAmplitudeContrast"].abs()
    table.attrs = blocks[name].attrs
    rows, optics = split_optics({**blocks, name: table}, name, where)
    ds = from_tables(rows, optics, dim="particle", where=where)
    ds.attrs["xmipp_columns"] = columns
    check_pixel_sizes(ds, where, "_ctfSamplingRate")
    ds["particle_id"] = ("particle", np.arange(ds.sizes["particle"], dtype=np.int64))
    ds = with_images(_mirror(ds), where, options, label="_image", base=folder_of(where), file_of=_file_of)
    return validate(ds, where)


def _file_of(name: str) -> str:
    """The file without the suffix that tells Xmipp its format."""
    return next((name.removesuffix(s) for s in _SUFFIXES if name.endswith(s)), name)


def _mirror(ds: xr.Dataset) -> xr.Dataset:
    """Turn rotations and shifts of flipped rows from Xmipp's meaning into ours, or back: its own inverse."""
    if "x_flip" not in ds or ds["x_flip"].dtype.kind not in "iuf":
        return ds
    flipped = ds["x_flip"].values == 1
    if "rotation" in ds and flipped.any():
        turn = np.where(flipped[:, None, None], np.diag([-1.0, 1.0, -1.0]), np.eye(3))
        ds = ds.assign(rotation=(ds["rotation"].dims, turn @ ds["rotation"].values))
    if "shift" in ds and flipped.any():
        ds = ds.assign(shift=(ds["shift"].dims, ds["shift"].values * np.where(flipped[:, None], [-1.0, 1.0], 1.0)))
    return ds


def write_xmipp(ds: xr.Dataset, path: str | Path, *, images: str | Path | None = None, dtype: str = "float32") -> None:
    """Write particles as an Xmipp metadata file.

    Poses are written as Xmipp means them (mirrored again where ``x_flip`` is 1), shifts in pixels, the optics in every
    row. Columns of other programs are written under their own labels.

    Parameters
    ----------
    images : an ``.mrcs`` to write the images to, as ``dtype``; without it ``image_name`` is written as it is.

    Raises
    ------
    SchemaError : no ``pixel_size``, and neither ``images`` nor ``image_name``.
    ParameterError : no particles.
    ResourceError : the disk is full; nothing half-written is left.
    """
    path = Path(path)
    where = f"write_xmipp({path})"
    ds = particles_to_write(ds, images, where, dtype=dtype, beside=path)
    require(ds, where, ["image_name"])
    ds = _mirror(ds.drop_vars("image", errors="ignore"))
    source: dict[str, Any] = dict(ds.attrs.get("star_file", {})) if "xmipp_columns" in ds.attrs else {}
    order = [_LABELS.get(label, label) for label in ds.attrs.get("xmipp_columns", ())]
    source |= {"form": "3.0", "block": source.get("block", "noname"), "comments": []}
    source["columns"] = order if "rlnImagePixelSize" in order else [*order, "rlnImagePixelSize"]
    rows, optics = to_tables(ds, dim="particle")
    optics = optics.drop(columns=[c for c in ("rlnMicrographPixelSize",) if c in optics and c not in order])
    blocks = join_blocks(rows, optics, source, block="noname", form="3.0", where=where)
    blocks[source["block"]] = _labelled(blocks[source["block"]])
    with atomic(path) as partial, partial.open("wb") as file:
        file.write(_HEADER)
        for piece in star_bytes(blocks, where):
            file.write(piece)


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    attrs = table.attrs
    table = table.rename(columns=_BACK)
    attrs["exact"] = [_BACK.get(label, label) for label in attrs.get("exact", ())]
    table.attrs = attrs
    return table
