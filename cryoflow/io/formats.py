"""The table of file formats: what tells each one, who reads it and who writes it. ``detect`` and ``open_data`` use it.

A reader or writer is named as text, "module:function", and imported when it is called: heavy libraries load only for
the formats that need them. Rows are tried from the top, so a more particular format stands before a more general one.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.source import is_remote, normal, open_source

__all__ = [
    "FORMATS", "Format", "Kind", "detect", "find_format", "function_of", "open_data", "target_format", "write_data",
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
    Format("cryoflow", "cryoflow store (Zarr)", "store", (".zarr",), "cryoflow.io.sniff:store",
           "cryoflow.io.store:open_store", "cryoflow.io.datasets:save_store"),
    # STAR, the particular before the general -------------------------------------------------------------------------
    Format("xmipp", "Xmipp particles (.xmd)", "particles", (".xmd",), "cryoflow.io.sniff:xmipp",
           "cryoflow.io.xmipp:read_xmipp", "cryoflow.io.xmipp:write_xmipp"),
    Format("relion-motion", "RELION motion of one movie (STAR)", "metadata", (), "cryoflow.io.sniff:relion_motion",
           "cryoflow.io.relion_motion:read_motion", "cryoflow.io.relion_motion:write_motion"),
    Format("relion-particles", "RELION particles (STAR, 2 to 5)", "particles", (".star",),
           "cryoflow.io.sniff:relion_particles",
           "cryoflow.io.particles:read_particles", "cryoflow.io.particles:write_particles"),
    Format("relion-movies", "RELION movies (STAR)", "movies", (".star",), "cryoflow.io.sniff:relion_movies",
           "cryoflow.io.movies:open_movies"),
    Format("relion-micrographs", "RELION micrographs (STAR)", "micrographs", (".star",),
           "cryoflow.io.sniff:relion_micrographs",
           "cryoflow.io.micrographs:open_micrographs", "cryoflow.io.micrographs:write_micrographs"),
    Format("relion-coordinates", "RELION coordinates (STAR)", "coordinates", (".star",),
           "cryoflow.io.sniff:relion_coordinates",
           "cryoflow.io.coordinates:read_coordinate_star", "cryoflow.io.coordinates:write_coordinate_star"),
    # cryoSPARC -------------------------------------------------------------------------------------------------------
    Format("cryosparc-micrographs", "cryoSPARC exposures (.cs, .csg)", "micrographs", (".cs", ".csg"),
           "cryoflow.io.sniff:cryosparc_micrographs",
           "cryoflow.io.cryosparc:read_cryosparc", "cryoflow.io.cryosparc:write_cryosparc"),
    Format("cryosparc-particles", "cryoSPARC particles (.cs, .csg)", "particles", (".cs", ".csg"),
           "cryoflow.io.sniff:cryosparc_particles",
           "cryoflow.io.cryosparc:read_cryosparc", "cryoflow.io.cryosparc:write_cryosparc"),
    # other programs --------------------------------------------------------------------------------------------------
    Format("frealign", "Frealign parameters (.par)", "particles", (".par",), "cryoflow.io.sniff_programs:frealign",
           "cryoflow.io.frealign:read_frealign", "cryoflow.io.frealign:write_frealign"),
    Format("cistem", "cisTEM parameters (STAR, .cistem)", "particles", (".cistem",),
           "cryoflow.io.sniff_programs:cistem",
           "cryoflow.io.cistem:read_cistem", "cryoflow.io.cistem:write_cistem"),
    Format("eman-list", "EMAN2 list (.lst)", "particles", (".lst",), "cryoflow.io.sniff_programs:eman_list",
           "cryoflow.io.eman2:read_eman_list", "cryoflow.io.eman2:write_eman_list"),
    Format("references", "References to images where they lie (kerchunk)", "images", (".json",),
           "cryoflow.io.sniff:references", None, "cryoflow.io.references:write_references"),
    Format("eman-info", "EMAN2 boxes (info/*.json)", "coordinates", (".json",), "cryoflow.io.sniff_programs:eman_info",
           "cryoflow.io.eman2_boxes:read_eman_info", "cryoflow.io.eman2_boxes:write_eman_info"),
    Format("cbox", "crYOLO boxes (.cbox)", "coordinates", (".cbox",), "cryoflow.io.sniff_programs:cbox",
           "cryoflow.io.cryolo:read_cbox", "cryoflow.io.cryolo:write_cbox"),
    Format("eman-box", "EMAN boxes (.box)", "coordinates", (".box",), "cryoflow.io.sniff_programs:eman_box",
           "cryoflow.io.eman2_boxes:read_eman_box", "cryoflow.io.eman2_boxes:write_eman_box"),
    Format("topaz", "Topaz picks (.txt)", "coordinates", (".txt", ".tsv"), "cryoflow.io.sniff_programs:topaz",
           "cryoflow.io.topaz:read_topaz", "cryoflow.io.topaz:write_topaz"),
    Format("spider-doc", "SPIDER document file", "metadata", (".dat", ".spi", ".doc"),
           "cryoflow.io.sniff_programs:spider_doc", "cryoflow.io.spider_doc:read_spider_doc"),
    Format("warp", "Warp micrographs (XML)", "micrographs", (".xml",), "cryoflow.io.sniff_programs:warp",
           "cryoflow.io.warp:read_warp"),
    Format("epu", "EPU exposures (XML)", "micrographs", (".xml",), "cryoflow.io.sniff_programs:epu",
           "cryoflow.io.epu:read_epu"),
    Format("star", "STAR tables (RELION model, optimiser, postprocess...)", "metadata", (), "cryoflow.io.sniff:star",
           "cryoflow.io.star:read_star", "cryoflow.io.star:write_star"),
    # images ----------------------------------------------------------------------------------------------------------
    Format("eer", "EER movie (Thermo Fisher)", "movies", (".eer",), "cryoflow.io.sniff:eer",
           "cryoflow.io.image_stack:open_movie"),
    Format("tiff", "TIFF images", "images", (".tif", ".tiff"), "cryoflow.io.sniff:tiff",
           "cryoflow.io.image_stack:open_images_or_map"),
    Format("eman-hdf", "EMAN2 images or volume (HDF5)", "images", (".hdf", ".hdf5", ".h5"), "cryoflow.io.sniff:hdf5",
           "cryoflow.io.image_stack:open_images_or_map", "cryoflow.io.image_stack:write_hdf_images"),
    Format("imagic", "IMAGIC images or volume (.hed and .img)", "images", (".hed", ".img"), "cryoflow.io.sniff:imagic",
           "cryoflow.io.image_stack:open_images_or_map", "cryoflow.io.image_stack:write_imagic_images"),
    Format("spider", "SPIDER images or volume", "images", (".spi", ".dat"), "cryoflow.io.sniff:spider",
           "cryoflow.io.image_stack:open_images_or_map", "cryoflow.io.image_stack:write_spider_images"),
    Format("mrc-stack", "MRC stack of images", "images", (".mrcs", ".st", ".ali"), "cryoflow.io.sniff:mrc_stack",
           "cryoflow.io.datasets:open_images", "cryoflow.io.datasets:save_images"),
    Format("mrc", "MRC map", "map", (".mrc", ".map", ".ccp4", ".rec"), "cryoflow.io.sniff:mrc",
           "cryoflow.io.datasets:open_map", "cryoflow.io.datasets:save_map"),
    # folders and patterns --------------------------------------------------------------------------------------------
    Format("micrographs", "Micrographs in a folder or of a pattern", "micrographs", (),
           "cryoflow.io.sniff:micrograph_folder", "cryoflow.io.micrographs:open_micrographs"),
    Format("movies", "Movies in a folder or of a pattern", "movies", (), "cryoflow.io.sniff:never",
           "cryoflow.io.movies:open_movies"),
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

    A folder (its name then ends in ``/``) or a pattern with ``*`` is one of micrographs.

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
    elif "*" in address and not Path(address).exists():
        head = b""
    else:
        head = _head(address)
    for entry in FORMATS:
        if function_of(entry.sniff)(head, name):
            return entry
    raise FormatError(
        address, expected="a known format (" + ", ".join(f.name for f in FORMATS) + ")",
        found=f"bytes {head[:8]!r}", remedy="Name it with format= (--format) if you know it.",
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
    target = function_of(function)
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
    for entry in FORMATS:
        if path.suffix.lower() in entry.suffixes and entry.write is not None and _fits(ds, entry.kind):
            return entry
    raise ParameterError(
        f"write_data({path})", expected="a suffix that tells the format", found=repr(path.suffix),
        remedy=f"Give format=: one of {', '.join(f.name for f in FORMATS if f.write)}.",
    )  # fmt: skip


def _fits(ds: Any, kind: Kind) -> bool:
    """Whether a format of ``kind`` is meant for what ``ds`` holds."""
    if not hasattr(ds, "dims"):  # tables
        return kind == "metadata"
    names = set(getattr(ds, "variables", ()))
    if kind == "particles":
        return "particle" in ds.dims and ("coordinate" not in names or bool({"image_name", "image"} & names))
    if kind in ("images", "coordinates"):
        return kind.removesuffix("s") in names
    if kind in ("micrographs", "movies"):
        return kind.removesuffix("s") in ds.dims
    return kind == "store" or (kind == "map" and {"z", "y", "x"} <= set(ds.dims))


def function_of(name: str) -> Any:
    """What a row names as "module:function"."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
