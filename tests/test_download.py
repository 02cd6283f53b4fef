"""Downloads: parts in parallel, kills, faults, checksums, full disks and names that lead outside."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fault_server import FAULTS, at_random, once, serving

from cryoflow.errors import FormatError, ParameterError, ResourceError
from cryoflow.io.sources import parts, transport
from cryoflow.io.sources.download import download, download_all

DATA = np.random.default_rng(0).integers(0, 256, 1_000_003, dtype=np.uint8).tobytes()
SHA = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PIECE", 1 << 16)
    monkeypatch.setattr(transport, "_PAUSE", 0.01)
    monkeypatch.setenv("CRYOFLOW_TIMEOUT", "0.4")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "a.bin").write_bytes(DATA)
    return folder


def left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"archive"}


def slow(number: int, path: str) -> str:  # noqa: ARG001
    """Requests of a quick server are answered one by one where the machine has little time."""
    time.sleep(0.03)
    return ""


def test_parts_come_in_parallel_and_nothing_else_is_left(archive: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving(archive, slow) as server:
        path = download(
            f"{server.url}/a.bin", tmp_path / "new" / "a.bin", size=len(DATA), checksum=SHA,
            progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
        assert path.read_bytes() == DATA
        assert left(path.parent) == {"a.bin"}
        assert len(server.requests) == 1 + 16
        assert 1 < server.most_open <= 4
        assert download(f"{server.url}/a.bin", path, size=len(DATA), checksum=SHA) == path  # already there: not asked
        assert len(server.requests) == 1 + 16
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))
    assert seen == sorted(seen)


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"403"}))
def test_each_fault_is_survived(fault: str, archive: Path, tmp_path: Path) -> None:
    with serving(archive, once("", "", "", fault, fault)) as server:
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
        assert (tmp_path / "a.bin").read_bytes() == DATA
        assert server.done[fault] == 2


def test_a_refusal_is_named_and_the_next_try_goes_on(archive: Path, tmp_path: Path) -> None:
    with serving(archive, lambda n, _: "403" if n > 9 else "") as server:
        with pytest.raises(ResourceError, match=r"a\.bin.*status 403"):
            download(f"{server.url}/a.bin", tmp_path / "a.bin")
        assert left(tmp_path) == {".a.bin.partial", ".a.bin.journal"}
        done = len(re.findall(r"^\d", (tmp_path / ".a.bin.journal").read_text(), re.MULTILINE))
        asked, server.fault = len(server.requests), lambda *_: ""
        download(f"{server.url}/a.bin", tmp_path / "a.bin", checksum=SHA)
        assert done > 4
        assert len(server.requests) - asked == 1 + 16 - done


def test_a_kill_and_then_again(archive: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from cryoflow.io.sources import parts; parts.PIECE = 1 << 16\n"
        "from cryoflow.io.sources.download import download; download(sys.argv[1], sys.argv[2])"
    )
    journal = tmp_path / ".a.bin.journal"

    def finished() -> int:
        return len(re.findall(r"^\d+ [0-9a-f]{8}$", journal.read_text(), re.MULTILINE)) if journal.is_file() else 0

    def slowly(*_: object) -> str:
        time.sleep(0.1)
        return ""

    with serving(archive, slowly) as server:
        for wanted in (3, 7):
            child = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/a.bin", str(tmp_path / "a.bin")])
            while finished() < wanted and child.poll() is None:
                time.sleep(0.002)
            child.kill()
            child.wait()
            assert left(tmp_path) == {".a.bin.partial", ".a.bin.journal"}
        with journal.open("a") as file:
            file.write("12 00")  # a line cut off
        asked, done = len(server.requests), finished()
        server.fault = lambda *_: ""
        download(f"{server.url}/a.bin", tmp_path / "a.bin", checksum=SHA)
        assert done >= 7
        assert len(server.requests) - asked == 1 + 16 - done
    assert left(tmp_path) == {"a.bin"}


def test_what_a_damaged_partial_file_lost_is_fetched_again(archive: Path, tmp_path: Path) -> None:
    with serving(archive, lambda n, _: "403" if n > 9 else "") as server:
        with pytest.raises(ResourceError):
            download(f"{server.url}/a.bin", tmp_path / "a.bin")
        partial = tmp_path / ".a.bin.partial"
        raw = bytearray(partial.read_bytes())
        raw[100] ^= 255
        partial.write_bytes(bytes(raw))
        server.fault = lambda *_: ""
        assert download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == DATA


def test_another_version_begins_anew(archive: Path, tmp_path: Path) -> None:
    with serving(archive, lambda n, _: "403" if n > 9 else "") as server:
        with pytest.raises(ResourceError):
            download(f"{server.url}/a.bin", tmp_path / "a.bin")
        (archive / "a.bin").write_bytes(DATA[::-1])
        server.fault = lambda *_: ""
        assert download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == DATA[::-1]


def test_a_file_that_changes_meanwhile_is_refused(archive: Path, tmp_path: Path) -> None:
    def change(number: int, _: str) -> str:
        if number == 6:
            (archive / "a.bin").write_bytes(DATA[::-1])
        return ""

    with serving(archive, change) as server, pytest.raises(FormatError, match=r"a\.bin.*changed"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", connections=1)
    assert not (tmp_path / "a.bin").exists()


def test_a_server_without_ranges(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoflow.io.sources import http

    for whole in (http.WHOLE, 1000):  # read at once, and as a stream
        monkeypatch.setattr(http, "WHOLE", whole)
        for fault in ("", "cut", "stall-midway", "length", "503"):
            with serving(archive, once("", fault)) as server:
                server.ranges = False
                path = tmp_path / f"{whole}{fault}"
                assert download(f"{server.url}/a.bin", path, size=len(DATA), checksum=SHA).read_bytes() == DATA
    assert not [p for p in left(tmp_path) if p.startswith(".")]


def test_wrong_size_and_checksum_leave_nothing(archive: Path, tmp_path: Path) -> None:
    with serving(archive) as server:
        url = f"{server.url}/a.bin"
        with pytest.raises(FormatError, match=f"expected 5 bytes; found {len(DATA)}"):
            download(url, tmp_path / "a.bin", size=5)
        with pytest.raises(FormatError, match=r"expected md5 0{32}; found"):
            download(url, tmp_path / "a.bin", checksum="md5:" + "0" * 32)
        for wrong in ("md5:12", "crc:1", "sha256:" + "g" * 64, ""):
            with pytest.raises(ParameterError, match="checksum"):
                download(url, tmp_path / "a.bin", checksum=wrong)
        with pytest.raises(FormatError, match="nothing there"):
            download(f"{server.url}/b.bin", tmp_path / "a.bin")
        assert left(tmp_path) == set()
        (tmp_path / "a.bin").write_bytes(b"mine")  # a file that is there is not overwritten
        with pytest.raises(FormatError, match="Remove it"):
            download(url, tmp_path / "a.bin")
        assert (tmp_path / "a.bin").read_bytes() == b"mine"


def test_a_full_disk(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (archive / "big.bin").write_bytes(DATA[:900_000])
    real = os.pwrite

    def pwrite(handle: int, data: memoryview, at: int) -> int:
        if at >= 300_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data, at)

    with serving(archive) as server:
        url = f"{server.url}/big.bin"
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(ResourceError, match=r"big\.bin.*No space.*what has arrived is kept"):
            download(url, tmp_path / "big.bin")
        monkeypatch.undo()
        assert left(tmp_path) == {".big.bin.partial", ".big.bin.journal"}
        assert download(url, tmp_path / "big.bin").stat().st_size == 900_000
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr(parts.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(ResourceError, match="900000 bytes of free disk"):
            download(url, tmp_path / "second.bin")


def test_two_downloads_of_one_file(archive: Path, tmp_path: Path) -> None:
    with (
        serving(archive) as server,
        parts.locked(tmp_path / ".a.bin.partial", tmp_path / "a.bin"),
        pytest.raises(ResourceError, match="nobody else"),
    ):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")


def test_many_files_over_a_bad_server(archive: Path, tmp_path: Path) -> None:
    for i in range(30):
        (archive / f"{i}.bin").write_bytes(DATA[i : i + 70_000])
    told: list[tuple[int, int | None]] = []
    with serving(archive, at_random(0.15, tuple(set(FAULTS) - {"403", "size"}), 1)) as server:
        pairs = [(f"{server.url}/{i}.bin", f"x/{i}.bin") for i in range(30)]
        paths = download_all(pairs, tmp_path, connections=6, progress=lambda *t: told.append(t))
        assert [p.read_bytes() for p in paths] == [DATA[i : i + 70_000] for i in range(30)]
        assert server.most_open <= 8
        assert told[-1] == (30 * 70_000, 30 * 70_000)
        assert sum(server.done.values()) - server.done[""] > 5


def test_one_that_fails_stops_no_other(archive: Path, tmp_path: Path) -> None:
    for i in range(6):
        (archive / f"{i}.bin").write_bytes(DATA[i : i + 10])
    with serving(archive, lambda _, path: "403" if path == "/2.bin" else "") as server:
        pairs = [(f"{server.url}/{i}.bin", f"{i}.bin") for i in range(8)]
        with pytest.raises(ResourceError, match=r"2\.bin.*status 403.*3 of 8 files failed"):
            download_all(pairs, tmp_path)
        assert left(tmp_path) == {f"{i}.bin" for i in (0, 1, 3, 4, 5)}
        with pytest.raises(FormatError, match="download_all: expected a file below"):
            download_all([(f"{server.url}/1.bin", "../1.bin")], tmp_path)
        with pytest.raises(ParameterError, match="named twice"):
            download_all([(f"{server.url}/1.bin", "1"), (f"{server.url}/2.bin", "1")], tmp_path)
