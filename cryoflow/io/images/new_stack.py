"""What writers of particles do first: hold the Dataset against the schema, write a stack where one is asked for."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.io.images.mrc import write_stack
from cryoflow.io.star.relion import text
from cryoflow.schema import require, validate

__all__ = ["particles_to_write"]


def particles_to_write(
    ds: xr.Dataset, images: str | Path | None, where: str, *, dtype: str, beside: Path | None = None
) -> xr.Dataset:
    """``ds``, whose ``image_name`` points to the stack ``images`` where one is given and has now been written.

    Parameters
    ----------
    images : an ``.mrcs`` for the images, as ``dtype``; None keeps the names as they are.
    beside : a metadata file; names are then relative to its folder if the stack lies in there, and absolute if not.

    Raises
    ------
    SchemaError : no ``pixel_size``, no ``image`` to write, or a variable that breaks the schema.
    ParameterError : no particles.
    ResourceError : the disk is full; nothing half-written is left.

    >>> import numpy as np, tempfile
    >>> image = (("particle", "y", "x"), np.ones((2, 8, 8), np.float32))
    >>> ds = xr.Dataset({"image": image, "pixel_size": ("optics", [1.5])})
    >>> folder = Path(tempfile.mkdtemp())
    >>> written = particles_to_write(ds, folder / "p.mrcs", "example", dtype="float32", beside=folder / "p.star")
    >>> written.image_name.values.tolist()
    ['000001@p.mrcs', '000002@p.mrcs']
    """
    validate(ds, where, required=["pixel_size"])
    n = ds.sizes.get("particle", 0)
    if n == 0:
        raise ParameterError(where, expected="at least one particle", found="none", remedy="The selection is empty.")
    if images is None:
        return ds
    require(ds, where, ["image"])
    write_stack(images, ds["image"], pixel_size=float(ds.pixel_size.values[0]), dtype=dtype)
    name = images
    if beside is not None:
        stack, folder = Path(images).resolve(), beside.resolve().parent
        name = stack.relative_to(folder) if stack.is_relative_to(folder) else stack
    return ds.assign(image_name=("particle", text(f"{i:06d}@{name}" for i in range(1, n + 1))))
