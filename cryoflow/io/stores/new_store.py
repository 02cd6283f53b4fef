"""The files of a new store, made by Zarr in one go: the metadata of all arrays, and the values of small ones.

xarray's own writer asks Zarr four times for each variable, each time by way of another thread; that is most of what
the import of a small stack takes. The files are the same, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["store_files"]


def store_files(ds: xr.Dataset, encoding: Mapping[str, Any], bulk: set[str]) -> dict[str, bytes]:
    """Content of every file of a store of ``ds`` by its name; of ``bulk`` variables the metadata alone.

    ``encoding`` is that of ``prepare``.
    """
    from zarr.storage import MemoryStore

    variables, attrs = xr.conventions.encode_dataset_coordinates(ds)
    arrays = {str(name): variable for name, variable in variables.items()}
    files: dict[str, Any] = {}
    with ThreadPoolExecutor(1) as pool:  # a thread without a loop of its own, which this one may have (notebooks)
        pool.submit(asyncio.run, _create(MemoryStore(files), attrs, arrays, encoding, bulk)).result()
    return {name: content.to_bytes() for name, content in files.items()}


async def _create(
    store: Any, attrs: Mapping[str, Any], arrays: Mapping[str, xr.Variable], encoding: Mapping[str, Any], bulk: set[str]
) -> None:
    from zarr.api.asynchronous import create_group

    group = await create_group(store=store, attributes=dict(attrs), zarr_format=3)
    for name, array in arrays.items():  # one after the other: lazy values are in memory only while they are written
        made = await group.create_array(
            name, shape=array.shape, dtype=array.dtype, chunks=encoding[name].get("chunks", "auto"),
            compressors=encoding[name]["compressors"], dimension_names=[str(d) for d in array.dims],
            attributes=dict(array.attrs), config={"write_empty_chunks": True},
            **({"fill_value": np.nan} if array.dtype.kind == "f" else {}),
        )  # fmt: skip
        if name not in bulk:
            await made.setitem(..., array.values)
