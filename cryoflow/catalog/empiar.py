"""Entries of EMPIAR by number, from the archive's own record of them (JSON).

The record says what files there are, and often their pixel size. It never says voltage, Cs, amplitude contrast or
dose, nor symmetry and diameter: those stay ``null`` in the entry, to be asked for by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoflow.catalog.addresses import cache_folder, entry_address
from cryoflow.catalog.web import fetch_text
from cryoflow.errors import FormatError, ParameterError

if TYPE_CHECKING:
    from cryoflow.catalog.model import Entry, Kind

__all__ = ["entry_from_record", "fetch_entry", "fetch_record"]

RECORD_BYTES = 32 << 20  # the largest records list thousands of image sets

# what a category begins with -> kind
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("micrographs - multi", "movies"),
    ("micrographs", "micrographs"),
    ("picked particles", "particles"),
    ("tilt series", "tilt-series"),
)
# what the formats of header or data are called -> (format, suffixes of files)
_FORMATS = {
    "MRCS": ("mrc", ("mrcs",)), "MRC": ("mrc", ("mrc", "mrcs")), "TIFF": ("tiff", ("tif", "tiff")),
    "EER": ("eer", ("eer",)), "IMAGIC": ("imagic", ("hed",)), "SPIDER": ("spider", ("spi", "dat")),
    "HDF5": ("hdf", ("h5", "hdf")), "DM3": ("dm3", ("dm3",)), "DM4": ("dm4", ("dm4",)),
}  # fmt: skip


def fetch_entry(number: int, *, cache: Path | None = None, refresh: bool = False) -> Entry:
    """The entry of an EMPIAR number, made from the archive's record.

    Raises
    ------
    ParameterError : the archive has no such entry. FormatError : a record that is none.
    ResourceError : the archive does not answer.
    """
    return entry_from_record(fetch_record(number, cache=cache, refresh=refresh), number)


def fetch_record(number: int, *, cache: Path | None = None, refresh: bool = False) -> dict[str, Any]:
    """The archive's record of an entry; kept in ``cache`` (the user's cache if not given) and read from there again.

    ``CRYOFLOW_EMPIAR_API`` names another server.
    """
    kept = (cache or cache_folder()) / "empiar" / f"{number}.json"
    if not refresh and kept.is_file():
        with suppress(OSError, FormatError, UnicodeDecodeError):  # a damaged copy is fetched again
            return _record(kept.read_text(encoding="utf-8"), number, str(kept))
    address = entry_address(number)
    try:
        text = fetch_text(address, limit=RECORD_BYTES)
    except FormatError as error:
        if error.found != "nothing there":
            raise
        raise ParameterError(
            "catalog", expected="the number of a public EMPIAR entry", found=f"{number}, which {address} does not have",
            remedy="Is the number right, and the entry released?",
        ) from None  # fmt: skip
    record = _record(text, number, address)
    from cryoflow.io.files import atomic

    with suppress(OSError), atomic(kept) as partial:  # a cache that cannot be written is no error
        partial.write_text(text, encoding="utf-8")
    return record


def _record(text: str, number: int, where: str) -> dict[str, Any]:
    """The one value of ``{"EMPIAR-<number>": {...}}``."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError(where, expected="a record in JSON", found=f"{text[:60]!r}",
                          remedy="Is this the address of the archive's entry API?") from None  # fmt: skip
    record = whole.get(f"EMPIAR-{number}") if isinstance(whole, dict) else None
    if not isinstance(record, dict) or not isinstance(record.get("imagesets"), list):
        keys = ", ".join(map(str, list(whole)[:5])) if isinstance(whole, dict) else type(whole).__name__
        raise FormatError(where, expected=f"the key EMPIAR-{number} with its imagesets", found=keys or "nothing")
    return record


def entry_from_record(record: Mapping[str, Any], number: int) -> Entry:
    """An entry from EMPIAR's record: image sets by category, file patterns by format, citation and references.

    Examples
    --------
    >>> sets = [{"name": "Movies", "directory": "/data/Movies", "category": "micrographs - multiframe",
    ...          "header_format": "TIFF", "data_format": "TIFF", "frames_per_image": 40, "pixel_width": 0.86}]
    >>> entry = entry_from_record({"title": "CB1", "imagesets": sets, "cross_references": ["EMD-0339"]}, 10288)
    >>> entry.imagesets["movies"].pattern, entry.imagesets["movies"].pixel_size, entry.specimen.reference.emdb
    ('Movies/*.[tT][iI][fF]*', 0.86, 339)
    """
    from cryoflow.catalog.model import parse_entry

    imagesets: dict[str, dict[str, Any]] = {}
    for raw in record["imagesets"]:
        if not isinstance(raw, Mapping):
            continue
        values = _image_set(raw)
        kind, count = values["kind"], 2
        name = kind
        while name in imagesets:
            name, count = f"{kind}-{count}", count + 1
        imagesets[name] = values
    order = ("micrographs", "particles", "movies", "tilt-series", "other")  # what a run can start from comes first
    start = next((n for kind in order for n, v in imagesets.items() if v["kind"] == kind), None)
    emdb = re.search(r"EMD-(\d+)", json.dumps(record.get("cross_references") or [], default=str))
    pdb = re.search(r"\b([0-9][a-zA-Z0-9]{3})\b", json.dumps(record.get("related_pdb_entries") or [], default=str))
    reference = {"emdb": int(emdb[1]) if emdb else None, "pdb": pdb[1].lower() if pdb else None}
    return parse_entry(
        {
            "entry": f"EMPIAR-{number}", "title": _text(record.get("title")) or f"EMPIAR-{number}",
            "licence": "CC0-1.0", "source": f"https://www.ebi.ac.uk/empiar/EMPIAR-{number}/",
            "citation": _citation(record), "number": number, "imagesets": imagesets,
            "specimen": {"reference": reference if emdb or pdb else None},
            "start": start, "workflow": {} if start else {"simulate": {}},
            "verified": {"all": f"the archive's record at {entry_address(number)}; nothing else is known"},
        },
        f"EMPIAR-{number}",
    )  # fmt: skip


def _image_set(raw: Mapping[str, Any]) -> dict[str, Any]:
    category = _text(raw.get("category")).lower()
    kind: Kind = next((kind for begin, kind in _KINDS if category.startswith(begin)), "other")
    names = [_text(raw.get(key)).upper() for key in ("data_format", "header_format")]
    format_, suffixes = next((_FORMATS[n] for n in names if n in _FORMATS), ("mrc", ("mrc", "mrcs")))
    if kind == "particles" and format_ == "mrc":
        suffixes = ("mrcs", "mrc")
    rows, columns = _count(raw.get("image_height")), _count(raw.get("image_width"))
    values: dict[str, Any] = {
        "kind": kind, "title": _text(raw.get("name")), "directory": _below_data(_text(raw.get("directory"))),
        "files": "*." + _any_case(suffixes), "format": format_,
        "count": _count(raw.get("num_images_or_tilt_series")), "frames": _count(raw.get("frames_per_image")),
        "shape": [rows, columns] if rows and columns else None, "pixel_size": _positive(raw.get("pixel_width")),
        "note": _text(raw.get("details"))[:1000],
    }  # fmt: skip
    table = _below_data(_text(raw.get("picked_particles_file_pattern")))
    if kind == "particles" and table.endswith((".star", ".cs")) and not any(c in table for c in "*?[;, "):
        values["metadata"] = table  # one file that describes all particles
    return values


def _any_case(suffixes: tuple[str, ...]) -> str:
    """A pattern for suffixes whatever their case: archives hold .TIF and .tif, .mrc and .mrcs.

    >>> _any_case(("tif", "tiff"))
    '[tT][iI][fF]*'
    """
    stem = min(suffixes, key=len)
    more = "*" if len(suffixes) > 1 and all(s.startswith(stem) for s in suffixes) else ""
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in stem) + more


def _below_data(directory: str) -> str:
    """A directory of the record, below the entry's data folder; one that leads elsewhere is dropped.

    >>> _below_data("/data/Movies/"), _below_data("data"), _below_data("10028/data/Particles")
    ('Movies', '', 'Particles')
    """
    parts = [p for p in directory.replace("\\", "/").split("/") if p not in {"", "."}]
    if ".." in parts or any(":" in p for p in parts):
        return ""
    if "data" in parts[:2]:
        parts = parts[parts.index("data") + 1 :]
    return "/".join(parts)


def _citation(record: Mapping[str, Any]) -> str:
    """Authors (year). Title. Journal volume:page. doi."""
    given = record.get("citation")
    first = next((c for c in given if isinstance(c, Mapping)), {}) if isinstance(given, list) else {}
    authors = [_text(a.get("name")) for a in first.get("authors") or [] if isinstance(a, Mapping)]
    people = ", ".join(a for a in authors[:3] if a) + (" et al." if len(authors) > 3 else "")
    where = " ".join(t for t in (_text(first.get("journal")), _text(first.get("volume"))) if t)
    parts = [f"{people} ({_text(first.get('year'))})" if people else "", _text(first.get("title")), where]
    doi = _text(first.get("doi"))
    return ". ".join(p for p in parts if p) + (f". doi:{doi.removeprefix('doi:')}" if doi else "")


def _text(value: object) -> str:
    return " ".join(str(value).split()) if isinstance(value, str | int | float) else ""


def _positive(value: object) -> float | None:
    """A positive number, given as number or text; None for anything else."""
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _count(value: object) -> int | None:
    number = _positive(value)
    return int(number) if number is not None and number >= 1 else None
