"""Stores filled one chunk at a time, over as many runs as it takes, by any number of processes.

``NAME.partial`` holds the store in the making (``store/``), a journal with one small file for each finished chunk
(``journal/``: checksum, size, bad rows), the plan, and a lock. A chunk is written beside and renamed, then entered in
the journal, so that a kill at any moment leaves finished chunks and nothing else; the next run checks them against the
journal and makes the rest. The store gets its completion record and its name last.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import StoreError
from cryoflow.io.files import disk_errors
from cryoflow.io.images.lazy import CHUNK_BYTES
from cryoflow.io.stores.completion import check_chunks, is_complete, manifest, row_dim, write_record
from cryoflow.io.stores.journal import Target, bad_rows
from cryoflow.io.stores.plan import goes_on, lay_out, locked, target_of
from cryoflow.io.stores.record import record
from cryoflow.io.stores.store import is_bulk, prepare, put_in_place
from cryoflow.schema import SCHEMA_VERSION, validate

__all__ = ["Filling", "filling"]


@dataclass
class Filling:
    """A store in the making. ``bulk`` are the variables that wait for their chunks, as they will be stored."""

    path: Path
    partial: Path
    ds: xr.Dataset
    entry: dict[str, Any]
    bulk: dict[str, Target] = field(default_factory=dict)
    continued: bool = False

    def rows(self, name: str) -> xr.Variable:
        """The lazy images of ``name`` as rows of one chunk each: a movie's frames are rows."""
        variable = self.ds[name].variable
        if variable.ndim <= 3:
            return variable
        return xr.Variable(("frame", *variable.dims[2:]), variable.data.reshape(-1, *variable.shape[2:]))

    def finish(self) -> dict[str, list[int]]:
        """Mark bad rows, write the record, and give the store its name; returns the bad rows of each variable."""
        bad = {name: bad_rows(target) for name, target in self.bulk.items()}
        with disk_errors(self.path):
            store = self.partial / "store"
            for stray in store.rglob("*.partial"):  # of writers that were killed
                stray.unlink()
            marked = self._mark(sorted(set().union(*bad.values())))
            if marked is not None:
                self.ds = self.ds.assign(marked)
                for name in marked.variables:  # of the source, or of a run that was killed here
                    shutil.rmtree(store / str(name), ignore_errors=True)
                _, encoding = prepare(marked, CHUNK_BYTES, "float32", str(self.path))
                marked.to_zarr(store, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
            entry = self.entry | manifest(self.ds, store) | {"bad_rows": {n: r for n, r in bad.items() if r}}
            check_chunks(store, entry)
            write_record(store, entry)
            put_in_place(store, self.path)
        return bad

    def _mark(self, rows: list[int]) -> xr.Dataset | None:
        """``usable`` and ``reason`` with the bad rows told."""
        dim = row_dim(self.ds)
        if not rows or dim is None:
            return None
        n = self.ds.sizes[dim]
        usable = np.array(self.ds["usable"].values if "usable" in self.ds else np.ones(n, bool))
        reason = np.array(self.ds["reason"].values if "reason" in self.ds else [""] * n, np.dtypes.StringDType())
        usable[rows] = False
        reason[rows] = [r or "NaN or infinity in the image" for r in reason[rows]]
        return xr.Dataset({"usable": (dim, usable), "reason": (dim, reason)})


@contextmanager
def filling(
    ds: xr.Dataset,
    path: str | Path,
    *,
    function: str,
    parameters: Mapping[str, Any],
    identity: str,
    inputs: Iterable[Any] = (),
    chunk_bytes: float = CHUNK_BYTES,
    image_dtype: str = "float32",
    overwrite: bool = False,
    restart: bool = False,
) -> Iterator[Filling]:
    """Begin the store ``path``, or go on with what an earlier run of the same ``identity`` left.

    Everything but the images is written now. Fill all chunks inside the block, call ``finish``, and the store is
    there; leave the block without it, or be killed, and the next call goes on.

    Parameters
    ----------
    identity : names the content: source, its state, and whatever decides the bits.
    restart : throw away what a run of another identity left; without it that is refused.
    The others are those of ``save``.

    Raises
    ------
    StoreError : the store exists, or an unfinished one of another identity does.
    ResourceError : another process fills it, or the disk is full.
    """
    path = Path(path).absolute()
    partial = path.with_name(f"{path.name}.partial")
    if path.exists() and not overwrite:
        raise StoreError(str(path), expected="a new name", found="an existing store",
                         remedy="Choose another name, or pass overwrite=True.")  # fmt: skip
    validate(ds, f"import to {path}")
    ds, encoding = prepare(ds, chunk_bytes, image_dtype, str(path))
    bulk = {str(n) for n, v in ds.variables.items() if is_bulk(v) and v.chunks is not None}
    grids = {n: [list(ds[n].shape), list(encoding[n]["chunks"]), ds[n].dtype.str] for n in sorted(bulk)}
    plan = {"identity": identity, "schema": SCHEMA_VERSION, "image_dtype": image_dtype, "arrays": grids}
    with disk_errors(path):
        partial.mkdir(parents=True, exist_ok=True)
    with locked(partial), disk_errors(path):
        continued = goes_on(partial, plan, restart)
        if not continued:
            lay_out(ds, bulk, encoding, partial, plan)
        entry = record(function, parameters, inputs)
        store = Filling(path, partial, ds, entry, {n: target_of(partial, n) for n in sorted(bulk)}, continued)
        yield store
        if is_complete(path) and not (partial / "store").exists():
            shutil.rmtree(partial)
