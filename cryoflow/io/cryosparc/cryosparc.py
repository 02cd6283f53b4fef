"""cryoSPARC: particles and micrographs of ``.cs`` files with their passthroughs, or of ``.csg`` groups, and back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Unpack, cast

import numpy as np
import xarray as xr

from cryoflow.errors import FormatError
from cryoflow.io.cryosparc.cs_fields import numbers, words
from cryoflow.io.cryosparc.cs_file import Columns
from cryoflow.io.cryosparc.cs_table import UID, from_columns
from cryoflow.io.cryosparc.cs_write import CONTRAST, write_cryosparc
from cryoflow.io.cryosparc.csg import read_columns
from cryoflow.io.given import DEFAULTS, Optics, ReadOptions, image_options, put_optics
from cryoflow.io.images.attach import attach_images
from cryoflow.io.sources.address import folder_of
from cryoflow.io.sources.source import normal
from cryoflow.io.star.relion import text
from cryoflow.options import takes
from cryoflow.schema import require, validate

__all__ = ["read_cryosparc", "write_cryosparc"]


@takes(ReadOptions, DEFAULTS)
def read_cryosparc(
    path: str | Path,
    *,
    passthrough: str | Path | Iterable[str | Path] = (),
    flip_y: bool = False,
    **options: Unpack[ReadOptions],
) -> xr.Dataset:
    """Read cryoSPARC's particles or micrographs: a ``.cs`` file, or a ``.csg`` group with all its passthroughs.

    Parameters
    ----------
    path : ``.cs`` (NumPy or compressed) or ``.csg``, a path or URL.
    passthrough : further ``.cs`` files of the same items, joined on ``uid`` whatever their order.
    flip_y : count rows of coordinates from the micrographs' other end, for micrographs that another program wrote
        upside down.
    options : those of ``read_particles``; ``root`` is the project's folder.

    Returns
    -------
    Dataset over ``particle`` (or ``micrograph``). ``attrs["image_contrast"]`` says whether particles are "dark" or
    "bright" in their images (``blob/sign`` -1 or 1): the images are as they are on disk, never inverted. Fields without
    a variable are kept as ``x_cs_<group>__<name>``; docs/cryosparc.md lists every field.

    Raises
    ------
    FormatError : a damaged file, uids that are missing or repeated, values out of range, images that are missing.
    ParameterError : the stacks' headers contradict the pixel size.

    Examples
    --------
    >>> import tempfile
    >>> from cryoflow.io.cryosparc.cs_file import write_cs
    >>> file = Path(tempfile.mkdtemp()) / "p.cs"
    >>> write_cs(file, {"uid": np.array([2**63], "u8"), "alignments3D/pose": np.array([[0, 0, np.pi / 2]], "f4")})
    >>> ds = read_cryosparc(file, images=False)
    >>> ds.particle_id.values.tolist(), (ds.rotation.values[0] @ [1, 0, 0]).round(6).tolist()
    ([9223372036854775808], [-0.0, -1.0, 0.0])
    """
    where = normal(path)
    columns = read_columns(path, passthrough, root=options["root"], allow_outside=options["allow_outside"])
    dim = _rows_of(columns)
    ds = from_columns(columns, dim=dim, where=where)
    put_optics(ds, options, f"read_cryosparc({where})")
    if "pixel_size" in ds and not ds["pixel_size"].values.min() > 0:
        raise FormatError(where, expected="pixel sizes above 0", found=f"{ds['pixel_size'].values.min():g}",
                          remedy="Give pixel_size= in angstrom.")  # fmt: skip
    if flip_y and "coordinate" in ds:
        height = numbers(columns, "location/micrograph_shape", where, 2)[:, 0]
        ds["coordinate"].values[:, 1] = height - 1 - ds["coordinate"].values[:, 1]
    if dim == "micrograph":
        return _finish_micrographs(ds, where, options)
    ds["particle_id"] = (dim, ds[UID].values.astype(np.uint64))
    contrast = _contrast(columns, where)
    if contrast:
        ds.attrs["image_contrast"] = contrast
    if options["images"]:
        if "image_name" not in ds:
            raise FormatError(where, expected="blob/path and blob/idx", found=f"fields {', '.join(columns)}"[:300],
                              remedy="Give the file that has them too, or pass images=False.")  # fmt: skip
        names, code = words(columns, "blob/path", where)
        section = columns["blob/idx"].astype(np.int64)
        ds = attach_images(ds, [name.removeprefix(">") for name in names], code, section, where=where,
                           base=folder_of(where), **image_options(options))  # fmt: skip
        ds["image"].attrs |= {"contrast": contrast} if contrast else {}
    return validate(ds, where)


def _rows_of(columns: Columns) -> str:
    exposure = "micrograph_blob/path" in columns or "movie_blob/path" in columns or "mscope_params/accel_kv" in columns
    return "micrograph" if exposure and "blob/path" not in columns else "particle"


def _contrast(columns: Columns, where: str) -> str | None:
    if "blob/sign" not in columns:
        return None
    signs = np.unique(numbers(columns, "blob/sign", where)).tolist()
    if len(signs) > 1:
        return "mixed"
    return CONTRAST.get(signs[0])


def _finish_micrographs(ds: xr.Dataset, where: str, options: ReadOptions) -> xr.Dataset:
    rows = ds.sizes["micrograph"]
    said = ds["usable"].values.astype(bool) if "usable" in ds else np.ones(rows, bool)
    ds["usable"] = ("micrograph", said)
    if "reason" not in ds:
        ds["reason"] = ("micrograph", text([""] * rows))
    if options["images"]:
        from cryoflow.io.micrographs import open_micrographs
        from cryoflow.io.sources.address import resolve
        from cryoflow.io.sources.project import project_folder

        require(ds, where, ["micrograph_name", "pixel_size", "voltage"])
        names = [str(n).removeprefix(">") for n in ds["micrograph_name"].values]
        base = options["root"] or project_folder(folder_of(where), names)
        paths = [resolve(n, base, where=f"{where}, row {i + 1}", allow_outside=options["allow_outside"])
                 for i, n in enumerate(names)]  # fmt: skip
        optics = {n: float(ds[n].values[0]) if n in ds else 0.1 for n in Optics.__annotations__}
        opened = open_micrographs(paths, trust_given=options["trust_given"], **cast("Optics", optics))
        broken = ~opened["usable"].values
        ds["usable"] = ("micrograph", said & ~broken)
        ds["reason"] = ("micrograph", np.where(broken, opened["reason"].values, ds["reason"].values))
        ds["micrograph"] = opened["micrograph"].variable
        ds.attrs["root"] = str(base)
    return validate(ds, where)
