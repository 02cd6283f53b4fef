"""A small file server with byte ranges that misbehaves on request: what public archives do, on purpose and in haste."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Fault = Callable[[int, str], str]  # number and path of a request -> what goes wrong with it, "" for nothing
FAULTS = ("stall", "stall-midway", "cut", "reset", "drip", "range", "no-range", "size", "length", "403", "503", "429")


class FaultServer(ThreadingHTTPServer):
    """Serves ``folder``; ``fault(number, path)`` names what goes wrong with each request, "" for nothing."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.fault = folder, fault
        self.ranges = True  # False: whole files only
        self.versions = True  # False: neither ETag nor Last-Modified
        self.patience = 0  # how often the same bytes are refused at most; 0: chance decides
        self.refused: Counter[tuple[str, str]] = Counter()
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.requests: list[tuple[str, str]] = []  # (path, range) in order
        self.done: Counter[str] = Counter()  # faults that were played
        self.open = self.most_open = 0  # requests under way
        self.bytes = self.connections = 0
        self.authorization = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more connection."""
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultServer
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: no 40 ms waits

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        path = unquote(urlsplit(self.path).path)
        with server.lock:
            number = len(server.requests)
            server.requests.append((path, self.headers.get("Range", "")))
            server.authorization = self.headers.get("Authorization", "")
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        self.counted = True
        try:
            fault = server.fault(number, path)
            with server.lock:
                asked = server.requests[number]
                if fault and server.patience and server.refused[asked] >= server.patience:
                    fault = ""
                server.refused[asked] = server.refused[asked] + 1 if fault else 0
                server.done[fault] += 1
            self._answer(server.folder / path.lstrip("/"), fault)
        finally:
            self._leave()

    def _leave(self) -> None:
        """No more under way: called before the last byte goes, or a client may be back before it is counted off."""
        with self.server.lock:
            self.server.open -= self.counted
            self.counted = False

    def _answer(self, file: Path, fault: str) -> None:
        if fault == "stall":
            self._leave()  # when the client gives up is not told
            self.server.stopping.wait(30)
            self.close_connection = True
            return
        if fault in ("403", "503", "429", "500", "404"):
            self._plain(int(fault))
            return
        if not file.is_file():
            self._plain(404)
            return
        status = file.stat()
        start, stop, code = 0, status.st_size, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and self.server.ranges and fault != "no-range":
            start, stop, code = int(wanted[1]), min(int(wanted[2]) + 1, status.st_size), 206
            if start >= status.st_size:
                self._plain(416, {"Content-Range": f"bytes */{status.st_size}"})
                return
        if fault == "range":  # other bytes than those asked for, and said so
            start, stop = (start + 7, stop) if stop - start > 8 else (start, stop + 1)
        with file.open("rb") as handle:
            handle.seek(start)
            data = handle.read(stop - start)
        self.send_response(code)
        self.send_header("Content-Length", str(len(data) + 10 * (fault == "length")))
        if code == 206:
            total = status.st_size + 512 * (fault == "size")
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        if self.server.versions:
            self.send_header("ETag", f'"{status.st_mtime_ns:x}-{status.st_size:x}"')
            self.send_header("Last-Modified", formatdate(status.st_mtime, usegmt=True))
        self.end_headers()
        self._body(data, fault)

    def _body(self, data: bytes, fault: str) -> None:
        part = len(data) // 2 if fault in ("stall-midway", "cut", "reset") else len(data)
        with self.server.lock:
            self.server.bytes += part
        self._leave()
        if fault == "drip":
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.stopping.wait(0.05):
                    break
            return
        self.wfile.write(data[:part])
        self.wfile.flush()
        if fault == "stall-midway":
            self.server.stopping.wait(30)
        if fault == "reset":  # the connection ends at once, without a farewell
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if part < len(data) or fault == "length":
            self.close_connection = True
        if fault in ("cut", "reset"):
            self.connection.shutdown(socket.SHUT_RDWR) if fault == "cut" else self.connection.close()

    def _plain(self, code: int, headers: dict[str, str] | None = None) -> None:
        self._leave()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(folder: Path, fault: Fault = lambda *_: "") -> Iterator[FaultServer]:
    """A running server of ``folder``."""
    server = FaultServer(folder, fault)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def at_random(share: float, kinds: tuple[str, ...], seed: int = 0) -> Fault:
    """Each request goes wrong with probability ``share``, in one of ``kinds``."""
    rng = random.Random(seed)
    return lambda *_: rng.choice(kinds) if rng.random() < share else ""


def once(*kinds: str) -> Fault:
    """The first requests go wrong, one by one; all further ones are answered."""
    return lambda number, _: kinds[number] if number < len(kinds) else ""
