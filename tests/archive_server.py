"""A public archive in small: entries as JSON, folders as Apache shows them, files with byte ranges, and faults."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import fault_server
from fault_server import Fault, FaultServer, serving

ROW = '<tr><td valign="top"><img src="/icons/unknown.gif" alt="[   ]"></td><td><a href="{}">{}</a></td>'
CELLS = '<td align="right">2016-01-11 15:33  </td><td align="right">{}</td><td>&nbsp;</td></tr>\n'
HEAD = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html><head><title>Index of {0}</title></head><body><h1>Index of {0}</h1><table>
<tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th>
<th><a href="?C=S;O=A">Size</a></th></tr>
<tr><td><a href="{1}">Parent Directory</a></td><td>&nbsp;</td><td align="right">  - </td></tr>
"""


def apache(folder: Path, path: str) -> str:
    """The page of a folder, in the form of Apache's mod_autoindex with tables; long names are cut in the text."""
    page = HEAD.format(html.escape(path), quote(str(Path(path).parent)))
    for item in sorted(folder.iterdir()):
        name = item.name + "/" * item.is_dir()
        size = "  - " if item.is_dir() else f"{item.stat().st_size / 1024:.1f}K"
        shown = name if len(name) < 24 else name[:21] + "..>"
        page += ROW.format(html.escape(quote(name)), html.escape(shown)) + CELLS.format(size)
    return page + "</table>\n<address>Apache/2.4 Server</address></body></html>\n"


class Archive(fault_server._Handler):
    """Files as the fault server has them; folders as pages without a length; a folder with index.json as that file."""

    def _answer(self, file: Path, fault: str) -> None:
        path = unquote(urlsplit(self.path).path)
        if not file.is_dir() or fault in {"stall", "403", "503", "429", "500", "404"}:
            super()._answer(file, fault)
        elif (file / "index.json").is_file():
            self._page((file / "index.json").read_bytes(), "application/json", fault)
        elif not path.endswith("/"):
            self._plain(301, {"Location": quote(path) + "/"})
        else:
            self._page(apache(file, path).encode(), "text/html;charset=UTF-8", fault)

    def _page(self, data: bytes, kind: str, fault: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.flush()
            if fault in {"cut", "reset"}:  # the last chunk never comes
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")


@contextmanager
def archive(folder: Path, fault: Fault = lambda *_: "") -> Iterator[FaultServer]:
    """A running archive of ``folder``."""
    with serving(folder, fault) as server:
        server.RequestHandlerClass = Archive
        yield server
