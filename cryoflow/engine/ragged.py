"""Children cut from parents (particles from micrographs): a lazy array whose chunks follow the parents."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.engine import device
from cryoflow.engine.binding import kernel_name
from cryoflow.errors import ComputeError, CryoflowError, SchemaError
from cryoflow.kernels.backend import to_device, to_host

__all__ = ["map_children"]


def map_children(
    kernel: Callable[..., Any],
    parents: xr.DataArray,
    parent: NDArray[Any],
    table: Mapping[str, NDArray[Any]],
    shared: Mapping[str, Any],
    *,
    shape: tuple[int, ...],
    dtype: str = "float32",
    rows: int,
) -> Any:
    """A lazy array (child, *shape): ``kernel(parents[p], **table rows of the children of p, **shared)``.

    Every chunk has at most ``rows`` children, all of one parent, so a task holds one parent and one chunk of children.

    Parameters
    ----------
    kernel : returns an array (children of the call, *shape).
    parents : rows are parents; made of one chunk a parent if it is not already.
    parent : (child,) row of the parent of each child, ascending.
    table : name -> (child, ...) arrays, cut by chunk.
    shared : the same for all.

    Raises
    ------
    SchemaError : ``parent`` is not ascending or out of range.

    >>> parents = xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("m", "x"))
    >>> def pick(row, *, at, scale):
    ...     return scale * row[at]
    >>> lazy = map_children(pick, parents, np.array([0, 1, 1]), {"at": np.array([2, 0, 1])}, {"scale": 10.0},
    ...                     shape=(), rows=4, dtype="float64")
    >>> lazy.chunks, lazy.compute().tolist()
    (((1, 2),), [20.0, 30.0, 40.0])
    """
    import dask.array as da
    from dask._task_spec import DataNode, Task, TaskRef
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    what = kernel_name(kernel)
    parent = np.asarray(parent)
    if len(parent) and (parent[0] < 0 or parent[-1] >= len(parents) or np.any(np.diff(parent) < 0)):
        raise SchemaError(f"map_children of {what}", expected=f"ascending rows of {len(parents)} parents",
                          found="others", remedy="Sort the children by parent.")  # fmt: skip
    chunked = parents.variable.chunk({parents.dims[0]: 1, **dict.fromkeys(parents.dims[1:], -1)}).data
    name = f"{what}-{uuid.uuid4().hex}"
    work = (f"kernel-{name}", 0)
    tasks: dict[Any, Any] = {work: DataNode(work, (kernel, dict(shared), np.dtype(dtype), shape))}
    sizes: list[int] = []
    edges = np.flatnonzero(np.diff(parent, prepend=-1, append=-1)) if len(parent) else np.zeros(1, int)
    for first, last in pairwise(edges):
        parts = -(-(last - first) // rows)
        bounds = np.linspace(first, last, parts + 1).astype(int)
        for a, b in pairwise(bounds):
            key = (name, len(sizes), *(0,) * len(shape))
            block = (chunked.name, int(parent[a]), *(0,) * (chunked.ndim - 1))
            where = f"{what}, rows {a} to {b - 1}"
            tasks[key] = Task(key, _run, TaskRef(work), TaskRef(block), {k: v[a:b] for k, v in table.items()}, where)
            sizes.append(int(b - a))
    graph = HighLevelGraph.from_collections(name, MaterializedLayer(tasks), dependencies=[chunked])
    return da.Array(graph, name, chunks=(tuple(sizes) or (0,), *((n,) for n in shape)), dtype=np.dtype(dtype))


def _run(work: Any, block: Any, columns: Mapping[str, Any], where: str) -> Any:
    kernel, shared, dtype, shape = work
    device.one_thread()
    on_gpu = device.device_of_task(None)
    try:
        with device.device_section(on_gpu):
            parent = to_device(np.asarray(block[0])) if on_gpu else np.asarray(block[0])
            result = np.asarray(to_host(kernel(parent, **columns, **shared)))
    except CryoflowError as error:
        raise ComputeError(where, expected=error.expected, found=error.found, remedy=error.remedy) from error
    expected = (len(next(iter(columns.values()))), *shape)
    if result.shape != expected:
        raise ComputeError(where, expected=f"an array of shape {expected}", found=f"{result.shape}")
    return result.astype(dtype, copy=False)
