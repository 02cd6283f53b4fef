"""Topaz's tables of particles: image_name, x_coord, y_coord, score, split by tabs; many micrographs in one file.

Coordinates are centres in pixels of the image Topaz saw; ``scale`` brings them to those of the micrograph, as
``topaz convert -s`` does. Image names have no suffix. Source: Topaz's published documentation.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import xarray as xr

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.files import atomic
from cryoflow.io.programs.border import coordinate_set, names_of
from cryoflow.io.programs.plain_text import finite, read_text
from cryoflow.schema import require

__all__ = ["read_topaz", "write_topaz"]

_LABELS = ("image_name", "x_coord", "y_coord")


def read_topaz(path: str | Path, *, scale: float = 1.0, suffix: str = ".mrc") -> xr.Dataset:
    """Read a table of Topaz; micrographs are named ``image_name`` with ``suffix``.

    Parameters
    ----------
    scale : multiplies the coordinates: the factor by which Topaz's images were downsampled.

    Returns
    -------
    Dataset with ``coordinate``, ``micrograph_name``, ``pick_score`` where there are scores, and further columns as
    ``x_topaz_<label>``.

    Raises
    ------
    FormatError : no such header, or a damaged row; file and row are named.

    >>> import tempfile, pathlib
    >>> table = pathlib.Path(tempfile.mkdtemp()) / "picks.txt"
    >>> _ = table.write_text("image_name\\tx_coord\\ty_coord\\tscore\\nmic1\\t420\\t586\\t0.613\\n")
    >>> read_topaz(table, scale=2).coordinate.values.tolist()
    [[840.0, 1172.0]]
    """
    import pandas as pd

    where = str(path)
    if not np.isfinite(scale) or scale <= 0:
        raise ParameterError(where, expected="scale above 0", found=f"{scale}")
    data = read_text(path)
    labels = data.partition("\n")[0].strip("# ").split("\t")
    if not set(_LABELS) <= set(labels) or len(set(labels)) < len(labels):
        raise FormatError(f"{where}, line 1", expected="a header with image_name, x_coord, y_coord, split by tabs",
                          found=repr(data[:60]))  # fmt: skip
    try:
        table = pd.read_csv(
            io.StringIO(data.partition("\n")[2]), sep="\t", header=None, names=labels, index_col=False, quoting=3,
            dtype={"image_name": "str"}, keep_default_na=False, on_bad_lines="error", low_memory=False,
        )  # fmt: skip
    except (ValueError, pd.errors.ParserError) as error:
        raise FormatError(where, expected=f"rows of {len(labels)} values", found=str(error)[:120]) from None
    xy = np.stack([finite(table[label].to_numpy(), label, where) for label in _LABELS[1:]], axis=1) * scale
    names = names_of([f"{name}{suffix}" for name in table["image_name"]], where)
    score = finite(table["score"].to_numpy(), "score", where) if "score" in labels else None
    more = {}
    for label in labels:
        if label not in (*_LABELS, "score"):
            column = table[label].to_numpy()
            more[f"x_topaz_{label}"] = column if column.dtype.kind in "iuf" else names_of(column, where)
    return coordinate_set(xy, list(names), score, **more)


def write_topaz(ds: xr.Dataset, path: str | Path, *, scale: float = 1.0, suffix: str | None = None) -> None:
    """Write coordinates as a table of Topaz, divided by ``scale``.

    ``suffix`` is taken off the micrograph names (by default whatever follows the last dot).

    Raises
    ------
    SchemaError : no coordinates or micrograph names.
    ParameterError : ``scale`` is not above 0.
    """
    where = f"write_topaz({path})"
    require(ds, where, ["coordinate", "micrograph_name"])
    if not np.isfinite(scale) or scale <= 0:
        raise ParameterError(where, expected="scale above 0", found=f"{scale}")
    stems = [_without(str(name), suffix) for name in ds["micrograph_name"].values]
    columns: dict[str, list[str]] = {"image_name": stems}
    for label, values in zip(_LABELS[1:], ds["coordinate"].values.T / scale, strict=True):
        columns[label] = [f"{round(float(v), 6):.12g}" for v in values]
    if "pick_score" in ds:
        columns["score"] = [f"{float(v):.9g}" for v in ds["pick_score"].values]
    for name in ds.variables:
        if str(name).startswith("x_topaz_"):
            columns[str(name).removeprefix("x_topaz_")] = [str(v) for v in ds[name].values]
    if any("\t" in word or "\n" in word for words in columns.values() for word in words):
        raise ParameterError(where, expected="names without tabs and line breaks", found="some with")
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(columns) + "\n")
        file.writelines("\t".join(row) + "\n" for row in zip(*columns.values(), strict=True))


def _without(name: str, suffix: str | None) -> str:
    base = name.rpartition("/")[2]
    if suffix is not None:
        return base.removesuffix(suffix)
    return base.rpartition(".")[0] or base
