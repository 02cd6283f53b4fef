"""The record that makes a store complete: where it came from, and what must be there for it to be whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import xarray as xr

from cryoflow.errors import StoreError
from cryoflow.io.files import atomic
from cryoflow.io.stores.chunks import chunk_file
from cryoflow.schema import SCHEMA_VERSION

__all__ = ["KEY", "ROWS", "check_chunks", "is_complete", "manifest", "provenance", "roll_back", "write_record"]

ROWS = ("particle", "micrograph", "movie")
KEY = "cryoflow"
_DAMAGED = "The store is damaged: make it again, or restore this file."


def row_dim(ds: xr.Dataset) -> str | None:
    return next((dim for dim in ROWS if dim in ds.dims), None)


def manifest(ds: xr.Dataset, store: Path) -> dict[str, Any]:
    """What must be there for the store to be whole: rows, and chunks of every array (and their bytes, if plain)."""
    dim = row_dim(ds)
    arrays: dict[str, Any] = {}
    for name, variable in ds.variables.items():
        meta = json.loads((store / str(name) / "zarr.json").read_text())
        grid = meta["chunk_grid"]["configuration"]["chunk_shape"]
        raw = [codec["name"] for codec in meta["codecs"]] == ["bytes"]
        itemsize = variable.dtype.itemsize
        arrays[str(name)] = {
            "rows": bool(variable.ndim and variable.dims[0] == dim),
            "shape": list(variable.shape), "chunks": list(grid),
            "chunk_bytes": math.prod(grid) * itemsize if raw and variable.dtype.kind in "fiu" else None,
            "dtype": variable.dtype.str if variable.dtype.kind in "fiu" else None,
        }  # fmt: skip
    return {"dim": dim, "arrays": arrays}


def check_chunks(store: Path, entry: Mapping[str, Any]) -> None:
    for name, array in entry["arrays"].items():
        counts = [-(-n // c) for n, c in zip(array["shape"], array["chunks"], strict=True)]
        if any(c > 1 for c in counts[2:]):
            raise StoreError(f"{store}/{name}", expected="chunks along rows and frames alone", found=f"{counts}")
        for index in product(*map(range, counts)):
            file = chunk_file(store / name, *index) if counts else store / name / "c"
            try:
                size = file.stat().st_size
            except OSError:
                raise StoreError(str(file), expected="a chunk", found="no such file", remedy=_DAMAGED) from None
            plain_bytes = array["chunk_bytes"]
            if plain_bytes is not None and size != plain_bytes:
                raise StoreError(str(file), expected=f"{plain_bytes} bytes", found=f"{size}", remedy=_DAMAGED)


def write_record(store: Path, entry: Mapping[str, Any]) -> None:
    root = store / "zarr.json"
    meta = json.loads(root.read_text())
    meta.setdefault("attributes", {})[KEY] = entry
    with atomic(root) as partial:
        partial.write_text(json.dumps(meta, indent=1))


def provenance(path: str | Path) -> dict[str, Any]:
    """The completion record of a store: function, parameters, versions, digests of inputs, arrays.

    Raises
    ------
    StoreError : no store, not complete, or of a newer schema.
    """
    path = Path(path)
    root = path / "zarr.json"
    if not root.is_file():
        unfinished = path.with_name(f"{path.name}.partial").exists()
        raise StoreError(str(path), expected="a store", found="one that was never finished" if unfinished else "none",
                         remedy="Run the stage that makes it.")  # fmt: skip
    try:
        entry = json.loads(root.read_text())["attributes"][KEY]
    except (KeyError, ValueError):
        raise StoreError(str(path), expected="a completion record", found="none: it was not written to its end, "
                         "or not by cryoflow", remedy="Run the stage that makes it again.") from None  # fmt: skip
    if entry["schema"] > SCHEMA_VERSION:
        raise StoreError(str(path), expected=f"schema {SCHEMA_VERSION} or older", found=f"schema {entry['schema']}",
                         remedy=f"Open it with cryoflow {entry['cryoflow']} or later.")  # fmt: skip
    return dict(entry)


def is_complete(path: str | Path) -> bool:
    """Whether ``open_store`` would take this store (record and all chunks present)."""
    try:
        check_chunks(Path(path), provenance(path))
    except StoreError:
        return False
    return True


def roll_back(path: Path, entry: Mapping[str, Any]) -> None:
    """Give arrays that a killed append left longer the shape that the record says."""
    for name, array in entry["arrays"].items():
        file = path / name / "zarr.json"
        meta = json.loads(file.read_text())
        if meta["shape"] != array["shape"]:
            with atomic(file) as partial:
                partial.write_text(json.dumps(meta | {"shape": array["shape"]}))
