"""The parts of a download: a partial file, the journal of what it holds, and what fills it."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryoflow.errors import FormatError, ResourceError
from cryoflow.io.files import disk_errors
from cryoflow.io.sources.source import Source

__all__ = ["PIECE", "Progress", "fetch_parts", "fetch_whole", "locked"]

PIECE = 1 << 23  # bytes of one request
Progress = Callable[[int, int | None], None]


@contextmanager
def locked(partial: Path, target: Path) -> Iterator[int]:
    """A handle of the partial file that no other process has; the lock ends with the process."""
    import fcntl

    handle = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink == 0:  # another process has just finished it
                raise BlockingIOError
        except BlockingIOError:
            raise ResourceError(str(target), expected="a file that nobody else downloads", found="another one at it",
                                remedy="Wait for it, or end it.") from None  # fmt: skip
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _kept(target: Path) -> Iterator[None]:
    """A full disk ends the download; what has arrived stays for the next try."""
    try:
        with disk_errors(target):
            yield
    except ResourceError as error:
        if error.where != str(target):
            raise
        raise ResourceError(
            error.where, expected=error.expected, found=error.found,
            remedy="Free some space and start it again: what has arrived is kept.",
        ) from error  # fmt: skip


def fetch_parts(source: Source, handle: int, journal: Path, target: Path, connections: int, tell: Progress) -> None:
    """Fetch all parts that the journal does not hold into ``handle``, several at a time.

    Raises
    ------
    FormatError : the file changed meanwhile. ResourceError : no answer, or a full disk; what has arrived is kept.
    """
    count = -(-source.size // PIECE)
    with _kept(target):
        log, done = _resume(source, handle, journal)
    try:
        missing = [number for number in range(count) if number not in done]
        have = sum(_length(source, number) for number in done)
        free = shutil.disk_usage(journal.parent).free
        if free < source.size - have:
            raise ResourceError(
                str(journal.parent), expected=f"{source.size - have} bytes of free disk for {source.address}",
                found=f"{free}", remedy="Free some space or choose another folder.",
            )  # fmt: skip
        with _kept(target):
            os.ftruncate(handle, source.size)
        tell(have, source.size)
        fetch = getattr(source, "fetch", source.read)  # without the block cache

        def piece(number: int) -> int:
            data = fetch(number * PIECE, number * PIECE + _length(source, number))
            with _kept(target):
                _write(handle, data, number * PIECE)
                os.write(log, f"{number} {zlib.crc32(data):08x}\n".encode())
            return len(data)

        with ThreadPoolExecutor(connections) as pool:
            futures = [pool.submit(piece, number) for number in missing]
            try:
                for future in as_completed(futures):
                    have += future.result()
                    tell(have, source.size)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        os.close(log)


def _resume(source: Source, handle: int, journal: Path) -> tuple[int, set[int]]:
    """The journal, open for more lines, and the parts that it names and the partial file really holds."""
    identity = json.dumps({"token": source.token(), "size": source.size, "piece": PIECE})
    lasting = getattr(source, "lasting", True)  # else nobody can tell whether the file is still the same
    text = journal.read_text("ascii", "replace") if lasting and journal.is_file() else ""
    lines = text.split("\n")
    if lines[0] != identity:
        lines, text = [], ""
    done = set()
    for line in lines[1:]:  # a kill may have cut one off
        number, _, checksum = line.partition(" ")
        if number.isdecimal() and int(number) * PIECE < source.size:
            data = os.pread(handle, _length(source, int(number)), int(number) * PIECE)
            if f"{zlib.crc32(data):08x}" == checksum:
                done.add(int(number))
    log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if text else os.O_TRUNC), 0o666)
    os.write(log, b"\n" if text else f"{identity}\n".encode())
    return log, done


def _length(source: Source, number: int) -> int:
    return min(PIECE, source.size - number * PIECE)


def _write(handle: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while len(view):
        step = os.pwrite(handle, view, at)
        view, at = view[step:], at + step


def fetch_whole(url: str, handle: int, target: Path, size: int | None, tell: Progress) -> None:
    """A file that comes in one piece: an attempt that fails begins again."""
    from cryoflow.io.sources.http import check_status
    from cryoflow.io.sources.transport import shown, stream

    at = 0

    def restart() -> None:
        nonlocal at
        at = 0
        os.ftruncate(handle, 0)

    def write(piece: bytes) -> None:
        nonlocal at
        with _kept(target):
            _write(handle, piece, at)
        at += len(piece)
        tell(at, size)

    def check(response: Any) -> None:
        check_status(response, shown(url), shown(url))

    stream(url, check, write, restart)
    if size is not None and at != size:
        raise FormatError(shown(url), expected=f"{size} bytes", found=f"{at}")
