"""The block cache of remote files: blocks of 128 KiB, the latest used stay, and in a folder if one is given.

``CRYOFLOW_CACHE`` names the folder (none by default), ``CRYOFLOW_CACHE_MB`` the megabytes that a process keeps (256).
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cryoflow.io.sources.kept import BLOCK, HEAD, Kept
from cryoflow.io.sources.source import Reads, Source, check_span, filled
from cryoflow.io.sources.threads import at_once, concurrently

__all__ = ["BLOCK", "HEAD", "CachedReads", "Remote", "forget", "keep_head", "read_blocks"]

_FEW, _RUN = 4, 32  # blocks of a request: 512 KiB where others go at the same time, 4 MiB take a slow one some seconds
_HEAD_BLOCK = -1
_LARGE = 1 << 24  # bytes of a read that would push everything else out: its edges alone are kept


class Remote(Source, Protocol):
    """A source whose bytes are worth keeping."""

    def fetch_into(self, start: int, out: memoryview) -> None:
        """Fill ``out`` with what begins at ``start``, from where the file lies."""

    @property
    def lasting(self) -> bool:
        """Whether ``token`` tells contents apart for good, so that blocks may outlive the process."""


class CachedReads(Reads):
    """``read`` and ``read_into`` of a remote source, by way of the cache; ``fetch`` goes past it."""

    __slots__ = ()

    def fetch(self: Remote, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` from where the file lies."""
        return filled(check_span(self, start, stop), lambda out: self.fetch_into(start, out))

    def read_into(self: Remote, start: int, out: memoryview) -> None:
        """Fill ``out`` with what begins at ``start``."""
        check_span(self, start, start + len(out))
        read_blocks(self, start, out)


_kept = Kept()


def _megabytes() -> float:
    try:
        return max(0.0, float(os.environ.get("CRYOFLOW_CACHE_MB", 256)))
    except ValueError:
        return 256.0


def forget() -> None:
    """Empty the cache of this process; the folder stays."""
    global _kept
    _kept = Kept()


def keep_head(source: Remote, data: bytearray) -> None:
    """Keep the first bytes of a file, which came with its opening (all of them, if its server sends no parts)."""
    whole = memoryview(data)
    _keep(source, _HEAD_BLOCK, whole[:HEAD])
    if len(data) > HEAD:
        for number, begin in enumerate(range(0, len(data), BLOCK)):
            _keep(source, number, whole[begin : begin + BLOCK])


def read_blocks(source: Remote, start: int, out: memoryview) -> None:
    """Fill ``out`` with the bytes from ``start``: known blocks from the cache, the others by a few requests at once."""
    stop = start + len(out)
    if stop <= HEAD and (head := _known(source, _HEAD_BLOCK)) is not None and len(head) >= stop:
        out[:] = head[start:stop]
        return
    missing = []
    for number in range(start // BLOCK, -(-stop // BLOCK)):
        data = _known(source, number)
        if data is None:
            missing.append(number)
        else:
            _copy(data, number * BLOCK, start, out)

    def fetch(run: range) -> None:
        begin, end = run.start * BLOCK, min(run.stop * BLOCK, source.size)
        inside = start <= begin and end <= stop
        data = out[begin - start : end - start] if inside else memoryview(bytearray(end - begin))
        source.fetch_into(begin, data)
        if not inside:
            _copy(data, begin, start, out)
        for number in run:
            edge = len(out) <= _LARGE or number * BLOCK <= start or (number + 1) * BLOCK >= stop
            at = number * BLOCK - begin
            _keep(source, number, data[at : at + BLOCK], here=edge)

    concurrently(fetch, _runs(missing, max(_FEW, min(_RUN, -(-len(missing) // at_once())))))


def _runs(numbers: list[int], most: int) -> list[range]:
    """Numbers that follow each other, ``most`` in a run."""
    runs: list[range] = []
    for number in numbers:
        if runs and runs[-1].stop == number and len(runs[-1]) < most:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


def _copy(data: bytes | memoryview, begin: int, start: int, out: memoryview) -> None:
    """Copy what ``data``, from byte ``begin`` of the file, shares with ``out``, from byte ``start``."""
    low, high = max(begin, start), min(begin + len(data), start + len(out))
    if low < high:
        out[low - start : high - start] = memoryview(data)[low - begin : high - begin]


def _known(source: Remote, number: int) -> bytes | None:
    key = (source.token(), number)
    data = _kept.get(key)
    if data is None and number != _HEAD_BLOCK and (file := _file(source, number)) is not None:
        data = _load(file, min(BLOCK, source.size - number * BLOCK))
        if data is not None:
            _kept.put(key, data, limit=_megabytes() * 1e6)
    return data


def _keep(source: Remote, number: int, data: memoryview, *, here: bool = True) -> None:
    if here:
        _kept.put((source.token(), number), data, limit=_megabytes() * 1e6)
    if number != _HEAD_BLOCK and (file := _file(source, number)) is not None:
        _store(file, bytes(data))


def _file(source: Remote, number: int) -> Path | None:
    """The block's file in the cache folder; none where there is no folder, or no way to tell contents apart later."""
    folder = os.environ.get("CRYOFLOW_CACHE")
    if not folder or not source.lasting:
        return None
    name = hashlib.sha256(source.token().encode()).hexdigest()[:40]
    return Path(folder) / "blocks" / name[:2] / name / str(number)


def _load(file: Path, size: int) -> bytes | None:
    """A block from its file, if it is whole: its last four bytes are its checksum."""
    try:
        raw = file.read_bytes()
    except OSError:
        return None
    data, checksum = raw[:-4], raw[-4:]
    return data if len(data) == size and zlib.crc32(data).to_bytes(4, "little") == checksum else None


def _store(file: Path, data: bytes) -> None:
    """Write a block whole or not at all; a full disk costs the cache and nothing else."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink()


def _after_fork() -> None:
    forget()  # another thread may have held the lock


os.register_at_fork(after_in_child=_after_fork)
