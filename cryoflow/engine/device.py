"""Where a task computes: its threads, and its GPU if the worker has one."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from cryoflow.errors import ParameterError, ResourceError
from cryoflow.kernels.backend import to_device

__all__ = ["device_of_task", "device_section", "one_thread", "shared_on_device"]

log = logging.getLogger(__name__)

_limited = threading.local()
_lock = threading.RLock()
_copies: dict[int, tuple[Any, Any]] = {}


def one_thread() -> None:
    """One BLAS and OpenMP thread in the calling thread of a worker: the bits of a product depend on their number.

    Looking through the loaded libraries takes milliseconds, so it is done again only when modules were loaded since.
    """
    loaded = len(sys.modules)
    if getattr(_limited, "modules", None) == loaded:
        return
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    _limited.modules = len(sys.modules)


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """Give the calling process its BLAS threads back afterwards (the embedded scheduler runs in the user's process)."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def device_of_task(device: str | None) -> bool:
    """Whether this task computes on a GPU.

    ``device`` is "cpu", "cuda" or None: as the environment variable CRYOFLOW_DEVICE says, else on a GPU where the Dask
    worker declares the resource "GPU".
    """
    wish = device or os.environ.get("CRYOFLOW_DEVICE") or None
    if wish not in (None, "cpu", "cuda"):
        raise ParameterError("device", expected="'cpu', 'cuda' or None", found=repr(wish))
    if wish == "cpu":
        return False
    if wish is None and not _worker_declares_gpu():
        return False
    problem = _no_gpu()
    if problem and wish == "cuda":
        raise ResourceError(
            "device 'cuda'", expected="a CUDA device and CuPy", found=problem,
            remedy="Install cryoflow[cuda12] or cryoflow[cuda13] where a GPU is, or use device='cpu'.",
        )  # fmt: skip
    if problem:
        log.warning("this worker declares a GPU but computes on the CPU: %s", problem)
    return not problem


def _worker_declares_gpu() -> bool:
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        return bool(get_worker().state.total_resources.get("GPU", 0) > 0)
    except ValueError:  # not inside a task of a worker
        return False


def _no_gpu() -> str:
    """Why there is no usable GPU; empty if there is one."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    try:
        return "" if cupy.cuda.runtime.getDeviceCount() else "no CUDA device"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return str(error)


@contextlib.contextmanager
def device_section(on_gpu: bool) -> Iterator[None]:
    """One task at a time on the GPU of a process: batches are sized for a whole device."""
    if on_gpu:
        with _lock:
            yield
    else:
        yield


def shared_on_device(value: Any) -> Any:
    """The device copy of shared model data, made once a process and dropped with the host array."""
    if isinstance(value, dict):
        return {k: shared_on_device(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(shared_on_device(v) for v in value)
    if not isinstance(value, np.ndarray):
        return value
    key = id(value)
    held = _copies.get(key)
    if held is None or held[0]() is not value:
        reference = weakref.ref(value, lambda _: _copies.pop(key, None))
        held = _copies[key] = (reference, to_device(value))
    return held[1]
