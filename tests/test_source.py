"""Sources: the same bytes from any place, files that change, the block cache, and names that lead outside."""

from __future__ import annotations

import os
import pickle
import random
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fault_server import serving

from cryoflow.errors import CryoflowError, FormatError, ResourceError
from cryoflow.io.sources import blocks, kept, transport
from cryoflow.io.sources.address import folder_of, folders_above, resolve
from cryoflow.io.sources.source import Source, is_remote, open_binary, open_source, read_all

DATA = np.random.default_rng(0).integers(0, 256, 1_000_000, dtype=np.uint8).tobytes()


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks.forget()
    monkeypatch.delenv("CRYOFLOW_CACHE", raising=False)


@pytest.fixture(params=["local", "file", "http", "memory", "zip"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """The same file in places of every kind."""
    path = tmp_path / "a b.bin"
    path.write_bytes(DATA)
    if request.param == "http":
        with serving(tmp_path) as server:
            yield f"{server.url}/a%20b.bin"
        return
    if request.param == "memory":
        fsspec.filesystem("memory").pipe("/a.bin", DATA)
    if request.param == "zip":
        import zipfile

        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("in/a.bin", DATA)
    yield {"local": str(path), "file": path.as_uri(), "memory": "memory://a.bin",
           "zip": f"zip://in/a.bin::{tmp_path / 'a.zip'}"}[request.param]  # fmt: skip


def test_any_part_is_the_same_everywhere(address: str) -> None:
    source = pickle.loads(pickle.dumps(open_source(address)))
    assert isinstance(source, Source)
    assert source.size == len(DATA)
    rng = random.Random(1)
    for _ in range(40):
        start = rng.randrange(len(DATA))
        stop = rng.randint(start, min(len(DATA), start + rng.choice([10, 5000, 400_000])))
        assert source.read(start, stop) == DATA[start:stop]
    assert source.read(0, 0) == source.read(len(DATA), len(DATA)) == b""
    assert read_all(address) == DATA
    assert source.token() == open_source(address).token()


def test_a_part_beyond_the_file_is_refused_before_anything_is_allocated(address: str) -> None:
    source = open_source(address)
    for start, stop in [(0, len(DATA) + 1), (-1, 5), (1 << 60, (1 << 60) + 1), (10, 5), (0, 1 << 62)]:
        with pytest.raises(FormatError, match="expected a part of 1000000 bytes"):
            source.read(start, stop)


def test_as_a_file_for_libraries(address: str) -> None:
    with open_binary(address) as file:
        assert file.seek(-10, os.SEEK_END) == len(DATA) - 10
        assert file.read() == DATA[-10:]
        assert file.seek(5) == 5
        assert file.read(7) == DATA[5:12]
        assert file.seek(len(DATA) + 5) == len(DATA) + 5
        assert file.read() == b""


@pytest.mark.parametrize("rewrite", [DATA[:-1], DATA + b"x", DATA[::-1]], ids=["shorter", "longer", "other"])
def test_a_file_that_changes_is_an_error_and_has_another_token(tmp_path: Path, rewrite: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    fsspec.filesystem("memory").pipe("/c.bin", DATA)
    with serving(tmp_path) as server:
        sources = [open_source(a) for a in (path, f"{server.url}/a.bin", "memory://c.bin")]
        path.write_bytes(rewrite)
        os.utime(path, ns=(1, 10**18))
        fsspec.filesystem("memory").pipe("/c.bin", rewrite)
        for source in sources:
            with pytest.raises(FormatError, match="changed since it was opened") as error:
                source.read(500_000, 500_010)
            assert source.address in str(error.value)
            assert open_source(source.address).token() != source.token()


def test_what_is_not_there_or_no_file_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as server:
        for address in (tmp_path / "no.bin", f"{server.url}/no.bin", "memory://no.bin", str(tmp_path / "a\0b")):
            with pytest.raises(FormatError, match="nothing there"):
                open_source(address)
    with pytest.raises(FormatError, match="a folder"):
        open_source(tmp_path)
    with pytest.raises(CryoflowError, match="nosuch://x/y"):
        open_source("nosuch://x/y")
    monkeypatch.setattr(transport, "_PAUSE", 0.01)
    with pytest.raises(ResourceError, match=r"gone\.bin.*refused.*6 attempts"):
        open_source(f"{server.url}/gone.bin")


def test_blocks_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(DATA)
    with serving(tmp_path) as server:
        source = open_source(f"{server.url}/a.bin")
        assert source.read(0, 1024) == DATA[:1024]  # came with the opening
        assert len(server.requests) == 1
        source.read(0, 300_000)
        source.read(100_000, 390_000)
        source.read(1000, 200_000)
        assert [r for _, r in server.requests] == ["bytes=0-4095", "bytes=0-393215"]
        source.read(300_000, 700_000)
        assert server.requests[-1][1] == "bytes=393216-786431"


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYOFLOW_CACHE_MB", "0.3")
    (tmp_path / "a.bin").write_bytes(DATA)
    with serving(tmp_path) as server:
        source = open_source(f"{server.url}/a.bin")
        middle = 4 * kept.BLOCK  # more at once would come by several connections, in any order
        assert source.read(0, middle) + source.read(middle, len(DATA)) == DATA
        assert 0 < blocks._kept.bytes <= 300_000
        assert len(blocks._kept.held()) == 2
        asked = len(server.requests)
        assert source.read(900_000, 1_000_000) == DATA[900_000:]  # the latest are still there
        assert len(server.requests) == asked
        assert source.read(0, 10_000) == DATA[:10_000]
        assert len(server.requests) == asked + 1


def test_of_a_large_read_the_edges_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_LARGE", 400_000)
    (tmp_path / "a.bin").write_bytes(DATA)
    with serving(tmp_path) as server:
        source = open_source(f"{server.url}/a.bin")
        assert source.read(10, 900_000) == DATA[10:900_000]
        assert {number for _, number in blocks._kept.held()} == {-1, 0, 6}
        source.read(0, 390_000)
        assert {number for _, number in blocks._kept.held()} == {-1, 0, 1, 2, 6}


@pytest.mark.parametrize("disk", ["fine", "none", "full", "fails"])
def test_what_is_kept_is_what_was_put_whatever_the_disk_does(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_disk(**_: object) -> None:
        raise FileNotFoundError

    rng, told = random.Random(0), {}
    writes = os.pwrite
    if disk == "none":
        monkeypatch.setattr(kept.tempfile, "TemporaryFile", no_disk)
    elif disk == "full":  # now and then only a part fits
        monkeypatch.setattr(os, "pwrite", lambda f, data, at: writes(f, data[: rng.choice([5, len(data)])], at))
    store, limit = kept.Kept(), 20 * kept.BLOCK
    for turn in range(600):
        key = (rng.choice("ab"), rng.randrange(20))
        if rng.random() < 0.5:
            told[key] = rng.randbytes(rng.choice([1, 100, kept.HEAD, kept.HEAD + 1, 70_000, kept.BLOCK]))
            store.put(key, told[key], limit=limit)
            assert store.bytes == sum(len(told[k]) for k in store.held()) <= limit
        if disk == "fails" and turn == 300:
            monkeypatch.setattr(os, "pread", lambda *_: b"")
        found = store.get(key)
        assert found == told.get(key) or (found is None and (disk == "fails" or key not in store.held()))
    assert len(store.held()) > 10
    in_memory = sum(len(b) for b in store._blocks.values() if isinstance(b, bytes))
    assert (in_memory > kept.BLOCK) == (disk in ("none", "full"))


def test_blocks_are_not_in_the_memory_of_the_process() -> None:
    store = kept.Kept()
    tracemalloc.start()
    for number in range(400):
        store.put(("a", number), number.to_bytes(4, "little") * (kept.BLOCK // 4), limit=1e9)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.bytes > 50e6 > 100 * held
    assert store.get(("a", 300)) == (300).to_bytes(4, "little") * (kept.BLOCK // 4)


def test_the_cache_folder_outlives_the_process_but_not_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CRYOFLOW_CACHE", str(folder))
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    with serving(tmp_path) as server:
        url = f"{server.url}/a.bin"
        assert read_all(url) == DATA
        blocks.forget()  # as a new process
        assert read_all(url) == DATA
        asked = sorted(r for _, r in server.requests)
        assert asked == ["bytes=0-4095", "bytes=0-4095", "bytes=0-524287", "bytes=524288-999999"]
        files = sorted(folder.rglob("*[0-9]"), key=lambda p: p.name)
        files = [f for f in files if f.is_file()]
        assert len(files) == 8
        files[1].write_bytes(files[1].read_bytes()[:-50])  # a damaged block and a changed one
        raw = bytearray(files[3].read_bytes())
        raw[77] ^= 1
        files[3].write_bytes(bytes(raw))
        blocks.forget()
        assert read_all(url) == DATA
        assert len(server.requests) == 7  # those two alone were asked for again
        path.write_bytes(DATA[::-1])
        blocks.forget()
        assert read_all(url) == DATA[::-1]
        server.versions = False  # a server that does not tell contents apart: nothing is kept for later
        blocks.forget()
        before = len(list(folder.rglob("*")))
        assert read_all(url) == DATA[::-1]
        assert len(list(folder.rglob("*"))) == before


def test_a_cache_that_cannot_be_written_costs_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CRYOFLOW_CACHE", str(tmp_path / "file"))
    (tmp_path / "a.bin").write_bytes(DATA)
    with serving(tmp_path) as server:
        assert read_all(f"{server.url}/a.bin") == DATA


@pytest.mark.parametrize(
    "name",
    ["../x.mrcs", "a/../../x.mrcs", "/etc/passwd", "..", "a\\..\\..\\x", "https://other/x.mrcs", "file:///etc/passwd",
     "s3://bucket/x", "//other/x.mrcs", "", "a\0b", "x\ny"],
)  # fmt: skip
@pytest.mark.parametrize("root", ["https://host/data/job", "folder"])
def test_names_that_lead_outside_are_refused(name: str, root: str, tmp_path: Path) -> None:
    root = root if is_remote(root) else str(tmp_path / root)
    if "\\" in name and not is_remote(root):
        pytest.skip("a backslash is a letter in names of local files here")
    with pytest.raises(FormatError, match=r"p\.star, row 7"):
        resolve(name, root, where="p.star, row 7")


def test_links_that_lead_outside_are_refused_unless_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "x.mrcs").write_bytes(b"")
    (root / "link.mrcs").symlink_to(tmp_path / "x.mrcs")
    (root / "folder").symlink_to(tmp_path)
    for name in ("link.mrcs", "folder/x.mrcs"):
        with pytest.raises(FormatError, match="allow_outside=True"):
            resolve(name, root, where="p.star")
        assert Path(resolve(name, root, where="p.star", allow_outside=True)).is_file()


def test_names_that_stay_inside_and_those_that_were_asked_for() -> None:
    root = "https://host/data/job"
    assert resolve("a/../b#1?.mrcs", root, where="") == "https://host/data/job/b%231%3F.mrcs"
    assert resolve("%2e%2e/x", root, where="") == "https://host/data/job/%252e%252e/x"
    assert resolve("../x", root, where="", allow_outside=True) == "https://host/data/x"
    assert resolve("s3://b/x", root, where="", allow_outside=True) == "s3://b/x"
    assert resolve("s3://b/x", "folder", where="", allow_outside=True) == "s3://b/x"
    assert resolve("x", "https://host", where="") == "https://host/x"
    assert folder_of("https://host/p.star") == "https://host/"
    assert folders_above("https://host", 4) == ["https://host"]
    assert folders_above("/a/b", 1) == ["/a/b", "/a"]
    assert folders_above("/a/b", 4) == ["/a/b", "/a"]  # never the root of the disk
    assert folders_above("/", 4) == ["/"]
