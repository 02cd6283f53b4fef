"""Requests to HTTP(S) servers: pooled connections, bounded for the whole process, short time-outs, another attempt.

``CRYOFLOW_TIMEOUT`` sets the seconds without a byte after which a request is given up (10), ``CRYOFLOW_CONNECTIONS``
how many requests a process has under way (8 at most).
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cryoflow.errors import CryoflowError, ResourceError
from cryoflow.io.sources.threads import connections

__all__ = ["Again", "fetch", "shown", "stream", "unusable"]

ATTEMPTS = 6
_SLOWEST = 2000  # bytes a second below which a server is as good as silent
_PAUSE = 0.2  # seconds before the second attempt; doubled for each further one
_USER = re.compile(r"(?<=://)[^/@]*@")

Answer = TypeVar("Answer")


class Again(Exception):
    """An answer that another attempt may better; ``error`` is raised after ``attempts`` answers of the same hope."""

    def __init__(self, error: CryoflowError, *, pause: float = 0.0, attempts: int = ATTEMPTS) -> None:
        self.error, self.pause, self.attempts = error, pause, attempts
        super().__init__(str(error))


def shown(url: str) -> str:
    """``url`` without the user and password in it.

    >>> shown("https://me:secret@host/p.star")
    'https://host/p.star'
    """
    return _USER.sub("", url, count=1)


def unusable(where: str, found: str) -> ResourceError:
    """The error for an answer that does not hold what was asked for."""
    return ResourceError(where, expected="the bytes asked for", found=found,
                         remedy="Try again later, or copy the file here.")  # fmt: skip


def fetch(url: str, start: int, stop: int, check: Callable[[Any], tuple[Answer, memoryview]]) -> Answer:
    """Ask for bytes ``start`` to ``stop`` of ``url`` until an answer is right, or trying again is of no use.

    ``check(response)`` sees status and headers, and tells what it made of them and where the bytes go, all of which
    must come; it raises ``Again`` for an answer that another attempt may better and any other error for one that is
    final.

    Raises
    ------
    ResourceError : no answer, or none that is whole.
    """
    where = f"{shown(url)}, bytes {start} to {stop}"

    def take(response: Any) -> Answer:
        answer, out = check(response)
        done = 0
        for piece in _pieces(response, where):
            if done + len(piece) > len(out):
                raise Again(unusable(where, f"more than {len(out)} bytes"))
            out[done : done + len(piece)] = piece
            done += len(piece)
        if done < len(out):
            raise Again(unusable(where, f"an answer cut off after {done} bytes"))
        return answer

    return _persist(url, {"Range": f"bytes={start}-{stop - 1}"}, where, take)


def stream(
    url: str, check: Callable[[Any], None], write: Callable[[bytes], None], restart: Callable[[], None], *,
    attempts: int = ATTEMPTS,
) -> None:  # fmt: skip
    """Ask for the whole of ``url`` and ``write`` it piece by piece; ``restart`` is called before each attempt."""
    where = shown(url)

    def take(response: Any) -> None:
        check(response)
        restart()
        done, promised = 0, response.headers.get("Content-Length", "").strip()
        for piece in _pieces(response, where):
            write(piece)
            done += len(piece)
        if promised.isdecimal() and done != int(promised):
            raise Again(unusable(where, f"{done} of {promised} bytes"))

    _persist(url, {}, where, take, attempts)


def _persist(
    url: str, headers: dict[str, str], where: str, take: Callable[[Any], Answer], attempts: int = ATTEMPTS
) -> Answer:
    """One attempt after the other, each with a permit, further apart each time."""
    attempt = 0
    hopes: Counter[int] = Counter()  # a wrong answer that will stay is told apart from one after two lost connections
    while True:
        attempt += 1
        try:
            with _slots():
                return _attempt(url, headers, where, take)
        except Again as again:
            error = again.error
            hopes[again.attempts] += 1
            if attempt >= attempts or hopes[again.attempts] >= again.attempts:
                found = f"{error.found} ({attempt} attempts)"
                raise type(error)(error.where, expected=error.expected, found=found, remedy=error.remedy) from None
            wait = max(again.pause, _PAUSE * 2 ** (attempt - 1))
        time.sleep(wait * random.uniform(0.75, 1.25))  # many clients must not come back together


def _attempt(url: str, headers: dict[str, str], where: str, take: Callable[[Any], Answer]) -> Answer:
    import urllib3

    limit = _timeout()
    headers = {"Accept-Encoding": "identity", "User-Agent": _agent(), **headers}
    if user := _USER.search(url):
        headers |= urllib3.make_headers(basic_auth=_unquoted(user[0][:-1]))
    try:
        response = _manager(url).request(
            "GET", shown(url), headers=headers, preload_content=False,
            timeout=urllib3.Timeout(connect=limit, read=limit),
            retries=urllib3.Retry(total=5, connect=0, read=0, redirect=5, status=0, other=0, raise_on_status=False),
        )  # fmt: skip
    except (urllib3.exceptions.HTTPError, ValueError) as error:  # ValueError: no address at all
        raise _unanswered(where, error) from error
    whole = False
    try:
        answer = take(response)
        whole = True
        return answer
    except (urllib3.exceptions.HTTPError, TimeoutError, ConnectionError) as error:
        raise _unanswered(where, error) from error
    finally:
        if whole:
            response.release_conn()
        else:
            response.close()  # what is left in this connection is of no use


def _pieces(response: Any, where: str) -> Iterator[bytes]:
    """The body piece by piece, from a server that neither stalls nor drips."""
    limit = _timeout()
    got, until = 0, time.monotonic() + limit
    while piece := response.read1(1 << 16):
        yield piece
        got += len(piece)
        if time.monotonic() > until:
            if got < _SLOWEST * limit:
                raise Again(unusable(where, f"{got} bytes in {limit:g} s"))
            got, until = 0, time.monotonic() + limit


def _unanswered(where: str, error: Exception) -> Exception:
    """What to make of a connection that failed: a wrong certificate or address stays wrong, the rest may pass."""
    import urllib3

    reason = getattr(error, "reason", None) or error
    final = (urllib3.exceptions.SSLError, urllib3.exceptions.ResponseError, ValueError)
    text = str(reason.args[0] if getattr(reason, "args", ()) else reason) or type(reason).__name__
    if isinstance(reason, urllib3.exceptions.NewConnectionError):  # refused, or no such host
        text = text.partition(": ")[2] or text  # what precedes it is the name of an object
    elif isinstance(reason, urllib3.exceptions.TimeoutError | TimeoutError):
        text = f"no byte for {_timeout():g} s"
    failed = unusable(where, text)
    return failed if isinstance(reason, final) else Again(failed)


def _timeout() -> float:
    try:
        return max(0.05, float(os.environ.get("CRYOFLOW_TIMEOUT", 10)))
    except ValueError:
        return 10.0


def _agent() -> str:
    from cryoflow import __version__

    return f"cryoflow/{__version__}"


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


_lock = threading.Lock()
_semaphore: threading.BoundedSemaphore | None = None
_managers: dict[str, Any] = {}


def _slots() -> threading.BoundedSemaphore:
    """One permit for each request under way in this process."""
    global _semaphore
    with _lock:
        if _semaphore is None:
            _semaphore = threading.BoundedSemaphore(connections())
        return _semaphore


def _manager(url: str) -> Any:
    """The pool of connections, straight or by the proxy that the environment names."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    import urllib3

    parts = urlsplit(url)
    host = parts.hostname or ""
    local = host in ("localhost", "::1") or host.startswith("127.") or proxy_bypass(host)
    proxy = "" if local else getproxies().get(parts.scheme, "")
    with _lock:
        if proxy not in _managers:
            size: dict[str, Any] = {"num_pools": 8, "maxsize": connections()}
            _managers[proxy] = urllib3.ProxyManager(proxy, **size) if proxy else urllib3.PoolManager(**size)
        return _managers[proxy]


def _after_fork() -> None:
    """Connections and locks belong to the parent."""
    global _lock, _semaphore, _managers
    _lock, _semaphore, _managers = threading.Lock(), None, {}


os.register_at_fork(after_in_child=_after_fork)
