"""RELION's motion-correction STAR of one movie: global shifts, the polynomial of local motion, hot pixels.

The shift of frame f at pixel (x, y), counted from 0, of an image of nx by ny pixels is

    D(f, x, y) = global(f) + sum_{t,p} c[t, p] m_t(u, v) z^(p + 1),    m = (1, u, u^2, v, v^2, u v),

with z = f - first_frame, u = x / nx - 1/2 and v = y / ny - 1/2 (Zivanov, Nakane & Scheres 2019, IUCrJ 6:5). It is the
displacement that corrects the frame, in pixels of the movie. RELION writes -9999 for frames that were not aligned.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.star.relion_blocks import block_text
from cryoflow.io.star.star import parse_star, read_star, write_star
from cryoflow.schema import validate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["motion_at", "read_motion", "write_motion"]

_UNALIGNED = -9999.0
_TERMS, _POWERS = 6, 3
_GLOBAL = ("rlnMicrographFrameNumber", "rlnMicrographShiftX", "rlnMicrographShiftY")
_LOCAL = ("rlnMicrographFrameNumber", "rlnCoordinateX", "rlnCoordinateY", "rlnMicrographShiftX", "rlnMicrographShiftY")
_MODEL = ("rlnMotionModelCoeffsIdx", "rlnMotionModelCoeff")
_HOT = ("rlnCoordinateX", "rlnCoordinateY")
_OURS = {"general", "global_shift", "local_motion_model", "local_shift", "hot_pixels"}


def read_motion(star: str | Path) -> xr.Dataset:
    """Read the STAR file that RELION's motion correction leaves for one movie.

    Returns
    -------
    Dataset with ``frame_shift`` (frame, xy) in pixels (NaN where a frame was not aligned), coordinate ``frame`` (from
    1), and where the file has them ``motion_coefficient`` (xy, term, power), ``local_shift`` (patch, xy) with
    ``local_frame`` and ``local_position``, and ``hot_pixel`` (hot, xy). ``attrs["general"]`` holds the table
    ``data_general``: image size, binning, dose, pixel size, first frame.

    Raises
    ------
    FormatError : no ``data_general`` or ``data_global_shift``, another number of coefficients, frames twice, or values
        that are no numbers.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/m.star"
    >>> text = "data_general\\n_rlnImageSizeX 40\\n_rlnImageSizeY 30\\n_rlnImageSizeZ 2\\n_rlnMicrographStartFrame 1\\n"
    >>> rows = "_rlnMicrographFrameNumber\\n_rlnMicrographShiftX\\n_rlnMicrographShiftY\\n1 0 0\\n2 0.5 -1\\n"
    >>> _ = open(path, "w").write(text + "data_global_shift\\nloop_\\n" + rows)
    >>> read_motion(path).frame_shift.values.tolist()
    [[0.0, 0.0], [0.5, -1.0]]
    """
    where = str(star)
    blocks = read_star(star)
    for name in ("general", "global_shift"):
        if name not in blocks or len(blocks[name]) == 0:
            raise FormatError(where, expected=f"a block data_{name}", found=f"blocks {', '.join(map(repr, blocks))}")
    general = {str(label): _plain(blocks["general"][label].iloc[0]) for label in blocks["general"]}
    frame, x, y = _columns(blocks["global_shift"], _GLOBAL, f"{where}, block data_global_shift")
    if len(np.unique(frame)) != len(frame):
        raise FormatError(f"{where}, block data_global_shift", expected="each frame once", found="one twice")
    shift = np.stack([x, y], axis=1)
    shift[shift[:, 0] == _UNALIGNED] = np.nan
    ds = xr.Dataset({"frame_shift": (("frame", "xy"), shift)}, coords={"frame": frame.astype(np.int64)})
    if "local_motion_model" in blocks:
        index, value = _columns(blocks["local_motion_model"], _MODEL, f"{where}, block data_local_motion_model")
        if not np.array_equal(index, np.arange(2 * _TERMS * _POWERS)):
            raise FormatError(f"{where}, block data_local_motion_model", expected="coefficients 0 to 35 in their order",
                              found=f"{len(index)} of them")  # fmt: skip
        ds["motion_coefficient"] = (("xy", "term", "power"), value.reshape(2, _TERMS, _POWERS))
    if "local_shift" in blocks:
        f, x, y, dx, dy = _columns(blocks["local_shift"], _LOCAL, f"{where}, block data_local_shift")
        ds["local_frame"] = ("patch", f.astype(np.int64))
        ds["local_position"] = (("patch", "xy"), np.stack([x, y], axis=1))
        ds["local_shift"] = (("patch", "xy"), np.stack([dx, dy], axis=1))
    if "hot_pixels" in blocks:
        ds["hot_pixel"] = (("hot", "xy"), np.stack(_columns(blocks["hot_pixels"], _HOT, where), axis=1))
    ds.attrs = {
        "general": general,
        "general_list": bool(blocks["general"].attrs.get("list")),
        "version": int(blocks["general"].attrs.get("version", 0)),
        "blocks": [[n, "" if n in _OURS else block_text(n, b)] for n, b in blocks.items()],
    }
    return validate(ds, where)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _columns(table: pd.DataFrame, labels: tuple[str, ...], where: str) -> list[NDArray[np.float64]]:
    missing = [label for label in labels if label not in table]
    if missing:
        raise FormatError(where, expected=f"_{missing[0]}", found=f"labels {', '.join(table.columns[:20])}")
    columns = []
    for label in labels:
        values = table[label].to_numpy()
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise FormatError(where, expected=f"numbers for _{label}", found="something else")
        columns.append(values.astype(np.float64))
    return columns


def motion_at(ds: xr.Dataset, frame: ArrayLike, x: ArrayLike, y: ArrayLike, *, local: bool = True) -> NDArray[Any]:
    """Displacement (..., 2) in pixels that corrects ``frame`` (from 1) at the pixels (x, y), counted from 0.

    Raises
    ------
    ParameterError : a frame that the file does not have.
    """
    frame, x, y = np.broadcast_arrays(np.asarray(frame), np.asarray(x, np.float64), np.asarray(y, np.float64))
    known = ds["frame"].values
    order = np.argsort(known)
    at = np.clip(np.searchsorted(known, frame, sorter=order), 0, len(known) - 1)
    row = order[at]
    if (known[row] != frame).any():
        raise ParameterError("motion_at", expected=f"frames {known.min()} to {known.max()}", found=f"{frame.max()}")
    shift: NDArray[Any] = ds["frame_shift"].values[row].copy()
    if local and "motion_coefficient" in ds:
        general = ds.attrs["general"]
        z = (frame - float(general.get("rlnMicrographStartFrame", 1))).astype(np.float64)
        u, v = x / float(general["rlnImageSizeX"]) - 0.5, y / float(general["rlnImageSizeY"]) - 0.5
        terms = np.stack([np.ones_like(u), u, u * u, v, v * v, u * v], axis=-1)
        shift += np.einsum(
            "...t,...p,ctp->...c", terms, z[..., None] ** np.arange(1, 4), ds["motion_coefficient"].values
        )
    return shift


def write_motion(ds: xr.Dataset, star: str | Path) -> None:
    """Write ``ds`` as RELION's motion-correction STAR file of one movie; what was read returns as it was.

    Raises
    ------
    SchemaError : no ``frame_shift``.
    ResourceError : the disk is full.
    """
    import pandas as pd

    where = f"write_motion({star})"
    validate(ds, where, required=["frame_shift"])
    shift = np.nan_to_num(ds["frame_shift"].values, nan=_UNALIGNED)
    frame = ds["frame"].values if "frame" in ds.coords else np.arange(1, len(shift) + 1)
    ours: dict[str, pd.DataFrame] = {"general": pd.DataFrame([ds.attrs.get("general", {})], dtype=object)}
    ours["general"].attrs["list"] = bool(ds.attrs.get("general_list", True))
    ours["global_shift"] = pd.DataFrame(dict(zip(_GLOBAL, (frame, *shift.T), strict=True)))
    if "motion_coefficient" in ds:
        value = ds["motion_coefficient"].values.ravel()
        ours["local_motion_model"] = pd.DataFrame(dict(zip(_MODEL, (np.arange(len(value)), value), strict=True)))
    if "hot_pixel" in ds:
        ours["hot_pixels"] = pd.DataFrame(dict(zip(_HOT, ds["hot_pixel"].values.T, strict=True)))
    if "local_shift" in ds:
        columns = (ds["local_frame"].values, *ds["local_position"].values.T, *ds["local_shift"].values.T)
        ours["local_shift"] = pd.DataFrame(dict(zip(_LOCAL, columns, strict=True)))
    blocks: dict[str, pd.DataFrame] = {}
    for name, content in ds.attrs.get("blocks", ()):
        if name in ours:
            blocks[name] = ours[name]
        elif content:
            blocks |= parse_star(content.encode("utf-8", "surrogateescape"), where)
    blocks |= {name: table for name, table in ours.items() if name not in blocks}
    for table in blocks.values():
        table.attrs |= {"exact": True, "version": int(ds.attrs.get("version", 30001))}
    write_star(star, blocks)
