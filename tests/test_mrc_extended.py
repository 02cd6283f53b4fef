"""MRC headers beyond the plain ones: every mode, wrong sizes, stacks of volumes, and what microscopes add."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from mrcfile.dtypes import get_ext_header_dtype

from cryoflow.errors import FormatError
from cryoflow.io.images.mrc import read_header, read_images, read_map, write_map
from cryoflow.io.images.mrc_extended import extended_kind, read_extended, symmetry_operators


def mrc(shape: tuple[int, int, int], mode: int, data: bytes, *, order: str = "<", extended: bytes = b"",
        kind: bytes = b"", **words: tuple[str, object]) -> bytes:  # fmt: skip
    """An MRC file by hand; ``words`` are (form, value) at byte "at_N"."""
    nz, ny, nx = shape
    raw = bytearray(1024)
    struct.pack_into(f"{order}10i", raw, 0, nx, ny, nz, mode, 0, 0, 0, nx, ny, nz)
    struct.pack_into(f"{order}6f3i", raw, 40, nx * 1.5, ny * 1.5, nz * 1.5, 90, 90, 90, 1, 2, 3)
    struct.pack_into(f"{order}2i", raw, 88, 1, len(extended))
    struct.pack_into("4s", raw, 104, kind)
    raw[208:216] = b"MAP " + (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    for name, (form, value) in words.items():
        struct.pack_into(f"{order}{form}", raw, int(name.removeprefix("at_")), value)
    return bytes(raw) + extended + data


# modes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("columns", [6, 7])
def test_four_bits_a_value(tmp_path: Path, columns: int, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 16, (3, 5, columns), dtype=np.uint8)
    even = np.zeros((3, 5, columns + columns % 2), np.uint8)
    even[..., :columns] = values
    packed = (even[..., 0::2] | even[..., 1::2] << 4).tobytes()
    path = tmp_path / "a.mrc"
    path.write_bytes(mrc(values.shape, 101, packed, order=order))
    header = read_header(path)
    assert header.shape == values.shape
    np.testing.assert_array_equal(header.read(0, 3), values)
    out = np.empty((2, 5, columns), np.float32)
    header.read(1, 2, out)
    np.testing.assert_array_equal(out, values[1:])
    np.testing.assert_array_equal(read_map(path).values, values)
    if columns == 6:  # IMOD's older way: bytes that hold two values each
        path.write_bytes(mrc((3, 5, 3), 0, packed, order=order, at_152=("i", 1146047817), at_156=("i", 16)))
        np.testing.assert_array_equal(read_header(path).read(0, 3), values)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FormatError, match="truncated in section 3"):
            read_header(path)


def test_who_tells_that_bytes_are_signed(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"

    def read(stamp: int, flags: int, signed: bool | None) -> tuple[float, str]:
        path.write_bytes(mrc((1, 1, 2), 0, b"\xc8\x01", at_152=("i", stamp), at_156=("i", flags)))
        volume = read_map(path, signed=signed)
        assert read_header(path, signed=True).token() != read_header(path, signed=False).token()
        return float(volume.values[0, 0, 0]), volume.attrs["bytes"]

    assert read(0, 0, None) == (-56, "signed (MRC2014)")
    assert read(1146047817, 0, None) == (200, "unsigned (IMOD)")
    assert read(1146047817, 1, None) == (-56, "signed (IMOD)")
    assert read(0, 0, False) == (200, "unsigned (caller)")
    assert read(1146047817, 0, True) == (-56, "signed (caller)")


@pytest.mark.parametrize(("mode", "says"), [(3, "a transform"), (4, "a transform"), (16, "RGB"), (7, "no mode")])
def test_what_holds_no_densities_is_refused_by_name(tmp_path: Path, mode: int, says: str) -> None:
    path = tmp_path / "a.mrc"
    path.write_bytes(mrc((1, 2, 2), mode, bytes(100)))
    with pytest.raises(FormatError, match=f"mode {mode}: .*{says}"):
        read_header(path)


def test_the_axes_tell_the_byte_order_where_sizes_do_not(tmp_path: Path) -> None:
    """256 is 65536 in the other order, and mode 0 is 0 in both."""
    path = tmp_path / "a.mrc"
    path.write_bytes(mrc((256, 1, 256), 0, bytes(range(256)) * 256, order=">"))
    raw = bytearray(path.read_bytes())
    struct.pack_into(">i", raw, 4, 256)
    path.write_bytes(bytes(raw) + bytes(256 * 256 * 255))
    assert read_header(path).shape == (256, 256, 256)


# sizes ---------------------------------------------------------------------------------------------------------------


def test_a_truncated_file_is_told_and_its_whole_sections_can_be_read(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    path = tmp_path / "a.mrcs"
    whole = mrc(values.shape, 2, values.tobytes())
    path.write_bytes(whole[:-60])
    with pytest.raises(FormatError, match=r"truncated in section 4.*open its 3 whole sections with check_size=False"):
        read_header(path)
    header = read_header(path, check_size=False)
    assert (header.shape, header.declared) == ((3, 3, 4), 5)
    np.testing.assert_array_equal(header.read(0, 3), values[:3])
    path.write_bytes(whole + b"more")
    with pytest.raises(FormatError, match="4 bytes follow the last section"):
        read_header(path)
    assert read_header(path, check_size=False).shape == values.shape
    path.write_bytes(whole[:1030])
    with pytest.raises(FormatError, match="truncated in section 1"):
        read_header(path, check_size=False)


def test_an_extended_header_beyond_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    for length in (-1, 1 << 30):
        path.write_bytes(mrc((1, 2, 2), 2, bytes(16), at_92=("i", length)))
        for check in (True, False):
            with pytest.raises(FormatError, match=r"bytes 92-95: expected an extended header within the file"):
                read_header(path, check_size=check)


def test_stacks_of_volumes(tmp_path: Path) -> None:
    volumes = np.random.default_rng(1).normal(size=(3, 4, 5, 6)).astype(np.float32)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(volumes)
        file.voxel_size = 2.0
    header = read_header(tmp_path / "a.mrc")
    assert (header.volumes, header.sections_a_volume, header.shape) == (3, 4, (12, 5, 6))
    with pytest.raises(FormatError, match=r"one map; found a stack of 3. Give volume=, 0 to 2"):
        read_map(tmp_path / "a.mrc")
    with pytest.raises(FormatError, match="volume="):
        read_map(tmp_path / "a.mrc", volume=3)
    read = read_map(tmp_path / "a.mrc", volume=1)
    np.testing.assert_array_equal(read.values, volumes[1])
    assert read.attrs["pixel_size"] == 2.0


# against mrcfile -----------------------------------------------------------------------------------------------------


def test_every_real_file_agrees_with_mrcfile(data: Path) -> None:
    files = [p for p in sorted(data.rglob("*")) if p.suffix in (".mrc", ".map", ".mrcs", ".stk")]
    assert len(files) >= 35
    for path in files:
        header = read_header(path)
        with mrcfile.mmap(path, mode="r", permissive=True) as file:
            stored = file.data.reshape(header.shape)
            assert header.stored == file.data.dtype
            for section in {0, header.shape[0] // 2, header.shape[0] - 1}:
                np.testing.assert_array_equal(read_images(header, section, 1)[0], stored[section])
            np.testing.assert_allclose(header.voxel, file.voxel_size.tolist(), atol=1e-5)
            by_axis = dict(
                zip(header.axes, (file.header.nxstart, file.header.nystart, file.header.nzstart), strict=True)
            )
            assert header.start == (by_axis[1], by_axis[2], by_axis[3])
            assert header.origin == tuple(file.header.origin.tolist())


# extended headers ----------------------------------------------------------------------------------------------------


def test_a_real_fei_header(data: Path) -> None:
    path = data / "micrographs" / "fei-extended.mrc"
    (record,) = read_extended(path)
    assert extended_kind(read_header(path)) == "FEI1"
    assert record["voltage"] == 300.0
    assert record["pixel_size"] == pytest.approx(read_header(path).voxel[0], abs=1e-4)
    assert record["pixel_size"] == pytest.approx(0.8538, abs=1e-4)
    assert record["applied_defocus"] == pytest.approx(8000)
    assert record["dose"] == pytest.approx(47.62, abs=0.01)
    assert (record["camera"], record["exposure_time"], record["time"][:10]) == ("EF-CCD", 10.0, "2017-10-10")
    assert "Convergence angle" not in record  # marked as not valid
    with mrcfile.open(path, header_only=True) as file:
        theirs = file.indexed_extended_header[0]
        assert theirs["Spot index"] == record["Spot index"]
        assert theirs["Application version"] == record["Application version"].encode()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["FEI1", "FEI2"])
@pytest.mark.parametrize("mode", [0, 6])
def test_fei_tilt_series(tmp_path: Path, kind: str, order: str, mode: int) -> None:
    layout = get_ext_header_dtype(kind.encode(), order)
    size = layout.itemsize if kind == "FEI2" else 768  # EPU leaves room behind FEI1's fields
    records = np.zeros(4, layout)
    records["Metadata size"], records["Bitmask 1"] = size, 1 << 5 | 1 << 7 | 1 << 14
    records["Alpha tilt"], records["HT"], records["Pixel size X"] = [-60, -20, 20, 60], 2e5, 1.7e-10
    records["Dose"] = 1e20  # not marked as valid
    records["Bitmask 4"] = 0xFFFFFFFF
    if kind == "FEI2":
        records["Detector commercial name"], records["Tilt per image"] = b"Falcon 4i", 40.0
    room = b"".join(r.tobytes().ljust(size, b"\0") for r in records)
    path = tmp_path / "a.mrc"
    data = bytes(3 * 2 * 2 * (1 if mode == 0 else 2))
    path.write_bytes(mrc((3, 2, 2), mode, data, order=order, extended=room, kind=kind.encode()))
    found = read_extended(path)
    assert [r["tilt_angle"] for r in found] == [-60, -20, 20]  # a record a section, whatever room there is
    assert found[0]["voltage"] == 200
    assert found[0]["pixel_size"] == pytest.approx(1.7)
    assert "dose" not in found[0]
    if kind == "FEI2":
        assert found[1]["Detector commercial name"] == "Falcon 4i"
        assert found[1]["Tilt per image"] == 40.0
    raw = bytearray(path.read_bytes())
    raw[1024:1028] = b"\xff\xff\xff\x7f"
    path.write_bytes(bytes(raw))
    with pytest.raises(FormatError, match=f"byte 1024: expected the size of a record of {kind}"):
        read_extended(path)
    assert read_header(path).shape == (3, 2, 2)


def short_real(value: float) -> tuple[int, int]:
    """SerialEM's two shorts for a real number: the inverse of its published formula, searched for."""
    for exponent in range(-60, 20):
        mantissa = round(abs(value) / 2.0**exponent)
        if 1 << 22 <= mantissa < 1 << 23:
            first, low = mantissa // 256, mantissa % 256
            second = abs(exponent) * 256 + low
            return (first if value >= 0 else -first), (second if exponent >= 0 else -second)
    raise AssertionError(value)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("named", [True, False])
def test_serialem(tmp_path: Path, order: str, named: bool) -> None:
    flags, rows = 1 | 2 | 4 | 8 | 16 | 32 | 64, []
    for i in range(3):
        dose = short_real(1.25 + i)
        rows.append([-6000 + 300 * i, 10, 20, i, 250, -500, 290, 5000, *dose, 77])
    extended = np.array(rows, f"{order}i2").tobytes()
    path = tmp_path / "a.st"
    path.write_bytes(mrc((3, 2, 2), 1, bytes(24), order=order, extended=extended, kind=b"SERI" if named else b"",
                         at_128=("h", 22), at_130=("h", flags)))  # fmt: skip
    assert extended_kind(read_header(path)) == "SERI"
    found = read_extended(path)
    assert [r["tilt_angle"] for r in found] == [-60, -57, -54]
    assert [r["dose"] for r in found] == pytest.approx([1.25, 2.25, 3.25], abs=1e-6)
    assert (found[2]["piece"], found[2]["stage_x"], found[2]["stage_y"]) == ([10, 20, 2], 10.0, -20.0)
    assert (found[0]["magnification"], found[0]["intensity"]) == (29000, 0.2)
    if named:
        raw = bytearray(path.read_bytes())
        struct.pack_into(f"{order}h", raw, 130, 1)
        path.write_bytes(bytes(raw))
        with pytest.raises(FormatError, match="flags 1 and 22 bytes"):
            read_extended(path)


def test_agards_layout(tmp_path: Path) -> None:
    record = np.zeros((2, 32), "<f4")
    record[:, 0], record[:, 2], record[:, 7], record[:, 11], record[:, 12] = [-45, 45], 1e-4, -3e-6, 4.2e-10, 29000
    path = tmp_path / "a.rec"
    path.write_bytes(mrc((2, 2, 2), 1, bytes(16), extended=record.tobytes(), at_130=("h", 32)))
    found = read_extended(path)
    assert [r["tilt_angle"] for r in found] == [-45, 45]
    assert found[1]["defocus"] == pytest.approx(30000)
    assert found[1]["pixel_size"] == pytest.approx(4.2)
    assert found[0]["stage_x"] == pytest.approx(100)


def test_symmetry_and_nothing(data: Path, tmp_path: Path) -> None:
    assert symmetry_operators(data / "maps" / "EMD-3001.map") == ["X,  Y,  Z", "-X,  Y+1/2,  -Z"]
    assert read_extended(data / "maps" / "EMD-3001.map") == []
    write_map(tmp_path / "a.mrc", np.ones((2, 2, 2)), pixel_size=1.0)
    assert (read_extended(tmp_path / "a.mrc"), symmetry_operators(tmp_path / "a.mrc")) == ([], [])


def test_headers_are_picklable(data: Path) -> None:
    header = pickle.loads(pickle.dumps(read_header(data / "maps" / "EMD-3001.map")))
    assert header.read(3, 1).shape == (1, 43, 73)
