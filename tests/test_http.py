"""Reading over HTTP from servers that stall, cut off, lie and refuse: the right bytes, or the file named."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fault_server import FAULTS, at_random, once, serving

from cryoflow.errors import CryoflowError, FormatError, ResourceError
from cryoflow.io.images.lazy import FileImages
from cryoflow.io.images.mrc import read_header, read_images, write_stack
from cryoflow.io.particles import read_particles
from cryoflow.io.sources import blocks, http, transport
from cryoflow.io.sources.source import open_source

DATA = np.random.default_rng(0).integers(0, 256, 500_000, dtype=np.uint8).tobytes()
FINAL = {"403"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks.forget()
    monkeypatch.delenv("CRYOFLOW_CACHE", raising=False)
    monkeypatch.setenv("CRYOFLOW_TIMEOUT", "0.5")
    monkeypatch.setattr(transport, "_PAUSE", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(DATA)
    return tmp_path


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_passes_or_is_told(fault: str, folder: Path) -> None:
    with serving(folder, once("", fault)) as server:
        source = open_source(f"{server.url}/a.bin")
        if fault in FINAL:
            with pytest.raises(ResourceError, match=r"a\.bin.*status 403"):
                source.read(5000, 300_000)
            assert len(server.requests) == 2  # no second try
        else:
            assert source.read(5000, 300_000) == DATA[5000:300_000]
            assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "says", "kind"),
    [
        ("stall", "no byte for 0.5 s", ResourceError), ("drip", "bytes in 0.5 s", ResourceError),
        ("cut", "196608 more expected", ResourceError), ("reset", "reset by peer", ResourceError),
        ("range", "found bytes 7 to 393216", ResourceError), ("no-range", "the whole file", ResourceError),
        ("size", "expected size 500000; found 500512", FormatError),
        ("length", "393226 bytes for 393216", ResourceError),
        ("503", "status 503", ResourceError), ("429", "status 429", ResourceError),
        ("404", "nothing there", FormatError),
    ],
)  # fmt: skip
def test_a_fault_that_stays_names_the_file(
    fault: str, says: str, kind: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "ATTEMPTS", 2)
    monkeypatch.setattr(transport.Again.__init__, "__kwdefaults__", {"pause": 0.0, "attempts": 2})
    with serving(folder, lambda n, _: fault if n else "") as server:
        source = open_source(f"{server.url}/a.bin")
        begin = time.monotonic()
        with pytest.raises(kind, match=says) as error:
            source.read(5000, 300_000)
        assert f"{server.url}/a.bin" in str(error.value)
        assert time.monotonic() - begin < 30


def test_a_server_without_ranges_is_read_whole_once_or_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder) as server:
        server.ranges = False
        source = open_source(f"{server.url}/a.bin")
        assert source.read(400_000, 400_010) == DATA[400_000:400_010]
        assert len(server.requests) == 1
        blocks.forget()
        assert source.read(5, 10) == DATA[5:10]
        monkeypatch.setattr(http, "WHOLE", 499_999)
        with pytest.raises(FormatError, match=r"a\.bin.*byte ranges.*Download the file"):
            open_source(f"{server.url}/a.bin")


def test_never_more_than_eight_requests_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYOFLOW_CACHE_MB", "0")

    def slowly(*_: object) -> str:
        time.sleep(0.02)
        return ""

    with serving(folder, slowly) as server:
        source = open_source(f"{server.url}/a.bin")
        with ThreadPoolExecutor(20) as pool:
            parts = list(pool.map(lambda i: source.read(i * 1000, i * 1000 + 900), range(60)))
        assert parts == [DATA[i * 1000 : i * 1000 + 900] for i in range(60)]
        assert 4 < server.most_open <= 8
        assert server.connections <= 16  # connections are used again


def test_a_password_is_sent_and_never_shown(folder: Path) -> None:
    with serving(folder) as server:
        url = server.url.replace("http://", "http://me:se%40cret@")
        source = open_source(f"{url}/a.bin")
        assert source.read(0, 5) == DATA[:5]
        assert server.authorization == "Basic bWU6c2VAY3JldA=="
        with pytest.raises(FormatError) as error:
            open_source(f"{url}/b.bin")
        assert "cret" not in str(error.value) + source.address + source.token()


def ragged_set(folder: Path, stacks: int = 12, box: int = 16) -> Path:
    """A STAR file of shuffled rows from stacks of different lengths."""
    rng = np.random.default_rng(3)
    rows = []
    for i in range(stacks):
        count = int(rng.integers(1, 40))
        images = rng.standard_normal((count, box, box)).astype(np.float32)
        write_stack(folder / f"job/s{i}.mrcs", xr.DataArray(images, dims=("particle", "y", "x")), pixel_size=1.5)
        rows += [f"{j + 1}@job/s{i}.mrcs 300" for j in range(count)]
    rng.shuffle(rows)
    text = "data_\nloop_\n_rlnImageName\n_rlnVoltage\n" + "\n".join(rows) + "\n"
    (folder / "job/p.star").write_text(text)
    return folder / "job/p.star"


def test_a_set_behind_a_url_is_the_same_as_on_the_disk(tmp_path: Path) -> None:
    star = ragged_set(tmp_path)
    here = read_particles(star, pixel_size=1.5, chunk_bytes=30_000)
    with serving(tmp_path) as server:
        there = read_particles(f"{server.url}/job/p.star", pixel_size=1.5, chunk_bytes=30_000)
        assert there.attrs["root"] == server.url  # the names begin at the project, two folders up here
        xr.testing.assert_identical(here.drop_vars("image").drop_attrs(), there.drop_vars("image").drop_attrs())
        np.testing.assert_array_equal(here.image.values, there.image.values)
        rows = [5, 3, 3, 40, -1, 0]
        np.testing.assert_array_equal(here.image[rows].values, there.image[rows].values)
        np.testing.assert_array_equal(here.image[7, 3:5, ::2].values, there.image[7, 3:5, ::2].values)


@pytest.mark.parametrize(
    "name", ["../x.mrcs", "/x.mrcs", "http://127.0.0.1:1/x.mrcs", "file:///etc/hosts", "..%2Fx.mrcs"]
)
def test_names_that_leave_the_url_are_refused(name: str, tmp_path: Path) -> None:
    star = ragged_set(tmp_path, stacks=1)
    (tmp_path / "x.mrcs").write_bytes((tmp_path / "job/s0.mrcs").read_bytes())
    star.write_text(f"data_\nloop_\n_rlnImageName\n_rlnVoltage\n1@{name} 300\n")
    with serving(tmp_path) as server:
        with pytest.raises(FormatError, match=r"p\.star, row 1"):
            read_particles(f"{server.url}/job/p.star", root=f"{server.url}/job", pixel_size=1.5)
        assert not any("x.mrcs" in path and "%" not in path and "job" not in path for path, _ in server.requests)
        if name.startswith(("..", "/")) and "%" not in name:
            outside = read_particles(
                f"{server.url}/job/p.star", root=f"{server.url}/job", pixel_size=1.5, allow_outside=True
            )
            assert np.isfinite(outside.image.values).all()


def test_a_missing_or_forbidden_stack_is_named(tmp_path: Path) -> None:
    star = ragged_set(tmp_path, stacks=3)
    url = "{}/job/p.star"
    with serving(tmp_path, lambda _, path: "403" if path.endswith("s1.mrcs") else "") as server:
        with pytest.raises(ResourceError, match=r"s1\.mrcs.*403"):
            read_particles(url.format(server.url), pixel_size=1.5)
        (star.parent / "s2.mrcs").unlink()
        server.fault = lambda *_: ""
        with pytest.raises(FormatError, match=r"p\.star, row \d+: expected the stack job/s2\.mrcs.*1 of 3 missing"):
            read_particles(url.format(server.url), pixel_size=1.5)
    short = star.parent / "s1.mrcs"
    short.write_bytes(short.read_bytes()[:-10])
    with serving(tmp_path) as server, pytest.raises(FormatError, match=r"s[12]\.mrcs"):
        read_particles(url.format(server.url), pixel_size=1.5)


@pytest.mark.parametrize("seed", range(3))
def test_a_ragged_set_over_a_server_of_all_faults(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read gives the right bits or names its file, and with the faults that may pass it gives the right bits."""
    monkeypatch.setenv("CRYOFLOW_CACHE_MB", "0.2")
    star = ragged_set(tmp_path)
    truth = read_particles(star, pixel_size=1.5, chunk_bytes=30_000)
    passing = tuple(set(FAULTS) - {"403", "size"})
    kinds = [passing, FAULTS, ("stall", "stall-midway", "cut", "503")][seed]
    share = [0.2, 0.05, 0.05][seed]
    right = told = 0
    with serving(tmp_path, at_random(share, kinds, seed)) as server:
        server.patience = 2  # a wrong answer is believed the third time, and so it should be
        for _ in range(4):
            blocks.forget()
            try:
                ds = read_particles(f"{server.url}/job/p.star", pixel_size=1.5, chunk_bytes=30_000)
                for begin in range(0, ds.sizes["particle"], 29):
                    rows = slice(begin, begin + 29)
                    got = ds.image[rows].values
                    np.testing.assert_array_equal(got.view(np.uint32), truth.image[rows].values.view(np.uint32))
                    right += 1
            except CryoflowError as error:
                assert server.url in str(error)  # noqa: PT017
                told += 1
        assert server.done.total() > server.done[""]
    assert right > 0
    assert told == 0 or "403" in kinds


def test_threads_that_share_a_set_get_the_right_images(tmp_path: Path) -> None:
    star = ragged_set(tmp_path)
    truth = read_particles(star, pixel_size=1.5).image.values
    before = set(threading.enumerate())  # other tests' servers among them
    with serving(tmp_path, at_random(0.05, ("cut", "503", "stall"), 9)) as server:
        image = read_particles(f"{server.url}/job/p.star", pixel_size=1.5, chunk_bytes=10_000).image
        np.testing.assert_array_equal(image.data.compute(scheduler="threads", num_workers=6), truth)
    assert sum(thread.name.startswith("cryoflow-read") for thread in threading.enumerate()) <= 8
    ours = [t.name for t in threading.enumerate() if t not in before and "process_request_thread" not in t.name]
    assert len(ours) <= 8 + 6 + 2  # ours, Dask's workers, and a library's; the server's own are not counted


def test_near_parts_of_a_file_are_one_request(tmp_path: Path) -> None:
    images = np.random.default_rng(1).standard_normal((200, 32, 32)).astype(np.float32)
    write_stack(tmp_path / "s.mrcs", xr.DataArray(images, dims=("particle", "y", "x")), pixel_size=1.5)
    with serving(tmp_path) as server:
        header = read_header(f"{server.url}/s.mrcs")
        order = np.array([3, 1, 9, 9, 20, 150, 21], np.int32)
        array = FileImages((header,), 0 * order, order, (32, 32), np.dtype(np.float64))
        np.testing.assert_array_equal(array.read(np.arange(7)), images[order])
        assert len(server.requests) == 1 + 2
        np.testing.assert_array_equal(array.read(np.array([6, 0])), images[[21, 3]])
        assert len(server.requests) == 1 + 2  # from the cache
        np.testing.assert_array_equal(read_images(header, 199, 1)[0], images[199])
        os.utime(tmp_path / "s.mrcs", ns=(1, 10**18))
        blocks.forget()
        with pytest.raises(FormatError, match=r"s\.mrcs.*changed since it was opened"):
            read_images(header, 0, 1)


def test_a_wrong_answer_after_lost_connections_is_asked_again(tmp_path: Path) -> None:
    """Two lost connections do not use up the attempts that a wrong answer has of its own."""
    (tmp_path / "s.bin").write_bytes(bytes(range(256)) * 400)
    with serving(tmp_path) as server:
        file = http.open_http(f"{server.url}/s.bin")
        before = len(server.requests)
        server.fault = lambda number, _: {0: "cut", 1: "503", 2: "no-range", 3: "no-range"}.get(number - before, "")
        assert file.fetch(70_000, 70_010) == (bytes(range(256)) * 400)[70_000:70_010]
        before = len(server.requests)
        server.fault = lambda *_: "no-range"
        with pytest.raises(ResourceError, match="the whole file instead of a part"):
            file.fetch(70_000, 70_010)
        assert len(server.requests) - before == 3


@pytest.mark.parametrize("url", ["http://[bad/x", "http://h:99999999/x", "http:///x"])
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(ResourceError, match=r"Invalid|Failed to parse|No host"):
        open_source(url)
