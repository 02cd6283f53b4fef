"""Many stacks as one lazy array: the figures of opening, and ragged reads held against the truth."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fault_server import serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.images.attach import attach_images
from cryoflow.io.images.image_file import ImageFile, open_image_file, open_image_files
from cryoflow.io.images.lazy import FileImages
from cryoflow.io.images.mrc import pack_header, write_stack
from cryoflow.io.sources import blocks

STACKS, EACH, BOX = 1000, 500, 64


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 sparse stacks; the last image of each holds the number of its stack."""
    folder = tmp_path_factory.mktemp("many")
    header = pack_header((EACH, BOX, BOX), mode=2, pixel_size=1.5, stack=True)
    last = 1024 + 4 * (EACH - 1) * BOX * BOX
    for i in range(STACKS):
        with (folder / f"{i}.mrcs").open("wb") as file:
            file.write(header)
            file.seek(last)
            file.write(np.full((BOX, BOX), i, np.float32).tobytes())
    return folder


def particles(count: int) -> xr.Dataset:
    return xr.Dataset({
        "optics_group": ("particle", np.zeros(count, np.int32)), "pixel_size": ("optics", [1.5]),
        "voltage": ("optics", [300.0]),
    })  # fmt: skip


@pytest.mark.parametrize("where", ["disk", "http"])
def test_a_thousand_stacks_open_quickly_and_in_little_memory(many: Path, where: str) -> None:
    names = [f"{i}.mrcs" for i in range(STACKS)]
    file, section = np.repeat(np.arange(STACKS), EACH), np.tile(np.arange(EACH), STACKS)
    blocks.forget()
    with serving(many) as server:
        root = str(many) if where == "disk" else server.url
        ds = particles(len(file))
        attach_images(ds.isel(particle=[0]), names[:1], [0], [0], where="p.star", root=root)  # imports
        asked, cpu = len(server.requests), time.process_time()
        ds = attach_images(ds, names, file, section, where="p.star", root=root)
        cpu = time.process_time() - cpu
        assert cpu < (2 if where == "disk" else 6)  # with the server's own work, which runs in this process here
        assert len(server.requests) - asked == (STACKS if where == "http" else 0)
        assert server.most_open <= 8
        rows = np.array([EACH * 7 + EACH - 1, EACH * 998 - 1, EACH * 3])
        np.testing.assert_array_equal(ds.image[rows].values[:, 0, 0], [7, 997, 0])
        if where == "http":
            return
        tracemalloc.start()
        opened = attach_images(particles(len(file)), names, file, section, where="p.star", root=root)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 100e6
        assert len(pickle.dumps(opened.image.data)) < 12e6


_OPEN = """
import sys
from pathlib import Path
from cryoflow.io import read_particles

def status(what):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(what)) / 1000

read_particles(sys.argv[1])
before = status("VmRSS")
ds = read_particles(sys.argv[2])
print(ds.sizes["particle"], status("VmHWM") - before)
"""


def _table(path: Path, stacks: int, each: int) -> str:
    """A STAR file of 12 columns for the first ``each`` images of some stacks; returns its name."""
    labels = "ImageName MicrographName CoordinateX CoordinateY AngleRot AngleTilt AnglePsi OriginX OriginY DefocusU " \
             "DefocusV DefocusAngle Voltage PixelSize"  # fmt: skip
    rows = "".join(
        f"{j + 1:06d}@STACK.mrcs m/STACK.mrc {j}.5 {j}.25 {j % 360 - 179.5} {j % 179}.5 0.5 1.25 -2.5 {15000 + j}.1 "
        f"{14800 + j}.2 45.5 300 1.5\n" for j in range(each)
    )  # fmt: skip
    with path.open("w") as star:
        star.write("data_\nloop_\n" + "".join(f"_rln{label}\n" for label in labels.split()))
        star.writelines(rows.replace("STACK", str(i)) for i in range(stacks))
    return path.name


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux")
@pytest.mark.parametrize(("where", "most"), [("disk", 125), ("http", 155)])
def test_a_table_of_half_a_million_rows_and_its_stacks_take_little_memory(many: Path, where: str, most: float) -> None:
    """Of the process that opens them, beyond its libraries; ``most`` MB are half as much again as it takes."""
    small, large = _table(many / "small.star", 2, EACH), _table(many / "large.star", STACKS, EACH)
    with serving(many) as server:
        root = str(many) if where == "disk" else server.url
        code = [sys.executable, "-c", _OPEN, f"{root}/{small}", f"{root}/{large}"]
        told = subprocess.run(code, check=True, capture_output=True, text=True).stdout.split()
    assert int(told[0]) == STACKS * EACH
    assert float(told[1]) < most


def test_every_image_file_of_the_protocol_is_one(tmp_path: Path) -> None:
    write_stack(tmp_path / "p.mrcs", xr.DataArray(np.ones((2, 4, 4)), dims=("particle", "y", "x")), pixel_size=2)
    (tmp_path / "unknown").write_bytes((tmp_path / "p.mrcs").read_bytes())
    for name in ("p.mrcs", "unknown"):  # by suffix, and by its first bytes
        image = open_image_file(tmp_path / name)
        assert isinstance(image, ImageFile)
        assert image.dtype.isnative
    (tmp_path / "text.txt").write_text("hello")
    opened = open_image_files([str(tmp_path / name) for name in ("p.mrcs", "text.txt", "none.mrcs")])
    assert [type(found) for found in opened][1:] == [FormatError, FormatError]
    assert "text.txt" in str(opened[1])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_any_rows_of_any_files_near_and_far(tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject) -> None:
    near, far, truth = _files(tmp_path_factory)
    rows = draw.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 29)), max_size=25))
    file = np.array([f for f, _ in rows], np.int32)
    section = np.array([s % (6 + 8 * f) for f, s in rows], np.int32)
    file[::7] = -1
    dtype = np.dtype(draw.draw(st.sampled_from(["f4", "f8", "i2"])))
    expected = np.array([truth[f][s] if f >= 0 else np.zeros((6, 6)) for f, s in zip(file, section)]).astype(dtype)
    for files in (near, far, (near[0], far[1], near[2], far[3])):
        array = FileImages(files, file, section, (6, 6), dtype)
        np.testing.assert_array_equal(array.read(np.arange(len(rows))), expected.reshape(-1, 6, 6))


_cache: list[tuple[tuple[ImageFile, ...], tuple[ImageFile, ...], list[np.ndarray]]] = []


def _files(factory: pytest.TempPathFactory) -> tuple[tuple[ImageFile, ...], tuple[ImageFile, ...], list[np.ndarray]]:
    """Four stacks of 6, 14, 22 and 30 images of whole numbers, on the disk and in fsspec's memory."""
    if not _cache:
        import fsspec

        folder = factory.mktemp("stacks")
        truth = [np.random.default_rng(i).integers(-99, 99, (6 + 8 * i, 6, 6)).astype(np.float32) for i in range(4)]
        near, far = [], []
        for i, images in enumerate(truth):
            path = folder / f"{i}.mrcs"
            write_stack(path, xr.DataArray(images, dims=("particle", "y", "x")), pixel_size=2)
            fsspec.filesystem("memory").pipe(f"/set/{i}.mrcs", path.read_bytes())
            near.append(open_image_file(path))
            far.append(open_image_file(f"memory://set/{i}.mrcs"))
        _cache.append((tuple(near), tuple(far), truth))
    return _cache[0]


def test_mistakes_are_named(many: Path) -> None:
    ds = particles(3)
    with pytest.raises(
        FormatError, match=r"x\.cs, row 3: expected an image number from 1 to 500 of 4\.mrcs; found 501"
    ):
        attach_images(ds, ["3.mrcs", "4.mrcs"], [0, 0, 1], [0, 1, 500], where="x.cs", root=many)
    with pytest.raises(FormatError, match=r"row 2: expected the stack none\.mrcs .*1 of 2 missing"):
        attach_images(ds, ["3.mrcs", "none.mrcs"], [0, 1, 1], [0, 1, 5], where="x.cs", root=many)
    with pytest.raises(ParameterError, match=r"1\.5000"):
        attach_images(
            ds.assign(pixel_size=("optics", [2.0])), ["3.mrcs"], [0, 0, 0], [0, 1, 5], where="x.cs", root=many
        )
