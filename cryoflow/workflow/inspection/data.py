"""``inspect_data``: what a file or folder is, what is wrong with it, and how it is imported."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.formats import Format, detect, find_format
from cryoflow.io.named import named
from cryoflow.io.sources.source import is_remote, normal
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["inspect_data"]

_MODELS = (".pdb", ".cif", ".mmcif", ".ent", ".pdb.gz", ".cif.gz")
_TABLES = ("particles", "micrographs", "coordinates", "movies")


def inspect_data(
    address: str | Path, *, full: bool = False, format: str | None = None, root: str | None = None
) -> Inspection:
    """What a file, folder or URL is, what is wrong with it, and the command that imports it.

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
    if not format and not is_remote(text) and local.is_dir() and local.suffix != ".zarr":
        with out.catching():
            inspect_folder_of(out, full)
        return out
    if not format and text.lower().endswith(_MODELS):
        with out.catching():
            _model(out)
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


def inspect_folder_of(out: Inspection, full: bool) -> None:
    from cryoflow.workflow.inspection.folder import inspect_folder

    inspect_folder(out, full=full)


def _by_kind(entry: Format, out: Inspection, full: bool, root: str | None) -> None:
    from cryoflow.workflow.inspection.images import inspect_images

    if entry.kind == "store":
        _store(out)
    elif entry.kind in _TABLES and entry.name not in ("eer", "tiff"):
        _table(entry, out, full, root)
    elif entry.kind == "metadata":
        _metadata(entry, out)
    else:
        inspect_images(out, full=full)
        if not out.broken:
            there = {"pixel_size"} if out.facts.get("pixel size", "not said") != "not said" else set()
            out.command = _command(out.address, _missing_optics(entry, there))
    if out.kind in _TABLES and "optics" not in out.facts and entry.kind not in ("coordinates",) and out.facts:
        out.add("note", out.address, "no optics are said", "Give --pixel-size, --voltage, --cs, --amplitude-contrast.")


def _reader(entry: Format) -> Any:
    return named(entry.read or "")


def _table(entry: Format, out: Inspection, full: bool, root: str | None) -> None:
    """A table of rows: read without images, then checked, then its image files."""
    from cryoflow.workflow.inspection.columns import check_columns, describe_columns
    from cryoflow.workflow.inspection.stacks import check_stacks

    takes = inspect.signature(_reader(entry)).parameters
    plain = {"images": False, "mixed_pixel_sizes": True}
    options = {k: v for k, v in plain.items() if k in takes}
    given: list[str] = []
    out.facts.update(_writer(out.address))
    try:
        ds = _reader(entry)(out.address, **options)
    except CryoflowError as error:
        if "pixel_size" not in takes or "pixel" not in f"{error.expected} {error.found} {error.remedy}":
            raise
        # a table without a pixel size is whole; it takes an option to open it
        out.fail(error, severity="warning" if error.found.startswith("none") else "error")
        ds = _reader(entry)(out.address, **options, pixel_size=1.0)
        given.append("pixel_size")
        for name in ("pixel_size",):
            ds = ds.drop_vars(name, errors="ignore")
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
    extra = [f"--{n.replace('_', '-')} {v}" for n, v in _missing_optics(entry, set(map(str, ds.variables)))]
    if "root of names" in out.facts:
        extra.append(f"--root {shlex.quote(str(out.facts['root of names']))}")
    elif any("stacks are not there" in f.what for f in out.findings):
        extra.append("--root FOLDER")
    if entry.kind != "coordinates":
        out.command = _command(out.address, [tuple(e.split(" ", 1)) for e in extra])


def _missing_optics(entry: Format, there: set[str]) -> list[tuple[str, str]]:
    takes = inspect.signature(_reader(entry)).parameters
    wanted = {"pixel_size": "ANGSTROM", "voltage": "KV", "cs": "MM", "amplitude_contrast": "FRACTION"}
    return [(n, v) for n, v in wanted.items() if n in takes and n not in there]


def _command(address: str, options: list[Any]) -> str:
    name = re.sub(r"[^\w.-]+", "_", Path(address.partition("?")[0]).stem) or "data"
    words = [f"cryoflow import {shlex.quote(address)} -o {name}.zarr"]
    words += [f"{n if str(n).startswith('--') else '--' + str(n).replace('_', '-')} {v}" for n, v in options]
    return " ".join(words)


def _metadata(entry: Format, out: Inspection) -> None:
    out.facts.update(_writer(out.address))
    value = _reader(entry)(out.address)
    if isinstance(value, dict):
        out.facts["blocks"] = {
            f"data_{name}": f"{len(table)} rows: " + ", ".join(map(str, list(table.columns)[:6]))
            for name, table in value.items()
        }  # fmt: skip
    elif hasattr(value, "sizes"):
        out.facts["dims"] = ", ".join(f"{k} {v}" for k, v in value.sizes.items())
        out.facts["columns"] = ", ".join(map(str, list(value.variables)[:20]))
    else:
        out.facts["rows"] = len(value)


def _writer(address: str) -> dict[str, str]:
    """What a text file's first lines say about the program that wrote it."""
    from cryoflow.io.sources.source import open_source

    source = open_source(address)
    head = source.read(0, min(source.size, 4096))
    programs = rb"RELION|cisTEM|Frealign|Warp|crYOLO|CTFFIND|created by"
    found = re.search(rb"^#\s*(version\s+\d+|.*(?:%s)[^\r\n]*)" % programs, head, re.MULTILINE | re.IGNORECASE)
    if found is None:
        return {}
    text = found[1].decode("utf-8", "replace").strip()[:100]
    number = re.fullmatch(r"version\s+(\d)\d{4}", text)
    if number is None:
        return {"written by": text}
    return {"written by": f"RELION {'3.1 or 4' if number[1] == '3' else number[1]} ({text})"}


def _store(out: Inspection) -> None:
    import json

    from cryoflow.io import open_store, provenance
    from cryoflow.io.expression import row_dim
    from cryoflow.schema import VARIABLES
    from cryoflow.workflow.inspection.columns import check_columns

    made = provenance(out.address)
    ds = open_store(out.address)
    out.facts["made by"] = f"{made['function']}, cryoflow {made['cryoflow']}"
    out.facts["parameters"] = json.dumps(made["parameters"], default=str)
    out.facts["dims"] = ", ".join(f"{k} {v}" for k, v in ds.sizes.items())
    columns = {}
    for name, array in ds.variables.items():
        known = VARIABLES.get(str(name))
        text = f"{known.doc}{f' [{known.units}]' if known.units else ''}" if known else ""
        kind = "text" if array.dtype.kind in tuple("TUO") else str(array.dtype)
        columns[str(name)] = f"{kind} {' x '.join(map(str, array.dims))}  {text}".strip()
    out.facts["columns"] = columns
    try:
        row_dim(ds, out.address)
    except ParameterError:
        return
    check_columns(ds, out)
    _stored_images(ds, out)


def _stored_images(ds: Any, out: Inspection) -> None:
    import numpy as np

    from cryoflow.workflow.inspection.pixels import SAMPLE, picture, spread

    name = next((n for n in ("image", "micrograph") if n in ds), None)
    if name is None:
        return
    array = ds[name]
    rows = spread(array.shape[0], SAMPLE if name == "image" else 4)
    values = np.asarray(array.isel({array.dims[0]: rows}).values)
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1) if values.dtype.kind == "f" else np.zeros(len(rows))
    if np.any(bad):
        out.add("error", out.address, f"{int(np.sum(bad))} of {len(rows)} images looked at hold NaN or infinity")
    out.thumbnail = picture(list(values[:16].reshape(-1, *values.shape[-2:])[:16]))


def _model(out: Inspection) -> None:
    from cryoflow.io.model import read_model

    out.kind, out.format, out.title = "model", "model", "atomic model"
    structure: Any = read_model(Path(out.address), None, out.address)
    model = structure[0]
    atoms = model.count_atom_sites()
    out.facts["bytes"] = Path(out.address).stat().st_size
    out.facts["atoms"] = atoms
    out.facts["chains"] = len(model)
    if structure.name:
        out.facts["name"] = structure.name
    out.command = ""
    out.add("note", out.address, "a model serves as a reference or as a source of simulations",
            "cryoflow refine --reference FILE, cryoflow simulate --source FILE.")  # fmt: skip
