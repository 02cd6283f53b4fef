"""``inspect_data``: what a file or folder is, what is wrong with it, and how it is imported."""

from __future__ import annotations

import glob
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.formats import Format, detect, find_format
from cryoflow.io.named import named
from cryoflow.io.sources.source import is_remote, normal
from cryoflow.workflow.inspection.other import inspect_model, inspect_store, inspect_tables, writer
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["inspect_data"]

_MODELS = (".pdb", ".cif", ".mmcif", ".ent", ".pdb.gz", ".cif.gz")
_TABLES = ("particles", "micrographs", "coordinates", "movies")


def inspect_data(
    address: str | Path, *, full: bool = False, format: str | None = None, root: str | None = None
) -> Inspection:
    """What a file, folder, pattern or URL is, what is wrong with it, and the command that imports it.

    A broken file has a report and raises nothing. Headers and tables are read whole; of images a sample, as the report
    says.

    Parameters
    ----------
    full : look at every image and every file.
    format : name of the format, where the file does not tell it.
    root : folder that names of images are relative to.

    Raises
    ------
    ParameterError : there is nothing at that address, or no such format.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from cryoflow.io import write_map
    >>> path = tempfile.mkdtemp() + "/m.mrc"
    >>> write_map(path, np.random.default_rng(0).random((8, 8, 8)), pixel_size=2.0)
    >>> found = inspect_data(path)
    >>> found.kind, found.facts["size"], found.broken
    ('map', '8 x 8 x 8', False)
    """
    text = normal(address)
    out = Inspection(text)
    local = Path(text)
    if not is_remote(text) and not local.exists() and "*" not in text:
        raise ParameterError("inspect", expected="an existing file, folder or URL", found=text)
    if "*" in text and not local.exists() and next(glob.iglob(text, recursive=True), None) is None:  # noqa: PTH207
        raise ParameterError("inspect", expected="files that fit the pattern", found=f"none for {text}")
    several = ("*" in text and not local.exists()) or (local.is_dir() and local.suffix != ".zarr")
    if not format and not is_remote(text) and several:
        from cryoflow.workflow.inspection.folder import inspect_folder

        with out.catching():
            inspect_folder(out, full=full)
        return out
    if not format and text.lower().partition("?")[0].endswith(_MODELS):
        with out.catching():
            inspect_model(out)
        return out
    try:
        entry = find_format(format) if format else detect(text)
    except FormatError as error:
        out.fail(error)
        return out
    out.kind, out.format, out.title = entry.kind, entry.name, entry.title
    if not is_remote(text) and local.is_file():
        out.facts["bytes"] = local.stat().st_size
    with out.catching():
        _by_kind(entry, out, full, root)
    return out


def _by_kind(entry: Format, out: Inspection, full: bool, root: str | None) -> None:
    from cryoflow.workflow.inspection.images import inspect_images

    if entry.kind == "store":
        inspect_store(out)
    elif entry.kind in _TABLES and entry.name not in ("eer", "tiff"):
        _table(entry, out, full, root)
    elif entry.kind == "metadata":
        inspect_tables(entry, out)
    else:
        inspect_images(out, full=full)
        _import_images(entry, out)
    if out.kind in _TABLES and "optics" not in out.facts and entry.kind not in ("coordinates",) and out.facts:
        out.add("note", out.address, "no optics are said", "Give --pixel-size, --voltage, --cs, --amplitude-contrast.")


def _import_images(entry: Format, out: Inspection) -> None:
    """The command for a file of images, which may be a micrograph (``inspect_images`` says so)."""
    entry = find_format(out.options["format"]) if "format" in out.options else entry
    said = out.facts.get("pixel size", "not said") != "not said"
    for name, value in _missing_optics(entry, {"pixel_size"} if said else set()):
        out.options.setdefault(name, value)
    out.command = _command(out)


def _reader(entry: Format) -> Any:
    return named(entry.read or "")


def _table(entry: Format, out: Inspection, full: bool, root: str | None) -> None:
    """A table of rows: read without images, then checked, then its image files."""
    from cryoflow.workflow.inspection.columns import check_columns, describe_columns
    from cryoflow.workflow.inspection.stacks import check_stacks

    takes = inspect.signature(_reader(entry)).parameters
    plain = {"images": False, "mixed_pixel_sizes": True}
    options = {k: v for k, v in plain.items() if k in takes}
    out.facts.update(writer(out.address))
    out.refused = True  # until the table is read
    try:
        ds = _reader(entry)(out.address, **options)
    except CryoflowError as error:
        if "pixel_size" not in takes or "pixel" not in f"{error.expected} {error.found} {error.remedy}":
            raise
        # a table without a pixel size is whole; it takes an option to open it
        out.fail(error, severity="warning" if error.found.startswith("none") else "error")
        ds = _reader(entry)(out.address, **options, pixel_size=1.0)
        ds = ds.drop_vars("pixel_size", errors="ignore")
    out.refused = False
    describe_columns(ds, out)
    check_columns(ds, out)
    if "usable" in ds and not bool(ds["usable"].values.all()):
        bad = [i for i, good in enumerate(ds["usable"].values) if not good]
        for i in bad[:5]:
            name = str(ds["micrograph_name"].values[i]) if "micrograph_name" in ds else f"row {i + 1}"
            out.add("warning", name, f"set aside: {ds['reason'].values[i] if 'reason' in ds else 'not usable'}")
        if len(bad) > 5:
            out.add("warning", out.address, f"{len(bad)} of {len(ds['usable'])} micrographs are set aside")
    if entry.kind == "particles":
        check_stacks(ds, out, root=root, full=full)
    for name, value in _missing_optics(entry, set(map(str, ds.variables))):
        out.options.setdefault(name, value)
    if entry.kind == "particles" and "image_name" not in ds and "stack" in takes:
        out.add("warning", out.address, "the table names no stack", "Give --stack.")
        out.options["stack"] = "FILE"
    if entry.kind != "coordinates":
        out.command = _command(out)


def _missing_optics(entry: Format, there: set[str]) -> list[tuple[str, str]]:
    takes = inspect.signature(_reader(entry)).parameters
    wanted = {"pixel_size": "ANGSTROM", "voltage": "KV", "cs": "MM", "amplitude_contrast": "FRACTION"}
    return [(n, v) for n, v in wanted.items() if n in takes and n not in there]


def _command(out: Inspection) -> str:
    """What imports it; nothing where an import would be refused whatever is given."""
    if out.refused:
        return ""
    name = re.sub(r"[^\w.-]+", "_", Path(out.address.partition("?")[0]).stem) or "data"
    words = [f"cryoflow import {shlex.quote(out.address)} -o {name}.zarr"]
    words += [f"--{n.replace('_', '-')} {shlex.quote(v) if v else ''}".strip() for n, v in out.options.items()]
    return " ".join(words)
