"""A few threads for reads that wait on a network: bounded for the whole process, whoever asks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["at_once", "concurrently", "connections"]

MOST = 8  # what public archives bear from one client

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_here = threading.local()


def connections() -> int:
    """Connections of this process at the same time: 8, or fewer by ``CRYOFLOW_CONNECTIONS``."""
    try:
        return max(1, min(MOST, int(os.environ.get("CRYOFLOW_CONNECTIONS", MOST))))
    except ValueError:
        return MOST


def at_once() -> int:
    """How many calls ``concurrently`` makes at the same time, called from here."""
    return 1 if getattr(_here, "working", False) else connections()


def concurrently(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``function`` of each item, in order, by the process's threads; the first error ends the rest.

    Called from one of these threads it works in that thread, so that no thread waits for another one's turn.

    >>> concurrently(len, ["a", "bc", ""])
    [1, 2, 0]
    """
    work = list(items)
    if len(work) < 2 or at_once() == 1:
        return [function(item) for item in work]
    futures = [_threads().submit(_marked, function, item) for item in work]
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _marked(function: Callable[[Item], Result], item: Item) -> Result:
    _here.working = True
    return function(item)


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(connections(), thread_name_prefix="cryoflow-read")
        return _pool


def _after_fork() -> None:
    """Threads and locks do not live on in a forked child."""
    global _lock, _pool, _here
    _lock, _pool, _here = threading.Lock(), None, threading.local()


os.register_at_fork(after_in_child=_after_fork)
