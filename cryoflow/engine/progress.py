"""A progress line: rows done, rate and time left. Plain text, the same in a terminal and in a notebook."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Progress", "progress_line", "wants_progress"]


def wants_progress(progress: bool | None) -> bool:
    """``progress``, or if it is None: whether stderr is a terminal or a notebook."""
    return progress if progress is not None else sys.stderr.isatty() or "ipykernel" in sys.modules


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def progress_line(label: str, done: int, total: int, seconds: float) -> str:
    """One line of text.

    >>> progress_line("expectation", 500, 2000, 10.0)
    'expectation [=====               ]  25 %  500/2000 rows  50.0 rows/s  0:30 left'
    """
    share = done / total if total else 1.0
    rate = done / seconds if seconds > 0 else 0.0
    left = f"{_clock((total - done) / rate)} left" if rate and done < total else f"{_clock(seconds)}"
    return (
        f"{label or 'compute'} [{'=' * int(20 * share):20s}] {100 * share:3.0f} %  {done}/{total} rows  "
        f"{rate:.1f} rows/s  {left}"
    )


class Progress:
    """Counts finished chunks and draws the line at most five times a second. ``weights``: rows of each chunk.

    A chunk that is computed again, after its worker died, is not counted twice.
    """

    def __init__(self, label: str, weights: Mapping[Any, int], *, draw: bool, stream: TextIO | None = None,
                 listener: Callable[[int, int], None] | None = None) -> None:  # fmt: skip
        self.label, self.weights, self.draw, self.listener = label, weights, draw, listener
        self.stream = stream or sys.stderr
        self.total = sum(weights.values())
        self.done = 0
        self._seen: set[Any] = set()
        self._lock = threading.Lock()
        self._start = self._drawn = time.monotonic()

    def finished(self, key: Any) -> None:
        with self._lock:
            if key in self._seen or key not in self.weights:
                return
            self._seen.add(key)
            self.done += self.weights[key]
            if self.listener:
                self.listener(self.done, self.total)
            now = time.monotonic()
            if self.draw and now - self._drawn > 0.2:
                self._drawn = now
                self._write("\r" + self._line())

    def _line(self) -> str:
        return progress_line(self.label, self.done, self.total, time.monotonic() - self._start)

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: BaseException | TracebackType | None) -> None:
        if self.draw and self.total:
            self._write("\r" + self._line() + "\n")
