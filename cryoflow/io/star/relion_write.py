"""Variables of the schema as RELION's tables of particles or micrographs, as their source wrote them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.io.star.lazywords import words_behind
from cryoflow.io.star.relion_blocks import join_blocks
from cryoflow.io.star.relion_columns import ANGLES, BY_MAGNIFICATION, DEFOCUS, MAG, TILT
from cryoflow.kernels.rotation import euler_to_matrix, matrix_to_euler
from cryoflow.schema import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["to_blocks", "to_tables"]

_CONVERTED = {"optics_group", "defocus_u", "defocus_v", "defocus_angle", "defocus_turns"}
_SAME_ROTATION = 1e-6  # of a matrix element: less than the angles' last decimal


def _angles(ds: xr.Dataset) -> NDArray[np.float64]:
    """(rot, tilt, psi) of the rotations: the source's own where they still say the same rotation."""
    rotation = ds["rotation"].values
    angles: NDArray[np.float64] = matrix_to_euler(rotation)
    if "source_angles" in ds:
        source = ds["source_angles"].values
        same = np.abs(euler_to_matrix(*source.T) - rotation).max(axis=(-2, -1)) < _SAME_ROTATION
        angles = np.where(same[:, None], source, angles)
    return angles


def _source_defocus(ds: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """Defoci and angle in the source's form: the same astigmatism, however they were edited."""
    u, v, angle = (ds[name].values for name in ("defocus_u", "defocus_v", "defocus_angle"))
    if "defocus_turns" in ds:
        turns = np.nan_to_num(ds["defocus_turns"].values)
        odd = turns % 2 == 1
        u, v, angle = np.where(odd, v, u), np.where(odd, u, v), angle + 90.0 * turns
    return dict(zip(DEFOCUS, (u, v, angle), strict=True))


def to_tables(ds: xr.Dataset, *, dim: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables (rows, optics) of RELION 3.1 for the variables of ``ds``; columns of a source keep their order."""
    import pandas as pd

    rows: dict[str, Any] = {}
    exact: list[str] = []
    n = ds.sizes[dim]
    for name, array in ds.variables.items():
        if array.dims == (dim,) and name not in _CONVERTED:
            label = _label(name, "x_")
            if label is not None and label not in rows:
                rows[label] = _values(array)
                exact += [label] * str(name).startswith("x_")
    if "rotation" in ds:
        rows |= dict(zip(ANGLES, np.moveaxis(_angles(ds), -1, 0), strict=True))
    for name, labels in (("shift", ("rlnOriginXAngst", "rlnOriginYAngst")),
                         ("coordinate", ("rlnCoordinateX", "rlnCoordinateY"))):  # fmt: skip
        if name in ds:
            rows |= dict(zip(labels, ds[name].values.T, strict=True))
    if "defocus_u" in ds:
        rows |= _source_defocus(ds)
    groups = ds.sizes.get("optics", 1)
    number = np.arange(1, groups + 1)
    if "x_optics_rlnOpticsGroup" in ds:
        kept = ds["x_optics_rlnOpticsGroup"].values
        if kept.dtype.kind in "iu" and len(np.unique(kept)) == groups:  # not so after a careless merge
            number = kept
    rows["rlnOpticsGroup"] = number[ds["optics_group"].values] if "optics_group" in ds else np.full(n, number[0])
    optics: dict[str, Any] = {"rlnOpticsGroupName": [f"opticsGroup{i}" for i in number], "rlnOpticsGroup": number}
    for name, array in ds.variables.items():
        if array.dims == ("optics",) and name != "x_optics_rlnOpticsGroup":
            label = _label(name, "x_optics_")
            if label is not None:
                optics[label] = _values(array)
    _settle_pixel_sizes(optics, ds, dim)
    for name, columns in (("beam_tilt", TILT), ("magnification", MAG)):
        if name in ds:
            optics |= dict(zip(columns, ds[name].values.reshape(groups, -1).T, strict=True))
    for name, label in (("odd_zernike", "rlnOddZernike"), ("even_zernike", "rlnEvenZernike")):
        if name in ds:
            optics[label] = ["[" + ",".join(f"{x:.12g}" for x in row) + "]" for row in ds[name].values]
    tables = (
        pd.DataFrame(_ordered(rows, ds.attrs.get("star_columns", ())), copy=False),
        pd.DataFrame(_ordered(optics, ds.attrs.get("star_optics_columns", ()))),
    )
    tables[0].attrs["exact"], tables[1].attrs["exact"] = exact, True
    return tables


def _settle_pixel_sizes(optics: dict[str, Any], ds: xr.Dataset, dim: str) -> None:
    """Leave out what was read from another column, and let the detector's pixel follow the image's."""
    original, source = optics.get("rlnMicrographOriginalPixelSize"), ds.attrs.get("star_optics_columns", ())
    ours = optics.get("rlnMicrographPixelSize")
    derived = dim == "particle" and "rlnMicrographPixelSize" not in source
    if derived and ours is not None and original is not None and np.array_equal(ours, original):
        del optics["rlnMicrographPixelSize"]
    if set(BY_MAGNIFICATION) <= set(optics) and "pixel_size" in ds:
        detector, times = (optics[label] for label in BY_MAGNIFICATION)
        pixel = ds["pixel_size"].values
        if (np.abs(detector * 1e4 / times - pixel) > 1e-6 * pixel).any():
            optics["rlnDetectorPixelSize"] = pixel * times / 1e4


def to_blocks(
    ds: xr.Dataset, *, dim: str, block: str, version: str = "3.1", where: str = "to_blocks"
) -> dict[str, pd.DataFrame]:
    """All blocks of a file for ``ds``: rows, optics, and what else its source file held, in the source's order.

    Parameters
    ----------
    block : name of the block of rows, "particles" say.
    version : "3.1" (which RELION 3.1 to 5 read), "3.0" (one table, origins in pixels), or "source".

    Raises
    ------
    ParameterError : another version.
    """
    rows, optics = to_tables(ds, dim=dim)
    return join_blocks(rows, optics, ds.attrs.get("star_file", {}), block=block, form=version, where=where)


def _label(name: Hashable, prefix: str) -> str | None:
    key = str(name)
    if key.startswith(prefix):
        return key.removeprefix(prefix)
    return VARIABLES[key].star if key in VARIABLES else None


def _values(array: xr.Variable) -> Any:
    import pandas as pd

    words = words_behind(array)
    if words is not None:
        from cryoflow.io.star.wordcolumn import WordColumn

        return pd.Series(WordColumn(words))
    values = array.values
    return pd.Series(values.astype(object), dtype=object) if values.dtype.kind in "TUO" else values


def _ordered(columns: dict[str, Any], order: Any) -> dict[str, Any]:
    first = [label for label in order if label in columns]
    return {label: columns[label] for label in [*first, *(c for c in columns if c not in set(first))]}
