"""``import_data``: anything that opens becomes a store, one task an output chunk, over as many runs as it takes."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import FormatError, ResourceError, kind_of
from cryoflow.io.amounts import human_bytes
from cryoflow.io.images.lazy import CHUNK_BYTES

__all__ = ["Imported", "import_data"]

log = logging.getLogger("cryoflow")
_VERIFIED = 16  # chunks that one task checks
_TABLE_BYTES = 1 << 28  # files up to this size are hashed for the record; stacks are known by size and time


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: ``chunks`` of the store, those ``kept`` of an earlier run, ``bad_rows`` of each variable."""

    path: Path
    kind: str
    rows: int
    bytes: int
    chunks: int
    kept: int
    bad_rows: Mapping[str, list[int]]


def import_data(
    source: str | Path,
    output: str | Path,
    *,
    format: str | None = None,
    image_dtype: str = "float32",
    chunk_bytes: float = CHUNK_BYTES,
    overwrite: bool = False,
    restart: bool = False,
    client: Any = None,
    progress: bool | Callable[[int, int], None] | None = None,
    **options: Any,
) -> Imported:
    """Turn a particle set, micrographs, movies or a map into the store ``output``.

    Every chunk is a task of its own. A finished chunk is kept whatever happens afterwards: run the same import again
    and it checks what is there and makes the rest, with the bits of an import that nothing disturbed. The store
    appears whole or not at all; importing the same source once more changes nothing.

    Parameters
    ----------
    source : a file, a folder or pattern of micrographs, a store, or a URL; any format of ``cryoflow.io.formats``.
    format : name of the format, where the file does not tell it.
    image_dtype : float32, or float16 at half the size.
    chunk_bytes : bytes of a chunk of images as stored.
    overwrite : replace a store of that name, once the new one is complete.
    restart : throw away what an interrupted import of another source or other options left.
    client : a Dask client; its workers must see ``output`` under the same path. None: this machine's cores.
    progress : True, False, None (where stderr is a terminal) or a function of (rows done, all rows).
    options : for the reader: ``pixel_size``, ``voltage``, ``cs``, ``root``, ``allow_outside``, ...

    Returns
    -------
    What was done. Images with NaN or infinities are stored as they are, marked ``usable`` False with a ``reason``, and
    told by row in ``bad_rows`` (from 0).

    Raises
    ------
    FormatError, ParameterError : the source cannot be opened; nothing is written then.
    StoreError : ``output`` exists, or an unfinished import of something else does.
    ResourceError : too little disk; another process imports to ``output``.
    ComputeError : a chunk cannot be read; finished chunks are kept.

    Examples
    --------
    >>> import tempfile
    >>> from cryoflow.io import write_map
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_map(folder / "m.mrc", np.ones((16, 16, 16)), pixel_size=2.0)
    >>> import_data(folder / "m.mrc", folder / "m.zarr").kind
    'map'
    """
    from cryoflow.io.formats import open_data
    from cryoflow.io.images.gather import source_of
    from cryoflow.io.stores.fill import filling

    path = Path(output).absolute()
    ds = _as_dataset(open_data(source, format=format, **options), str(source))
    identity = _identity(ds, image_dtype, chunk_bytes)
    if path.exists() and not overwrite and _is_same(path, identity):
        return _summary(ds, path, 0, 0, {})
    parameters = {"source": str(source), "format": format, "identity": identity, "image_dtype": image_dtype,
                  "chunk_bytes": chunk_bytes, **options}  # fmt: skip
    inputs = [source] if "://" not in str(source) and _is_table(Path(source)) else []
    begin = filling(
        ds, path, function="import_data", parameters=parameters, identity=identity, inputs=inputs,
        chunk_bytes=chunk_bytes, image_dtype=image_dtype, overwrite=overwrite, restart=restart,
    )  # fmt: skip
    sources = {str(n): source_of(v) for n, v in ds.variables.items()}
    with begin as store:
        compute = _computing(client, progress)
        todo = {name: _unfinished(target, compute) for name, target in store.bulk.items()}
        total = sum(math.prod(t.counts) for t in store.bulk.values())
        kept = total - sum(map(len, todo.values()))
        if store.continued:
            log.info("%d of %d chunks of an earlier import are whole and kept", kept, total)
        _check_space(path, sum(len(todo[n]) * _chunk_size(t) for n, t in store.bulk.items()))
        for name, chunks in todo.items():
            if chunks:
                _fill(store, name, chunks, str(source), compute, sources.get(name))
        bad = {name: rows for name, rows in store.finish().items() if rows}
    return _summary(ds, path, total, kept, bad)


def _as_dataset(opened: Any, source: str) -> xr.Dataset:
    if isinstance(opened, xr.Dataset):
        return opened
    if isinstance(opened, xr.DataArray):
        return opened.to_dataset(name=opened.name or "map")
    tables = isinstance(opened, dict)
    raise FormatError(
        source, expected="images, particles, micrographs, movies or a map",
        found=f"other tables ({', '.join(f'data_{name}' for name in list(opened)[:5])})" if tables else kind_of(opened),
        remedy="`cryoflow inspect` tells what is in it.",
    )  # fmt: skip


def _identity(ds: xr.Dataset, image_dtype: str, chunk_bytes: float) -> str:
    """What decides the bits of the store: the values in memory, the names of the lazy arrays, and the options."""
    from cryoflow import __version__
    from cryoflow.io.stores.record import digest

    sha = hashlib.sha256(f"{__version__} {image_dtype} {int(chunk_bytes)}".encode())
    for name, variable in ds.variables.items():
        content = str(variable.data.name) if variable.chunks is not None else digest(variable.values)
        sha.update(f"\n{name} {variable.dims} {variable.shape} {variable.dtype} {content}".encode())
    return sha.hexdigest()


def _is_same(path: Path, identity: str) -> bool:
    """Whether the store is complete and of this very import; what a run killed at its last step left is removed."""
    from cryoflow.io.stores.completion import is_complete, provenance

    if not is_complete(path) or provenance(path)["parameters"].get("identity") != identity:
        return False
    left = path.with_name(f"{path.name}.partial")
    if left.exists() and not (left / "store").exists():
        shutil.rmtree(left)
    return True


def _is_table(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= _TABLE_BYTES


def _computing(client: Any, progress: Any) -> Callable[..., Any]:
    from cryoflow.engine import compute

    return lambda lazy, label: compute(lazy, client=client, progress=progress, label=label)[0]


def _unfinished(target: Any, compute: Callable[..., Any]) -> list[int]:
    """Chunks without a journal entry that holds, in their order."""
    from cryoflow.engine import map_rows
    from cryoflow.io.stores.journal import verify_chunk

    count = math.prod(target.counts)
    entered = np.array([i for i in range(count) if target.entry(i).exists()], np.int64)
    whole: set[int] = set()
    if len(entered):
        data = xr.Dataset({"chunk": ("entry", entered)}).chunk({"entry": _VERIFIED})
        lazy = map_rows(partial(verify_chunk, target=target), data, dim="entry", outputs={"whole": (("entry",), bool)})
        whole = set(entered[compute(lazy["whole"], "check").values].tolist())
    return [i for i in range(count) if i not in whole]


def _fill(
    store: Any, name: str, chunks: list[int], source: str, compute: Callable[..., Any], array: Any = None
) -> None:
    """Make ``chunks``; straight from ``array``, the files behind the variable, where no codec is needed."""
    from cryoflow.engine import map_rows
    from cryoflow.io.stores.write_chunk import fill_chunk, fill_rows

    variable, target = store.rows(name), store.bulk[name]
    dim = str(variable.dims[0])
    data = xr.Dataset({"row": (dim, np.arange(variable.shape[0]))})
    data.encoding["source"] = source
    outputs = {"bad": ((dim,), bool)}
    if target.dtype is not None and target.leading == 1 and hasattr(array, "read"):
        data = data.chunk({dim: target.chunk[0]})
        lazy = map_rows(partial(fill_rows, target=target), data, {"array": array}, dim=dim, outputs=outputs)
    else:
        data["image"] = variable
        lazy = map_rows(partial(fill_chunk, target=target), data, dim=dim, outputs=outputs)
    bad = lazy["bad"].data
    compute(bad if len(chunks) == math.prod(target.counts) else bad.blocks[chunks], "import")


def _chunk_size(target: Any) -> int:
    return math.prod(target.chunk) * np.dtype(target.dtype).itemsize if target.dtype else 0


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise ResourceError(
            str(path), expected=f"{human_bytes(needed)} of free disk", found=human_bytes(free),
            remedy="Free some, choose another disk with -o, or take image_dtype='float16' (--float16).",
        )  # fmt: skip


def _summary(ds: xr.Dataset, path: Path, chunks: int, kept: int, bad: Mapping[str, list[int]]) -> Imported:
    dim = next((d for d in ("particle", "micrograph", "movie") if d in ds.dims), "map")
    size = sum(int(v.nbytes) for v in ds.variables.values() if v.ndim > 2)
    return Imported(path, dim, int(ds.sizes.get(dim, 1)), size, chunks, kept, bad)
