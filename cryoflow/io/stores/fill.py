"""Stores filled one chunk at a time, over as many runs as it takes, by any number of processes.

``NAME.partial`` holds the store in the making (``store/``), a journal with one small file for each finished chunk
(``journal/``: checksum, size, bad rows), the plan, and a lock. A chunk is written beside and renamed, then entered in
the journal, so that a kill at any moment leaves finished chunks and nothing else; the next run checks them against the
journal and makes the rest. The store gets its completion record and its name last.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ResourceError, StoreError
from cryoflow.io.files import disk_errors
from cryoflow.io.images.lazy import CHUNK_BYTES
from cryoflow.io.stores.chunks import chunk_file
from cryoflow.io.stores.completion import check_chunks, is_complete, manifest, row_dim, write_record
from cryoflow.io.stores.record import record
from cryoflow.io.stores.store import cast, is_bulk, prepare, put_in_place
from cryoflow.schema import SCHEMA_VERSION, validate

__all__ = ["Filling", "Target", "fill_chunk", "fill_rows", "filling", "verify_chunk"]

PIECE = 1 << 20  # bytes that stay in a processor's cache


@dataclass(frozen=True, slots=True)
class Target:
    """One array that is being filled. ``dtype`` is that of chunks that are plain files, None where a codec works."""

    array: str
    journal: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str | None

    @property
    def leading(self) -> int:
        """How many dimensions are divided: rows, or movies and frames."""
        return 2 if len(self.shape) > 3 else 1

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along the divided dimensions."""
        return tuple(-(-n // c) for n, c in zip(self.shape[: self.leading], self.chunk, strict=False))

    def index(self, chunk: int) -> tuple[int, ...]:
        """Place in the grid of the chunk number ``chunk``, in the order of the rows."""
        at = [int(i) for i in np.unravel_index(chunk, self.counts)]
        return (*at, *(0,) * (len(self.shape) - self.leading))

    def chunk_at(self, row: int) -> int:
        """Number of the chunk that begins with ``row`` (of a movie: frames counted through all movies)."""
        if self.leading == 1:
            return row // self.chunk[0]
        movie, frame = divmod(row, self.shape[1])
        return movie * self.counts[1] + frame // self.chunk[1]

    def file(self, chunk: int) -> Path:
        return chunk_file(Path(self.array), *self.index(chunk))

    def entry(self, chunk: int) -> Path:
        return Path(self.journal, str(chunk))


def fill_chunk(image: NDArray[Any], row: NDArray[np.int64], *, target: Target) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write one chunk, whole or not at all, and enter it in the journal; ``bad`` marks images with NaN or infinities.

    A kernel of the engine: ``image`` are the rows ``row`` of the array, exactly those of one chunk.
    """
    bad = bad_images(image)
    with disk_errors(target.array):
        _enter(target, target.chunk_at(int(row[0])), _write(image, target.chunk_at(int(row[0])), target), row[bad])
    return {"bad": bad}, {}


def fill_rows(
    row: NDArray[np.int64], *, target: Target, array: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same for plain chunks of images that lie in files: read, looked at and written while they are in cache.

    ``array`` reads rows: ``array.read(row)``.
    """
    chunk, bad = target.chunk_at(int(row[0])), np.zeros(len(row), bool)
    step = max(1, PIECE // (4 * math.prod(target.shape[1:])))

    def pieces() -> Iterator[NDArray[Any]]:
        for first in range(0, len(row), step):
            part = slice(first, first + step)
            block = cast(array.read(row[part]), np.dtype(target.dtype), target.array)
            bad[part] = bad_images(block)
            yield block

    with disk_errors(target.array):
        target.file(chunk).parent.mkdir(parents=True, exist_ok=True)
        _enter(target, chunk, _write_plain(pieces(), chunk, target), row[bad])
    return {"bad": bad}, {}


def _enter(target: Target, chunk: int, crc: int, bad: NDArray[np.int64]) -> None:
    """Tell the journal that a chunk is whole."""
    entry = {"crc32c": crc, "bytes": target.file(chunk).stat().st_size, "bad": bad.tolist()}
    scratch = Path(target.journal, f".{uuid.uuid4().hex}")
    scratch.write_text(json.dumps(entry))
    scratch.replace(target.entry(chunk))


def bad_images(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Which images hold a NaN or an infinity.

    >>> bad_images(np.array([[[1, 2]], [[np.nan, 0]], [[3e38, 3e38]]], "f4")).tolist()
    [False, True, False]
    """
    if image.dtype.kind != "f" or not image.size:
        return np.zeros(len(image), bool)
    flat = image.reshape(len(image), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        bad: NDArray[np.bool_] = ~np.isfinite(flat.sum(1))  # a quick look; the sum of large numbers may overflow
    for i in np.flatnonzero(bad):
        bad[i] = not np.isfinite(flat[i]).all()
    return bad


def _write(image: NDArray[Any], chunk: int, target: Target) -> int:
    """Write the file of a chunk; its checksum."""
    file = target.file(chunk)
    file.parent.mkdir(parents=True, exist_ok=True)
    if target.dtype is not None:
        return _write_plain([np.ascontiguousarray(image, target.dtype)], chunk, target)
    import zarr

    at, per = target.index(chunk), target.chunk
    region = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(at, per, target.shape, strict=True))
    array = zarr.open_array(target.array, mode="r+", zarr_format=3).with_config({"write_empty_chunks": True})
    array[region] = image.reshape(tuple(r.stop - r.start for r in region))
    return _checksum(file)


def _write_plain(blocks: Iterable[NDArray[Any]], chunk: int, target: Target) -> int:
    """Write pieces of a chunk one after the other and fill it up; the checksum is taken while they are at hand."""
    scratch, dtype = Path(target.journal, f".{uuid.uuid4().hex}"), np.dtype(target.dtype)
    left, crc = math.prod(target.chunk), 0
    with scratch.open("wb", buffering=0) as stream:
        for block in blocks:
            crc, left = _put(stream, block, crc), left - block.size
        if left:  # the last chunk is as long as the others
            crc = _put(stream, np.full(left, np.nan if dtype.kind == "f" else 0, dtype), crc)
    scratch.replace(target.file(chunk))
    return crc


def _put(stream: Any, block: NDArray[Any], crc: int) -> int:
    view = memoryview(block.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while view:  # one call writes 2 GiB at most
        view = view[stream.write(view) :]
    return _crc32c(block, crc)


def _crc32c(data: NDArray[Any], crc: int = 0) -> int:
    from google_crc32c import extend

    raw = data.reshape(-1).view(np.uint8)
    raw.flags.writeable = False  # the library takes nothing else
    return int(extend(crc, raw)) if raw.size else crc


def _checksum(file: Path) -> int:
    return _crc32c(np.fromfile(file, np.uint8))


def verify_chunk(chunk: NDArray[np.int64], *, target: Target) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which chunks of the numbers ``chunk`` are there as the journal says; the entries of others are removed.

    A kernel of the engine, so that a cluster shares the reading.
    """
    return {"whole": np.array([_is_whole(int(i), target) for i in chunk], bool)}, {}


def _is_whole(chunk: int, target: Target) -> bool:
    try:
        entry = json.loads(target.entry(chunk).read_text())
        file = target.file(chunk)
        whole = bool(entry["bytes"] == file.stat().st_size and entry["crc32c"] == _checksum(file))
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        target.entry(chunk).unlink(missing_ok=True)
    return whole


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

    def bad_rows(self, name: str) -> list[int]:
        """Rows (of the store) whose images hold NaN or infinities."""
        target = self.bulk[name]
        per = target.shape[1] if target.leading == 2 else 1
        rows: set[int] = set()
        for chunk in range(math.prod(target.counts)):
            rows.update(row // per for row in json.loads(target.entry(chunk).read_text())["bad"])
        return sorted(rows)

    def finish(self) -> dict[str, list[int]]:
        """Mark bad rows, write the record, and give the store its name; returns the bad rows of each variable."""
        bad = {name: self.bad_rows(name) for name in self.bulk}
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
                         remedy="Choose another with -o, or pass overwrite=True (--overwrite).")  # fmt: skip
    validate(ds, f"import to {path}")
    ds, encoding = prepare(ds, chunk_bytes, image_dtype, str(path))
    bulk = {str(n) for n, v in ds.variables.items() if is_bulk(v) and v.chunks is not None}
    grids = {n: [list(ds[n].shape), list(encoding[n]["chunks"]), ds[n].dtype.str] for n in sorted(bulk)}
    plan = {"identity": identity, "schema": SCHEMA_VERSION, "image_dtype": image_dtype, "arrays": grids}
    with disk_errors(path):
        partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial), disk_errors(path):
        continued = _goes_on(partial, plan, restart)
        if not continued:
            _lay_out(ds, bulk, encoding, partial, plan)
        entry = record(function, parameters, inputs)
        store = Filling(path, partial, ds, entry, {n: _target(partial, n) for n in sorted(bulk)}, continued)
        yield store
        if is_complete(path) and not (partial / "store").exists():
            shutil.rmtree(partial)


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
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


def _goes_on(partial: Path, plan: Mapping[str, Any], restart: bool) -> bool:
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
            remedy="Give the options of the first run, choose another name, or pass restart=True (--restart).",
        )  # fmt: skip
    for item in partial.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        elif item.name != "lock":
            item.unlink()
    return False


def _lay_out(
    ds: xr.Dataset, bulk: set[str], encoding: Mapping[str, Any], partial: Path, plan: Mapping[str, Any]
) -> None:
    """The store without its images; the plan last, which makes this folder one to go on with."""
    import zarr

    store = partial / "store"
    small = [str(n) for n in ds.variables if str(n) not in bulk]
    ds[small].to_zarr(store, mode="w", zarr_format=3, consolidated=False, write_empty_chunks=True,
                      encoding={n: encoding[n] for n in small})  # fmt: skip
    group = zarr.open_group(str(store), mode="r+", zarr_format=3)
    for name in sorted(bulk):
        variable = ds[name].variable
        group.create_array(
            name, shape=variable.shape, dtype=variable.dtype, chunks=encoding[name]["chunks"],
            compressors=encoding[name]["compressors"],
            fill_value=np.nan if variable.dtype.kind == "f" else 0,
            dimension_names=[str(d) for d in variable.dims], attributes=dict(variable.attrs),
        )  # fmt: skip
        (partial / "journal" / name).mkdir(parents=True)
    scratch = partial / ".plan"
    scratch.write_text(json.dumps(plan))
    scratch.replace(partial / "plan.json")


def _target(partial: Path, name: str) -> Target:
    array = partial / "store" / name
    meta = json.loads((array / "zarr.json").read_text())
    raw = [codec["name"] for codec in meta["codecs"]] == ["bytes"]
    dtype = np.dtype(meta["data_type"]).newbyteorder("<").str
    chunk = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
    return Target(str(array), str(partial / "journal" / name), tuple(meta["shape"]), chunk, dtype if raw else None)
