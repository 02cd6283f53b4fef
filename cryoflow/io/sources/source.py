"""Sources: the bytes of a file wherever it lies: a local path, an HTTP(S) address with byte ranges, any fsspec address.

A source is what its file was when it was opened. A file that changes afterwards is an error, never other bytes.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast, runtime_checkable

from cryoflow.errors import CryoflowError, FormatError, ResourceError

__all__ = ["LocalFile", "Source", "is_remote", "normal", "open_binary", "open_source", "read_all"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(://|::)")
_LOST_SLASH = re.compile(r"(https?):/(?=[^/])")  # what pathlib makes of a URL


@runtime_checkable
class Source(Protocol):
    """The bytes of one file, picklable; ``read`` returns exactly the bytes asked for, or raises a typed error."""

    @property
    def address(self) -> str:
        """Path or URL, as messages name it."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``."""

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill ``out`` (bytes) with what begins at ``start``."""

    def token(self) -> str:
        """A name of the content: another one when the content may be another."""


def normal(address: str | Path) -> str:
    """``address`` as text; a URL that went through ``pathlib`` gets its second slash back.

    >>> normal(Path("https://host/p.star"))
    'https://host/p.star'
    """
    text = os.fspath(address)
    return _LOST_SLASH.sub(r"\1://", text, count=1) if isinstance(address, Path) else text


def is_remote(address: str | Path) -> bool:
    """Whether ``address`` is a URL (of any scheme but ``file``) and no path.

    >>> is_remote("https://host/p.star"), is_remote("Extract/p.star"), is_remote("file:///data/p.star")
    (True, False, False)
    """
    text = normal(address)
    return _SCHEME.match(text) is not None and not text.startswith(("file://", "local://"))


def open_source(address: str | Path) -> Source:
    """The file at ``address``, as it is now; no handle stays open.

    Parameters
    ----------
    address : a path, ``http://`` or ``https://`` (read by byte ranges), or any address that fsspec knows
        (``s3://``, ``gs://``, ``sftp://``, ``zip://a.mrcs::b.zip`` ...). Remote blocks are cached.

    Raises
    ------
    FormatError : there is no such file, or its server cannot send parts of it.
    ResourceError : the server does not answer, or refuses.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.bin"
    >>> _ = path.write_bytes(b"abcdef")
    >>> source = open_source(path)
    >>> source.size, source.read(2, 4)
    (6, b'cd')
    """
    text = normal(address)
    if not is_remote(text):
        return _open_local(text)
    if text.startswith(("http://", "https://")):
        from cryoflow.io.sources.http import open_http

        return open_http(text)
    from cryoflow.io.sources.otherfs import open_other

    return open_other(text)


def read_all(address: str | Path | Source, *, limit: int | None = None) -> bytes:
    """The whole file, for text and other small formats; one of more than ``limit`` bytes is refused."""
    source = open_source(address) if isinstance(address, str | Path) else address
    if limit is not None and source.size > limit:
        raise FormatError(source.address, expected=f"at most {limit} bytes", found=f"{source.size}")
    return source.read(0, source.size)


def open_binary(address: str | Path | Source) -> BinaryIO:
    """The file as a seekable, buffered, read-only binary file, for libraries that want one (tifffile, h5py)."""
    source = open_source(address) if isinstance(address, str | Path) else address
    return cast("BinaryIO", io.BufferedReader(_Reader(source), 1 << 16))


def check_span(source: Source, start: int, stop: int) -> int:
    """Bytes from ``start`` to ``stop``, refused where they leave the file (before anything is allocated)."""
    if not 0 <= start <= stop <= source.size:
        raise FormatError(
            f"{source.address}, bytes {start} to {stop}", expected=f"a part of {source.size} bytes",
            found="one that leaves the file", remedy="The file is truncated, or what names this part is wrong.",
        )  # fmt: skip
    return stop - start


def changed(address: str, expected: str, found: str) -> FormatError:
    """The error for a file that is not what it was."""
    return FormatError(address, expected=expected, found=found,
                       remedy="The file has changed since it was opened: open it again.")  # fmt: skip


def filled(count: int, fill: Callable[[memoryview], None]) -> bytes:
    """``count`` bytes as ``fill`` writes them.

    >>> filled(3, lambda out: out.__setitem__(slice(1, 3), b"ab"))
    b'\\x00ab'
    """
    if not count:
        return b""
    out = io.BytesIO()  # gives its bytes away without a copy
    out.seek(count - 1)
    out.write(b"\0")
    with out.getbuffer() as view:
        fill(view)
    return out.getvalue()[:count]


class Reads:
    """``read`` of a source that has ``read_into``."""

    __slots__ = ()

    def read(self: Source, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``."""
        return filled(check_span(self, start, stop), lambda out: self.read_into(start, out))


@dataclass(frozen=True, slots=True)
class LocalFile(Reads):
    """A file on a disk; ``modified`` in nanoseconds. It is opened for each read and closed after it."""

    address: str
    size: int
    modified: int

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill ``out`` with what begins at ``start``."""
        check_span(self, start, start + len(out))
        try:
            handle = os.open(_path(self.address), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise _refused(self.address, error) from error
        try:
            status = os.fstat(handle)
            if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
                raise changed(self.address, f"{self.size} bytes of time {self.modified}",
                              f"{status.st_size} bytes of time {status.st_mtime_ns}")  # fmt: skip
            done = 0
            while done < len(out):  # one call reads 2 GiB at most
                step = os.preadv(handle, [out[done:]], start + done)
                if not step:
                    raise changed(self.address, f"{len(out)} bytes from {start}", f"{done}")
                done += step
        except OSError as error:
            raise _refused(self.address, error) from error
        finally:
            os.close(handle)

    def token(self) -> str:
        """Path, size and time."""
        return f"{self.address} {self.size} {self.modified}"


def _open_local(address: str) -> LocalFile:
    path = _path(address)
    try:
        status = os.stat(path)  # noqa: PTH116 (half the cost of Path.stat, for thousands of stacks)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise _refused(address, error) from error
    if not os.path.isfile(path):  # noqa: PTH113
        raise FormatError(address, expected="a file", found="a folder or a device")
    return LocalFile(address, status.st_size, status.st_mtime_ns)


def _path(address: str) -> str:
    if not address.startswith(("file://", "local://")):
        return address
    from urllib.request import url2pathname

    return url2pathname(address.partition("://")[2])


def _refused(address: str, error: Exception) -> CryoflowError:
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        return FormatError(address, expected="an existing file", found="nothing there", remedy="Check the path.")
    return ResourceError(
        address, expected="a file that can be read", found=getattr(error, "strerror", "") or str(error)
    )


class _Reader(io.RawIOBase):
    """A source as a raw file."""

    def __init__(self, source: Source) -> None:
        self._source, self._at = source, 0
        self.name = source.address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        at = offset + (0, self._at, self._source.size)[whence]
        if at < 0:
            raise OSError(22, "a position before the file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._source.size - self._at))
        if count:
            self._source.read_into(self._at, view[:count])
            self._at += count
        return count

    def __del__(self) -> None:
        with suppress(Exception):
            super().__del__()
