"""What a process keeps of remote files: their heads in memory, blocks in a file without a name.

The operating system holds such a file in memory while there is room, and writes it out when others need that: blocks
add nothing to the memory of the process, and end with it.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import IO

__all__ = ["BLOCK", "HEAD", "Kept"]

BLOCK = 1 << 17
HEAD = 4096  # what opening a file brings along: enough for its header

Key = tuple[str, int]


class Kept:
    """Blocks of up to ``BLOCK`` bytes by (token, number), bounded in bytes, the latest used last.

    >>> kept = Kept()
    >>> kept.put(("a", 0), b"x" * BLOCK, limit=2 * BLOCK)
    >>> kept.put(("a", 1), b"y", limit=2 * BLOCK)
    >>> kept.get(("a", 0)) == b"x" * BLOCK, kept.get(("b", 0)), kept.bytes
    (True, None, 131073)
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Key, bytes | tuple[int, int]] = OrderedDict()  # bytes, or their place and size
        self._file: IO[bytes] | None = None
        self._free: list[int] = []  # places of blocks that went
        self._end = 0

    def held(self) -> set[Key]:
        """Which blocks there are."""
        with self._lock:
            return set(self._blocks)

    def get(self, key: Key) -> bytes | None:
        """The block, now the latest used; None if it is not kept."""
        with self._lock:
            found = self._blocks.get(key)
            if found is None:
                return None
            self._blocks.move_to_end(key)
            return found if isinstance(found, bytes) else self._read(*found)

    def put(self, key: Key, data: bytes | memoryview, *, limit: float) -> None:
        """Keep a block, and as many of those used last as fit into ``limit`` bytes with it."""
        with self._lock:
            if key in self._blocks:
                self._drop(key)
            while self._blocks and self.bytes + len(data) > limit:
                self._drop(next(iter(self._blocks)))
            if len(data) <= limit:
                self.bytes += len(data)
                self._blocks[key] = bytes(data) if len(data) <= HEAD else self._write(data)

    def _drop(self, key: Key) -> None:
        found = self._blocks.pop(key)
        if isinstance(found, bytes):
            self.bytes -= len(found)
        else:
            self.bytes -= found[1]
            self._free.append(found[0])

    def _read(self, at: int, size: int) -> bytes | None:
        data = b""
        with suppress(OSError):  # what the disk has lost was not kept
            data = os.pread(self._file.fileno(), size, at) if self._file else b""
        return data if len(data) == size else None

    def _write(self, data: bytes | memoryview) -> bytes | tuple[int, int]:
        """Where the block is now: the data themselves if there is no disk, or no room on it."""
        at = self._free.pop() if self._free else self._end
        try:
            self._file = self._file or tempfile.TemporaryFile(buffering=0, prefix="cryoflow-")  # noqa: SIM115
            whole = os.pwrite(self._file.fileno(), data, at) == len(data)
        except OSError:
            whole = False
        if at == self._end:
            self._end += BLOCK
        if not whole:
            self._free.append(at)
        return (at, len(data)) if whole else bytes(data)
