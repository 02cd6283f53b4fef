"""Particle sets: a STAR file of RELION 3.0 to 5 and the stacks it names, as one lazy Dataset, and back."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.given import DEFAULTS, ReadOptions, given_optics
from cryoflow.io.images.new_stack import particles_to_write
from cryoflow.io.particle_table import check_pixel_sizes, with_images
from cryoflow.io.sources.address import folder_of
from cryoflow.io.sources.source import normal
from cryoflow.io.star.lazywords import words_behind
from cryoflow.io.star.relion import from_tables, split_optics, to_blocks
from cryoflow.io.star.star import read_star, write_star
from cryoflow.options import takes
from cryoflow.schema import describe, require, validate

__all__ = ["read_particles", "write_particles"]

_ROWS = 1 << 16  # names that are Python objects at a time


@takes(ReadOptions, DEFAULTS)
def read_particles(star: str | Path, *, mixed_pixel_sizes: bool = False, **options: Unpack[ReadOptions]) -> xr.Dataset:
    """Read a particle STAR file of RELION 3.0, 3.1, 4 or 5; ``image`` is lazy and spans any number of stacks.

    Parameters
    ----------
    star : path or URL; the stacks of a URL lie beside it.
    mixed_pixel_sizes : accept optics groups of different pixel sizes.
    root : folder or URL that the image names are relative to; by default the first of the STAR file's folder and the
        four above it in which a stack is found.
    images : False reads the metadata alone (the stacks need not exist).
    pixel_size, voltage, cs, amplitude_contrast : angstrom, kV, mm and a fraction; they replace what the file says.
    trust_given : accept a pixel size that the stacks' headers contradict.
    allow_outside : accept image names that lead out of ``root``.
    chunk_bytes : size of a chunk of images, bytes of float32.

    Returns
    -------
    Dataset with dims ``particle, y, x, optics``. Rotations are matrices, shifts angstrom; a column the schema does not
    know is kept as ``x_<label>`` (``x_optics_<label>`` for optics groups), and all return to their places on export.

    Raises
    ------
    FormatError : a damaged STAR file or stack, a stack that is missing or outside of ``root``, an image number beyond
        its stack, mixed box sizes or pixel sizes, no pixel size.
    ParameterError : the headers contradict the pixel size.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np, xarray as xr
    >>> from cryoflow.io.images.mrc import write_stack
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> write_stack(folder / "p.mrcs", xr.DataArray(np.ones((2, 8, 8)), dims=("particle", "y", "x")), pixel_size=2)
    >>> text = "data_\\nloop_\\n_rlnImageName\\n_rlnDefocusU\\n_rlnVoltage\\n1@p.mrcs 9000 300\\n2@p.mrcs 9100 300\\n"
    >>> _ = (folder / "p.star").write_text(text)
    >>> dict(read_particles(folder / "p.star", pixel_size=2.0).image.sizes)
    {'particle': 2, 'y': 8, 'x': 8}
    """
    star = normal(star)
    rows, optics = split_optics(read_star(star), "particles", star)
    for name, value in given_optics(options, f"read_particles({star})").items():
        optics[describe(name).star] = value
    ds = from_tables(rows, optics, dim="particle", where=star)
    ds["particle_id"] = ("particle", np.arange(ds.sizes["particle"], dtype=np.int64))
    check_pixel_sizes(ds, star, "_rlnImagePixelSize", mixed=mixed_pixel_sizes)
    return validate(with_images(ds, star, options, label="_rlnImageName", base=folder_of(star)), star)


def image_numbers(
    names: Sequence[str] | NDArray[Any] | xr.DataArray, star: str
) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]]:
    """The distinct stacks of image names, and for each row the number of its stack and its section in it (from 0).

    >>> names, file, section = image_numbers(["000002@a.mrcs", "1@b.mrcs", "1@a.mrcs", "c.mrc"], "p.star")
    >>> names, file.tolist(), section.tolist()
    (['a.mrcs', 'b.mrcs', 'c.mrc'], [0, 1, 0, 2], [1, 0, 0, 0])
    """
    if isinstance(names, xr.DataArray):
        words = words_behind(names.variable)
        known = None if words is None else words.kept().numbered()
        if known:
            return known
        names = names.values
    index: dict[str, int] = {}
    number_of = index.setdefault
    file, section = array("i"), array("q")
    pieces = (names[first : first + _ROWS] for first in range(0, len(names), _ROWS))
    # a plain loop is twice as fast as column operations, and without their copies
    for name in chain.from_iterable(p.tolist() if isinstance(p, np.ndarray) else p for p in pieces):
        number, at, stack = name.partition("@")
        if not at:
            number, stack = "1", name
        if not number.isdecimal() or len(number) > 18:
            raise FormatError(f"{star}, row {len(file) + 1}", expected="an image name like 000001@stack.mrcs",
                              found=repr(name))  # fmt: skip
        file.append(number_of(stack, len(index)))
        section.append(int(number) - 1)
    return list(index), np.asarray(file, np.int32), np.asarray(section, np.int64)


def write_particles(
    ds: xr.Dataset, star: str | Path, *, images: str | Path | None = None, dtype: str = "float32", version: str = "3.1"
) -> None:
    """Write particles as a STAR file of RELION 3.1, which RELION 3.1 to 5 and cryoSPARC read.

    What came from a STAR file returns as it was: all columns in their order, other blocks, names and numbers of optics
    groups, the triples of angles that still say the rotation.

    Parameters
    ----------
    images : an ``.mrcs`` to write the images to, chunk by chunk, as ``dtype`` (float32 or float16); image names then
        point to it, relative to the STAR file. Without it the Dataset's ``image_name`` is written as it is.
    version : "3.1", or "3.0" for one table with origins in pixels and the optics in every row (RELION 2 and 3.0, which
        know no optics groups), or "source" for the form of the file that the Dataset came from.

    Raises
    ------
    SchemaError : neither ``images`` nor ``image_name``, or a variable that breaks the schema.
    ParameterError : no particles.
    ResourceError : the disk is full; nothing half-written is left.
    """
    star = Path(star)
    where = f"write_particles({star})"
    ds = particles_to_write(ds, images, where, dtype=dtype, beside=star)
    require(ds, where, ["image_name"])
    if "image" in ds:
        ds = ds.assign(x_optics_rlnImageSize=("optics", np.full(ds.sizes["optics"], ds.sizes["x"])))
    if "x_optics_rlnImageSize" in ds and "x_optics_rlnImageDimensionality" not in ds:
        ds = ds.assign(x_optics_rlnImageDimensionality=("optics", np.full(ds.sizes["optics"], 2)))
    ds = ds.drop_vars("image", errors="ignore")
    write_star(star, to_blocks(ds, dim="particle", block="particles", version=version, where=where))
