"""What the readers of particle tables do with what they have read: hold pixel sizes against each other, add images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from cryoflow.errors import FormatError
from cryoflow.io.given import ReadOptions, image_options
from cryoflow.io.images.attach import attach_images
from cryoflow.io.sources.address import folder_of, name_of
from cryoflow.io.sources.source import is_remote
from cryoflow.io.star.relion import text

__all__ = ["check_pixel_sizes", "stack_beside", "with_images", "with_stack"]

_STACKS = (".stk", ".mrcs", ".mrc", ".st", ".img", ".spi")
_GIVE = "Give pixel_size= in angstrom."


def check_pixel_sizes(ds: xr.Dataset, where: str, label: str, *, mixed: bool = True) -> None:
    """Refuse particles without a pixel size above 0, or of different ones unless ``mixed``.

    ``label`` is what the file calls a pixel size.

    Raises
    ------
    FormatError : none, one that is not above 0, or different ones.
    """
    if "pixel_size" not in ds:
        raise FormatError(where, expected=f"a pixel size ({label})", found="none", remedy=_GIVE)
    used = ds["pixel_size"].values[np.unique(ds["optics_group"].values)]
    if not used.min() > 0:
        raise FormatError(where, expected="pixel sizes above 0", found=f"{used.min():g}", remedy=_GIVE)
    if used.max() - used.min() > 1e-3 * used.max() and not mixed:
        raise FormatError(
            where, expected="one pixel size", found=", ".join(f"{p:g}" for p in np.unique(used)) + " angstrom",
            remedy="Rescale the groups to one pixel size, or pass mixed_pixel_sizes=True.",
        )  # fmt: skip


def with_images(
    ds: xr.Dataset, where: str, options: ReadOptions, *, label: str, base: str | Path | None = None,
    file_of: Callable[[str], str] = str,
) -> xr.Dataset:  # fmt: skip
    """``ds`` with the lazy ``image`` that ``image_name`` tells, if ``options`` want it.

    Parameters
    ----------
    label : what the file calls an image's name.
    base : folder or URL of the table; by default that of ``where``.
    file_of : turns a stack's name in the table into that of its file.

    Raises
    ------
    FormatError : no image names, or what ``attach_images`` refuses.
    """
    from cryoflow.io.particles import image_numbers

    if not options["images"]:
        return ds
    if "image_name" not in ds:
        raise FormatError(where, expected=label, found=f"labels {', '.join(ds.attrs.get('star_columns', ()))}",
                          remedy="Pass images=False to read the metadata alone.")  # fmt: skip
    names, file, section = image_numbers(ds["image_name"], where)
    return attach_images(ds, [file_of(name) for name in names], file, section, where=where, base=base,
                         **image_options(options))  # fmt: skip


def with_stack(
    ds: xr.Dataset, path: str | Path, stack: str | Path, number: ArrayLike, options: ReadOptions
) -> xr.Dataset:
    """``ds`` with images ``number`` (from 1) of the ``stack`` that the caller names, for the table at ``path``."""
    ds["image_name"] = ("particle", text(f"{i:06d}@{stack}" for i in np.asarray(number)))
    options = {**options, "root": folder_of(stack), "allow_outside": True}  # named by the caller, not by the file
    file_of = str if is_remote(stack) else name_of
    return with_images(ds, str(path), options, label="a stack", base=folder_of(path), file_of=file_of)


def stack_beside(path: str | Path) -> Path | None:
    """The stack that lies beside a table on this machine and has its name, if there is one."""
    if is_remote(path):
        return None
    beside = (Path(path).with_suffix(suffix) for suffix in _STACKS)
    return next((p for p in beside if p.is_file() and p != Path(path)), None)
