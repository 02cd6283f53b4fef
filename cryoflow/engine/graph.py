"""Which tasks of a graph one chunk alone needs: they run inside the chunk's task, so that nothing waits in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Inner", "closure", "is_future", "materialise", "outside_keys", "split"]

Key = Hashable
Graph = dict[Any, Any]

LARGE = 1 << 16  # bytes; smaller constants are copied into each chunk's task, larger ones stay tasks of their own


@dataclass(frozen=True, slots=True)
class Inner:
    """A piece of a graph that runs inside one task. Opaque to Dask, which would look for dependencies in it."""

    nodes: Graph
    keys: tuple[Key, ...]

    def run(self, outside: Mapping[Key, Any]) -> list[Any]:
        """The values of ``keys``, given those of the tasks outside; intermediate results go as soon as they can."""
        from dask._task_spec import execute_graph

        if not self.nodes:
            return [outside[k] for k in self.keys]
        cache = dict(outside)
        done = execute_graph(self.nodes, cache=cache, keys=set(self.keys))
        return [done[k] for k in self.keys]


def is_future(node: Any) -> bool:
    """Whether ``node`` is a result that already lies on a worker."""
    from dask._task_spec import TaskRef

    return isinstance(node, TaskRef) or bool(getattr(node, "__dask_future__", False))


def materialise(graphs: Iterable[Any]) -> Graph:
    """One flat graph of task objects from those of several collections (futures stay as they are)."""
    from dask._task_spec import convert_legacy_graph

    merged: Graph = {}
    for graph in graphs:
        merged.update(graph)
    futures = {k: v for k, v in merged.items() if is_future(v)}
    nodes: Graph = convert_legacy_graph(merged)
    return {**nodes, **futures}


def split(graph: Graph, wanted: Sequence[tuple[Key, ...]]) -> tuple[list[Inner], Graph]:
    """For each chunk's keys the part of ``graph`` that it alone needs; and the rest, which several chunks share.

    A node that two chunks need stays a task of its own, and with it all that it depends on, for whoever needs a node
    needs its ancestors. Small constants are copied instead.
    """
    closures = [closure(graph, keys) for keys in wanted]
    uses = Counter(k for needed in closures for k in needed)
    inners, outside = [], {}
    for keys, needed in zip(wanted, closures):
        nodes = {}
        for k in needed:
            node = graph[k]
            if not is_future(node) and (uses[k] == 1 or _small(node)):
                nodes[k] = node
            else:
                outside[k] = node
        inners.append(Inner(nodes, tuple(keys)))
    # a task outside may need a constant that was copied into the chunks
    outside.update({k: graph[k] for k in closure(graph, outside)})
    return inners, outside


def outside_keys(inner: Inner) -> set[Key]:
    """The keys an ``Inner`` needs from tasks outside it."""
    needed = {d for node in inner.nodes.values() for d in node.dependencies} | set(inner.keys)
    return needed - set(inner.nodes)


def closure(graph: Graph, keys: Iterable[Key]) -> set[Key]:
    """``keys`` and all that they depend on."""
    seen: set[Key] = set()
    stack = list(keys)
    while stack:
        key = stack.pop()
        if key not in seen:
            seen.add(key)
            node = graph[key]
            if not is_future(node):
                stack.extend(node.dependencies)
    return seen


def _small(node: Any) -> bool:
    from dask._task_spec import DataNode

    return isinstance(node, DataNode) and not (isinstance(node.value, np.ndarray) and node.value.nbytes > LARGE)
