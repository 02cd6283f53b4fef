"""Data sets in Zarr stores that are written whole or not at all.

A store is written to ``NAME.partial``; its completion record (provenance and the count of chunks) goes into the root's
attributes last, and the folder is then renamed. A reader refuses a store without its record, of a newer schema, or with
chunks missing or cut short (Zarr itself reads those as fill values, in silence). Rows beyond the record, left by an
append that was killed, do not exist for readers; the next append overwrites them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError, StoreError
from cryoflow.io.chunks import RawChunks, chunk_file
from cryoflow.io.files import atomic, disk_errors
from cryoflow.io.lazy import CHUNK_BYTES, chunk_rows, lazy
from cryoflow.io.record import plain, record
from cryoflow.schema import SCHEMA_VERSION, validate

__all__ = ["append", "is_complete", "open_store", "provenance", "save"]

_ROWS = ("particle", "micrograph", "movie")
_KEY = "cryoflow"
_DAMAGED = "The store is damaged: make it again, or restore this file."
_BULK = 4096  # bytes: rows at least this large are images, kept lazy in chunks and, if real, uncompressed


def save(
    ds: xr.Dataset,
    path: str | Path,
    *,
    function: str,
    parameters: Mapping[str, Any],
    inputs: Iterable[Any] = (),
    chunk_bytes: float = CHUNK_BYTES,
    image_dtype: str = "float32",
    overwrite: bool = False,
    compute: Callable[[Any], Any] | None = None,
) -> None:
    """Write ``ds`` to the store ``path``, whole or not at all.

    Parameters
    ----------
    function, parameters : what made the data, and how; kept as provenance.
    inputs : files, stores or arrays it was made from; their SHA-256 digests are kept.
    chunk_bytes : size of a chunk in bytes; only the rows are divided.
    image_dtype : float32, or float16 at half the size; read back as float32 either way.
    overwrite : replace a store of this name, once the new one is complete.
    compute : runs the lazy writing (a Dask ``Delayed``); by default its own ``compute()`` in this process.

    Raises
    ------
    StoreError : the store exists, or something in it cannot be stored.
    SchemaError : ``ds`` breaks the schema.
    ResourceError : the disk is full; ``path`` is then as it was before.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "p.zarr"
    >>> ds = xr.Dataset({"defocus_u": ("particle", [9000.0, 12000.0])})
    >>> save(ds, path, function="example", parameters={"n": 2})
    >>> open_store(path).defocus_u.values.tolist(), provenance(path)["function"]
    ([9000.0, 12000.0], 'example')
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise StoreError(str(path), expected="a new name", found="an existing store", remedy="Pass overwrite=True.")
    validate(ds, f"save({path})")
    entry = record(function, parameters, inputs)
    ds, encoding = _prepare(ds, chunk_bytes, image_dtype, str(path))
    partial = path.with_name(f"{path.name}.partial")
    with disk_errors(path):
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            delayed = ds.to_zarr(
                partial, mode="w", zarr_format=3, consolidated=False, encoding=encoding, compute=False,
                write_empty_chunks=True,
            )  # fmt: skip
            (compute or _run)(delayed)
            entry |= _manifest(ds, partial)
            _check_chunks(partial, entry)
            _write_record(partial, entry)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _put_in_place(partial, path)


def _run(delayed: Any) -> None:
    delayed.compute()


def _row_dim(ds: xr.Dataset) -> str | None:
    return next((dim for dim in _ROWS if dim in ds.dims), None)


def _row_bytes(array: xr.Variable, itemsize: int) -> int:
    return int(np.prod(array.shape[1:], dtype=np.int64)) * itemsize


def _prepare(ds: xr.Dataset, chunk_bytes: float, image_dtype: str, where: str) -> tuple[xr.Dataset, dict[str, Any]]:
    """The Dataset in chunks as it will be stored, and how each variable is encoded."""
    from zarr.codecs import BloscCodec, ZstdCodec

    if image_dtype not in ("float32", "float16"):
        raise ParameterError(where, expected="image_dtype 'float32' or 'float16'", found=repr(image_dtype))
    ds = ds.drop_encoding()
    ds.attrs = plain(ds.attrs, f"{where}, attrs")
    encoding: dict[str, Any] = {}
    for key, array in ds.variables.items():
        name, variable = str(key), array.copy(deep=False)
        variable.attrs = plain(array.attrs, f"{where}, attrs of {name}")
        if name == "image":
            variable = _as_image(variable, np.dtype(image_dtype), where)
        text = variable.dtype.kind in "TUO"
        if text and variable.dtype.kind != "T":
            variable = xr.Variable(variable.dims, np.asarray(variable.values, np.dtypes.StringDType()), variable.attrs)
        row = _row_bytes(variable, 64 if text else variable.dtype.itemsize)
        bulk = variable.ndim > 1 and row >= _BULK
        size = min(max(1, variable.shape[0]), chunk_rows(row, chunk_bytes)) if variable.ndim else 1
        if variable.chunks is not None or (bulk and not variable._in_memory):
            variable = variable.chunk({variable.dims[0]: size, **dict.fromkeys(variable.dims[1:], -1)})
        entry: dict[str, Any] = {"chunks": (size, *(max(1, n) for n in variable.shape[1:]))} if variable.ndim else {}
        if bulk and variable.dtype.kind == "f":
            entry["compressors"] = ()  # noise does not compress
        elif bulk:
            entry["compressors"] = (BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),)
        else:
            entry["compressors"] = (ZstdCodec(level=1),)
        if not text:
            entry["_FillValue"] = None
        encoding[name] = entry
        ds[name] = variable
    return ds, encoding


def _as_image(variable: xr.Variable, dtype: np.dtype[Any], where: str) -> xr.Variable:
    if variable.dtype == dtype:
        return variable
    out: xr.Variable = xr.apply_ufunc(
        _cast, variable, kwargs={"dtype": dtype, "where": where}, dask="parallelized", output_dtypes=[dtype],
        keep_attrs=True,
    )  # fmt: skip
    return out


def _cast(block: Any, dtype: np.dtype[Any], where: str) -> Any:
    with np.errstate(over="ignore"):
        out = block.astype(dtype)
    if dtype == np.float16 and np.any(np.isinf(out) & np.isfinite(block)):
        raise StoreError(where, expected="images within float16 (65504)", found=f"{np.nanmax(np.abs(block)):g}",
                         remedy="Normalise the images, or keep image_dtype='float32'.")  # fmt: skip
    return out


def _manifest(ds: xr.Dataset, store: Path) -> dict[str, Any]:
    """What must be there for the store to be whole: rows, and chunks of every array (and their bytes, if plain)."""
    dim = _row_dim(ds)
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


def _check_chunks(store: Path, entry: Mapping[str, Any]) -> None:
    for name, array in entry["arrays"].items():
        counts = [-(-n // c) for n, c in zip(array["shape"], array["chunks"], strict=True)]
        if any(c > 1 for c in counts[1:]):
            raise StoreError(f"{store}/{name}", expected="chunks along the rows alone", found=f"{counts}")
        for index in range(counts[0] if counts else 1):
            file = chunk_file(store / name, index, len(counts)) if counts else store / name / "c"
            try:
                size = file.stat().st_size
            except OSError:
                raise StoreError(str(file), expected="a chunk", found="no such file", remedy=_DAMAGED) from None
            plain_bytes = array["chunk_bytes"]
            if plain_bytes is not None and size != plain_bytes:
                raise StoreError(str(file), expected=f"{plain_bytes} bytes", found=f"{size}", remedy=_DAMAGED)


def _write_record(store: Path, entry: Mapping[str, Any]) -> None:
    root = store / "zarr.json"
    meta = json.loads(root.read_text())
    meta.setdefault("attributes", {})[_KEY] = entry
    with atomic(root) as partial:
        partial.write_text(json.dumps(meta, indent=1))


def _put_in_place(partial: Path, path: Path) -> None:
    if path.exists():
        old = path.with_name(f"{path.name}.old")
        if old.exists():
            shutil.rmtree(old)
        path.rename(old)
        partial.rename(path)
        shutil.rmtree(old)
    else:
        partial.rename(path)


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
        entry = json.loads(root.read_text())["attributes"][_KEY]
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
        _check_chunks(Path(path), provenance(path))
    except StoreError:
        return False
    return True


def open_store(path: str | Path) -> xr.Dataset:
    """Open a store lazily: images in the store's own chunks, the rest read when used.

    Raises
    ------
    StoreError : no store, not complete, of a newer schema, or with chunks missing or cut short; names the chunk.
    """
    path = Path(path)
    entry = provenance(path)
    _check_chunks(path, entry)
    _roll_back(path, entry)
    ds: xr.Dataset = xr.open_zarr(path, consolidated=False, zarr_format=3, chunks=None)[list(entry["arrays"])]
    ds.attrs.pop(_KEY, None)
    dim = entry["dim"]
    for name, array in entry["arrays"].items():
        if not array["rows"] or len(array["shape"]) < 2:
            continue
        variable = ds[name].variable
        if _row_bytes(variable, variable.dtype.itemsize) < _BULK:
            continue
        if array["chunk_bytes"] is None or array["dtype"] is None or array["dtype"][0] == ">":
            ds[name] = variable.chunk({dim: array["chunks"][0]})
            continue
        stored = np.dtype(array["dtype"])
        raw = RawChunks(
            folder=str((path / name).resolve()), extent=tuple(array["shape"]), chunk=array["chunks"][0], stored=stored,
            dtype=np.dtype(np.float32) if stored == np.float16 else stored,
        )  # fmt: skip
        dims = tuple(str(d) for d in variable.dims)
        ds[name] = lazy(dims, raw, array["chunks"][0], variable.attrs)
    return ds


def _roll_back(path: Path, entry: Mapping[str, Any]) -> None:
    """Give arrays that a killed append left longer the shape that the record says."""
    for name, array in entry["arrays"].items():
        file = path / name / "zarr.json"
        meta = json.loads(file.read_text())
        if meta["shape"] != array["shape"]:
            with atomic(file) as partial:
                partial.write_text(json.dumps(meta | {"shape": array["shape"]}))


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
                    block = _cast(block, target.dtype, where)
                target[first:stop] = block if block.dtype.kind == "T" else block.astype(target.dtype)
                first = stop
            array["shape"][0] = after
        _check_chunks(path, entry)
        entry["appended"] = [*entry.get("appended", []), ds.sizes[dim]]
        _write_record(path, entry)


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
