"""Running lazy things: on the threads of this process, or on a client that the caller hands in."""

from __future__ import annotations

import contextlib
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.engine.chunk import Chunk
from cryoflow.engine.device import threads_restored
from cryoflow.engine.graph import materialise
from cryoflow.engine.progress import Progress, wants_progress
from cryoflow.engine.sums import nbytes
from cryoflow.errors import ComputeError, CryoflowError, ResourceError

__all__ = ["compute"]

BROADCAST_BYTES = 1 << 20  # shared data from this size on travel to the workers once, outside the graph


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
        clients exist.
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
            results = _embedded(graph, keys, bar) if client is None else _on_client(client, graph, keys, bar)
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
    from cryoflow.engine.graph import closure

    needed = closure(graph, keys)
    return {k: graph[k] for k in needed}


def _chunk_of(node: Any) -> Chunk | None:
    return next((a for a in getattr(node, "args", ()) if isinstance(a, Chunk)), None)


def _weights(graph: Mapping[Any, Any]) -> dict[Any, int]:
    chunks = {k: _chunk_of(node) for k, node in graph.items()}
    return {k: c.stop - c.start for k, c in chunks.items() if c is not None}


# --- in this process -------------------------------------------------------------------------------------------------


def _embedded(graph: dict[Any, Any], keys: list[list[Any]], bar: Progress) -> list[list[Any]]:
    from dask.callbacks import Callback
    from dask.system import CPU_COUNT
    from dask.threaded import get

    done = Callback(posttask=lambda key, *_: bar.finished(key))
    with threads_restored(), done:
        got: list[list[Any]] = get(graph, keys, num_workers=CPU_COUNT)
    return [list(part) for part in got]


# --- on a cluster ----------------------------------------------------------------------------------------------------


def _on_client(client: Any, graph: dict[Any, Any], keys: list[list[Any]], bar: Progress) -> list[list[Any]]:
    from concurrent.futures import CancelledError

    from distributed.scheduler import KilledWorker

    graph, held = _broadcast(client, graph)
    try:
        with _listening(client, bar):
            futures = client.get(_placed(client, graph), keys, sync=False)
            try:
                return [list(part) for part in client.gather(futures)]
            except BaseException:
                client.cancel([f for part in futures for f in part])
                raise
    except KilledWorker as error:
        raise _killed(error, graph) from error
    except CancelledError as error:
        raise ComputeError(
            "compute on the cluster", expected="a scheduler that stays", found=f"{type(error).__name__}: {error}",
            remedy="Look at the logs of the scheduler; start again.",
        ) from error  # fmt: skip
    finally:
        for future in held:
            future.release()


def _broadcast(client: Any, graph: dict[Any, Any]) -> tuple[dict[Any, Any], list[Any]]:
    """Send each large piece of shared data to the workers once, outside the graph.

    It goes as a task's constant and not by ``scatter``: the scheduler can then make it anew when its last holder dies.
    """
    from dask._task_spec import DataNode

    held: dict[int, Any] = {}
    new_keys: dict[Any, Any] = {}
    for key, node in graph.items():
        shared = isinstance(key, tuple) and str(key[0]).startswith("shared-") and isinstance(node, DataNode)
        if shared and nbytes(node.value) >= BROADCAST_BYTES:
            if id(node.value) not in held:
                held[id(node.value)] = _submit(client, node.value)
            new_keys[key] = held[id(node.value)].key
    if not held:
        return graph, []
    rest = {k: _renamed(node, new_keys) for k, node in graph.items() if k not in new_keys}
    futures = list(held.values())
    if len(client.scheduler_info(n_workers=-1)["workers"]) > 1:
        with contextlib.suppress(OSError, KeyError, RuntimeError):  # workers that lack it fetch it when they need it
            client.replicate(futures)
    return {**rest, **{f.key: f for f in futures}}, futures


def _submit(client: Any, value: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
        return client.submit(_constant, value, key=f"shared-{uuid.uuid4().hex}", pure=False)


def _constant(value: Any) -> Any:
    return value


def _renamed(node: Any, subs: Mapping[Any, Any]) -> Any:
    if not hasattr(node, "dependencies") or not (node.dependencies & subs.keys()):
        return node
    return node.substitute(subs)


def _placed(client: Any, graph: dict[Any, Any]) -> Any:
    """The graph with its chunks bound to workers that declare a GPU, if there are such workers."""
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not any(w.get("resources", {}).get("GPU", 0) > 0 for w in workers):
        return graph
    chunks = {k: v for k, v in graph.items() if (c := _chunk_of(v)) is not None and c.device != "cpu"}
    rest = {k: v for k, v in graph.items() if k not in chunks}
    layers = {
        "rest": MaterializedLayer(rest),
        "chunks": MaterializedLayer(chunks, annotations={"resources": {"GPU": 1}}),
    }
    return HighLevelGraph(layers, {"rest": {"chunks"}, "chunks": {"rest"}})


def _killed(error: Any, graph: Mapping[Any, Any]) -> CryoflowError:
    key = getattr(error, "task", None)
    chunk = _chunk_of(graph.get(key)) or next((c for k, c in _chunks(graph) if str(k) == str(key)), None)
    what = f"{chunk.name.rsplit('-', 1)[0]}, rows {chunk.start} to {chunk.stop - 1}" if chunk else f"task {key}"
    return ResourceError(
        what, expected="workers that survive the chunk", found=f"it ended its workers repeatedly ({error})",
        remedy="Most often memory: take a smaller batch or smaller chunks, or fewer threads a worker.",
    )  # fmt: skip


def _chunks(graph: Mapping[Any, Any]) -> list[tuple[Any, Chunk]]:
    return [(k, c) for k, node in graph.items() if (c := _chunk_of(node)) is not None]


class _listening:
    """Chunk reports of the workers go to the progress bar while this is open."""

    def __init__(self, client: Any, bar: Progress) -> None:
        self.client, self.bar = client, bar
        self.on = bool(bar.draw or bar.listener) and not client.asynchronous

    def __enter__(self) -> None:
        if self.on:
            self.client.subscribe_topic("cryoflow-progress", self._heard)

    def _heard(self, event: Any) -> None:
        _, message = event
        self.bar.finished((message["name"], message["chunk"]))

    def __exit__(self, *_: object) -> None:
        if self.on:
            self.client.unsubscribe_topic("cryoflow-progress")
