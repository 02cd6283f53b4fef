"""What one task does: load a chunk, run the kernel over its batches, fold the sums into those of its lane."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoflow.engine import device
from cryoflow.engine.binding import DEFAULT, INDEX, PER_OPTICS, Binding, expand_optics
from cryoflow.engine.disk import disk_is_full
from cryoflow.engine.graph import Inner
from cryoflow.engine.outputs import Output
from cryoflow.engine.sums import add, map_leaves
from cryoflow.errors import ComputeError, CryoflowError, ResourceError
from cryoflow.kernels.backend import to_device, to_host

__all__ = ["TOPIC", "Chunk", "ChunkResult", "Plan", "chunk_of", "rows_of", "run_chunk", "sums_of"]

TOPIC = "cryoflow"  # of the events that workers log


@dataclass(frozen=True, slots=True)
class Plan:
    """What all chunks of one ``map_reduce`` have in common."""

    binding: Binding
    outputs: tuple[Output, ...]
    batch: int | None
    device: str | None
    source: str  # file or store of the data, if known
    sums: bool  # whether sums are kept


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows ``start`` to ``stop`` and how to load their variables (``names``, in the order of ``load.keys``)."""

    name: str
    index: int
    start: int
    stop: int
    names: tuple[str, ...]
    load: Inner
    device: str | None = None


@dataclass(frozen=True, slots=True)
class ChunkResult:
    rows: dict[str, np.ndarray]
    sums: Any


def chunk_of(task: Any) -> Chunk | None:
    """The chunk that a task of a graph works on; None for other tasks."""
    return next((a for a in getattr(task, "args", ()) if isinstance(a, Chunk)), None)


def rows_of(result: ChunkResult) -> dict[str, np.ndarray]:
    return result.rows


def sums_of(result: ChunkResult, _rows: object = None) -> Any:
    return result.sums


def run_chunk(
    kernel: Callable[..., Any], plan: Plan, chunk: Chunk, outside: Mapping[Any, Any], shared: Mapping[str, Any],
    before: ChunkResult | None,
) -> ChunkResult:  # fmt: skip
    """The task: ``before`` is the chunk before in the lane, whose sums come first."""
    where = f"{plan.binding.kernel}, rows {chunk.start} to {chunk.stop - 1}"
    if plan.source:
        where += f" of {plan.source}"
    device.one_thread()
    _report(chunk, "start")
    doing = "loading"
    try:
        columns = dict(zip(chunk.names, chunk.load.run(outside)))
        _check_columns(columns, chunk, plan.binding)
        doing = "computing"
        on_gpu = device.device_of_task(plan.device)
        with device.device_section(on_gpu):
            rows, sums, own = _run_batches(kernel, plan, chunk, columns, shared, on_gpu)
            sums = map_leaves(to_host, sums)
        if before is not None:  # into our own sums, never into the lane's: Dask may still need it as it was
            sums = add(sums, before.sums, own=own)
    except (MemoryError, OSError) as error:
        raise _resource(error, where, doing) from error
    except CryoflowError as error:
        if isinstance(error, (ComputeError, ResourceError)):
            raise
        raise ComputeError(where, expected=error.expected, found=f"{error.found} ({error.where}, while {doing})",
                           remedy=error.remedy) from error  # fmt: skip
    except Exception as error:
        found = f"{type(error).__name__} while {doing}: {error}"
        raise ComputeError(where, expected="the kernel to finish", found=found,
                           remedy="Leave these rows out, or mend them.") from error  # fmt: skip
    _report(chunk, "done")
    return ChunkResult(rows, sums)


def _resource(error: BaseException, where: str, doing: str) -> CryoflowError:
    if isinstance(error, MemoryError):
        return ResourceError(where, expected="enough memory for a batch", found=f"{type(error).__name__}: {error}",
                             remedy="Take a smaller batch or smaller chunks.")  # fmt: skip
    if disk_is_full(error):
        return ResourceError(where, expected="space on the disk", found=str(error),
                             remedy="Free some space and start again; what is complete is kept.")  # fmt: skip
    return ComputeError(where, expected="readable data" if doing == "loading" else "the kernel to finish",
                        found=f"{type(error).__name__}: {error}")  # fmt: skip


def _check_columns(columns: Mapping[str, Any], chunk: Chunk, binding: Binding) -> None:
    optics = binding.variables(PER_OPTICS)
    for name, values in columns.items():
        if name not in optics and len(values) != chunk.stop - chunk.start:
            raise ComputeError(
                f"{binding.kernel}, rows {chunk.start} to {chunk.stop - 1}",
                expected=f"{chunk.stop - chunk.start} rows of {name!r}", found=f"{len(values)}",
                remedy="The file is truncated or does not belong to this table.",
            )  # fmt: skip


def _run_batches(
    kernel: Callable[..., Any], plan: Plan, chunk: Chunk, columns: Mapping[str, Any], shared: Mapping[str, Any],
    on_gpu: bool,
) -> tuple[dict[str, np.ndarray], Any, bool]:  # fmt: skip
    """Rows, sums, and whether the sums are arrays of our own making (else they may be the kernel's shared data)."""
    rows, total = chunk.stop - chunk.start, None
    batch = plan.batch or rows
    pieces: dict[str, list[np.ndarray]] = {o.name: [] for o in plan.outputs}
    model = device.shared_on_device(dict(shared)) if on_gpu else dict(shared)
    for count, low in enumerate(range(0, rows, batch)):
        high = min(low + batch, rows)
        arguments = _arguments(plan.binding, chunk, columns, low, high)
        if on_gpu:
            arguments = [to_device(a) for a in arguments]
        got, sums = _unpack(kernel(*arguments, **model))
        for output in plan.outputs:
            pieces[output.name].append(_checked(got, output, high - low))
        if not sums or not plan.sums:
            continue
        total = sums if total is None else add(total, sums, own=count > 1)  # the first may be the kernel's own
    done = {name: p[0] if len(p) == 1 else np.concatenate(p) for name, p in pieces.items()}
    return done, {} if total is None else total, rows > batch


def _unpack(returned: Any) -> tuple[Mapping[str, Any], Any]:
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], Mapping)):
        raise TypeError(f"a kernel returns (rows, sums), two mappings; it returned {type(returned).__name__}")
    return returned


def _arguments(binding: Binding, chunk: Chunk, columns: Mapping[str, Any], low: int, high: int) -> list[Any]:
    groups = columns.get("optics_group")
    arguments: list[Any] = []
    for name, source, default in zip(binding.names, binding.sources, binding.defaults):
        if source == DEFAULT:
            arguments.append(default)
        elif source == INDEX:
            arguments.append(np.arange(chunk.start + low, chunk.start + high))
        elif source == PER_OPTICS:
            picked = None if groups is None else np.asarray(groups[low:high])
            arguments.append(expand_optics(np.asarray(columns[name]), picked, high - low))
        else:
            arguments.append(columns[name][low:high])
    return arguments


def _checked(got: Mapping[str, Any], output: Output, rows: int) -> np.ndarray:
    if output.name not in got:
        raise ValueError(f"the kernel returned no row variable {output.name!r}, only {sorted(got)}")
    array = np.asarray(to_host(got[output.name]))
    if array.shape != (rows, *output.shape):
        raise ValueError(f"row variable {output.name!r} has shape {array.shape}; declared {(rows, *output.shape)}")
    return array.astype(output.dtype, copy=False)


def _report(chunk: Chunk, event: str) -> None:
    """Tell the client what starts and ends here (on a worker; the embedded scheduler sees for itself)."""
    if "distributed" not in sys.modules:
        return
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # not on a worker
        return
    worker.log_event(TOPIC, {"event": event, "chunk": (chunk.name, chunk.index)})
