"""Rows added to a complete store, safe against a kill at any moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import StoreError
from cryoflow.io.files import disk_errors
from cryoflow.io.stores.completion import check_chunks, provenance, write_record
from cryoflow.io.stores.store import cast, open_store
from cryoflow.schema import validate

__all__ = ["append"]


def append(ds: xr.Dataset, path: str | Path) -> None:
    """Add the rows of ``ds`` to a complete store; the record is renewed last.

    A kill at any moment leaves the store as it was before. Images are read chunk by chunk. Quantities without rows
    (optics groups, say) must equal those of the store.

    Raises
    ------
    StoreError : the variables, their shapes or the quantities without rows differ.
    ResourceError : the disk is full; the store is as it was.
    """
    import zarr

    path = Path(path)
    where = f"append to {path}"
    entry = provenance(path)
    validate(ds, where)
    dim = entry["dim"]
    _check_alike(ds, path, entry, where)
    before = next(a["shape"][0] for a in entry["arrays"].values() if a["rows"])
    after = before + ds.sizes[dim]
    with disk_errors(path):
        group = zarr.open_group(str(path), mode="r+", zarr_format=3)
        for name, array in entry["arrays"].items():
            if not array["rows"]:
                continue
            target = group[name]
            target = target.with_config({"write_empty_chunks": True}) if hasattr(target, "with_config") else target
            target.resize((after, *target.shape[1:]))
            first = before
            while first < after:  # whole chunks of the store, so that none is written twice
                stop = min(after, (first // array["chunks"][0] + 1) * array["chunks"][0])
                block = ds[name].isel({dim: slice(first - before, stop - before)}).values
                if name == "image":
                    block = cast(block, target.dtype, where)
                target[first:stop] = block if block.dtype.kind == "T" else block.astype(target.dtype)
                first = stop
            array["shape"][0] = after
        check_chunks(path, entry)
        entry["appended"] = [*entry.get("appended", []), ds.sizes[dim]]
        write_record(path, entry)


def _check_alike(ds: xr.Dataset, path: Path, entry: Mapping[str, Any], where: str) -> None:
    there = open_store(path)
    if entry["dim"] is None or entry["dim"] not in ds.dims:
        raise StoreError(where, expected=f"rows along {entry['dim']!r}", found=f"dims {tuple(ds.dims)}")
    if set(ds.variables) != set(there.variables):
        differ = sorted(map(str, set(ds.variables) ^ set(there.variables)))
        raise StoreError(where, expected="the variables of the store", found=f"a difference in {', '.join(differ)}",
                         remedy="Add or drop them first.")  # fmt: skip
    for name, array in there.variables.items():
        new = ds.variables[name]
        if entry["arrays"][str(name)]["rows"]:
            same = new.dims == array.dims and new.shape[1:] == array.shape[1:]
        else:
            same = new.dims == array.dims and new.shape == array.shape and bool(np.all(new.values == array.values))
        if not same:
            raise StoreError(where, expected=f"{name!r} as in the store, {array.dims} {array.shape}",
                             found=f"{new.dims} {new.shape} or other values",
                             remedy="Bring both to one box and to the same optics groups.")  # fmt: skip
