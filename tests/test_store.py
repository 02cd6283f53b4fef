"""Stores: whole or not at all, and back as they were."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoflow.errors import ParameterError, ResourceError, SchemaError, StoreError
from cryoflow.io.query import select
from cryoflow.io.stores.chunks import chunk_file
from cryoflow.io.stores.completion import is_complete, provenance
from cryoflow.io.stores.grow import append
from cryoflow.io.stores.record import digest
from cryoflow.io.stores.store import open_store, save

BOX = 40


def particles(n: int = 23, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    names = np.array([f"mic {i % 3} \u00b5.mrc" for i in range(n)], np.dtypes.StringDType())
    ds = xr.Dataset(
        {
            "image": (("particle", "y", "x"), rng.normal(size=(n, BOX, BOX)).astype(np.float32)),
            "shift": (("particle", "xy"), np.zeros((n, 2))),
            "rotation": (("particle", "row", "col"), np.tile(np.eye(3), (n, 1, 1))),
            "half": ("particle", (np.arange(n) % 2 + 1).astype(np.int32)),
            "defocus_u": ("particle", rng.uniform(9e3, 2e4, n)),
            "optics_group": ("particle", (np.arange(n) % 2).astype(np.int32)),
            "micrograph_name": ("particle", names),
            "pixel_size": ("optics", np.array([1.5, 1.6])),
        },
        attrs={"star_columns": ["a", "b"], "n": np.float32(2)},
    )
    return ds.assign(image=ds.image.chunk({"particle": 7}))


def write(ds: xr.Dataset, path: Path, **options: Any) -> None:
    options = {"function": "test", "parameters": {}, "chunk_bytes": 8 * BOX * BOX * 4} | options
    save(ds, path, **options)


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    assert list(a.variables) == list(b.variables)
    for name in a.variables:
        assert a[name].dims == b[name].dims
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=str(name))


def test_round_trip_lazy_and_in_chunks(tmp_path: Path) -> None:
    ds = particles()
    write(ds, tmp_path / "p.zarr")
    back = open_store(tmp_path / "p.zarr")
    assert back.image.chunks is not None
    assert back.image.chunks[0] == (8, 8, 7)
    same(ds, back)
    assert back.attrs == {"star_columns": ["a", "b"], "n": 2.0}
    pick = [22, 0, 9, 10, 3]
    np.testing.assert_array_equal(back.image[pick, 3:5, ::7].values, ds.image.values[pick, 3:5, ::7])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(back)).image.values, ds.image.values)
    same(ds, xr.open_zarr(tmp_path / "p.zarr", consolidated=False)[list(ds.variables)])  # an ordinary Zarr store


def test_float16_images_come_back_as_float32(tmp_path: Path) -> None:
    ds = particles()
    write(ds, tmp_path / "p.zarr", image_dtype="float16", chunk_bytes=1e9)
    back = open_store(tmp_path / "p.zarr")
    assert back.image.dtype == np.float32
    np.testing.assert_array_equal(back.image.values, ds.image.values.astype(np.float16).astype(np.float32))
    size = sum(p.stat().st_size for p in (tmp_path / "p.zarr" / "image").rglob("*") if p.is_file())
    assert size < 0.52 * ds.image.nbytes
    with pytest.raises(StoreError, match="within float16"):
        write(ds.assign(image=ds.image * 1e5), tmp_path / "q.zarr", image_dtype="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"]


def test_micrographs_maps_and_a_dataset_without_rows(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(3, (5, 64, 70)).astype(np.uint16)
    ds = xr.Dataset({"micrograph": (("micrograph", "y", "x"), counts), "usable": ("micrograph", np.arange(5) > 0)})
    write(ds, tmp_path / "m.zarr")
    same(ds, open_store(tmp_path / "m.zarr"))
    maps = xr.Dataset({"map": (("z", "y", "x"), np.ones((20, 20, 20), np.float32)), "fsc": ("shell", np.ones(11))})
    write(maps, tmp_path / "v.zarr")
    same(maps, open_store(tmp_path / "v.zarr"))
    write(particles().isel(particle=slice(0, 0)), tmp_path / "none.zarr")
    assert open_store(tmp_path / "none.zarr").sizes["particle"] == 0


def test_provenance(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("x")
    write(particles(), tmp_path / "p.zarr", function="extract", parameters={"box": np.int64(40), "p": tmp_path},
          inputs=[source])  # fmt: skip
    entry = provenance(tmp_path / "p.zarr")
    assert (entry["function"], entry["parameters"]) == ("extract", {"box": 40, "p": str(tmp_path)})
    assert entry["inputs"][0]["sha256"] == digest(source)
    assert entry["versions"]["zarr"].startswith("3")
    assert digest(tmp_path / "p.zarr") == digest(tmp_path / "p.zarr" / "zarr.json")
    with pytest.raises(StoreError, match=r"parameters\['f'\]: expected .* found a function"):
        write(particles(), tmp_path / "q.zarr", parameters={"f": test_provenance})


def test_no_record_no_store_and_newer_schema(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="found none"):
        open_store(tmp_path / "p.zarr")
    particles()[["half"]].to_zarr(tmp_path / "p.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(StoreError, match="completion record"):
        open_store(tmp_path / "p.zarr")
    assert not is_complete(tmp_path / "p.zarr")
    write(particles(), tmp_path / "q.zarr")
    root = tmp_path / "q.zarr" / "zarr.json"
    meta = json.loads(root.read_text())
    meta["attributes"]["cryoflow"] |= {"schema": 99, "cryoflow": "7.0"}
    root.write_text(json.dumps(meta))
    with pytest.raises(StoreError, match=r"found schema 99. Open it with cryoflow 7\.0"):
        open_store(tmp_path / "q.zarr")


@pytest.mark.parametrize("name", ["image", "shift", "micrograph_name", "pixel_size"])
def test_a_missing_chunk_is_named(tmp_path: Path, name: str) -> None:
    write(particles(), tmp_path / "p.zarr")
    assert is_complete(tmp_path / "p.zarr")
    file = next(p for p in (tmp_path / "p.zarr" / name / "c").rglob("*") if p.is_file())
    file.unlink()
    with pytest.raises(StoreError, match="no such file") as error:
        open_store(tmp_path / "p.zarr")
    assert str(file) in str(error.value)


def test_a_chunk_cut_short_or_lost_after_opening_is_named(tmp_path: Path) -> None:
    write(particles(), tmp_path / "p.zarr")
    back = open_store(tmp_path / "p.zarr")
    file = chunk_file(tmp_path / "p.zarr" / "image", 1, 0, 0)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StoreError, match="image/c/1/0/0"):
        open_store(tmp_path / "p.zarr")
    with pytest.raises(StoreError, match="image/c/1/0/0"):
        _ = back.image.values
    file.unlink()
    with pytest.raises(StoreError, match="image/c/1/0/0"):
        _ = back.image[9].values
    assert np.isfinite(back.image[:8].values).all()


def test_an_existing_store_stays_unless_told_and_while_the_new_one_fails(tmp_path: Path) -> None:
    write(particles(), tmp_path / "p.zarr")
    with pytest.raises(StoreError, match="overwrite=True"):
        write(particles(5), tmp_path / "p.zarr")

    def fails(_: Any) -> None:
        raise RuntimeError("a worker died")

    with pytest.raises(RuntimeError):
        write(particles(5), tmp_path / "p.zarr", overwrite=True, compute=fails)
    same(particles(), open_store(tmp_path / "p.zarr"))
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"]
    half = open_store(tmp_path / "p.zarr").isel(particle=slice(0, 9))  # reads what it is to replace
    write(half, tmp_path / "p.zarr", overwrite=True)
    same(particles().isel(particle=slice(0, 9)), open_store(tmp_path / "p.zarr"))


def test_writing_that_skips_chunks_is_not_taken_as_complete(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        write(particles(), tmp_path / "p.zarr", compute=id)
    assert not (tmp_path / "p.zarr").exists()


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    ds = particles(300)
    with pytest.raises(ResourceError, match=r"p\.zarr"):
        write(ds, tmp_path / "p.zarr", chunk_bytes=1e9)
    assert list(tmp_path.iterdir()) == []


def test_append(tmp_path: Path) -> None:
    first, second = particles(23), particles(12, seed=1)
    write(first, tmp_path / "p.zarr")
    append(second, tmp_path / "p.zarr")
    both = xr.concat([first, second], "particle", data_vars="minimal", coords="minimal", compat="override")
    same(both[list(first.variables)], open_store(tmp_path / "p.zarr"))
    assert provenance(tmp_path / "p.zarr")["appended"] == [12]


def test_append_refuses_what_differs(tmp_path: Path) -> None:
    write(particles(), tmp_path / "p.zarr")
    before = digest(tmp_path / "p.zarr")
    with pytest.raises(StoreError, match="a difference in shift"):
        append(particles().drop_vars("shift"), tmp_path / "p.zarr")
    with pytest.raises(StoreError, match="image"):
        append(particles().isel(y=slice(0, 30)), tmp_path / "p.zarr")
    with pytest.raises(StoreError, match="pixel_size"):
        append(particles().assign(pixel_size=("optics", [1.5, 1.7])), tmp_path / "p.zarr")
    assert digest(tmp_path / "p.zarr") == before


APPENDER = """
import os, sys, zarr
sys.path.insert(0, {tests!r})
from test_store import particles
from cryoflow.io import append
kill_at, count = {kill_at}, 0
plain = zarr.Array.__setitem__
def torn(self, key, value):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), 9)
    plain(self, key, value)
zarr.Array.__setitem__ = torn
append(particles(12, seed=1), {path!r})
"""


@pytest.mark.parametrize("kill_at", [1, 2, 6])
def test_an_append_that_is_killed_changes_nothing(tmp_path: Path, kill_at: int) -> None:
    path = tmp_path / "p.zarr"
    write(particles(), path)
    code = APPENDER.format(tests=str(Path(__file__).parent), kill_at=kill_at, path=str(path))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    same(particles(), open_store(path))
    append(particles(12, seed=1), path)
    back = open_store(path)
    assert back.sizes["particle"] == 35
    np.testing.assert_array_equal(back.image.values[23:], particles(12, seed=1).image.values)


def test_a_save_that_is_killed_leaves_no_store(tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    code = (
        f"import sys, os, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_store import particles, write\nfrom pathlib import Path\n"
        "def compute(delayed):\n    delayed.compute(); print('written', flush=True); time.sleep(60)\n"
        f"write(particles(), Path({str(path)!r}), compute=compute)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    assert not is_complete(path)
    with pytest.raises(StoreError, match="never finished"):
        open_store(path)
    write(particles(), path)  # what the dead run left is no hindrance
    same(particles(), open_store(path))
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"]


def test_the_schema_is_held_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(SchemaError):
        write(particles().rename(half="halb"), tmp_path / "p.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("defocus_u > 12000 and half == 1", lambda d: (d.defocus_u > 12000) & (d.half == 1)),
        ("9500 < defocus_u <= 12000 or not half == 1",
         lambda d: (d.defocus_u > 9500) & (d.defocus_u <= 12000) | (d.half != 1)),
        ("pixel_size > 1.55", lambda d: d.optics_group == 1),
        ("micrograph_name in ('mic 0 \u00b5.mrc', 'mic 2 \u00b5.mrc')",
         lambda d: np.arange(d.sizes["particle"]) % 3 != 1),
        ("half not in (1, 7)", lambda d: d.half == 2),
        ("abs(shift[0]) < 1 and -defocus_u / 2 + 1 < -6000", lambda d: d.defocus_u > 12002),
    ],
)  # fmt: skip
def test_select(condition: str, expected: Any) -> None:
    ds = particles()
    chosen = select(ds, condition)
    np.testing.assert_array_equal(chosen.defocus_u.values, ds.defocus_u.values[np.asarray(expected(ds))])
    assert chosen.image.chunks is not None


@pytest.mark.parametrize(
    "condition",
    [
        "__import__('os').system('true')", "().__class__", "defocus_u.values", "[x for x in (1,)]", "half := 1",
        "lambda: 1", "defocus_u", "nothing > 1", "rotation > 1", "half ==", "1 == 1", "half == 1 or " * 5000 + "half",
        "open('/etc/passwd')", "half ** 99999", "f'{half}' == 'a'", "half == 9", "shift[7] > 1", "half > 'a'",
    ],
)  # fmt: skip
def test_select_takes_conditions_alone(condition: str) -> None:
    with pytest.raises(ParameterError):
        select(particles(), condition)


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path) != digest(tmp_path / "a")
    before = digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert digest(tmp_path) != before
    assert digest(np.arange(3)) != digest(np.arange(3.0))
    with pytest.raises(StoreError, match="no file"):
        digest(tmp_path / "none")


@pytest.mark.parametrize("chunk_bytes", [16e6, 500.0])
def test_a_new_store_has_the_files_that_xarray_writes(chunk_bytes: float, tmp_path: Path) -> None:
    from cryoflow.io.stores.new_store import store_files
    from cryoflow.io.stores.store import prepare

    rng, n = np.random.default_rng(0), 300
    words = np.array([f"{i}@é.mrcs" for i in range(n)], np.dtypes.StringDType())
    rows = {
        "f8": rng.random(n), "f2": rng.random(n).astype(np.float16), "nan": np.full(n, np.nan),
        "b": rng.random(n) > 0.5, "i1": rng.integers(0, 9, n).astype(np.int8), "zero": np.zeros(n),
        "u4": np.arange(n).astype(np.uint32), "be": np.arange(n).astype(">i4"), "words": words,
    }  # fmt: skip
    ds = xr.Dataset(
        {name: ("particle", values, {"units": "x", "n": [1, 2.5]}) for name, values in rows.items()}
        | {"m": (("particle", "row", "col"), rng.random((n, 3, 3))), "one": ((), 3.5), "word": ((), "a"),
           "u": ("optics", np.array(["é", "b"])), "o": ("optics", np.array(["x", "yy"], object)),
           "none": ("nothing", np.zeros(0)), "image": (("particle", "y", "x"), rng.random((n, 16, 16), np.float32)),
           "lazy": xr.Variable("particle", np.arange(n)).chunk({"particle": 7})},
        coords={"particle": np.arange(n), "w": ("particle", rng.random(n)), "at": ((), "q")},
        attrs={"t": 1, "l": [1, "a"], "d": {"x": [1.5, None]}},
    )  # fmt: skip
    ds, encoding = prepare(ds, chunk_bytes, "float32", "here")
    files = store_files(ds, encoding, set())
    ds.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False, write_empty_chunks=True, encoding=encoding)
    there = {p.relative_to(tmp_path / "a.zarr").as_posix(): p for p in (tmp_path / "a.zarr").rglob("*") if p.is_file()}
    assert set(files) == set(there)
    assert [name for name, path in there.items() if path.read_bytes() != files[name]] == []
    without = store_files(ds, encoding, {"image", "m"})
    assert without == {name: files[name] for name in files if not name.startswith(("image/c", "m/c"))}
