"""An image set of an entry as a lazy Dataset of the schema, wherever its files lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cryoflow.catalog.addresses import data_root
from cryoflow.catalog.layout import find_files, folders, image_set, locate
from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.sources.source import is_remote

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
        from cryoflow.io.movies import open_movies

        if chosen.dose is not None and chosen.frames is not None:
            known["dose_per_frame"] = chosen.dose / chosen.frames
        return open_movies(files, **known)
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
