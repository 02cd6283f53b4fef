"""What the caller of a reader gives: the options that readers share, and the optics among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.io.images.lazy import CHUNK_BYTES

__all__ = [
    "DEFAULTS", "ImageOptions", "MicrographOptions", "MovieOptions", "Optics", "ReadOptions", "Trust", "check_optics",
    "given_optics", "image_options", "put_optics",
]  # fmt: skip

_MAY_BE_ZERO = ("cs", "amplitude_contrast")


class Optics(TypedDict, total=False):
    """Angstrom, kV, mm and a fraction; they replace what a file says."""

    pixel_size: float | None
    voltage: float | None
    cs: float | None
    amplitude_contrast: float | None


_OPTICS = tuple(Optics.__annotations__)


class Trust(TypedDict, total=False):
    """Whether to believe the caller against headers, and a file whose names lead out of its project."""

    trust_given: bool
    allow_outside: bool


class ImageOptions(Trust, total=False):
    """The folder or URL that names are relative to, and the bytes of a chunk of images."""

    root: str | Path | None
    chunk_bytes: float


class MicrographOptions(Optics, Trust, total=False):
    """Options of ``open_micrographs``; ``root`` is the folder that the names of a STAR file are relative to."""

    root: str | Path | None


class MovieOptions(Optics, ImageOptions, total=False):
    """Options of ``open_movies``."""


class ReadOptions(Optics, ImageOptions, total=False):
    """Options of all readers of particle tables; ``read_particles`` describes each."""

    images: bool


DEFAULTS: ReadOptions = {
    "pixel_size": None, "voltage": None, "cs": None, "amplitude_contrast": None,
    "trust_given": False, "allow_outside": False, "root": None, "chunk_bytes": CHUNK_BYTES, "images": True,
}  # fmt: skip


def image_options(options: ReadOptions) -> ImageOptions:
    """Those of ``options`` that say where images lie and how they are read."""
    return {
        "root": options["root"], "allow_outside": options["allow_outside"], "trust_given": options["trust_given"],
        "chunk_bytes": options["chunk_bytes"],
    }  # fmt: skip


def given_optics(options: Optics, where: str) -> dict[str, float]:
    """The optics that the caller gave, checked.

    Raises
    ------
    ParameterError : a value that is not finite or not above 0 (``cs`` and ``amplitude_contrast`` may be 0).

    >>> given_optics({"voltage": 300, "cs": None}, "example")
    {'voltage': 300.0}
    """
    values = cast("Mapping[str, float | None]", options)
    given = {name: float(value) for name in _OPTICS if (value := values.get(name)) is not None}
    for name, value in given.items():
        if not _fits(name, value):
            raise ParameterError(where, expected=f"{name} above 0", found=f"{value:g}")
    return given


def put_optics(ds: xr.Dataset, options: Optics, where: str) -> None:
    """Let the optics that the caller gave hold for all optics groups of ``ds``."""
    for name, value in given_optics(options, where).items():
        ds[name] = ("optics", np.full(ds.sizes.get("optics", 1), value))


def check_optics(ds: xr.Dataset, where: str, *, required: bool = False) -> None:
    """Refuse optics of ``ds`` that no microscope has, and missing ones where they are ``required``.

    Raises
    ------
    ParameterError : such a value; the option that replaces it is named.
    """
    for name in _OPTICS:
        if name not in ds and not required:
            continue
        low = float(ds[name].values.min()) if name in ds else np.nan
        if not _fits(name, low):
            raise ParameterError(where, expected=f"{name} above 0", found=f"{low:g}" if name in ds else "none",
                                 remedy=f"Give {name}=.")  # fmt: skip


def _fits(name: str, value: Any) -> bool:
    return bool(np.isfinite(value) and (value > 0 or (value == 0 and name in _MAY_BE_ZERO)))
