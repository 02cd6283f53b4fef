"""An image set of an entry as a lazy Dataset of the schema, wherever its files lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cryoflow.catalog.addresses import data_root
from cryoflow.catalog.layout import find_files, folders, image_set, locate
from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.source import is_remote

if TYPE_CHECKING:
    import xarray as xr

    from cryoflow.catalog.model import Entry, ImageSet

__all__ = ["OPTICS", "home", "open_image_set"]

OPTICS = ("pixel_size", "voltage", "cs", "amplitude_contrast")
_ASKED = {"pixel_size": "angstrom", "voltage": "kV", "cs": "mm", "amplitude_contrast": "a fraction, 0.07 to 0.1 in ice"}


def home(entry: Entry) -> str:
    """Address of the data of an entry in its archive.

    >>> from cryoflow.catalog import read_entry
    >>> home(read_entry("scipion-betagal"))[-17:]
    'relion13_tutorial'
    """
    return entry.address or data_root()


def open_image_set(
    entry: Entry,
    imageset: str | None = None,
    *,
    root: Path | str | None = None,
    limit: int | None = None,
    **facts: float | None,
) -> xr.Dataset:
    """The image set (the one the workflow starts from if not named) below ``root``, or in the archive.

    Parameters
    ----------
    root : local folder or address of a mirror, in the archive's layout or flat.
    limit : most files to open; opening a remote file takes a request.
    facts : ``pixel_size, voltage, cs, amplitude_contrast`` in place of the entry's.

    Raises
    ------
    ParameterError : no such image set or no files; or facts that neither the entry nor the call says, each by name.
    """
    name = imageset or entry.start or ""
    chosen = image_set(entry, name)
    where = f"catalog entry {entry.entry}, image set {name}"
    if chosen.kind not in {"micrographs", "movies", "particles"}:
        raise ParameterError(where, expected="micrographs, movies or particles", found=chosen.kind,
                             remedy="`cryoflow catalog fetch` fetches its files; they do not open as one.")  # fmt: skip
    if root is None and not chosen.archived:
        raise ParameterError(where, expected="the local folder of its data: the archive does not have it", found="none",
                             remedy="open_catalog(root=...) or catalog[name].read(root=...).")  # fmt: skip
    if unknown := sorted(set(facts) - set(OPTICS)):
        raise ParameterError(where, expected=f"facts among {', '.join(OPTICS)}", found=", ".join(unknown))
    place = root if root is not None else home(entry)
    if chosen.kind == "particles":
        return _particles(entry, chosen, place, facts, where)
    optics = {k: facts.get(k) if facts.get(k) is not None else getattr(chosen, k) for k in OPTICS}
    missing = [k for k, v in optics.items() if v is None]
    if missing:
        raise ParameterError(
            where,
            expected="facts that the entry does not say: " + ", ".join(f"{k} ({_ASKED[k]})" for k in missing),
            found="none",
            remedy="Give them: read(" + ", ".join(f"{k}=..." for k in missing) + ").",
        )
    files = find_files(entry, name, place, limit=limit)
    known: dict[str, Any] = {k: float(v) for k, v in optics.items() if v is not None}
    if chosen.kind == "movies":
        return _movies(files, known, chosen, where)
    from cryoflow.io import open_micrographs

    return open_micrographs(files, **known)


def _particles(
    entry: Entry, chosen: ImageSet, place: Path | str, facts: Mapping[str, float | None], where: str
) -> xr.Dataset:
    """The particle table, whose rows name the stacks."""
    from cryoflow.io.formats import open_data

    if chosen.metadata is None:
        raise ParameterError(where, expected="a particle table that names its stacks", found="none in the entry",
                             remedy="If you know it, open it with cryoflow.read_particles.")  # fmt: skip
    given: dict[str, Any] = {k: v for k, v in facts.items() if v is not None}
    if not is_remote(place):
        found = locate(chosen.metadata, place, entry.entry)
        if found is None:
            raise ParameterError(
                where, expected=f"the table {chosen.metadata} below {place}, as in the archive or flat", found="none",
                remedy=f"Fetch it with `cryoflow catalog fetch {entry.entry} --root {place}`.",
            )  # fmt: skip
        return cast("xr.Dataset", open_data(found, **given))
    first: CryoflowError | None = None
    for folder in folders(str(place), entry.entry):
        try:
            return cast("xr.Dataset", open_data(f"{folder}/{chosen.metadata}", **given))
        except FormatError as error:
            if error.found not in {"nothing there"}:
                raise
            first = first or error
    assert first is not None
    raise first


def _movies(files: Sequence[str], optics: Mapping[str, float], chosen: ImageSet, where: str) -> xr.Dataset:
    """Frames as recorded, (movie, frame, y, x); movies of another shape or that are broken are told and left out."""
    import xarray as xr

    from cryoflow.io.image_file import open_image_files
    from cryoflow.io.lazy import FileImages, lazy
    from cryoflow.schema import validate

    opened = open_image_files(list(files))
    good = [f for f in opened if not isinstance(f, CryoflowError)]
    if not good:
        raise next(f for f in opened if isinstance(f, CryoflowError))
    shape = Counter(f.shape for f in good).most_common(1)[0][0]
    kept = [f for f in good if f.shape == shape]
    left = [str(f) if isinstance(f, CryoflowError) else f"{f.path}: shape {f.shape}, not {shape}"
            for f in opened if isinstance(f, CryoflowError) or f.shape != shape]  # fmt: skip
    frames = shape[0]
    array = FileImages(
        tuple(kept), np.repeat(np.arange(len(kept), dtype=np.int32), frames),
        np.tile(np.arange(frames, dtype=np.int32), len(kept)), shape[1:], kept[0].dtype,
    )  # fmt: skip
    rows = lazy(("frame", "y", "x"), array, frames)
    ds = xr.Dataset({
        "movie": (("movie", "frame", "y", "x"), rows.data.reshape(len(kept), *shape)),
        "micrograph_name": ("movie", np.array([f.path for f in kept])),
        "optics_group": ("movie", np.zeros(len(kept), np.int32)),
        **{name: ("optics", [value]) for name, value in optics.items()},
    })  # fmt: skip
    if chosen.dose is not None:
        ds["dose_per_frame"] = ("movie", np.full(len(kept), chosen.dose / (chosen.frames or frames)))
    ds.attrs["left_out"] = left
    return validate(ds, where)
