"""Small texts from a server (records, listings): whole, bounded in size and time, tried again where that may help.

Such pages are made on the fly: they have neither a size nor parts, so they are not read as files by ranges are.
"""

from __future__ import annotations

from typing import Any

from cryoflow.errors import FormatError, ResourceError
from cryoflow.io.sources.transport import Again, shown, stream

__all__ = ["fetch_text"]

ATTEMPTS = 4
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


def fetch_text(address: str, *, limit: int) -> str:
    """The text at ``address``, of at most ``limit`` bytes; servers that stall or are busy are asked again.

    ``CRYOFLOW_TIMEOUT`` sets the seconds without a byte after which a request is given up (10).

    Raises
    ------
    FormatError : there is nothing there, or more than ``limit`` bytes. ResourceError : no answer, or a refusal.
    """
    where = shown(address)
    if not address.startswith(("http://", "https://")):
        raise FormatError(where, expected="an http(s) address", found=address)
    raw = bytearray()

    def check(response: Any) -> None:
        if response.status in {404, 410}:
            raise FormatError(where, expected="an existing address", found="nothing there")
        if response.status != 200:
            refused = ResourceError(where, expected="an answer", found=f"HTTP status {response.status}")
            raise Again(refused) if response.status in _AGAIN else refused

    def write(piece: bytes) -> None:
        if len(raw) + len(piece) > limit:
            raise FormatError(where, expected=f"at most {limit} bytes", found="more")
        raw.extend(piece)

    try:
        stream(address, check, write, raw.clear, attempts=ATTEMPTS)
    except ResourceError as error:
        raise ResourceError(where, expected="an answer", found=error.found,
                            remedy="Is there a network? Try again later, or use a mirror: see docs/catalog.md.",
                            ) from None  # fmt: skip
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(where, expected="text", found=f"bytes {bytes(raw[:8])!r}") from None
