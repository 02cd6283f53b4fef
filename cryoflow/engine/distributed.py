"""Running a graph on a client: model data sent once, chunks placed on GPUs, and dead workers told apart by name."""

from __future__ import annotations

import contextlib
import uuid
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cryoflow.engine.chunk import TOPIC, chunk_of
from cryoflow.engine.progress import Progress
from cryoflow.engine.sums import nbytes
from cryoflow.errors import ComputeError, CryoflowError, ResourceError

__all__ = ["on_client"]

BROADCAST_BYTES = 1 << 20  # shared data from this size on travel to the workers once, outside the graph


def on_client(client: Any, graph: dict[Any, Any], keys: list[list[Any]], bar: Progress) -> list[list[Any]]:
    """The values of ``keys``; chunks report to ``bar`` as they end."""
    from concurrent.futures import CancelledError

    from distributed.scheduler import KilledWorker

    graph, held = _broadcast(client, graph)
    with _listening(client, bar) as heard:
        try:
            return _gathered(client, _placed(client, graph), keys)
        except KilledWorker as error:
            raise _killed(error, graph, heard) from error
        except CancelledError as error:
            raise ComputeError(
                "compute on the cluster", expected="a scheduler that stays", found=f"{type(error).__name__}: {error}",
                remedy="Look at the logs of the scheduler; start again.",
            ) from error  # fmt: skip
        finally:
            for future in held:
                future.release()


def _gathered(client: Any, graph: Any, keys: list[list[Any]]) -> list[list[Any]]:
    futures = client.get(graph, keys, sync=False)
    try:
        return [list(part) for part in client.gather(futures)]
    except BaseException:  # also an interrupt: leave nothing running
        client.cancel([f for part in futures for f in part])
        raise


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
    chunks = {k: v for k, v in graph.items() if (c := chunk_of(v)) is not None and c.device != "cpu"}
    rest = {k: v for k, v in graph.items() if k not in chunks}
    layers = {
        "rest": MaterializedLayer(rest),
        "chunks": MaterializedLayer(chunks, annotations={"resources": {"GPU": 1}}),
    }
    return HighLevelGraph(layers, {"rest": {"chunks"}, "chunks": {"rest"}})


def _killed(error: Any, graph: Mapping[Any, Any], heard: _Heard) -> CryoflowError:
    """Name the chunk. Dask blames all tasks that waited on the dead workers; the one at fault began and never ended."""
    chunks = {(c.name, c.index): c for c in map(chunk_of, graph.values()) if c is not None}
    suspects = [(starts, key) for key, starts in heard.open.items() if key in chunks]
    most = max((starts for starts, _ in suspects), default=0)
    named = [chunks[key] for starts, key in suspects if starts == most]
    what = " or ".join(f"{c.name.rsplit('-', 1)[0]}, rows {c.start} to {c.stop - 1}" for c in named)
    return ResourceError(
        what or f"task {getattr(error, 'task', '')}", expected="workers that survive the chunk",
        found=f"it ended its workers repeatedly ({error})",
        remedy="Most often memory: take a smaller batch or smaller chunks, or fewer threads a worker.",
    )  # fmt: skip


class _Heard:
    """What workers say about the chunks of one ``compute``."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.open: Counter[Any] = Counter()  # starts of a chunk that has not ended yet

    def __call__(self, message: Mapping[str, Any]) -> None:
        key = tuple(message["chunk"])
        if message["event"] == "start":
            self.open[key] += 1
        else:
            self.open.pop(key, None)
            self.bar.finished(key)


class _Hub:
    """The one subscriber of a client, which hands events on to every ``compute`` under way."""

    def __init__(self) -> None:
        self.listeners: set[_Heard] = set()

    def __call__(self, event: Any) -> None:
        for listener in tuple(self.listeners):
            listener(event[1])


_hubs: weakref.WeakKeyDictionary[Any, _Hub] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def _listening(client: Any, bar: Progress) -> Iterator[_Heard]:
    if client not in _hubs:
        _hubs[client] = _Hub()
        client.subscribe_topic(TOPIC, _hubs[client])
    heard, hub = _Heard(bar), _hubs[client]
    hub.listeners.add(heard)
    try:
        yield heard
    finally:
        hub.listeners.discard(heard)
