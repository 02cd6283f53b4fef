"""The plan of a store in the making: what lies in ``NAME.partial``, whose it is, and whether one may go on with it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ResourceError, StoreError
from cryoflow.io.stores.journal import Target

__all__ = ["goes_on", "lay_out", "locked", "target_of"]


@contextmanager
def locked(partial: Path) -> Iterator[None]:
    """Only one process plans and finishes a store; the lock ends with it, however that ends."""
    with (partial / "lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            raise ResourceError(
                str(partial), expected="no other process filling this store", found=stream.read().strip() or "one",
                remedy="Wait for it, or choose another name with -o.",
            ) from None  # fmt: skip
        stream.seek(0)
        stream.truncate()
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield


def goes_on(partial: Path, plan: Mapping[str, Any], restart: bool) -> bool:
    """Whether what lies there belongs to this plan; if not, it is removed (only if told, where chunks are finished)."""
    try:
        there = json.loads((partial / "plan.json").read_text())
    except (OSError, ValueError):
        there = None
    if there == plan and (partial / "store").is_dir() and not restart:
        return True
    if there is not None and not restart and any((partial / "journal").glob("*/[0-9]*")):
        differs = ", ".join(k for k in plan if plan[k] != there.get(k)) or "its folder"
        raise StoreError(
            str(partial), expected="an unfinished store of the same source and options", found=f"another ({differs})",
            remedy="Give the options of the first run, choose another name, or pass restart=True.",
        )  # fmt: skip
    for item in partial.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        elif item.name != "lock":
            item.unlink()
    return False


def lay_out(
    ds: xr.Dataset, bulk: set[str], encoding: Mapping[str, Any], partial: Path, plan: Mapping[str, Any]
) -> None:
    """The store without its images; the plan last, which makes this folder one to go on with."""
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    memory = MemoryStore(files)  # a third faster than a file at a time
    small = [str(n) for n in ds.variables if str(n) not in bulk]
    ds[small].to_zarr(memory, mode="w", zarr_format=3, consolidated=False, write_empty_chunks=True,
                      encoding={n: encoding[n] for n in small})  # fmt: skip
    group = zarr.open_group(memory, mode="r+", zarr_format=3)
    for name in sorted(bulk):
        variable = ds[name].variable
        group.create_array(
            name, shape=variable.shape, dtype=variable.dtype, chunks=encoding[name]["chunks"],
            compressors=encoding[name]["compressors"],
            fill_value=np.nan if variable.dtype.kind == "f" else 0,
            dimension_names=[str(d) for d in variable.dims], attributes=dict(variable.attrs),
        )  # fmt: skip
    for key, content in files.items():
        file = partial / "store" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.to_bytes())
    for name in bulk:
        (partial / "journal" / name).mkdir(parents=True)
    scratch = partial / ".plan"
    scratch.write_text(json.dumps(plan))
    scratch.replace(partial / "plan.json")


def target_of(partial: Path, name: str) -> Target:
    array = partial / "store" / name
    meta = json.loads((array / "zarr.json").read_text())
    raw = [codec["name"] for codec in meta["codecs"]] == ["bytes"]
    dtype = np.dtype(meta["data_type"]).newbyteorder("<").str
    chunk = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
    return Target(str(array), str(partial / "journal" / name), tuple(meta["shape"]), chunk, dtype if raw else None)
