"""Running lazy things: on the threads of this process, or on a client that the caller hands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.engine.chunk import chunk_of
from cryoflow.engine.device import threads_restored
from cryoflow.engine.distributed import on_client
from cryoflow.engine.graph import closure, materialise
from cryoflow.engine.progress import Progress, wants_progress

__all__ = ["compute"]


@dataclass(slots=True)
class _Leaf:
    """One Dask collection among the lazies: its graph, the keys to compute, and how to put results together."""

    graph: Any
    keys: list[Any]
    finish: Callable[[list[Any]], Any]
    value: Any = None


def compute(
    *lazies: Any,
    client: Any = None,
    progress: bool | Callable[[int, int], None] | None = None,
    label: str = "",
) -> tuple[Any, ...]:
    """Compute several lazies together and return their values, always as a tuple, in order.

    Parameters
    ----------
    lazies : Datasets, DataArrays, Dask arrays and Delayed values (those of ``map_reduce``), also inside dicts, lists
        and tuples; anything else is returned as it is.
    client : a ``distributed.Client``; None runs on the cores of this machine, inside this process, whatever other
        clients exist (fewer with ``dask.config.set(num_workers=n)`` or DASK_NUM_WORKERS).
    progress : True, False, or None for a line on stderr where that is a terminal or a notebook; or a function that is
        told (rows done, all rows) after each chunk.
    label : what the progress line calls it.

    Raises
    ------
    ComputeError : a kernel or a reader failed (kernel, rows and file are named), or a chunk ended its workers.
    ResourceError : memory or disk did not suffice.

    Examples
    --------
    >>> import dask.array as da
    >>> compute(da.arange(4).sum(), 5)
    (np.int64(6), 5)
    """
    leaves: list[_Leaf] = []
    rebuild = _collect(list(lazies), leaves)
    if leaves:
        graph = _culled(materialise(leaf.graph for leaf in leaves), [k for leaf in leaves for k in leaf.keys])
        listener = progress if callable(progress) else None
        draw = wants_progress(None if listener else progress)  # type: ignore[arg-type]
        with Progress(label, _weights(graph), draw=draw and not listener, listener=listener) as bar:
            keys = [leaf.keys for leaf in leaves]
            results = _embedded(graph, keys, bar) if client is None else on_client(client, graph, keys, bar)
        for leaf, got in zip(leaves, results):
            leaf.value = leaf.finish(got)
    return tuple(rebuild())


# --- what to compute -------------------------------------------------------------------------------------------------


def _collect(value: Any, leaves: list[_Leaf]) -> Callable[[], Any]:
    """Append the collections inside ``value`` to ``leaves``; the returned function builds the computed value."""
    if isinstance(value, xr.DataArray):
        whole = _collect(value._to_temp_dataset(), leaves)
        return lambda: value._from_temp_dataset(whole())
    if isinstance(value, xr.Dataset):
        arrays = {n: _collect(v._data, leaves) for n, v in value.variables.items() if v.chunks is not None}
        return lambda: _filled(value, arrays)
    if isinstance(value, dict):
        items = {k: _collect(v, leaves) for k, v in value.items()}
        return lambda: {k: build() for k, build in items.items()}
    if type(value) in (list, tuple):
        parts = [_collect(v, leaves) for v in value]
        return lambda: type(value)(build() for build in parts)
    if not (hasattr(value, "__dask_graph__") and value.__dask_graph__() is not None):
        return lambda: value
    leaf = _row_leaf(value) or _any_leaf(value)
    leaves.append(leaf)
    return lambda: leaf.value


def _filled(ds: xr.Dataset, arrays: Mapping[Any, Callable[[], Any]]) -> xr.Dataset:
    return ds.assign({n: ds[n].variable.copy(data=build()) for n, build in arrays.items()})


def _any_leaf(value: Any) -> _Leaf:
    finish, extra = value.__dask_postcompute__()
    keys = value.__dask_keys__()
    flat: list[Any] = []
    shape = _flatten(keys, flat)
    return _Leaf(value.__dask_graph__(), flat, lambda got: finish(_nest(shape, iter(got)), *extra))


def _row_leaf(value: Any) -> _Leaf | None:
    """Rows of ``map_reduce`` as they are: one result a chunk with all its variables, not one task a variable."""
    graph, name = value.__dask_graph__(), getattr(value, "name", None)
    source = getattr(getattr(graph, "layers", {}).get(name), "rows", None)
    if source is None:
        return None
    keys, output = source
    return _Leaf(graph, list(keys), lambda got: np.concatenate([rows[output] for rows in got]))


def _flatten(keys: Any, flat: list[Any]) -> Any:
    if isinstance(keys, list):
        return [_flatten(k, flat) for k in keys]
    flat.append(keys)
    return None


def _nest(shape: Any, values: Any) -> Any:
    return [_nest(s, values) for s in shape] if isinstance(shape, list) else next(values)


def _culled(graph: dict[Any, Any], keys: list[Any]) -> dict[Any, Any]:
    needed = closure(graph, keys)
    return {k: graph[k] for k in needed}


def _weights(graph: Mapping[Any, Any]) -> dict[Any, int]:
    chunks = {k: chunk_of(node) for k, node in graph.items()}
    return {k: c.stop - c.start for k, c in chunks.items() if c is not None}


# --- in this process -------------------------------------------------------------------------------------------------


def _embedded(graph: dict[Any, Any], keys: list[list[Any]], bar: Progress) -> list[list[Any]]:
    import dask
    from dask.callbacks import Callback
    from dask.system import CPU_COUNT
    from dask.threaded import get

    done = Callback(posttask=lambda key, *_: bar.finished(key))
    with threads_restored(), done:
        got: list[list[Any]] = get(graph, keys, num_workers=dask.config.get("num_workers", None) or CPU_COUNT)
    return [list(part) for part in got]
