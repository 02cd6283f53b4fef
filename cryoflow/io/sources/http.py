"""Files behind HTTP(S), read by byte ranges; every answer is held against what was asked for.

An answer is taken only if its status, its ``Content-Range``, its length, and the file's size, ``ETag`` and
``Last-Modified`` are what they must be (RFC 9110, 13 and 14). Anything else is asked for again, and at last an error
that names the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cryoflow.errors import FormatError, ResourceError
from cryoflow.io.sources.blocks import HEAD, CachedReads, keep_head
from cryoflow.io.sources.source import changed
from cryoflow.io.sources.transport import Again, fetch, shown, unusable

__all__ = ["HttpFile", "WholeOnly", "check_status", "open_http"]

WHOLE = 64_000_000  # a server without ranges sends all or nothing: what is read that way, in bytes
_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)")


class WholeOnly(FormatError):
    """A server that sends this file whole or not at all, and more of it than is read that way."""


@dataclass(frozen=True, slots=True)
class HttpFile(CachedReads):
    """One file behind HTTP(S), as its server described it at opening."""

    url: str
    size: int
    etag: str = ""
    modified: str = ""
    ranges: bool = True

    @property
    def address(self) -> str:
        """The URL without a password."""
        return shown(self.url)

    @property
    def lasting(self) -> bool:
        """Whether the server tells contents apart."""
        return bool(self.etag or self.modified)

    def fetch_into(self, start: int, out: memoryview) -> None:
        """Fill ``out`` with what begins at ``start``, from the server."""
        begin, room = (start, out) if self.ranges else (0, memoryview(bytearray(self.size)))
        stop = begin + len(room)

        def check(response: Any) -> tuple[None, memoryview]:
            _checked(response, self.url, begin, stop, self)
            return None, room

        fetch(self.url, begin, stop, check)
        if not self.ranges:
            out[:] = room[start : start + len(out)]

    def token(self) -> str:
        """Address, size, ETag and time."""
        return f"{self.address} {self.size} {self.etag} {self.modified}"


def open_http(url: str) -> HttpFile:
    """Ask for the first bytes of ``url``: they tell the file's size and version, and whether parts can be had.

    A server that sends whole files only is accepted for files of up to 64 MB.

    Raises
    ------
    FormatError : nothing there (404, 410), a larger file without ranges, or a server that does not tell the size.
    ResourceError : no answer, a refusal (401, 403), or answers that stay wrong.
    """

    def check(response: Any) -> tuple[tuple[HttpFile, bytearray], memoryview]:
        file, count = _checked(response, url, 0, HEAD, None)
        data = bytearray(count)
        return (file, data), memoryview(data)

    file, data = fetch(url, 0, HEAD, check)
    keep_head(file, data)
    return file


def _checked(response: Any, url: str, start: int, stop: int, known: HttpFile | None) -> tuple[HttpFile, int]:
    """The file an answer is about and how many bytes it brings, or why it is refused."""
    address = shown(url)
    where = f"{address}, bytes {start} to {stop}"
    status, headers = response.status, response.headers
    etag, modified = headers.get("ETag", "").removeprefix("W/"), headers.get("Last-Modified", "")
    if status == 416 and known is None and headers.get("Content-Range", "").replace(" ", "") == "bytes*/0":
        return HttpFile(url, 0, etag, modified), 0  # an empty file has no first byte
    if status == 416 and known is not None:  # the file has become shorter
        raise Again(changed(address, f"{known.size} bytes", headers.get("Content-Range") or "fewer"), attempts=3)
    check_status(response, address, where)
    if status == 206:
        match = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if match is None or match[3] == "*":
            raise Again(unusable(where, f"Content-Range {headers.get('Content-Range')!r}"), attempts=3)
        begin, end = int(match[1]), int(match[2]) + 1
        file = HttpFile(url, int(match[3]), etag, modified)
    else:
        begin, end = 0, _whole_size(headers, address, start, known)
        file = HttpFile(url, end, etag, modified, ranges=False)
    if known is not None:
        _same(known, file)
    if file.ranges and (begin, end) != (start, min(stop, file.size)):
        raise Again(unusable(where, f"bytes {begin} to {end}"))
    length = headers.get("Content-Length")
    if length is not None and length.strip() != str(end - begin):
        raise Again(unusable(where, f"an answer of {length} bytes for {end - begin}"))
    return file, end - begin


def check_status(response: Any, address: str, where: str) -> None:
    """Pass 200 and 206; tell what may pass (``Again``) from what stays."""
    status, headers = response.status, response.headers
    if status in (404, 410):
        raise FormatError(address, expected="an existing file", found="nothing there", remedy="Check the address.")
    if status in (408, 425, 429) or status >= 500:
        asked = headers.get("Retry-After", "").strip()
        raise Again(unusable(where, f"status {status}"), pause=min(30.0, float(asked)) if asked.isdecimal() else 0.0)
    if status not in (200, 206):
        remedy = "Check your rights to it, or copy the file here." if status in (401, 403) else "Check the address."
        raise ResourceError(address, expected="leave to read the file", found=f"status {status}", remedy=remedy)
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Again(unusable(where, f"bytes encoded as {headers['Content-Encoding']}"), attempts=3)


def _whole_size(headers: Any, address: str, start: int, known: HttpFile | None) -> int:
    """Size of an answer that ignores the range: it is taken if the file is small and was not promised in parts."""
    if known is not None and known.ranges:
        raise Again(unusable(address, "the whole file instead of a part"), attempts=3)
    size = headers.get("Content-Length", "").strip()
    if start or not size.isdecimal() or int(size) > WHOLE:
        raise WholeOnly(
            address, expected=f"a server that sends byte ranges, or a file of up to {WHOLE // 10**6} MB",
            found=f"a whole file of {size or 'unknown'} bytes", remedy="Download the file and open it here.",
        )  # fmt: skip
    return int(size)


def _same(known: HttpFile, file: HttpFile) -> None:
    """Refuse another version of a file. A header that only one of the answers has says nothing."""
    for what in ("size", "etag", "modified"):
        before, now = getattr(known, what), getattr(file, what)
        if before != now and (what == "size" or (before and now)):
            raise Again(changed(known.address, f"{what} {before}", f"{now}"), attempts=3)
