"""What a stage costs: CPU and wall seconds and peak memory of this process and its children."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

__all__ = ["Cost", "Meter"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds and bytes; workers on other machines are not in it."""

    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int


class Meter:
    """Measures the process tree from ``with`` to its end, looking every ``interval`` seconds.

    A child that ends between two looks loses at most one interval of its CPU time; memory is the largest sum of
    resident sizes seen.

    >>> with Meter() as meter:
    ...     _ = sum(range(10000))
    >>> meter.cost.peak_memory_bytes > 0
    True
    """

    def __init__(self, interval: float = 0.2) -> None:
        self.interval = interval
        self._process = psutil.Process()
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cryoflow-meter", daemon=True)

    def __enter__(self) -> Self:
        self._start_wall = time.perf_counter()
        self._look(start=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    @property
    def cost(self) -> Cost:
        """The cost so far."""
        cpu = sum(last - self._first.get(pid, 0.0) for pid, last in self._last.items())
        return Cost(round(cpu, 3), round(time.perf_counter() - self._start_wall, 3), self._peak)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self._look()

    def _look(self, *, start: bool = False) -> None:
        """One look at every process of the tree."""
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info().rss
            except psutil.Error:  # ended meanwhile
                continue
            seconds = times.user + times.system
            if start:
                self._first[process.pid] = seconds
            self._last[process.pid] = seconds
            total += memory
        self._peak = max(self._peak, total)
