"""The plan of a store in the making: what lies in ``NAME.partial``, whose it is, and whether one may go on with it."""

from __future__ import annotations

import fcntl
import json
import os
import posixpath
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
from cryoflow.io.stores.new_store import store_files

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
    files = store_files(ds, encoding, bulk)
    for folder in sorted({posixpath.dirname(name) for name in files}):
        (partial / "store" / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (partial / "store" / name).write_bytes(content)
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
