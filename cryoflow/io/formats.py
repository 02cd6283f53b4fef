"""The table of file formats: what tells each one, who reads it and who writes it. ``detect`` and ``open_data`` use it.

A reader or writer is named as text, "module:function", and imported when it is called: heavy libraries load only for
the formats that need them. Rows are tried from the top, so a more particular format stands before a more general one.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.named import named
from cryoflow.io.sources.source import is_remote, normal, open_source

__all__ = [
    "FORMATS", "Format", "Kind", "detect", "find_format", "open_data", "target_format", "write_data",
]  # fmt: skip

Kind = Literal["particles", "micrographs", "movies", "coordinates", "map", "images", "metadata", "store"]
HEAD_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Format:
    """One format of one program.

    ``kind`` is what its reader returns. ``sniff`` names a function ``(head: bytes, name: str) -> bool`` that sees the
    first 64 KiB and the file's name. ``read`` names ``(address, **options) -> Dataset``; ``write`` names
    ``(ds, path, **options)``; either may be absent.
    """

    name: str
    title: str
    kind: Kind
    suffixes: tuple[str, ...]
    sniff: str
    read: str | None = None
    write: str | None = None


FORMATS: tuple[Format, ...] = (
    Format("cryoflow", "cryoflow store (Zarr)", "store", (".zarr",), "sniff:store",
           "stores.store:open_store", "datasets:save_store"),
    # STAR, the particular before the general -------------------------------------------------------------------------
    Format("xmipp", "Xmipp particles (.xmd)", "particles", (".xmd",), "sniff:xmipp",
           "star.xmipp:read_xmipp", "star.xmipp:write_xmipp"),
    Format("relion-motion", "RELION motion of one movie (STAR)", "metadata", (), "sniff:relion_motion",
           "star.relion_motion:read_motion", "star.relion_motion:write_motion"),
    Format("relion-particles", "RELION particles (STAR, 2 to 5)", "particles", (".star",),
           "sniff:relion_particles",
           "particles:read_particles", "particles:write_particles"),
    Format("relion-movies", "RELION movies (STAR)", "movies", (".star",), "sniff:relion_movies",
           "movies:open_movies"),
    Format("relion-micrographs", "RELION micrographs (STAR)", "micrographs", (".star",),
           "sniff:relion_micrographs",
           "micrographs:open_micrographs", "micrographs:write_micrographs"),
    Format("relion-coordinates", "RELION coordinates (STAR)", "coordinates", (".star",),
           "sniff:relion_coordinates",
           "programs.coordinates:read_coordinate_star", "programs.coordinates:write_coordinate_star"),
    # cryoSPARC -------------------------------------------------------------------------------------------------------
    Format("cryosparc-micrographs", "cryoSPARC exposures (.cs, .csg)", "micrographs", (".cs", ".csg"),
           "sniff:cryosparc_micrographs",
           "cryosparc.cryosparc:read_cryosparc", "cryosparc.cryosparc:write_cryosparc"),
    Format("cryosparc-particles", "cryoSPARC particles (.cs, .csg)", "particles", (".cs", ".csg"),
           "sniff:cryosparc_particles",
           "cryosparc.cryosparc:read_cryosparc", "cryosparc.cryosparc:write_cryosparc"),
    # other programs --------------------------------------------------------------------------------------------------
    Format("frealign", "Frealign parameters (.par)", "particles", (".par",), "programs.sniff:frealign",
           "programs.frealign:read_frealign", "programs.frealign:write_frealign"),
    Format("cistem", "cisTEM parameters (STAR, .cistem)", "particles", (".cistem",),
           "programs.sniff:cistem",
           "programs.cistem:read_cistem", "programs.cistem:write_cistem"),
    Format("eman-list", "EMAN2 list (.lst)", "particles", (".lst",), "programs.sniff:eman_list",
           "programs.eman2:read_eman_list", "programs.eman2:write_eman_list"),
    Format("references", "References to images where they lie (kerchunk)", "images", (".json",),
           "sniff:references", None, "images.references:write_references"),
    Format("eman-info", "EMAN2 boxes (info/*.json)", "coordinates", (".json",), "programs.sniff:eman_info",
           "programs.eman2_boxes:read_eman_info", "programs.eman2_boxes:write_eman_info"),
    Format("cbox", "crYOLO boxes (.cbox)", "coordinates", (".cbox",), "programs.sniff:cbox",
           "programs.cryolo:read_cbox", "programs.cryolo:write_cbox"),
    Format("eman-box", "EMAN boxes (.box)", "coordinates", (".box",), "programs.sniff:eman_box",
           "programs.eman2_boxes:read_eman_box", "programs.eman2_boxes:write_eman_box"),
    Format("topaz", "Topaz picks (.txt)", "coordinates", (".txt", ".tsv"), "programs.sniff:topaz",
           "programs.topaz:read_topaz", "programs.topaz:write_topaz"),
    Format("spider-align", "SPIDER alignment document (AP SH, AP REF)", "particles", (".doc",),
           "programs.sniff:spider_align",
           "programs.spider_align:read_spider_alignment", "programs.spider_align:write_spider_alignment"),
    Format("spider-doc", "SPIDER document file", "metadata", (".dat", ".spi", ".doc"),
           "programs.sniff:spider_doc", "programs.spider_doc:read_spider_doc"),
    Format("warp", "Warp micrographs (XML)", "micrographs", (".xml",), "programs.sniff:warp",
           "programs.warp:read_warp"),
    Format("epu", "EPU exposures (XML)", "micrographs", (".xml",), "programs.sniff:epu",
           "programs.epu:read_epu"),
    Format("star", "STAR tables (RELION model, optimiser, postprocess...)", "metadata", (), "sniff:star",
           "star.star:read_star", "datasets:save_tables"),
    # images ----------------------------------------------------------------------------------------------------------
    Format("eer", "EER movie (Thermo Fisher)", "movies", (".eer",), "sniff:eer",
           "images.image_stack:open_movie"),
    Format("tiff", "TIFF images", "images", (".tif", ".tiff"), "sniff:tiff",
           "images.image_stack:open_images_or_map"),
    Format("eman-hdf", "EMAN2 images or volume (HDF5)", "images", (".hdf", ".hdf5", ".h5"), "sniff:hdf5",
           "images.image_stack:open_images_or_map", "images.image_stack:write_hdf_images"),
    Format("imagic", "IMAGIC images or volume (.hed and .img)", "images", (".hed", ".img"), "sniff:imagic",
           "images.image_stack:open_images_or_map", "images.image_stack:write_imagic_images"),
    Format("spider", "SPIDER images or volume", "images", (".spi", ".dat"), "sniff:spider",
           "images.image_stack:open_images_or_map", "images.image_stack:write_spider_images"),
    Format("mrc-stack", "MRC stack of images", "images", (".mrcs", ".st", ".ali", ".mrc"), "sniff:mrc_stack",
           "datasets:open_images", "datasets:save_images"),
    Format("mrc", "MRC map", "map", (".mrc", ".map", ".ccp4", ".rec"), "sniff:mrc",
           "datasets:open_map", "datasets:save_map"),
    # folders and patterns --------------------------------------------------------------------------------------------
    Format("micrographs", "Micrographs in a folder or of a pattern", "micrographs", (),
           "sniff:micrograph_folder", "micrographs:open_micrographs"),
    Format("movies", "Movies in a folder or of a pattern", "movies", (), "sniff:never",
           "movies:open_movies"),
)  # fmt: skip


def find_format(name: str) -> Format:
    """The format called ``name``.

    Raises
    ------
    ParameterError : there is none; all names are given.

    >>> find_format("mrc").kind
    'map'
    """
    for entry in FORMATS:
        if entry.name == name:
            return entry
    raise ParameterError("format", expected=f"one of {', '.join(f.name for f in FORMATS)}", found=repr(name))


def detect(address: str | Path) -> Format:
    """The format of a file, folder or URL, by its content first and its name second.

    A folder (its name then ends in ``/``) or a pattern with ``*`` is one of micrographs; a folder without images
    whose files, or those below it, are the XML files of EPU's exposures is EPU's.

    Raises
    ------
    FormatError : nothing there, or no format of the table fits.
    ResourceError : a server that does not answer.
    """
    address = normal(address)
    name = address.lower()
    if is_remote(address):
        head = _head(address)
        name = name.partition("?")[0]
    elif Path(address).is_dir():
        head, name = b"", name.rstrip("/") + ("" if name.endswith(".zarr") else "/")
        images = (".mrc", ".mrcs", ".tif", ".tiff")
        plain = name.endswith("/") and not any(p.suffix.lower() in images for p in Path(address).iterdir())
        if plain and named("programs.epu:is_epu_folder")(address):
            return find_format("epu")
    elif "*" in address and not Path(address).exists():
        head = b""
    else:
        head = _head(address)
    for entry in FORMATS:
        if named(entry.sniff)(head, name):
            return entry
    if not head:
        raise FormatError(address, expected="a known format", found="an empty file", remedy="Copy it again.")
    if head.startswith(b"\x93NUMPY"):
        objects = re.search(rb"'descr': '\|?O", head[:4096]) is not None
        raise FormatError(
            address, expected="of NumPy's files a cryoSPARC table, which has a field uid",
            found="Python objects, which are never read" if objects else "an array without that field",
            remedy="Write images as MRC or TIFF and tables as STAR, or open it with numpy.load if you trust it.",
        )  # fmt: skip
    titles = [f.title for f in FORMATS if name.endswith(f.suffixes or ("\0",))]
    raise FormatError(
        address, expected=f"a known format{', by its name ' if titles else ''}{' or '.join(titles)}",
        found=f"bytes {head[:8]!r}",
        remedy="Copy it again if it is damaged." if titles else
        f"Name it with format= if you know it: {', '.join(f.name for f in FORMATS)}.",
    )  # fmt: skip


def open_data(address: str | Path, *, format: str | None = None, **options: Any) -> Any:
    """Open any known file, folder or URL lazily, as the Dataset of its kind.

    ``options`` are those of the format's reader (``pixel_size``, ``root``, ...).

    Raises
    ------
    FormatError : the format is not known, or has no reader.
    ParameterError : an option that this format has no use for.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from cryoflow.io import write_map
    >>> path = tempfile.mkdtemp() + "/m.mrc"
    >>> write_map(path, np.ones((4, 4, 4)), pixel_size=2.0)
    >>> open_data(path).attrs["pixel_size"]
    2.0
    """
    entry = find_format(format) if format else detect(address)
    if entry.read is None:
        raise FormatError(str(address), expected="a format that is read", found=entry.title)
    return _called(entry, entry.read, normal(address), options)


def write_data(ds: Any, path: str | Path, *, format: str | None = None, **options: Any) -> None:
    """Write ``ds`` in ``format``; without it, in the first one that has the suffix of ``path`` and fits its rows.

    Raises
    ------
    ParameterError : no such format, one that is not written, or an option that it has no use for.
    """
    entry = find_format(format) if format else target_format(ds, Path(path))
    if entry.write is None:
        raise ParameterError(f"write_data({path})", expected="a format that is written", found=entry.title)
    _called(entry, entry.write, ds, path, options)


def _called(entry: Format, function: str, *arguments: Any) -> Any:
    """Call a reader or writer with the options (the last of ``arguments``) that it takes; refuse others."""
    *positional, options = arguments
    target = named(function)
    parameters = inspect.signature(target).parameters.values()
    takes = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    unknown = [name for name in options if name not in takes]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ParameterError(
            f"{entry.title}, {positional[0] if len(positional) == 1 else positional[1]}",
            expected=f"options among {', '.join(takes) or 'none'}", found=", ".join(unknown),
            remedy="Leave out what this format has no use for.",
        )  # fmt: skip
    return target(*positional, **options)


def _head(address: str) -> bytes:
    source = open_source(address)
    return source.read(0, min(source.size, HEAD_BYTES))


def target_format(ds: Any, path: Path) -> Format:
    """The first format that has the suffix of ``path``, is written, and is meant for what ``ds`` holds."""
    suffix = path.suffix.lower()
    written = [entry for entry in FORMATS if entry.write is not None]
    for entry in written:
        if suffix in entry.suffixes and _fits(ds, entry):
            return entry
    if suffix == ".star" and not hasattr(ds, "dims"):
        return find_format("star")
    known = [entry.title for entry in written if suffix in entry.suffixes]
    fits = [f"{entry.name} ({', '.join(entry.suffixes) or '.star'})" for entry in written if _fits(ds, entry)]
    raise ParameterError(
        f"write_data({path})", expected=f"a suffix of a format that holds {_content(ds)}",
        found=f"{suffix!r}, for {' or '.join(known)}" if known else repr(suffix),
        remedy=f"Choose another suffix or give format= of these: {', '.join(fits)}.",
    )  # fmt: skip


def _content(ds: Any) -> str:
    """What ``ds`` holds, in a word or two."""
    if not hasattr(ds, "dims"):
        return "such tables"
    rows = next((f"{d}s" for d in ("particle", "micrograph", "movie") if d in ds.dims), "")
    if "coordinate" in ds and "image_name" not in ds:
        return "coordinates"
    return rows or ("a map" if {"z", "y", "x"} <= set(ds.dims) else "such tables")


def _fits(ds: Any, entry: Format) -> bool:
    """Whether a format is meant for what ``ds`` holds."""
    kind = entry.kind
    if not hasattr(ds, "dims"):  # tables
        return entry.name == "star"
    names, volume = set(getattr(ds, "variables", ())), {"z", "y", "x"} <= set(ds.dims)
    if kind == "particles":
        return "particle" in ds.dims and ("coordinate" not in names or bool({"image_name", "image"} & names))
    if kind == "images" and "volume" in entry.title and volume:
        return True
    if kind in ("images", "coordinates"):
        return kind.removesuffix("s") in names
    if kind in ("micrographs", "movies"):
        return kind.removesuffix("s") in ds.dims
    return kind == "store" or (kind == "map" and volume)
