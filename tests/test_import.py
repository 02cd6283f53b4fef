"""``cryoflow import``: stores of anything, chunk by chunk, through kills, damage and full disks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from test_cli import command

from cryoflow.errors import ComputeError, FormatError, ParameterError, ResourceError, StoreError
from cryoflow.io import open_store, provenance, read_particles, save, write_map, write_stack
from cryoflow.io.stores.journal import Target
from cryoflow.io.stores.write_chunk import bad_images
from cryoflow.workflow.importing import import_data

N, BOX = 23, 32
CHUNK = 5 * BOX * BOX * 4  # five images a chunk: five chunks, the last of three


def stack(folder: Path, *, bad: tuple[int, ...] = (), n: int = N) -> tuple[Path, np.ndarray[Any, Any]]:
    """A particle set in two stacks, in an order that jumps between them."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, BOX, BOX)).astype(np.float32)
    images[list(bad), 3, 4] = np.nan
    which = np.arange(n) % 2
    for number in range(2):
        part = xr.DataArray(images[which == number], dims=("particle", "y", "x"))
        write_stack(folder / f"{number}.mrcs", part, pixel_size=1.5)
    names = [f"{i // 2 + 1:06d}@{i % 2}.mrcs {9000 + i} {i % 2 + 1} {i}.5" for i in range(n)]
    labels = "_rlnImageName\n_rlnDefocusU\n_rlnRandomSubset\n_rlnForeign\n"
    (folder / "p.star").write_text("data_\nloop_\n" + labels + "\n".join(names) + "\n")
    return folder / "p.star", images


def bits(store: Path) -> dict[str, bytes]:
    """Every file of a store but the record, whose time differs."""
    files = {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}
    meta = json.loads(files.pop("zarr.json"))
    entry = meta["attributes"].pop("cryoflow")
    for name in ("created", "function", "parameters", "inputs", "bad_rows"):
        entry.pop(name, None)
    return files | {"zarr.json": json.dumps([meta, entry], sort_keys=True).encode()}


def test_the_store_is_the_one_that_save_writes(tmp_path: Path) -> None:
    star, images = stack(tmp_path)
    done = import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    assert (done.rows, done.chunks, done.kept, done.bad_rows) == (N, 5, 0, {})
    save(read_particles(star, pixel_size=1.5), tmp_path / "b.zarr", function="x", parameters={}, chunk_bytes=CHUNK)
    assert bits(tmp_path / "a.zarr") == bits(tmp_path / "b.zarr")
    back = open_store(tmp_path / "a.zarr")
    np.testing.assert_array_equal(back.image.values, images)
    assert back.x_rlnForeign.values[3] == 3.5
    assert {p.name for p in tmp_path.iterdir()} == {"0.mrcs", "1.mrcs", "p.star", "a.zarr", "b.zarr"}
    entry = provenance(tmp_path / "a.zarr")
    assert entry["function"] == "import_data"
    assert entry["inputs"][0]["name"] == str(star)


def test_half_precision(tmp_path: Path) -> None:
    star, images = stack(tmp_path)
    import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK, image_dtype="float16")
    save(read_particles(star, pixel_size=1.5), tmp_path / "b.zarr", function="x", parameters={}, chunk_bytes=CHUNK,
         image_dtype="float16")  # fmt: skip
    assert bits(tmp_path / "a.zarr") == bits(tmp_path / "b.zarr")
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr").image.values, images.astype("f2").astype("f4"))


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    star, _ = stack(tmp_path)
    import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "a.zarr").rglob("*")}
    assert import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK).rows == N
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "a.zarr").rglob("*")}
    with pytest.raises(StoreError, match="overwrite=True"):
        import_data(star, tmp_path / "a.zarr", pixel_size=1.6, trust_given=True, chunk_bytes=CHUNK)
    import_data(star, tmp_path / "a.zarr", pixel_size=1.6, trust_given=True, chunk_bytes=CHUNK, overwrite=True)
    assert float(open_store(tmp_path / "a.zarr").pixel_size[0]) == 1.6


# what a killed run does last: the k-th time that it renames a file or writes a chunk
KILLED = """
import os, sys
from pathlib import Path
import dask
from cryoflow.io.stores import fill, journal, plan, write_chunk, store, completion
from cryoflow.io import files
from cryoflow.workflow.importing import import_data
kill_at, count = {kill_at}, 0
def struck():
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), 9)
for name in ("replace", "rename", "mkdir", "write_text", "write_bytes"):
    def torn(self, *a, plain=getattr(Path, name), **k):
        struck()
        return plain(self, *a, **k)
    setattr(Path, name, torn)
plain_open = Path.open
class Torn:
    def __init__(self, stream): self.stream = stream
    def __enter__(self): return self
    def __exit__(self, *e): self.stream.close()
    def __getattr__(self, name): return getattr(self.stream, name)
    def write(self, view):
        half = self.stream.write(view[: len(view) // 2])
        struck()
        return half + self.stream.write(view[half:])
def torn_open(self, mode="r", *a, **k):
    stream = plain_open(self, mode, *a, **k)
    return Torn(stream) if mode == "wb" and "journal" in str(self) else stream
Path.open = torn_open
with dask.config.set(num_workers=1):
    import_data({star!r}, {out!r}, pixel_size=1.5, chunk_bytes={chunk})
print(count)
"""


def killed(star: Path, out: Path, kill_at: int) -> subprocess.CompletedProcess[str]:
    code = KILLED.format(kill_at=kill_at, star=str(star), out=str(out), chunk=CHUNK)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_kill_at_any_moment_then_again_gives_the_same_bits(tmp_path: Path) -> None:
    star, _ = stack(tmp_path, bad=(7,))
    import_data(star, tmp_path / "whole.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    moments = int(killed(star, tmp_path / "count.zarr", 10**9).stdout)
    assert moments > 90
    for share in (0.1, 0.5, 0.75, 0.9, 0.99):
        _killed_then_again(tmp_path, star, 1 + int(share * moments))


def _killed_then_again(folder: Path, star: Path, kill_at: int) -> int:
    out = folder / f"k{kill_at}.zarr"
    process = killed(star, out, kill_at)
    assert process.returncode == -signal.SIGKILL, process.stderr
    if out.exists():  # killed after its last step
        open_store(out)
    done = import_data(star, out, pixel_size=1.5, chunk_bytes=CHUNK)
    assert bits(out) == bits(folder / "whole.zarr")
    assert not list(folder.glob("*.partial"))
    return done.kept


@pytest.mark.slow
def test_a_kill_at_every_moment(tmp_path: Path) -> None:
    star, _ = stack(tmp_path, bad=(7,))
    import_data(star, tmp_path / "whole.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    moments = int(killed(star, tmp_path / "count.zarr", 10**9).stdout)
    kept = [_killed_then_again(tmp_path, star, k) for k in range(1, moments + 1)]
    assert set(kept) == {0, 1, 2, 3, 4, 5}  # and no chunk was made twice
    assert kept[:-1] == sorted(kept[:-1])


def interrupted(star: Path, out: Path, chunks: int = 3) -> None:
    """An import that ends after so many chunks."""
    from cryoflow.io.stores import write_chunk

    plain, left = write_chunk._write_plain, [chunks]

    def fails(*arguments: Any) -> int:
        if not left[0]:
            raise RuntimeError("the power went off")
        left[0] -= 1
        return plain(*arguments)

    with dask.config.set(num_workers=1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_chunk, "_write_plain", fails)
        with pytest.raises(ComputeError, match="power went off"):
            import_data(star, out, pixel_size=1.5, chunk_bytes=CHUNK)
    assert not out.exists()
    with pytest.raises(StoreError, match="never finished"):
        open_store(out)


def test_finished_chunks_are_kept_and_verified(tmp_path: Path) -> None:
    star, images = stack(tmp_path)
    interrupted(star, tmp_path / "a.zarr")
    chunks = sorted((tmp_path / "a.zarr.partial" / "store" / "image" / "c").glob("*/0/0"))
    assert len(chunks) == 3
    times = {p.parents[1].name: p.stat().st_mtime_ns for p in chunks}
    damaged = bytearray(chunks[1].read_bytes())
    damaged[100] ^= 1  # one bit
    chunks[1].write_bytes(damaged)
    done = import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    assert done.kept == 2
    back = tmp_path / "a.zarr" / "image" / "c"
    assert [(back / i / "0/0").stat().st_mtime_ns == t for i, t in times.items()] == [True, False, True]
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr").image.values, images)


def test_another_source_or_other_options_do_not_go_on(tmp_path: Path) -> None:
    star, images = stack(tmp_path)
    interrupted(star, tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="restart=True"):
        import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=2 * CHUNK)
    (tmp_path / "0.mrcs").touch()  # the file may be another one now
    with pytest.raises(StoreError, match="same source and options"):
        import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    done = import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK, restart=True)
    assert done.kept == 0
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr").image.values, images)


def test_two_at_once(tmp_path: Path) -> None:
    import fcntl

    star, _ = stack(tmp_path)
    (tmp_path / "a.zarr.partial").mkdir()
    with (tmp_path / "a.zarr.partial" / "lock").open("w") as other:
        other.write("process 1 on moon\n")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match="process 1 on moon"):
            import_data(star, tmp_path / "a.zarr", pixel_size=1.5)


def test_bad_images_are_told_by_row_also_after_a_kill(tmp_path: Path) -> None:
    star, images = stack(tmp_path, bad=(0, 7, 22))
    assert killed(star, tmp_path / "a.zarr", 45).returncode == -signal.SIGKILL
    done = import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    assert done.bad_rows == {"image": [0, 7, 22]}
    back = open_store(tmp_path / "a.zarr")
    assert np.flatnonzero(~back.usable.values).tolist() == [0, 7, 22]
    assert "NaN" in str(back.reason.values[7])
    assert not str(back.reason.values[8])
    np.testing.assert_array_equal(back.image.values, images)  # NaN where they were


def test_bad_images() -> None:
    images = np.zeros((4, 8, 8), np.float32)
    images[1, 2, 2], images[2, 0, 0] = np.nan, -np.inf
    images[3] = 3e38  # the sum overflows, the pixels do not
    assert bad_images(images).tolist() == [False, True, True, False]
    assert not bad_images(np.full((2, 4, 4), 65535, np.uint16)).any()


def test_a_stack_that_breaks_in_between_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    star, _ = stack(tmp_path)
    interrupted(star, tmp_path / "a.zarr", chunks=2)
    status = (tmp_path / "1.mrcs").stat()
    whole = (tmp_path / "1.mrcs").read_bytes()
    (tmp_path / "1.mrcs").write_bytes(whole[:-9000])
    import os

    os.utime(tmp_path / "1.mrcs", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(Exception, match=r"1\.mrcs"):
        import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    (tmp_path / "1.mrcs").write_bytes(whole)
    os.utime(tmp_path / "1.mrcs", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK).kept == 2


@pytest.mark.usefixtures("small_files")
def test_a_full_disk(tmp_path: Path) -> None:
    ds = xr.Dataset({"image": (("particle", "y", "x"), np.zeros((600, BOX, BOX), "f4"))}).chunk({"particle": 300})
    from cryoflow.io.stores.fill import filling
    from cryoflow.workflow import importing

    begin = filling(ds, tmp_path / "a.zarr", function="x", parameters={}, identity="i", chunk_bytes=1e9)
    with pytest.raises((ResourceError, ComputeError), match=r"space|large"), begin as store:
        importing._fill(store, "image", [0], "", importing._computing(None, False))
    assert not (tmp_path / "a.zarr").exists()


def test_too_little_disk_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    star, _ = stack(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match="free disk"):
        import_data(star, tmp_path / "a.zarr", pixel_size=1.5)


def test_maps_and_micrographs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(20, 20, 20)).astype(np.float32)
    write_map(tmp_path / "m.mrc", volume, pixel_size=2.0)
    assert import_data(tmp_path / "m.mrc", tmp_path / "m.zarr").kind == "map"
    back = open_store(tmp_path / "m.zarr")
    np.testing.assert_array_equal(back["map"].values, volume)
    assert back["map"].attrs["pixel_size"] == 2.0
    folder = tmp_path / "mics"
    folder.mkdir()
    for i in range(3):
        write_map(folder / f"{i}.mrc", rng.normal(size=(40, 50)), pixel_size=1.2)
    (folder / "broken.mrc").write_bytes(b"nothing")
    done = import_data(folder, tmp_path / "mics.zarr", pixel_size=1.2, voltage=300, cs=2.7, amplitude_contrast=0.1)
    assert (done.kind, done.rows, done.chunks) == ("micrograph", 4, 1)
    back = open_store(tmp_path / "mics.zarr")
    assert back.usable.values.tolist() == [True, True, True, False]
    assert back.micrograph.shape == (4, 40, 50)


def test_micrographs_with_bad_pixels_are_marked_beside_the_broken_ones(tmp_path: Path) -> None:
    (tmp_path / "mics").mkdir()
    for i in range(3):
        pixels = np.ones((40, 50), np.float32)
        pixels[3, 3] = np.nan if i == 1 else 2
        write_stack(tmp_path / "mics" / f"{i}.mrc", xr.DataArray(pixels[None], dims=("n", "y", "x")), pixel_size=1.2)
    (tmp_path / "mics" / "broken.mrc").write_bytes(b"nothing")
    optics = {"pixel_size": 1.2, "voltage": 300, "cs": 2.7, "amplitude_contrast": 0.1}
    assert import_data(tmp_path / "mics", tmp_path / "m.zarr", **optics).bad_rows == {"micrograph": [1]}
    back = open_store(tmp_path / "m.zarr")
    assert back.usable.values.tolist() == [True, False, True, False]
    assert "NaN" in str(back.reason.values[1])
    assert "MRC" in str(back.reason.values[3])


def test_compressed_chunks_of_counts_resume_too(tmp_path: Path) -> None:
    """Micrographs of integers go through a codec."""
    from cryoflow.io.stores.fill import filling
    from cryoflow.workflow import importing

    counts = np.random.default_rng(0).poisson(3, (5, 64, 70)).astype(np.uint16)
    ds = xr.Dataset({"micrograph": (("micrograph", "y", "x"), counts)}).chunk({"micrograph": 1})
    options: dict[str, Any] = {"function": "x", "parameters": {}, "identity": "i", "chunk_bytes": 1.0}
    compute = importing._computing(None, False)
    with filling(ds, tmp_path / "a.zarr", **options) as store:
        importing._fill(store, "micrograph", [0, 3], "", compute)
    assert not (tmp_path / "a.zarr").exists()
    with filling(ds, tmp_path / "a.zarr", **options) as store:
        assert store.continued
        left = importing._unfinished(store.bulk["micrograph"], compute)
        assert left == [1, 2, 4]
        importing._fill(store, "micrograph", left, "", compute)
        store.finish()
    save(ds, tmp_path / "b.zarr", function="x", parameters={}, chunk_bytes=1.0)
    assert bits(tmp_path / "a.zarr") == bits(tmp_path / "b.zarr")
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr").micrograph.values, counts)


def test_movies_are_divided_along_their_frames(tmp_path: Path) -> None:
    from cryoflow.io.stores.fill import filling
    from cryoflow.workflow import importing

    frames = np.random.default_rng(0).poisson(1, (3, 7, 20, 24)).astype(np.uint8)
    ds = xr.Dataset({"movie": (("movie", "frame", "y", "x"), frames)}).chunk({"movie": 1})
    options: dict[str, Any] = {"function": "x", "parameters": {}, "identity": "i", "chunk_bytes": 3 * 20 * 24}
    with filling(ds, tmp_path / "a.zarr", **options) as store:
        assert store.bulk["movie"].counts == (3, 3)
        importing._fill(store, "movie", list(range(9)), "", importing._computing(None, False))
        store.finish()
    back = open_store(tmp_path / "a.zarr").movie
    np.testing.assert_array_equal(back.values, frames)
    assert back.chunks[1] == (3, 3, 1)
    save(ds, tmp_path / "b.zarr", function="x", parameters={}, chunk_bytes=3 * 20 * 24)
    assert bits(tmp_path / "a.zarr") == bits(tmp_path / "b.zarr")


def test_the_grid_of_a_target() -> None:
    target = Target("a", "j", (3, 7, 20, 24), (1, 3, 20, 24), None)
    assert [target.chunk_at(r) for r in (0, 3, 6, 7, 10, 13, 20)] == [0, 1, 2, 3, 4, 5, 8]
    assert target.index(5) == (1, 2, 0, 0)


@pytest.mark.slow
def test_on_a_cluster(tmp_path: Path) -> None:
    from cryoflow.engine import connect

    star, _ = stack(tmp_path, bad=(4,))
    import_data(star, tmp_path / "whole.zarr", pixel_size=1.5, chunk_bytes=CHUNK)
    interrupted(star, tmp_path / "a.zarr", chunks=2)
    with connect("local:2") as client:
        done = import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK, client=client, progress=False)
    assert (done.kept, done.bad_rows) == (2, {"image": [4]})
    assert bits(tmp_path / "a.zarr") == bits(tmp_path / "whole.zarr")


def test_progress_is_told(tmp_path: Path) -> None:
    star, _ = stack(tmp_path)
    told: list[tuple[int, int]] = []
    import_data(star, tmp_path / "a.zarr", pixel_size=1.5, chunk_bytes=CHUNK, progress=lambda d, t: told.append((d, t)))
    assert told[-1] == (N, N)
    assert len(told) == 5


def test_the_command(tmp_path: Path) -> None:
    star, _ = stack(tmp_path, bad=(7,))
    ended = command("import", str(star), "-o", "a.zarr", "--pixel-size", "1.5", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "a.zarr: 23 particles, 94.2 kB of images\n")
    assert "row 8" in ended.stderr
    assert "as imported before" in command("import", str(star), "-o", "a.zarr", "--pixel-size", "1.5",
                                           folder=tmp_path).stdout  # fmt: skip
    assert command("import", str(star), "-o", "a.zarr", "--pixel-size", "1.5", "--float16",
                   folder=tmp_path).returncode == 3  # fmt: skip
    ended = command("import", str(star), "-o", "b.zarr", "--pixel-size", "3", folder=tmp_path)
    assert ended.returncode == 2
    assert "1.5" in ended.stderr
    assert command("import", str(star), "-o", "b.mrc", folder=tmp_path).returncode == 2
    assert command("import", "none.star", "-o", "b.zarr", folder=tmp_path).returncode == 3
    assert not (tmp_path / "b.zarr.partial").exists()


def test_an_option_that_the_format_has_no_use_for(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", np.ones((16, 16, 16)), pixel_size=2.0)
    with pytest.raises(ParameterError, match="voltage"):
        import_data(tmp_path / "m.mrc", tmp_path / "m.zarr", voltage=300)


def test_a_table_that_names_no_stack_and_one_without_its_images(tmp_path: Path) -> None:
    star, images = stack(tmp_path)
    (tmp_path / "p.par").write_text("".join(f"{i + 1} 0 0 0 0 0 50000 1 9000 9000 0 50 50\n" for i in range(12)))
    ended = command("import", "p.par", "-o", "a.zarr", "--pixel-size", "1.5", "--stack", "0.mrcs", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr").image.values, images[::2])
    (tmp_path / "0.mrcs").unlink()
    ended = command("import", str(star), "-o", "b.zarr", "--pixel-size", "1.5", folder=tmp_path)
    assert (ended.returncode, "--no-images" in ended.stderr) == (3, True)
    ended = command("import", str(star), "-o", "b.zarr", "--pixel-size", "1.5", "--no-images", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "image" not in open_store(tmp_path / "b.zarr")


def test_other_tables_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "m.star").write_text("data_model\n_rlnFoo 1\n")
    with pytest.raises(FormatError, match=r"other tables \(data_model\)"):
        import_data(tmp_path / "m.star", tmp_path / "m.zarr")
