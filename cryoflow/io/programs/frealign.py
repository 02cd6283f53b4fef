"""Parameter files of Frealign (``.par``), version 9 and before, and of cisTEM's first versions, and their stacks.

PSI, THETA, PHI are RELION's psi, tilt, rot: the rows of Frealign's matrix are those of ours. An image is multiplied by
exp(+i (SHX x + SHY y)) to centre it, so what must be added is (-SHX, -SHY). Shifts are pixels before version 9 and
angstrom since; the phase shift of the 17-column layout is in radian. Sources: Frealign's README (2015) and published
source (card10, presb); cisTEM's export to RELION, which writes (phi, theta, psi) and minus the shifts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.given import DEFAULTS, ReadOptions, given_optics
from cryoflow.io.images.new_stack import particles_to_write
from cryoflow.io.particle_table import stack_beside, with_images, with_stack
from cryoflow.io.programs.border import ctf_variables, optics_variables, section_names
from cryoflow.io.programs.frealign_par import FIRST, LAYOUTS, fixed_lines, free_lines, parse_par, said_in
from cryoflow.io.programs.plain_text import read_text, whole
from cryoflow.io.sources.address import folder_of
from cryoflow.io.star.relion import text
from cryoflow.kernels.rotation import euler_to_matrix, matrix_to_euler
from cryoflow.options import takes
from cryoflow.schema import require, validate

__all__ = ["frealign_to_matrix", "matrix_to_frealign", "read_frealign", "write_frealign"]

Layout = Literal["old", "v9", "x"]


def frealign_to_matrix(psi: Any, theta: Any, phi: Any) -> NDArray[np.float64]:
    """Rotations (..., 3, 3) of Frealign's and cisTEM's angles in degree: A = Rz(psi) Ry(theta) Rz(phi), passive.

    >>> frealign_to_matrix(90.0, 0.0, 0.0).round(6)[0] + 0.0
    array([0., 1., 0.])
    """
    return np.asarray(euler_to_matrix(phi, theta, psi))


def matrix_to_frealign(rotation: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(psi, theta, phi) in degree of rotations (..., 3, 3), psi and phi in [0, 360), theta in [0, 180].

    >>> [float(a) for a in matrix_to_frealign(frealign_to_matrix(275.0, 60.0, 350.0))]
    [275.0, 60.0, 350.0]
    """
    phi, theta, psi = np.moveaxis(np.asarray(matrix_to_euler(rotation)), -1, 0).round(9)
    return psi % 360 + 0.0, theta, phi % 360 + 0.0


@takes(ReadOptions, DEFAULTS)
def read_frealign(
    path: str | Path,
    *,
    stack: str | Path | None = None,
    detector_pixel: float | None = None,
    shift_unit: Literal["pixel", "angstrom"] | None = None,
    **options: Unpack[ReadOptions],
) -> xr.Dataset:
    """Read a Frealign parameter file and, if there is one, its stack.

    Parameters
    ----------
    stack : the particle stack (``.mrc``, ``.stk``, ...); by default the one a header line names, or a file beside the
        parameter file with its name. Without any, the metadata alone are read.
    detector_pixel : micrometre. Without ``pixel_size`` it is 1e4 * ``detector_pixel`` / MAG, or what a header line
        says.
    shift_unit : by default angstrom for files of version 9 (15 columns and more), pixels for older ones.
    options : those of ``read_particles``; the format holds no pixel size, voltage, Cs or amplitude contrast.

    Returns
    -------
    Dataset with dims ``particle, (y, x,) optics``; MAG, FILM, OCC, LOGP, SIGMA, SCORE, CHANGE, PRESA are kept as
    ``x_MAG`` ..., and ``group`` numbers the films. With ``detector_pixel``, each magnification is an optics group.

    Raises
    ------
    FormatError : no rows, a row of another layout, a value that is no number, or no pixel size.
    ParameterError : the stack's header contradicts the pixel size.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> par = pathlib.Path(tempfile.mkdtemp()) / "p.par"
    >>> row = "1  50. 78.6 236. -5. 2. 50000. 1 39671.6 35222.2 80.79 0.29"
    >>> _ = par.write_text("C  PSI THETA PHI SHX SHY MAG FILM DF1 DF2 ANGAST PRESA\\n" + row + "\\n")
    >>> read_frealign(par, pixel_size=2.0)["shift"].values.tolist()
    [[10.0, -4.0]]
    """
    where = str(path)
    head, tail, names, values = parse_par(read_text(path), where)
    column = dict(zip(("N", *names), values.T, strict=True))
    said = said_in(head)
    ds = xr.Dataset(attrs={"par_head": head, "par_tail": tail, "par_columns": list(names)})
    ds["rotation"] = (
        ("particle", "row", "col"), frealign_to_matrix(column["PSI"], column["THETA"], column["PHI"]),
    )  # fmt: skip
    given = given_optics(options, where)
    optics = {name: value for name, value in said.items() if name != "stack"} | given
    columns: dict[str, Any] = {}
    if "pixel_size" not in given and detector_pixel is not None:
        if not np.isfinite(detector_pixel) or detector_pixel <= 0:
            raise ParameterError(where, expected="detector_pixel above 0 (micrometre)", found=f"{detector_pixel}")
        if (column["MAG"] == 0).any():
            raise FormatError(where, expected="magnifications other than 0", found="0", remedy="Give pixel_size=.")
        columns["pixel_size"] = 1e4 * detector_pixel / np.abs(column["MAG"])
        optics.pop("pixel_size", None)
    elif "pixel_size" not in optics:
        raise FormatError(where, expected="a pixel size", found="none in this format",
                          remedy="Give pixel_size= in angstrom, or detector_pixel= in micrometre.")  # fmt: skip
    optics_variables(ds, "particle", columns, optics)
    unit = shift_unit or ("angstrom" if "OCC" in column else "pixel")
    if unit not in ("pixel", "angstrom"):
        raise ParameterError(where, expected="shift_unit 'pixel' or 'angstrom'", found=repr(unit))
    scale = ds.pixel_size.values[ds.optics_group.values] if unit == "pixel" else np.ones(len(values))
    shift = -np.stack([column["SHX"], column["SHY"]], axis=1) * scale[:, None]
    ds["shift"] = (("particle", "xy"), shift + 0.0)
    ds.attrs["par_shift_unit"] = unit
    for name, value in ctf_variables(column["DF1"], column["DF2"], column["ANGAST"]).items():
        ds[name] = ("particle", value)
    if "PSHIFT" in column:
        ds["phase_shift"] = ("particle", np.rad2deg(column["PSHIFT"]))
    film = whole(column["FILM"], "FILM", where)
    ds["group"] = ("particle", np.unique(film, return_inverse=True)[1].astype(np.int32) + 1)
    for name in names:
        if name in ("MAG", "FILM") or name not in (*FIRST, "PSHIFT"):
            ds[f"x_{name}"] = ("particle", film if name == "FILM" else column[name])
    number = np.abs(whole(column["N"], "the particle number", where))  # a negative number once began a data set
    if number.min() < 1:
        raise FormatError(where, expected="particle numbers from 1", found="0")
    ds["particle_id"] = ("particle", np.arange(len(values), dtype=np.int64))
    if stack is None and "stack" in said:
        ds["image_name"] = ("particle", text(f"{i:06d}@{said['stack']}" for i in number))
        return validate(with_images(ds, where, options, label="a stack", base=folder_of(path)), where)
    stack = stack_beside(path) if stack is None else stack
    return validate(ds if stack is None else with_stack(ds, path, stack, number, options), where)


def write_frealign(
    ds: xr.Dataset,
    path: str | Path,
    *,
    layout: Layout | None = None,
    images: str | Path | None = None,
    detector_pixel: float | None = None,
    dtype: str = "float32",
) -> None:
    """Write particles as a Frealign parameter file.

    Parameters
    ----------
    layout : "v9" (16 columns, shifts in angstrom), "x" (17 columns with the phase shift, as cisTEM's first versions
        wrote), or "old" (12 columns, shifts in pixels, fixed widths). By default the source's, else "v9".
    images : a stack to write the images to; particles are then numbered from 1. Without it, all ``image_name`` must
        lie in one stack, whose section numbers are kept.
    detector_pixel : micrometre; MAG is then 1e4 * detector_pixel / pixel_size. Without it MAG is the source's, else
        10000, for which Frealign's DSTEP is the pixel size.
    dtype : of the stack, float32 or float16.

    More decimals than Frealign's are written where values have them (its version 9 splits lines at blanks); the old
    layout has fixed widths: 0.001 degree and pixel, 0.1 angstrom of defocus.

    Raises
    ------
    SchemaError : no pose or no pixel size.
    ParameterError : no particles, image names in several stacks, or a value too large for a fixed width.
    ResourceError : the disk is full; nothing half-written is left.
    """
    where = f"write_frealign({path})"
    require(ds, where, ["rotation"])
    ds = particles_to_write(ds, images, where, dtype=dtype)
    n = ds.sizes["particle"]
    source = tuple(ds.attrs.get("par_columns", ()))
    names = LAYOUTS[layout] if layout else (source or LAYOUTS["v9"])
    in_pixels = ds.attrs.get("par_shift_unit") == "pixel" if layout is None and source else layout == "old"
    if images is not None:
        number: NDArray[Any] = np.arange(1, n + 1)
    elif "image_name" in ds:
        files, _, number = section_names(ds, where)
        if len(files) > 1:
            raise ParameterError(where, expected="particles of one stack", found=f"{len(files)} stacks",
                                 remedy="Give images= to write them into one.")  # fmt: skip
    else:
        number = np.arange(1, n + 1)
    columns = {"N": number.astype(np.float64)} | _columns(ds, names, detector_pixel, in_pixels)
    lines = fixed_lines(columns, where) if "OCC" not in names else free_lines(columns)
    head = ds.attrs.get("par_head") if names == source else None
    head = head or ["C           " + " ".join(f"{name:>7}" for name in names)]
    with atomic(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(
            line + "\n" for line in (*head, *lines, *(ds.attrs.get("par_tail", ()) if names == source else ()))
        )


def _columns(
    ds: xr.Dataset, names: tuple[str, ...], detector_pixel: float | None, in_pixels: bool
) -> dict[str, NDArray[np.float64]]:
    n = ds.sizes["particle"]
    group = ds["optics_group"].values if "optics_group" in ds else np.zeros(n, np.int64)
    pixel = ds["pixel_size"].values[group]
    zeros = np.zeros(n)

    def column(name: str, default: Any) -> Any:
        return ds[name].values if name in ds else np.broadcast_to(default, (n,))

    psi, theta, phi = matrix_to_frealign(ds["rotation"].values)
    shift = -ds["shift"].values / (pixel[:, None] if in_pixels else 1.0) if "shift" in ds else np.zeros((n, 2))
    u = column("defocus_u", 0.0)
    out = {
        "PSI": psi, "THETA": theta, "PHI": phi, "SHX": shift[:, 0] + 0.0, "SHY": shift[:, 1] + 0.0,
        "MAG": 1e4 * detector_pixel / pixel if detector_pixel else column("x_MAG", 1e4),
        "FILM": column("x_FILM", column("group", 1.0)), "DF1": u, "DF2": column("defocus_v", u),
        "ANGAST": column("defocus_angle", 0.0), "PSHIFT": np.deg2rad(column("phase_shift", 0.0)),
        "OCC": column("x_OCC", 100.0), "SIGMA": column("x_SIGMA", 1.0),
    }  # fmt: skip
    return {name: np.asarray(out.get(name, column(f"x_{name}", zeros)), np.float64) for name in names}
