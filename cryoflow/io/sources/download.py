"""Downloads: parts in parallel, resumed after a kill, checked, and whole or not there at all."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.files import disk_errors, inside
from cryoflow.io.sources.parts import Progress, fetch_parts, fetch_whole, locked
from cryoflow.io.sources.source import Source, normal, open_source
from cryoflow.io.sources.threads import MOST, concurrently

__all__ = ["download", "download_all"]

_HASHES = {"sha256", "md5", "sha1", "sha512"}


def download(
    address: str,
    path: str | Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    connections: int = 4,
    progress: Progress | None = None,
) -> Path:
    """Copy the file at ``address`` to ``path``, which exists afterwards only if it is whole.

    Until then ``.NAME.partial`` holds what has arrived and ``.NAME.journal`` which parts those are, so that a second
    call goes on where a killed one stopped, if the file is still the same there. A file that is already at ``path`` is
    left as it is if its size (and checksum) are right.

    Parameters
    ----------
    address : a URL, any address of fsspec, or a path.
    size : bytes there must be.
    checksum : "sha256:..." or "md5:..." in hexadecimal digits.
    connections : requests at the same time, of the 8 a process may have.
    progress : called with the bytes done and, if known, the bytes there are.

    Raises
    ------
    FormatError : nothing at ``address``, another size or checksum, or a file that changed meanwhile.
    ResourceError : no answer, a full disk, or another process that downloads the same file.
    ParameterError : a checksum that is none.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_bytes(b"abc")
    >>> download(str(folder / "a"), folder / "b", checksum="md5:900150983cd24fb0d6963f7d28e17f72").read_bytes()
    b'abc'
    """
    target, address = Path(path), normal(address)
    kind, digest = _checksum(checksum, address)
    if target.is_file() and size is not None:
        return _already(target, size, kind, digest)
    source = _describe(address)
    tell = progress or (lambda *_: None)
    return _fetch(source, address, target, size=size, checksum=(kind, digest), connections=connections, tell=tell)


def _fetch(
    source: Source | None, address: str, target: Path, *, size: int | None, checksum: tuple[str, str],
    connections: int, tell: Progress,
) -> Path:  # fmt: skip
    """Download a file that was described (``source`` None: one that comes whole or not at all)."""
    kind, digest = checksum
    if source is not None and size is not None and source.size != size:
        raise FormatError(address, expected=f"{size} bytes", found=f"{source.size}",
                          remedy="Is this the file that is meant?")  # fmt: skip
    if target.is_file() and source is not None:
        return _already(target, source.size, kind, digest)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    journal = target.with_name(f".{target.name}.journal")
    with locked(partial, target) as handle:
        if source is None:
            fetch_whole(address, handle, target, size, tell)
        else:
            fetch_parts(source, handle, journal, target, max(1, min(MOST, connections)), tell)
        if kind and (found := _digest(partial, kind)) != digest:
            partial.unlink()
            journal.unlink(missing_ok=True)
            raise FormatError(address, expected=f"{kind} {digest}", found=found, remedy="What came was deleted.")
        with disk_errors(target):
            os.fsync(handle)
        partial.replace(target)
        journal.unlink(missing_ok=True)
    return target


def download_all(
    pairs: Iterable[tuple[str, str | Path]],
    folder: str | Path | None = None,
    *,
    connections: int = MOST,
    progress: Progress | None = None,
) -> list[Path]:
    """Download (address, path) ``pairs``, many at a time; one that fails stops no other.

    Parameters
    ----------
    folder : where to: the paths are names below it, and none may lead outside. Without it paths are taken as they are.
    connections : requests at the same time, 8 at most.
    progress : called with the bytes done and the bytes there are, over all files, by one thread at a time.

    Raises
    ------
    CryoflowError : some failed: how many, and the first of them with its error; the others are there.
    ParameterError : two files for one path.
    """
    tasks = [
        (normal(address), Path(path) if folder is None else inside(str(path), Path(folder), where="download_all"))
        for address, path in pairs
    ]
    twice = len(tasks) - len({target for _, target in tasks})
    if twice:
        raise ParameterError("download_all", expected="one file for each path", found=f"{twice} paths named twice")
    described = concurrently(lambda task: _attempt(lambda: _describe(task[0])), tasks)
    failed = {task[1]: found for task, found in zip(tasks, described, strict=True) if isinstance(found, CryoflowError)}
    good = [(s, *task) for task, s in zip(tasks, described, strict=True) if not isinstance(s, CryoflowError)]
    total = None if any(source is None for source, *_ in good) else sum(s.size for s, *_ in good if s is not None)
    at_once = max(1, min(MOST, connections, len(good)))
    each = max(1, min(MOST, connections) // at_once)
    done: dict[Path, int] = {}
    lock = threading.Lock()

    def one(task: tuple[Source | None, str, Path]) -> None:
        source, address, target = task

        def tell(now: int, _: int | None) -> None:
            with lock:
                done[target] = now
                if progress is not None:
                    progress(sum(done.values()), total)

        try:
            _fetch(source, address, target, size=None, checksum=("", ""), connections=each, tell=tell)
            tell(target.stat().st_size, None)
        except CryoflowError as error:
            failed[target] = error

    with ThreadPoolExecutor(at_once) as pool:
        try:
            list(pool.map(one, good))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        first = next(failed[target] for _, target in tasks if target in failed)
        raise type(first)(first.where, expected=first.expected, found=first.found,
                          remedy=f"{first.remedy} {len(failed)} of {len(tasks)} files failed; "
                                 "the others are there, and another try fetches what is missing.".lstrip())  # fmt: skip
    return [target for _, target in tasks]


def _attempt(work: Callable[[], Source | None]) -> Source | CryoflowError | None:
    try:
        return work()
    except CryoflowError as error:
        return error


def _describe(address: str) -> Source | None:
    """The file, or None for one that its server sends whole or not at all."""
    from cryoflow.io.sources.http import WholeOnly

    try:
        return open_source(address)
    except WholeOnly:
        return None


def _already(target: Path, size: int, kind: str, digest: str) -> Path:
    found = target.stat().st_size
    if found != size:
        raise FormatError(str(target), expected=f"{size} bytes, if it is there already", found=f"{found}",
                          remedy="Remove it to download it again.")  # fmt: skip
    if kind and (what := _digest(target, kind)) != digest:
        raise FormatError(
            str(target), expected=f"{kind} {digest}", found=what, remedy="Remove it to download it again."
        )
    return target


def _checksum(text: str | None, address: str) -> tuple[str, str]:
    if text is None:
        return "", ""
    kind, _, digest = text.strip().lower().partition(":")
    if kind not in _HASHES or len(digest) != 2 * hashlib.new(kind).digest_size or set(digest) - set("0123456789abcdef"):
        raise ParameterError(f"download({address})", expected="a checksum like md5:0123...", found=repr(text))
    return kind, digest


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
