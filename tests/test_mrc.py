"""MRC files: against mrcfile, real maps, and damaged files."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import xarray as xr

from cryoflow.errors import FormatError, ParameterError, ResourceError
from cryoflow.io.images.lazy import FileImages, lazy
from cryoflow.io.images.mrc import read_header, read_images, read_map, write_map, write_stack

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


def stack_of(path: Path) -> xr.Variable:
    header = read_header(path)
    n = header.shape[0]
    array = FileImages(
        (header,), np.zeros(n, np.int32), np.arange(n, dtype=np.int32), header.shape[1:], np.dtype(np.float32)
    )
    return lazy(("particle", "y", "x"), array, 3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extended", [0, 160])
def test_every_mode_and_byte_order(tmp_path: Path, mode: int, order: str, extended: int) -> None:
    values = np.random.default_rng(mode).integers(0, 100, (4, 5, 7)).astype(MODES[mode])
    with mrcfile.new(tmp_path / "a.mrcs") as file:
        file.set_data(values)
        file.set_image_stack()
        file.voxel_size = 1.25
        file.set_extended_header(np.zeros(extended, "V1"))
    path = tmp_path / "a.mrcs"
    if order == ">":
        raw = bytearray(path.read_bytes())
        words = np.frombuffer(bytes(raw[:1024]), "<i4").astype(">i4").tobytes()  # ints and reals swap alike
        raw[:1024] = words[:208] + b"MAP " + b"\x11\x11\0\0" + words[216:224] + raw[224:1024]
        big = np.dtype(MODES[mode]).newbyteorder(">")
        raw[1024 + extended :] = values.astype(big).tobytes()
        path.write_bytes(bytes(raw))
    header = read_header(path)
    assert (header.mode, header.shape, header.voxel[0]) == (mode, values.shape, 1.25)
    got = read_images(header, 1, 2)
    assert got.dtype == MODES[mode]
    np.testing.assert_array_equal(got, values[1:3])
    np.testing.assert_array_equal(stack_of(path).values, values.astype(np.float32))


def test_imod_bytes_are_unsigned(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(np.full((3, 4), -56, np.int8))
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    assert read_images(read_header(tmp_path / "a.mrc"), 0, 1).max() == -56
    struct.pack_into("<2i", raw, 152, 1146047817, 0)
    (tmp_path / "a.mrc").write_bytes(bytes(raw))
    assert read_images(read_header(tmp_path / "a.mrc"), 0, 1).max() == 200


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 1, 2), (2, 1, 3), (3, 2, 1)])
def test_axes_in_any_order_become_zyx(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    volume = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)  # z, y, x
    stored = volume.transpose([3 - axis for axis in axes[::-1]])
    write_map(tmp_path / "a.mrc", stored, pixel_size=2.0)
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    start = {1: -7, 2: 8, 3: 9}
    struct.pack_into("<3i", raw, 16, *(start[axis] for axis in axes))
    struct.pack_into("<3i3f", raw, 28, 6, 5, 4, 12.0, 10.0, 8.0)
    struct.pack_into("<3i", raw, 64, *axes)
    (tmp_path / "a.mrc").write_bytes(bytes(raw))
    read = read_map(tmp_path / "a.mrc")
    np.testing.assert_array_equal(read.values, volume)
    assert read.attrs["start"] == [-7, 8, 9]
    assert read.attrs["pixel_size"] == 2.0


def test_real_maps(data: Path) -> None:
    files = [*sorted((data / "maps").glob("*.m*")), *sorted((data / "maps" / "multibody").glob("*.mrc"))]
    assert len(files) >= 10
    for path in files:
        volume = read_map(path, anisotropic=True)
        with mrcfile.open(path) as file:
            stored = file.data
            order = [file.header.maps, file.header.mapr, file.header.mapc]
            np.testing.assert_array_equal(volume.values, stored.transpose([order.index(a) for a in (3, 2, 1)]))
    crystal = data / "maps" / "EMD-3001.map"
    assert read_map(crystal, anisotropic=True).attrs["start"] == [-21, -12, 0]
    assert read_map(crystal, anisotropic=True).shape == (73, 25, 43)
    with pytest.raises(FormatError, match=r"cubic voxels; found 0\.4482 x 0\.3925 x 0\.4587"):
        read_map(crystal)
    assert read_map(data / "maps" / "EMD-3197.map").attrs["start"] == [-2, 0, 0]


def test_maps_we_write_are_valid_and_come_back(tmp_path: Path) -> None:
    volume = xr.DataArray(
        np.random.default_rng(0).normal(size=(6, 7, 8)), dims=("z", "y", "x"), attrs={"pixel_size": 1.05}
    )
    write_map(tmp_path / "a.mrc", volume, origin=(1.0, 2.0, 3.0))
    assert mrcfile.validate(tmp_path / "a.mrc")
    back = read_map(tmp_path / "a.mrc")
    np.testing.assert_array_equal(back.values, volume.values.astype(np.float32))
    assert (back.attrs["pixel_size"], back.attrs["origin"]) == (1.05, [1.0, 2.0, 3.0])
    with pytest.raises(ParameterError, match="a pixel size above 0"):
        write_map(tmp_path / "b.mrc", volume.values)
    with pytest.raises(ParameterError, match=r"\(z, y, x\)"):
        write_map(tmp_path / "b.mrc", volume.values[0, 0], pixel_size=1.0)
    assert not (tmp_path / "b.mrc").exists()


@pytest.mark.parametrize(("cut", "says"), [(-1, "1599 bytes"), (40, "1644 bytes"), (-700, "900 bytes")])
def test_a_wrong_size_is_named_with_both_numbers(tmp_path: Path, cut: int, says: str) -> None:
    write_stack(tmp_path / "a.mrcs", xr.DataArray(np.ones((6, 4, 6)), dims=("particle", "y", "x")), pixel_size=1.0)
    raw = (tmp_path / "a.mrcs").read_bytes()
    assert len(raw) == 1600
    (tmp_path / "a.mrcs").write_bytes(raw[:cut] if cut < 0 else raw + bytes(cut + 4))
    with pytest.raises(FormatError, match=r"expected .* bytes") as error:
        read_header(tmp_path / "a.mrcs")
    assert f"found {says}" in str(error.value)
    assert "a.mrcs" in str(error.value)


def test_other_files_and_modes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mrc").write_bytes(b"<html>" * 300)
    with pytest.raises(FormatError, match="not an MRC file"):
        read_header(tmp_path / "a.mrc")
    (tmp_path / "a.mrc").write_bytes(b"short")
    with pytest.raises(FormatError, match="1024 bytes; found 5 bytes"):
        read_header(tmp_path / "a.mrc")
    with mrcfile.new(tmp_path / "c.mrc") as file:
        file.set_data(np.zeros((3, 4), np.complex64))
    with pytest.raises(FormatError, match="mode 4"):
        read_header(tmp_path / "c.mrc")


def test_a_lazy_stack_is_picklable_and_reads_any_selection(data: Path) -> None:
    path = data / "particles" / "sample.mrcs"
    with mrcfile.open(path, permissive=True) as file:
        truth = np.array(file.data)
    stack = stack_of(path)
    assert stack.chunks is not None
    for copy in (stack, pickle.loads(pickle.dumps(stack))):
        np.testing.assert_array_equal(copy.values, truth)
        np.testing.assert_array_equal(copy[[16, 0, 3, 4], 5:9, ::3].values, truth[[16, 0, 3, 4], 5:9, ::3])
        np.testing.assert_array_equal(copy[::-2].values, truth[::-2])
        np.testing.assert_array_equal(copy[3, 4].values, truth[3, 4])
        assert copy[5:5].values.shape == (0, 200, 200)


def test_a_stack_that_shrinks_after_opening_is_noticed(tmp_path: Path) -> None:
    write_stack(tmp_path / "a.mrcs", xr.DataArray(np.ones((6, 4, 4)), dims=("particle", "y", "x")), pixel_size=1.0)
    stack = stack_of(tmp_path / "a.mrcs")
    (tmp_path / "a.mrcs").write_bytes((tmp_path / "a.mrcs").read_bytes()[:-32])
    with pytest.raises(FormatError, match=r"a\.mrcs: .*has changed since it was opened"):
        _ = stack.values


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_stacks_are_written_chunk_by_chunk(tmp_path: Path, dtype: str) -> None:
    images = np.random.default_rng(0).normal(size=(11, 6, 6)).astype(np.float32)
    lazily = xr.DataArray(images, dims=("particle", "y", "x")).chunk({"particle": 4})
    write_stack(tmp_path / "a.mrcs", lazily, pixel_size=1.5, dtype=dtype)
    assert mrcfile.validate(tmp_path / "a.mrcs")
    with mrcfile.open(tmp_path / "a.mrcs") as file:
        assert file.is_image_stack()
        np.testing.assert_array_equal(file.data, images.astype(dtype))
        assert file.voxel_size.x == 1.5
        assert file.header.rms == pytest.approx(file.data.std(dtype=float), rel=1e-6)
        assert (file.header.dmin, file.header.dmax) == (file.data.min(), file.data.max())


def test_float16_that_would_overflow_and_empty_stacks_are_refused(tmp_path: Path) -> None:
    images = xr.DataArray(np.full((2, 4, 4), 1e5), dims=("particle", "y", "x"))
    with pytest.raises(ParameterError, match="float16"):
        write_stack(tmp_path / "a.mrcs", images, pixel_size=1.0, dtype="float16")
    with pytest.raises(ParameterError, match="at least one"):
        write_stack(tmp_path / "a.mrcs", images[:0], pixel_size=1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_the_old_map(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", np.ones((4, 4, 4)), pixel_size=1.0)
    before = (tmp_path / "a.mrc").read_bytes()
    with pytest.raises(ResourceError, match=r"a\.mrc"):
        write_map(tmp_path / "a.mrc", np.ones((80, 80, 80)), pixel_size=1.0)
    assert (tmp_path / "a.mrc").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
