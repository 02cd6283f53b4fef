"""Small texts from a server (records, listings): whole, bounded in size and time, tried again where that may help.

Such pages are made on the fly: they have neither a size nor parts, so they are not read as files by ranges are.
"""

from __future__ import annotations

import http.client
import os
import random
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from cryoflow import __version__
from cryoflow.errors import CryoflowError, FormatError, ResourceError
from cryoflow.io.sources.transport import shown

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
    timeout = _timeout()
    error: CryoflowError | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(0.1 * 4**attempt, timeout) * random.uniform(0.75, 1.25))
        try:
            return _once(address, limit, timeout)
        except urllib.error.HTTPError as answer:
            answer.close()
            if answer.code in {404, 410}:
                raise FormatError(shown(address), expected="an existing address", found="nothing there") from None
            error = ResourceError(shown(address), expected="an answer", found=f"HTTP status {answer.code}",
                                  remedy="Try again later, or use a mirror.")  # fmt: skip
            if answer.code not in _AGAIN:
                raise error from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException, OSError) as problem:
            reason = getattr(problem, "reason", problem)
            error = ResourceError(shown(address), expected="an answer", found=str(reason) or type(problem).__name__,
                                  remedy="Is there a network? Mirrors: see docs/catalog.md.")  # fmt: skip
        except ValueError as problem:
            raise FormatError(shown(address), expected="an http(s) address", found=str(problem)) from None
    assert error is not None
    raise error


def _once(address: str, limit: int, timeout: float) -> str:
    if not address.startswith(("http://", "https://")):
        raise ValueError(address)
    request = urllib.request.Request(address, headers={"User-Agent": f"cryoflow/{__version__}"})
    with _opener(address).open(request, timeout=timeout) as answer:
        raw: bytes = answer.read(limit + 1)
        promised = answer.headers.get("Content-Length", "")
    if len(raw) > limit:
        raise FormatError(shown(address), expected=f"at most {limit} bytes", found="more")
    if promised.isdigit() and len(raw) < int(promised):
        raise ConnectionError(f"{len(raw)} of {promised} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(shown(address), expected="text", found=f"bytes {raw[:8]!r}") from None


def _opener(address: str) -> urllib.request.OpenerDirector:
    """The proxies of the environment, but none for this machine."""
    local = (urlsplit(address).hostname or "") in {"localhost", "127.0.0.1", "::1"}
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))


def _timeout() -> float:
    try:
        return max(0.05, float(os.environ.get("CRYOFLOW_TIMEOUT", 10)))
    except ValueError:
        return 10.0
