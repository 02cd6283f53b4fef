"""What is neither a table of rows nor a file of images: stores, atomic models, other tables of STAR files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cryoflow.errors import ParameterError
from cryoflow.io.formats import Format
from cryoflow.io.named import named
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["inspect_model", "inspect_store", "inspect_tables", "writer"]

_MODEL_BYTES = 1 << 30


def inspect_tables(entry: Format, out: Inspection) -> None:
    out.facts.update(writer(out.address))
    value = named(entry.read or "")(out.address)
    if isinstance(value, dict):
        out.facts["blocks"] = _blocks(value)
        _empty_blocks(value, out)
    elif hasattr(value, "sizes"):
        out.facts["dims"] = ", ".join(f"{k} {v}" for k, v in value.sizes.items())
        out.facts["columns"] = ", ".join(map(str, list(value.variables)[:20]))
    else:
        out.facts["rows"] = len(value)


def _empty_blocks(tables: dict[str, Any], out: Inspection) -> None:
    """Tell blocks without a row; where the last one is, the file may have been cut off there."""
    empty = [name for name, table in tables.items() if len(table) == 0]
    cut = "The file may be cut off there: write or copy it again." if empty and empty[-1] == list(tables)[-1] else ""
    for name in empty[:5]:
        what = "has labels but no rows" if len(tables[name].columns) else "is empty"
        out.add("warning", out.address, f"block data_{name} {what}", cut if name == empty[-1] else "")
    if len(empty) > 5:
        out.add("warning", out.address, f"{len(empty)} blocks have no rows", cut)


def _blocks(tables: dict[str, Any]) -> dict[str, str]:
    """Each block and its columns; blocks that follow each other and differ in a number at their end share a line."""
    lines: list[tuple[str, str, str]] = []  # first name, last name, what is in them
    for name, table in tables.items():
        columns = list(map(str, table.columns))
        text = f"{len(table)} rows: " + ", ".join(columns[:6]) + (f" and {len(columns) - 6} more" * (len(columns) > 6))
        before = lines[-1] if lines else ("", "", "")
        if before[2] == text and re.sub(r"\d+$", "", before[0]) == re.sub(r"\d+$", "", name):
            lines[-1] = (before[0], name, text)
        else:
            lines.append((name, name, text))
    return {
        f"data_{first}" + (f" .. {last[len(re.sub(r'[0-9]+$', '', last)) :]}" if last != first else ""): text
        for first, last, text in lines
    }


def writer(address: str) -> dict[str, str]:
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


def inspect_store(out: Inspection) -> None:
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


def inspect_model(out: Inspection) -> None:
    """Atoms and chains of a PDB or mmCIF file, also of one on a server."""
    from tempfile import TemporaryDirectory

    from cryoflow.io.model import read_model
    from cryoflow.io.sources.source import is_remote, open_source, read_all

    out.kind, out.format, out.title = "model", "model", "atomic model"
    out.facts["bytes"] = open_source(out.address).size
    with TemporaryDirectory() as folder:
        path = Path(out.address)
        if is_remote(out.address):
            path = Path(folder, out.address.partition("?")[0].rpartition("/")[2])
            path.write_bytes(read_all(out.address, limit=_MODEL_BYTES))
        structure: Any = read_model(path, None, out.address)
    model = structure[0]
    out.facts["atoms"] = model.count_atom_sites()
    out.facts["chains"] = len(model)
    if structure.name:
        out.facts["name"] = structure.name
    out.add("note", out.address, "a model serves as a reference or as a source of simulations",
            "cryoflow refine --reference FILE, cryoflow simulate --source FILE.")  # fmt: skip
