"""A kernel over the rows of a Dataset: rows out, and sums in an order that belongs to the data."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.engine.binding import PER_OPTICS, ROWS, Binding, bind
from cryoflow.engine.chunk import Chunk, ChunkResult, Plan, rows_of, run_chunk, sums_of
from cryoflow.engine.graph import materialise, outside_keys, split
from cryoflow.engine.outputs import Outputs, describe_outputs
from cryoflow.engine.sums import add, lanes_of, tree
from cryoflow.errors import ParameterError, SchemaError

__all__ = ["map_reduce", "map_rows"]

CHUNK_BYTES = 16 << 20  # of a chunk of data that have no chunks of their own
NOTHING: Mapping[str, Any] = MappingProxyType({})


def map_reduce(
    kernel: Callable[..., Any],
    data: xr.Dataset,
    shared: Mapping[str, Any] = NOTHING,
    *,
    dim: str = "particle",
    outputs: Outputs = (),
    lanes: int | None = 64,
    batch: int | None = None,
    sizes: Mapping[str, int] = NOTHING,
    device: str | None = None,
) -> tuple[xr.Dataset, Any]:
    """Run ``kernel`` over the rows of ``data``; nothing is computed until ``compute``.

    ``rows, sums = kernel(*variables, **shared)`` sees one batch. The sums run

        S = sum over lanes (pairwise tree) of sum over chunks (in order) of sum over batches (in order),

    an order that chunks and lanes fix, so that S has the same bits on one worker or a hundred. The chunks of a lane are
    one chain of tasks, each of which loads its own rows: one running sum a lane exists and not one a chunk.

    Parameters
    ----------
    kernel : callable, function, partial or picklable object. Its positional parameters are names of variables of
        ``data`` and get arrays (rows of the batch, ...); variables over "optics" are looked up for each row by
        ``optics_group``; a parameter named ``dim`` gets row numbers; one with a default may be lacking in the data. Its
        keyword-only parameters are shared model data. It returns two mappings: rows (name -> array whose first axis is
        the batch's rows) and sums (nested dicts and tuples of arrays of fixed shapes); either may be empty. It must not
        change its arguments.
    data : Dataset with rows along ``dim``; chunks are those of its biggest variable.
    shared : arrays, scalars or nested containers of them; large ones travel to each worker once a ``compute``.
    outputs : rows to keep: names of the schema, or a mapping name -> (dims, dtype); others are dropped.
    lanes : number of running sums; None drops the kernel's sums, and then no chunk waits for another.
    batch : rows of one call of the kernel; None for the whole chunk.
    sizes : lengths of dimensions of ``outputs`` that ``data`` does not have.
    device : "cpu", "cuda" or None (a GPU where the worker declares one).

    Returns
    -------
    rows, sums : lazy Dataset of the outputs; lazy value (Delayed) of the sums, {} if the kernel has none.

    Raises
    ------
    SchemaError, ParameterError : now, if kernel, data, shared and outputs do not fit.
    ComputeError, ResourceError : from ``compute``, naming kernel, rows and file.

    Examples
    --------
    >>> from cryoflow.engine import compute
    >>> data = xr.Dataset({"image": (("particle", "y", "x"), np.ones((10, 4, 4), "f4"))})
    >>> def power(image, *, scale):
    ...     p = scale * (image**2).sum((1, 2))
    ...     return {"power": p}, {"total": p.sum()}
    >>> lazy = map_reduce(power, data, {"scale": 2.0}, outputs={"power": (("particle",), "f4")}, batch=3)
    >>> rows, sums = compute(*lazy)
    >>> rows.sizes["particle"], float(sums["total"])
    (10, 320.0)
    """
    import dask.array as da
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    binding = bind(kernel, data, shared, dim)
    where = f"map_reduce of {binding.kernel}"
    _check_numbers(where, data, dim, lanes, batch)
    described = describe_outputs(outputs, dim, {str(k): n for k, n in data.sizes.items()}, sizes, where)
    plan = Plan(binding, described, batch, device, _source_of(data, binding), lanes is not None)
    name = f"{binding.kernel}-{uuid.uuid4().hex}"
    bounds = _bounds(data, binding, dim)
    chunks, outside = _load_graph(data, binding, dim, bounds, name, device)
    tasks, root = _chain(kernel, plan, chunks, shared, name, lanes)
    layers = {name: MaterializedLayer({**outside, **tasks})}
    needs: dict[str, set[str]] = {name: set()}
    variables: dict[str, Any] = {}
    for output in described:
        key = f"{output.name}-{name}"
        layers[key], needs[key] = _row_layer(key, name, output.name, len(chunks), len(output.shape)), {name}
        pieces = (tuple(int(b - a) for a, b in bounds), *((n,) for n in output.shape))
        graph = HighLevelGraph({name: layers[name], key: layers[key]}, {name: set(), key: {name}})
        array = da.Array(graph, key, chunks=pieces, dtype=output.dtype)
        variables[output.name] = ((dim, *output.dims), array)
    coords = {k: v.variable for k, v in data.coords.items() if v.dims == (dim,) and v.variable.chunks is None}
    rows = xr.Dataset(variables, coords=coords if variables else None)
    sums_layer = f"sums-{name}"
    graph = HighLevelGraph({name: layers[name], sums_layer: MaterializedLayer(root)}, {name: set(), sums_layer: {name}})
    return rows, Delayed(sums_layer, graph)


def map_rows(
    kernel: Callable[..., Any], data: xr.Dataset, shared: Mapping[str, Any] = NOTHING, *, dim: str = "particle",
    outputs: Outputs, batch: int | None = None, sizes: Mapping[str, int] = NOTHING, device: str | None = None,
) -> xr.Dataset:  # fmt: skip
    """The rows of ``map_reduce`` alone, lazy; sums of the kernel are dropped, and no chunk waits for another."""
    return map_reduce(kernel, data, shared, dim=dim, outputs=outputs, lanes=None, batch=batch, sizes=sizes,
                      device=device)[0]  # fmt: skip


def _check_numbers(where: str, data: xr.Dataset, dim: str, lanes: int | None, batch: int | None) -> None:
    if dim not in data.sizes:
        raise SchemaError(where, expected=f"data with the dimension {dim!r}", found=f"dims {tuple(data.sizes)}")
    if data.sizes[dim] == 0:
        raise SchemaError(where, expected=f"at least one row along {dim!r}", found="none",
                          remedy="Look at the selection that made this Dataset.")  # fmt: skip
    for name, value in (("lanes", lanes), ("batch", batch)):
        if value is not None and value < 1:
            raise ParameterError(where, expected=f"{name} of at least 1", found=str(value))


def _source_of(data: xr.Dataset, binding: Binding) -> str:
    """The file or store the data come from, if xarray or a reader noted it."""
    names = binding.variables(ROWS)
    places = [data.encoding, *(data[n].encoding for n in names)]
    return next((str(p["source"]) for p in places if p.get("source")), "")


def _bounds(data: xr.Dataset, binding: Binding, dim: str) -> list[tuple[int, int]]:
    """First and last row of every chunk: the chunks of the biggest variable that has some, else 16 MiB each."""
    rows = data.sizes[dim]
    used = [data[n].variable for n in binding.variables(ROWS)]
    chunked = [(v.nbytes, v.chunks[0]) for v in used if v.chunks is not None]
    if chunked:
        sizes: Sequence[int] = max(chunked, key=lambda v: v[0])[1]
    else:
        step = _preferred_step(used, dim, rows)
        sizes = [min(step, rows - a) for a in range(0, rows, step)]
    edges = np.concatenate([[0], np.cumsum(sizes)])
    return [(int(a), int(b)) for a, b in pairwise(edges) if b > a]


def _preferred_step(used: Sequence[xr.Variable], dim: str, rows: int) -> int:
    for v in sorted(used, key=lambda v: -v.nbytes):
        preferred = v.encoding.get("preferred_chunks", {})
        if dim in preferred and not _in_memory(v):
            return max(1, int(np.max(preferred[dim])))
    width = sum(max(1, v.nbytes // rows) for v in used) or 1
    return int(max(1, CHUNK_BYTES // width))


def _in_memory(variable: xr.Variable) -> bool:
    return bool(variable._in_memory)


def _load_graph(
    data: xr.Dataset, binding: Binding, dim: str, bounds: list[tuple[int, int]], name: str, device: str | None
) -> tuple[list[Chunk], dict[Any, Any]]:
    """How each chunk gets its variables: tasks that it alone needs run inside it, the others are returned."""
    from dask._task_spec import DataNode

    names, columns, graphs = [], [], []
    wanted = [*binding.variables(ROWS), *binding.variables(PER_OPTICS)]
    if binding.variables(PER_OPTICS) and "optics_group" in data.variables and "optics_group" not in wanted:
        wanted.append("optics_group")
    for variable in wanted:
        per_row = data[variable].dims[:1] == (dim,)
        values = data[variable].variable
        names.append(variable)
        if _in_memory(values):
            held = values.to_numpy() if values.dtype.kind != "M" else values.values
            pieces = [held[a:b] if per_row else held for a, b in bounds]
            keys = [(f"{variable}-in-{name}", i if per_row else 0) for i in range(len(bounds))]
            graphs.append({k: DataNode(k, p) for k, p in zip(keys, pieces)})
        else:
            split_rows = {dim: tuple(b - a for a, b in bounds)} if per_row else {}
            array = values.chunk({**dict.fromkeys(values.dims, -1), **split_rows}).data
            zeros = (0,) * (array.ndim - 1)
            keys = [(array.name, i if per_row else 0, *zeros) for i in range(len(bounds))]
            graphs.append(dict(array.__dask_graph__()))
        columns.append(keys)
    graph = materialise(graphs)
    loads, outside = split(graph, list(zip(*columns)) if columns else [() for _ in bounds])
    chunks = [Chunk(name, i, a, b, tuple(names), load, device) for i, ((a, b), load) in enumerate(zip(bounds, loads))]
    return chunks, outside


def _chain(
    kernel: Callable[..., Any], plan: Plan, chunks: list[Chunk], shared: Mapping[str, Any], name: str,
    lanes: int | None,
) -> tuple[dict[Any, Any], dict[Any, Any]]:  # fmt: skip
    """The tasks of all chunks (chained within a lane), and those of the tree over lanes."""
    from dask._task_spec import DataNode, Dict, Task, TaskRef

    tasks: dict[Any, Any] = {}
    model = Dict({k: _shared(tasks, (f"shared-{name}", k), v) for k, v in shared.items()})
    work = (f"kernel-{name}", 0)
    tasks[work] = DataNode(work, (kernel, plan))
    groups = lanes_of(len(chunks), lanes) if lanes else [range(i, i + 1) for i in range(len(chunks))]
    ends = []
    for lane in groups:
        before: tuple[Any, ...] = ()
        for i in lane:
            chunk = chunks[i]
            outside = {k: TaskRef(k) for k in outside_keys(chunk.load)}
            tasks[name, i] = Task(
                (name, i), _run, TaskRef(work), chunk, tuple(outside), _tuple(outside.values()), model, _tuple(before)
            )
            rows = (f"rows-{name}", i)
            tasks[rows] = Task(rows, rows_of, TaskRef((name, i)))
            # The next chunk waits for these rows: Dask would leave them to the end, and with them every chunk's sums.
            before = (TaskRef((name, i)), TaskRef(rows))
        ends.append(before)
    last = f"sums-{name}"
    if lanes is None:
        return tasks, {last: DataNode(last, {})}
    root: dict[Any, Any] = {}

    def leaf(i: int, end: Any) -> Any:
        key = (f"lane-{name}", i)
        root[key] = Task(key, sums_of, *end)
        return TaskRef(key)

    def join(level: int, i: int, left: Any, right: Any) -> Any:
        key = (f"tree-{name}", level, i)
        root[key] = Task(key, add, left, right)
        return TaskRef(key)

    top = tree([leaf(i, end) for i, end in enumerate(ends)], join)
    root[last] = root.pop(top.key).substitute({}, key=last)
    return tasks, root


def _shared(tasks: dict[Any, Any], key: Any, value: Any) -> Any:
    """A reference to one piece of model data: a constant of the graph, or something lazy itself."""
    from dask import delayed
    from dask._task_spec import DataNode, TaskRef

    if hasattr(value, "__dask_graph__") and value.__dask_graph__() is not None:
        value = delayed(value)
        tasks.update(materialise([value.dask]))
        return TaskRef(value.key)
    tasks[key] = DataNode(key, value)
    return TaskRef(key)


def _tuple(references: Any) -> Any:
    from dask._task_spec import Tuple

    return Tuple(*references)


def _run(work: Any, chunk: Chunk, keys: tuple[Any, ...], values: tuple[Any, ...], shared: Any,
         before: tuple[Any, ...]) -> ChunkResult:  # fmt: skip
    kernel, plan = work
    return run_chunk(kernel, plan, chunk, dict(zip(keys, values)), shared, before[0] if before else None)


def _pick(rows: Mapping[str, np.ndarray], output: str) -> np.ndarray:
    return rows[output]


def _row_layer(key: str, name: str, output: str, chunks: int, extra: int) -> Any:
    """The tasks that pick one output from the rows of each chunk; ``rows`` lets ``compute`` do without them."""
    from dask._task_spec import Task, TaskRef
    from dask.highlevelgraph import MaterializedLayer

    zeros = (0,) * extra
    rows = [(f"rows-{name}", i) for i in range(chunks)]
    layer = MaterializedLayer({(key, i, *zeros): Task((key, i, *zeros), _pick, TaskRef(r), output)
                               for i, r in enumerate(rows)})  # fmt: skip
    layer.rows = (rows, output)
    return layer
