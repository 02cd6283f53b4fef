"""Data sets in Zarr stores that are written whole or not at all.

A store is written to ``NAME.partial``; its completion record (provenance and the count of chunks) goes into the root's
attributes last, and the folder is then renamed. A reader refuses a store without its record, of a newer schema, or with
chunks missing or cut short (Zarr itself reads those as fill values, in silence). Rows beyond the record, left by an
append that was killed, do not exist for readers; the next append overwrites them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError, StoreError
from cryoflow.io.files import disk_errors
from cryoflow.io.images.lazy import CHUNK_BYTES, chunk_rows, lazy
from cryoflow.io.stores.chunks import RawChunks
from cryoflow.io.stores.completion import KEY, check_chunks, manifest, provenance, roll_back, write_record
from cryoflow.io.stores.record import plain, record
from cryoflow.schema import validate

__all__ = ["cast", "is_bulk", "open_store", "prepare", "put_in_place", "save"]

_BULK = 256  # rows of at least as many pixels are images: lazy in chunks and, if real, uncompressed


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
    ds, encoding = prepare(ds, chunk_bytes, image_dtype, str(path))
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
            entry |= manifest(ds, partial)
            check_chunks(partial, entry)
            write_record(partial, entry)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        put_in_place(partial, path)


def _run(delayed: Any) -> None:
    delayed.compute()


def _row_bytes(array: xr.Variable, itemsize: int) -> int:
    return int(np.prod(array.shape[1:], dtype=np.int64)) * itemsize


def is_bulk(array: xr.Variable) -> bool:
    """Whether ``array`` holds images, which stay lazy and go to the disk chunk by chunk."""
    return array.ndim > 2 and math.prod(array.shape[1:]) >= _BULK


def prepare(ds: xr.Dataset, chunk_bytes: float, image_dtype: str, where: str) -> tuple[xr.Dataset, dict[str, Any]]:
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
        bulk = is_bulk(variable)
        grid = _grid(variable, row, chunk_bytes)
        if variable.chunks is not None or (bulk and not variable._in_memory):
            variable = variable.chunk(dict(zip(variable.dims, grid, strict=True)))
        entry: dict[str, Any] = {"chunks": grid} if variable.ndim else {}
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


def _grid(variable: xr.Variable, row_bytes: int, chunk_bytes: float) -> tuple[int, ...]:
    """Shape of a chunk: so many rows, whole; of a movie larger than a chunk so many frames."""
    shape = tuple(max(1, n) for n in variable.shape)
    if variable.ndim < 2:
        return tuple(min(n, chunk_rows(row_bytes, chunk_bytes)) for n in shape)
    if variable.dims[1] == "frame" and variable.ndim > 2:
        return (1, min(shape[1], chunk_rows(row_bytes // shape[1], chunk_bytes)), *shape[2:])
    return (min(shape[0], chunk_rows(row_bytes, chunk_bytes)), *shape[1:])


def _as_image(variable: xr.Variable, dtype: np.dtype[Any], where: str) -> xr.Variable:
    if variable.dtype == dtype:
        return variable
    out: xr.Variable = xr.apply_ufunc(
        cast, variable, kwargs={"dtype": dtype, "where": where}, dask="parallelized", output_dtypes=[dtype],
        keep_attrs=True,
    )  # fmt: skip
    return out


def cast(block: Any, dtype: np.dtype[Any], where: str) -> Any:
    """``block`` as ``dtype``; what float16 cannot hold is an error."""
    if block.dtype == dtype:
        return block
    with np.errstate(over="ignore"):
        out = block.astype(dtype)
    if dtype == np.float16 and np.any(np.isinf(out) & np.isfinite(block)):
        raise StoreError(where, expected="images within float16 (65504)", found=f"{np.nanmax(np.abs(block)):g}",
                         remedy="Normalise the images, or keep image_dtype='float32'.")  # fmt: skip
    return out


def put_in_place(partial: Path, path: Path) -> None:
    """Rename ``partial`` to ``path``; what was there goes last."""
    old = path.with_name(f"{path.name}.old")
    if path.exists():
        if old.exists():
            shutil.rmtree(old)
        path.rename(old)
    partial.rename(path)
    if old.exists():
        shutil.rmtree(old)


def open_store(path: str | Path) -> xr.Dataset:
    """Open a store lazily: images in the store's own chunks, the rest read when used.

    Raises
    ------
    StoreError : no store, not complete, of a newer schema, or with chunks missing or cut short; names the chunk.
    """
    path = Path(path)
    entry = provenance(path)
    check_chunks(path, entry)
    roll_back(path, entry)
    ds: xr.Dataset = xr.open_zarr(path, consolidated=False, zarr_format=3, chunks=None)[list(entry["arrays"])]
    ds.attrs.pop(KEY, None)
    for name, array in entry["arrays"].items():
        variable = ds[name].variable
        if not array["rows"] or not is_bulk(variable):
            continue
        whole = list(array["chunks"][1:]) == [max(1, n) for n in array["shape"][1:]]
        if not whole or array["chunk_bytes"] is None or array["dtype"] is None or array["dtype"][0] == ">":
            ds[name] = variable.chunk({str(d): n for d, n in zip(variable.dims, array["chunks"], strict=True)})
            continue
        stored = np.dtype(array["dtype"])
        raw = RawChunks(
            folder=str((path / name).resolve()), extent=tuple(array["shape"]), chunk=array["chunks"][0], stored=stored,
            dtype=np.dtype(np.float32) if stored == np.float16 else stored,
        )  # fmt: skip
        dims = tuple(str(d) for d in variable.dims)
        ds[name] = lazy(dims, raw, array["chunks"][0], variable.attrs)
    return ds
