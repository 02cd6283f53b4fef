"""Images of other programs: TIFF, EER, SPIDER, IMAGIC and EMAN2, against other programs and files made by hand."""

from __future__ import annotations

import pickle
import struct
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.formats import detect, open_data, write_data
from cryoflow.io.images.eer import open_eer, read_eer_header
from cryoflow.io.images.eman_hdf import open_hdf, read_attributes, write_hdf
from cryoflow.io.images.image_file import ImageFile, open_image_file
from cryoflow.io.images.image_stack import open_images_or_map, open_movie
from cryoflow.io.images.imagic import open_imagic, read_imagic_header, write_imagic
from cryoflow.io.images.mrc import read_header, read_images, write_map
from cryoflow.io.images.spider import open_spider, read_spider_header, write_spider
from cryoflow.io.images.tiff import open_tiff


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(5, 12, 12)).astype(np.float32)


def behaves(file: ImageFile, truth: NDArray[Any]) -> None:
    """What every ``ImageFile`` promises."""
    assert isinstance(file, ImageFile)
    assert (file.shape, file.dtype) == (truth.shape, truth.dtype)
    again = pickle.loads(pickle.dumps(file))
    assert again.token() == file.token()
    n = truth.shape[0]
    np.testing.assert_array_equal(again.read(0, n), truth)
    np.testing.assert_array_equal(file.read(n - 1, 1)[0], truth[-1])
    assert file.read(n, 0).shape == (0, *truth.shape[1:])
    out = np.full((1, *truth.shape[1:]), 7.0, np.float64)
    assert file.read(n // 2, 1, out) is out
    np.testing.assert_array_equal(out[0], truth[n // 2])
    native = np.zeros((2, *truth.shape[1:]), truth.dtype)
    if n > 1:
        file.read(n - 2, 2, native)
        np.testing.assert_array_equal(native, truth[-2:])
    for first, count in ((-1, 1), (n, 1), (0, n + 1)):
        with pytest.raises(ParameterError, match=f"expected some of {n}"):
            file.read(first, count)


# TIFF ----------------------------------------------------------------------------------------------------------------

TYPES, CODECS = ("u1", "u2", "i2", "f4"), (None, "packbits", "lzw", "zlib", "zstd")
KINDS = [(t, c, p) for t, c, p in product(TYPES, CODECS, (1, 2, 3))
         if not (p > 1 and c in (None, "packbits")) and p != (2 if t == "f4" else 3)]  # fmt: skip


@pytest.mark.parametrize(("dtype", "compression", "predictor"), KINDS)
def test_tiff_variants(tmp_path: Path, dtype: str, compression: str | None, predictor: int) -> None:
    """Both byte orders, TIFF and BigTIFF, strips and tiles, one page and more: tifffile writes, we read."""
    rng = np.random.default_rng(0)
    cases = [("<", False, None, 1), (">", True, None, 3), ("<", True, (16, 32), 3), (">", False, (16, 32), 2)]
    for order, big, tile, pages in cases:
        truth = rng.poisson(30, (pages, 37, 45)).astype(dtype)
        path = tmp_path / "a.tif"
        tifffile.imwrite(
            path, truth, compression=compression, predictor=predictor if predictor > 1 else None, byteorder=order,
            bigtiff=big, tile=tile, rowsperstrip=None if tile else 10, photometric="minisblack",
        )  # fmt: skip
        file = open_tiff(path)
        assert (file.shape, file.dtype) == (truth.shape, truth.dtype)
        np.testing.assert_array_equal(file.read(0, pages), truth[:, ::-1])


def test_tiff_as_an_image_file(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).integers(0, 9, (4, 6, 5)).astype(np.int16)
    tifffile.imwrite(tmp_path / "a.tiff", truth[:, ::-1], compression="lzw", photometric="minisblack")
    behaves(open_image_file(tmp_path / "a.tiff"), truth)
    (tmp_path / "a.tiff").rename(tmp_path / "noname")
    behaves(open_image_file(tmp_path / "noname"), truth)


def test_a_real_tiff(data: Path) -> None:
    path = data / "micrographs" / "KLH.tif"
    behaves(open_tiff(path), tifffile.imread(path)[None, ::-1])
    assert open_tiff(path).voxel == (0, 0, 0)  # 72 dots an inch is a screen
    assert detect(path).name == "tiff"


@pytest.mark.parametrize(
    ("options", "voxel"),
    [
        ({"resolution": (1e8 / 1.35, 1e8 / 1.35), "resolutionunit": "CENTIMETER"}, 1.35),
        ({"resolution": (2.54e8 / 0.83, 2.54e8 / 0.83), "resolutionunit": "INCH"}, 0.83),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, 0.0),
        ({"resolution": (10 / 1.06, 10 / 1.06), "metadata": {"unit": "nm"}, "imagej": True}, 1.06),
        ({"resolution": (1, 1), "metadata": {"unit": "pixel"}, "imagej": True}, 0.0),
        ({"description": "SerialEM: K3\n  PixelSpacing = 0.825\n"}, 0.825),
        ({"metadata": {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5,
                       "PhysicalSizeYUnit": "nm"}, "ome": True}, 5.0),
        ({}, 0.0),
    ],
)  # fmt: skip
def test_pixel_sizes_that_tiff_files_tell(tmp_path: Path, options: dict[str, Any], voxel: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9), np.uint16), **options)
    assert open_tiff(tmp_path / "a.tif").voxel == pytest.approx((voxel,) * 3, rel=1e-4)


def test_rows_that_are_stored_from_the_bottom(tmp_path: Path) -> None:
    truth = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tifffile.imwrite(tmp_path / "a.tif", truth, extratags=[(274, 3, 1, 4, True)])
    np.testing.assert_array_equal(open_tiff(tmp_path / "a.tif").read(0, 1)[0], truth)
    tifffile.imwrite(tmp_path / "a.tif", truth, extratags=[(274, 3, 1, 6, True)])
    with pytest.raises(FormatError, match=r"page 1: expected rows from the top or from the bottom.*orientation 6"):
        open_tiff(tmp_path / "a.tif")


def test_a_gain_reference_of_eer_lies_as_its_movie_does(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).normal(1, 0.1, (1, 6, 8)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.gain", truth[0])
    behaves(open_image_file(tmp_path / "a.gain"), truth)


def test_tiff_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"

    def refused(says: str, **options: Any) -> None:
        tifffile.imwrite(path, **options)
        with pytest.raises(FormatError, match=says):
            open_tiff(path)

    grey = np.zeros((32, 32), np.uint8)
    refused("one grey image; found RGB", data=np.zeros((32, 32, 3), np.uint8), photometric="rgb")
    refused("found JPEG", data=grey, compression="jpeg")
    refused("compression 34925", data=grey, compression="lzma")
    refused("8, 16, 32 or 64 bits", data=np.zeros((32, 32), bool))
    with tifffile.TiffWriter(path) as writer:
        writer.write(grey)
        writer.write(np.zeros((16, 32), np.uint8))
    with pytest.raises(FormatError, match=r"page 2: expected 32 x 32 of uint8, as page 1; found 16 x 32"):
        open_tiff(path)
    assert open_tiff(path, check_size=False).shape == (1, 32, 32)


def test_a_truncated_tiff_tells_the_page(tmp_path: Path) -> None:
    truth = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in truth:
            writer.write(page, contiguous=False)
    raw = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(raw[:-10])
    with pytest.raises(FormatError, match=r"page 3: .*expected 64 bytes at .*found a file of"):
        open_tiff(tmp_path / "a.tif")
    file = open_tiff(tmp_path / "a.tif", check_size=False)
    np.testing.assert_array_equal(file.read(0, 2), truth[:2, ::-1])


def test_directories_in_a_circle(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 8, 8), np.uint8), photometric="minisblack", byteorder="<")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        first, second = tiff.pages[0].offset, tiff.pages[1].offset
    raw = (tmp_path / "a.tif").read_bytes()
    after = second + 2 + 12 * struct.unpack("<H", raw[second : second + 2])[0]
    (tmp_path / "a.tif").write_bytes(raw[:after] + struct.pack("<I", first) + raw[after + 4 :])
    with pytest.raises(FormatError, match="page 3: expected a new directory"):
        open_tiff(tmp_path / "a.tif")


# EER -----------------------------------------------------------------------------------------------------------------


def eer_frame(events: list[tuple[int, int, int]], shape: tuple[int, int], bits: tuple[int, int, int]) -> bytes:
    """Electrons (row, column, place) of one frame as the published bit stream, written bit by bit."""
    skip, across, down = bits
    stream: list[int] = []

    def put(value: int, count: int) -> None:
        stream.extend(value >> i & 1 for i in range(count))

    position, most = 0, (1 << skip) - 1
    for row, column, place in sorted(events):
        gap = row * shape[1] + column - position
        while gap >= most:
            put(most, skip)
            gap -= most
        put(gap, skip)
        put(place, across + down)
        position = row * shape[1] + column + 1
    gap = shape[0] * shape[1] - position
    while gap >= most:
        put(most, skip)
        gap -= most
    put(gap, skip)
    stream += [0] * (-len(stream) % 64)
    return np.packbits(np.array(stream, np.uint8), bitorder="little").tobytes()


XML = (
    '<metadata><item name="numberOfFrames">{n}</item><item name="exposureTime" unit="s">2.5</item>'
    '<item name="meanDoseRate" unit="e/pixel/s">8.0</item><item name="totalDose" unit="e/pixel">20.0</item>'
    '<item name="serialNumber">E-1</item><item name="timestamp">2024-05-06T07:08:09Z</item>'
    '<item name="sensorPixelSize.width" unit="m">9.5e-11</item></metadata>'
)


def eer_file(
    path: Path, frames: list[bytes], shape: tuple[int, int], bits: tuple[int, int, int], *, strips: int = 1,
    xml: str = XML, integrated: bool = True,
) -> None:  # fmt: skip
    """A BigTIFF file as the detector writes it: the image that the camera summed, then the frames."""
    codec = {(8, 2, 2): 65000, (7, 2, 2): 65001}.get(bits, 65002)
    raw = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
    previous = 8
    for number, data in enumerate(([b"\0" * 2 * shape[0] * shape[1]] if integrated else []) + frames):
        is_frame = number > 0 or not integrated
        size = -(-len(data) // strips)
        parts = [data[i * size : (i + 1) * size] for i in range(strips)] if is_frame else [data]
        offsets = []
        for part in parts:
            offsets.append(len(raw))
            raw += part
        tags = {
            256: (4, [shape[1]]), 257: (4, [shape[0]]), 258: (3, [1 if is_frame else 16]),
            259: (3, [codec if is_frame else 1]), 273: (16, offsets),
            278: (4, [-(-shape[0] // strips) if is_frame else shape[0]]), 279: (16, [len(p) for p in parts]),
        }  # fmt: skip
        if codec == 65002 and is_frame:
            tags |= {65007 + i: (3, [b]) for i, b in enumerate(bits)}
        if number == 0 and xml:
            text = xml.format(n=len(frames)).encode()
            tags[65001] = (7, list(text))
        entries = b""
        for tag, (kind, values) in sorted(tags.items()):
            packed = struct.pack(f"<{len(values)}{ {3: 'H', 4: 'I', 7: 'B', 16: 'Q'}[kind] }".replace(" ", ""), *values)
            if len(packed) > 8:
                place = len(raw)
                raw += packed
                packed = struct.pack("<Q", place)
            entries += struct.pack("<HHQ", tag, kind, len(values)) + packed.ljust(8, b"\0")
        raw[previous : previous + 8] = struct.pack("<Q", len(raw))
        raw += struct.pack("<Q", len(tags)) + entries
        previous = len(raw)
        raw += bytes(8)
    path.write_bytes(bytes(raw))


def electrons(
    rng: np.random.Generator, shape: tuple[int, int], bits: tuple[int, int, int]
) -> list[tuple[int, int, int]]:
    """A few electrons of one frame: in the corners, side by side, far apart, one a pixel."""
    places = {(0, 0), (0, 1), (shape[0] - 1, shape[1] - 1)}
    places |= {(int(rng.integers(shape[0])), int(rng.integers(shape[1]))) for _ in range(60)}
    return [(row, column, int(rng.integers(1 << (bits[1] + bits[2])))) for row, column in sorted(places)]


def counted(events: list[tuple[int, int, int]], shape: tuple[int, int], bits: tuple[int, int, int], finer: int) -> Any:
    """Where the electrons fell: the places in a pixel run -2, -1, 0, 1 around its middle, as two's complement."""
    out = np.zeros((shape[0] << finer, shape[1] << finer), int)
    for row, column, place in events:
        sub = [place % (1 << bits[1]), place >> bits[1]]
        fractions = []
        for value, count in zip(sub, bits[1:], strict=True):
            signed = value - (1 << count) if count and value >= 1 << (count - 1) else value
            fractions.append((signed + (1 << count) / 2) / (1 << count))
        y, x = int((row + fractions[1]) * (1 << finer)), int((column + fractions[0]) * (1 << finer))
        out[y, x] += 1
    return out


@pytest.mark.parametrize("bits", [(8, 2, 2), (7, 2, 2), (6, 3, 3), (5, 2, 1)])
def test_eer_frames_hold_the_electrons_that_were_written(tmp_path: Path, bits: tuple[int, int, int]) -> None:
    rng, shape = np.random.default_rng(4), (40, 56)
    truth = [electrons(rng, shape, bits) for _ in range(7)]
    frames = [eer_frame(e, shape, bits) for e in truth]
    path = tmp_path / "a.eer"
    for strips in (1, 4):
        eer_file(path, frames, shape, bits, strips=strips)
        for finer in range(min(bits[1:], default=0) + 1):
            counts = np.array([counted(e, shape, bits, finer) for e in truth]).astype(np.uint8)
            behaves(open_eer(path, upsampling=1 << finer), counts)
            if bits[1:] == (2, 2) and strips == 1:  # another decoder
                theirs = imagecodecs.eer_decode(frames[3], counts.shape[1:], *bits, superres=finer)
                np.testing.assert_array_equal(theirs, counts[3] > 0)
    sums = np.array([counted(e, shape, bits, 0) for e in truth])
    grouped = open_eer(path, frames_per_fraction=3)
    np.testing.assert_array_equal(grouped.read(0, 2), [sums[:3].sum(0), sums[3:6].sum(0)])  # the seventh is left out
    parts = open_eer(path, fractions=2)
    np.testing.assert_array_equal(parts.read(0, 2), [sums[:3].sum(0), sums[3:].sum(0)])
    assert parts.token() != grouped.token()


def test_eer_headers(tmp_path: Path) -> None:
    shape, bits = (16, 16), (7, 2, 2)
    frames = [eer_frame([(i, 3, 0)], shape, bits) for i in range(5)]
    path = tmp_path / "a.eer"
    eer_file(path, frames, shape, bits)
    header = read_eer_header(path)
    assert (header.frames, header.rows, header.columns, header.bits) == (5, 16, 16, bits)
    assert (header.exposure_time, header.dose_rate, header.total_dose) == (2.5, 8.0, 20.0)
    assert (header.serial_number, header.timestamp, header.pixel_size) == ("E-1", "2024-05-06T07:08:09Z", 0.95)
    assert header.metadata["meanDoseRate.unit"] == "e/pixel/s"
    assert header.dose_per_frame == pytest.approx(20 / 0.95**2 / 5)
    with tifffile.TiffFile(path) as tiff:  # another reader of the same metadata
        assert tiff.is_eer
        assert tiff.eer_metadata is not None
        assert tiff.eer_metadata["totalDose"] == header.total_dose
    movie = open_movie(path, frames_per_fraction=2, upsampling=2)
    assert movie["movie"].shape == (1, 2, 32, 32)
    assert float(movie["movie"].sum()) == 4
    assert movie["pixel_size"].item() == 0.475
    assert movie["dose_per_frame"].item() == pytest.approx(2 * header.dose_per_frame)
    assert open_data(path)["movie"].shape == (1, 5, 16, 16)
    eer_file(path, frames, shape, bits, xml="", integrated=False)
    assert read_eer_header(path).dose_per_frame == 0
    both = {"fractions": 1, "frames_per_fraction": 1}
    for wrong in ({"frames_per_fraction": 6}, {"fractions": 9}, {"upsampling": 8}, {"upsampling": 3}, both,
                  {"frames_per_fraction": -1}):  # fmt: skip
        with pytest.raises(ParameterError):
            open_eer(path, **wrong)
    with pytest.raises(ParameterError, match="an EER file for fractions"):
        open_movie(tmp_path / "b.tif", fractions=3)


def test_damaged_eer_files(tmp_path: Path) -> None:
    shape, bits = (32, 32), (7, 2, 2)
    frames = [eer_frame([(i, 3, 0), (30, 1, 5)], shape, bits) for i in range(4)]
    path = tmp_path / "a.eer"
    eer_file(path, frames, shape, bits)
    raw = path.read_bytes()
    path.write_bytes(raw[:-8])
    with pytest.raises(FormatError, match="truncated or damaged"):
        read_eer_header(path)
    assert open_eer(path, check_size=False).shape[0] == 3
    eer_file(path, [*frames[:2], frames[2][:4], frames[3]], shape, bits)  # the codes stop before the last pixel
    with pytest.raises(FormatError, match="page 4: expected electrons of 32 x 32 pixels; found 4 bytes"):
        read_eer_header(path)
    eer_file(path, [*frames[:2], b"\0" * 24, frames[3]], shape, bits)
    with pytest.raises(
        FormatError, match=r"frame 3: expected electrons of 1024 pixels; found \d+. The frame is cut off"
    ):
        open_eer(path).read(2, 1)
    eer_file(path, frames, shape, bits, xml=XML.replace("{n}", "9"))
    with pytest.raises(FormatError, match="9 frames, as its metadata say; found 4"):
        read_eer_header(path)
    eer_file(path, frames, shape, bits, xml='<!DOCTYPE m [<!ENTITY a "b">]><metadata/>')
    with pytest.raises(FormatError, match="plain XML"):
        read_eer_header(path)
    eer_file(path, frames, shape, bits, xml="<metadata>")
    with pytest.raises(FormatError, match="tag 65001: expected XML"):
        read_eer_header(path)
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    with pytest.raises(FormatError, match=r"frames of electrons \(EER\); found a TIFF file without any"):
        read_eer_header(path)
    eer_file(tmp_path / "b.tif", frames, shape, bits, integrated=False)
    with pytest.raises(FormatError, match=r"found EER\. Open it as EER"):
        open_tiff(tmp_path / "b.tif")


# SPIDER --------------------------------------------------------------------------------------------------------------


def relion(program: Path, *arguments: object) -> None:
    command = [
        str(program / "relion_image_handler"),
        *map(str, arguments),
        "--angpix",
        "1.5",
        "--multiply_constant",
        "2",
    ]
    subprocess.run(command, check=True, capture_output=True)


def test_relion_reads_our_spider_and_imagic_files(tmp_path: Path, images: Any, relion_programs: Path) -> None:
    write_spider(tmp_path / "a.spi", images, stack=True, pixel_size=1.5)
    write_imagic(tmp_path / "b.hed", images)
    for name in ("a.spi", "b.hed", "b.img"):
        relion(relion_programs, "--i", f"4@{tmp_path / name}", "--o", tmp_path / "out.mrc")
        np.testing.assert_array_equal(read_header(tmp_path / "out.mrc").read(0, 1)[0], 2 * images[3])
    volume = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    write_spider(tmp_path / "v.spi", volume, stack=False)
    relion(relion_programs, "--i", tmp_path / "v.spi", "--o", tmp_path / "out.mrc")
    np.testing.assert_array_equal(read_header(tmp_path / "out.mrc").read(0, 10), 2 * volume)


def test_we_read_relions_spider_files(tmp_path: Path, relion_programs: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    write_map(tmp_path / "v.mrc", volume, pixel_size=1.5)
    relion(relion_programs, "--i", tmp_path / "v.mrc", "--o", tmp_path / "v.spi")
    file = open_spider(tmp_path / "v.spi")
    behaves(file, 2 * volume)
    assert file.volume
    np.testing.assert_array_equal(open_data(tmp_path / "v.spi", pixel_size=1.5)["map"].values, 2 * volume)


def spider_by_hand(images: Any, order: str, *, stack: bool) -> bytes:
    """The published layout, word by word."""
    n, ny, nx = images.shape
    records = 1024 // (4 * nx) + (1 if 1024 % (4 * nx) else 0)

    def header(**words: float) -> bytes:
        raw = np.zeros(records * nx, np.float32)
        raw[[1, 4, 11, 12, 21, 22]] = [ny, 1, nx, records, records * 4 * nx, 4 * nx]
        raw[0] = 1 if stack else n
        for place, value in words.items():
            raw[int(place[1:]) - 1] = value
        return raw.astype(f"{order}f4").tobytes()

    if not stack:
        return header(w5=3 if n > 1 else 1) + images.astype(f"{order}f4").tobytes()
    parts = [header(w24=2, w26=n)]
    for i, image in enumerate(images):
        parts += [header(w27=i + 1), image.astype(f"{order}f4").tobytes()]
    return b"".join(parts)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stack", [True, False])
@pytest.mark.parametrize("columns", [12, 256, 300])
def test_spider_layouts(tmp_path: Path, order: str, stack: bool, columns: int) -> None:
    truth = np.random.default_rng(1).normal(size=(3, 7, columns)).astype(np.float32)
    (tmp_path / "a.dat").write_bytes(spider_by_hand(truth, order, stack=stack))
    behaves(open_image_file(tmp_path / "a.dat"), truth)
    assert detect(tmp_path / "a.dat").name == "spider"
    write_spider(
        tmp_path / "b.spi", xr.DataArray(truth, dims=("p", "y", "x")), stack=stack, byte_order=order, pixel_size=1.2
    )
    behaves(open_spider(tmp_path / "b.spi"), truth)
    assert open_spider(tmp_path / "b.spi").voxel == (1.2, 1.2, 1.2)
    words = read_spider_header(tmp_path / "b.spi")
    if not stack:
        assert (words["fmax"], words["imami"]) == (truth.max(), 1)
        assert words["sig"] == pytest.approx(truth.std(), rel=1e-4)


def test_spider_files_that_are_refused(tmp_path: Path, images: Any) -> None:
    raw = spider_by_hand(images, "<", stack=True)
    path = tmp_path / "a.spi"

    def refused(says: str, content: bytes, **words: float) -> None:
        data = bytearray(content)
        for place, value in words.items():
            struct.pack_into("<f", data, 4 * (int(place[1:]) - 1), value)
        path.write_bytes(bytes(data))
        with pytest.raises(FormatError, match=says):
            open_spider(path)

    refused("truncated in image 5", raw[:-1])
    refused("4 bytes follow the last image", raw + b"more")
    refused("found a 2D Fourier transform", raw, w5=-12)
    refused("found an indexed stack", raw, w24=-5)
    refused("one of volumes", raw, w1=3)
    refused("expected a SPIDER header", raw, w12=13)
    refused("at least one image; found 0", raw, w26=0)
    path.write_bytes(raw[: len(raw) // 2])
    file = open_spider(path, check_size=False)
    np.testing.assert_array_equal(file.read(0, 2), images[:2])
    with pytest.raises(FormatError):
        file.read(4, 1)
    size = len(spider_by_hand(images[:1], "<", stack=True)) // 2
    empty = bytearray(raw)
    empty[len(raw) - (len(raw) - 1056) // 5 : len(raw)] = bytes((len(raw) - 1056) // 5)
    assert size > 0
    path.write_bytes(bytes(empty))
    with pytest.raises(FormatError, match="image 5: expected the header of an image; found an empty place"):
        open_spider(path).read(3, 2)


# IMAGIC --------------------------------------------------------------------------------------------------------------


def imagic_by_hand(
    folder: Path, images: Any, kind: bytes, dtype: str, order: str, *, told: bool = True, blocks: int = 1
) -> None:
    records = b""
    for i in range(len(images)):
        words = np.zeros(256 * blocks, f"{order}i4")
        words[[0, 1, 3]] = i + 1, len(images) - 1 if i == 0 else 0, blocks
        words[[12, 13]] = images.shape[1:]
        words[60] = 1
        raw = bytearray(words.tobytes())
        raw[56:60] = kind
        if told:
            raw[272:276] = bytes([2 if order == "<" else 4] * 4)
        records += bytes(raw)
    (folder / "a.hed").write_bytes(records)
    (folder / "a.img").write_bytes(images.astype(f"{order}{dtype}").tobytes())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "dtype"), [(b"REAL", "f4"), (b"INTG", "i2"), (b"PACK", "u1"), (b"LONG", "i4")])
@pytest.mark.parametrize(("told", "blocks"), [(True, 1), (False, 2)])
def test_imagic_layouts(tmp_path: Path, order: str, kind: bytes, dtype: str, told: bool, blocks: int) -> None:
    truth = np.random.default_rng(2).integers(0, 200, (3, 7, 9)).astype(dtype)
    imagic_by_hand(tmp_path, truth, kind, dtype, order, told=told, blocks=blocks)
    for name in ("a.hed", "a.img"):
        behaves(open_image_file(tmp_path / name), truth)
        assert detect(tmp_path / name).name == "imagic"


def test_imagic_pairs_that_are_refused(tmp_path: Path, images: Any) -> None:
    def refused(says: str, change: Callable[[], Any]) -> None:
        imagic_by_hand(tmp_path, images, b"REAL", "f4", "<")
        change()
        with pytest.raises(FormatError, match=says):
            open_imagic(tmp_path / "a.img")

    head, body = tmp_path / "a.hed", tmp_path / "a.img"

    def word(place: int, raw: bytes) -> None:
        data = bytearray(head.read_bytes())
        data[4 * place - 4 : 4 * place - 4 + len(raw)] = raw
        head.write_bytes(bytes(data))

    refused(r"a\.hed: expected an existing file", head.unlink)
    refused(r"a\.img: expected an existing file", body.unlink)
    refused("truncated in image 5", lambda: body.write_bytes(body.read_bytes()[:-4]))
    refused("8 bytes follow the last image", lambda: body.write_bytes(body.read_bytes() + bytes(8)))
    refused("5 headers of 1024 bytes; found 4096 bytes", lambda: head.write_bytes(head.read_bytes()[:4096]))
    refused("found 'COMP'. Complex images are transforms", lambda: word(15, b"COMP"))
    refused("found those of a VAX", lambda: word(69, b"\0\0\0\1"))
    refused("numbers of images, lines and pixels", lambda: word(13, bytes(4)))
    with pytest.raises(FormatError, match=r"\.hed or \.img"):
        open_imagic(tmp_path / "a.mrc")


def test_imagic_there_and_back(tmp_path: Path, images: Any) -> None:
    lazy = xr.DataArray(images, dims=("particle", "y", "x")).chunk({"particle": 2})
    write_imagic(tmp_path / "c.img", lazy)
    behaves(open_imagic(tmp_path / "c.hed"), images)
    assert read_imagic_header(tmp_path / "c.hed").sections_a_volume == 1
    write_data(xr.DataArray(images, dims=("z", "y", "x")), tmp_path / "d.hed", format="imagic")
    assert open_images_or_map(tmp_path / "d.img", pixel_size=2.0)["map"].shape == images.shape
    with pytest.raises(ParameterError, match="at least one"):
        write_imagic(tmp_path / "e.hed", images[:0])
    assert not list(tmp_path.glob("e.*"))


# EMAN2 ---------------------------------------------------------------------------------------------------------------


def test_eman2_layout_by_hand(tmp_path: Path) -> None:
    """As EMAN2's own library lays it out: groups by number, attributes of one element, zero-ended text, compounds."""
    truth = np.random.default_rng(5).normal(size=(3, 6, 8)).astype(np.float32)
    path = tmp_path / "a.hdf"
    pose = np.dtype([(f"{r}{c}", "<f4") for r in range(3) for c in range(4)])
    with h5py.File(path, "w") as file:
        group = file.create_group("MDF/images")
        group.attrs["imageid_max"] = np.array([2], np.int32)
        for i, image in enumerate(truth):
            node = group.create_group(str(i))
            node.create_dataset("image", data=image)
            for name, value in {"nx": 8, "ny": 6, "nz": 1, "ptcl_repr": 4}.items():
                node.attrs[f"EMAN.{name}"] = np.array([value], np.int32)
            for axis in "xyz":
                node.attrs[f"EMAN.apix_{axis}"] = np.array([1.31], np.float32)
            node.attrs.create("EMAN.ctf", np.bytes_(b"E1.5 300 2.7 0 0.1"), dtype="S20")
            node.attrs["EMAN.is_complex"] = np.array([ord("F")], np.int8)
            node.attrs["EMAN.ptcl_source_coord"] = np.array([100 + i, 200], np.int32)
            node.attrs["EMAN.xform.align2d"] = np.array([tuple(range(12))], pose)
    behaves(open_image_file(path), truth)
    assert open_hdf(path).voxel == pytest.approx((1.31,) * 3)
    notes = read_attributes(path, 1)
    assert (notes["ctf"], notes["ptcl_source_coord"], notes["nx"]) == ("E1.5 300 2.7 0 0.1", [101, 200], 8)
    assert notes["is_complex"] is False
    assert notes["xform.align2d"] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    # attributes return as they were
    back = [read_attributes(path, i) for i in range(3)]
    write_hdf(tmp_path / "b.hdf", truth, pixel_size=1.31, attributes=back, compress=True)
    behaves(open_hdf(tmp_path / "b.hdf"), truth)
    assert (
        read_attributes(tmp_path / "b.hdf", 2).items()
        >= {k: v for k, v in back[2].items() if k != "is_complex"}.items()
    )
    ds = open_data(path)
    assert ds["pixel_size"].values == pytest.approx([1.31])
    np.testing.assert_array_equal(ds["image"].values, truth)


@pytest.mark.parametrize(("dtype", "bits"), [("u1", 5), ("u2", 12)])
def test_eman2_images_of_reduced_bits(tmp_path: Path, dtype: str, bits: int) -> None:
    stored = np.random.default_rng(6).integers(0, 1 << bits, (2, 4, 4)).astype(dtype)
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        group = file.create_group("MDF/images")
        group.attrs["imageid_max"] = np.int32(1)
        for i, image in enumerate(stored):
            node = group.create_group(str(i))
            node.create_dataset("image", data=image, compression="gzip")
            node.attrs["EMAN.stored_renderbits"] = np.int32(bits)
            node.attrs["EMAN.stored_rendermin"], node.attrs["EMAN.stored_rendermax"] = np.float32(-2.0), np.float32(6.0)
    read = open_hdf(tmp_path / "a.hdf").read(0, 2)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, -2 + 8 * stored.astype(float) / ((1 << bits) - 1), atol=1e-6)


def test_eman2_volumes(tmp_path: Path) -> None:
    truth = np.random.default_rng(7).normal(size=(5, 6, 7)).astype(np.float32)
    write_hdf(tmp_path / "a.hdf", truth, pixel_size=2.1, volume=True)
    behaves(open_hdf(tmp_path / "a.hdf"), truth)
    volume = open_data(tmp_path / "a.hdf")["map"]
    assert (volume.shape, volume.attrs["pixel_size"]) == ((5, 6, 7), 2.1)
    write_data(volume, tmp_path / "b.hdf", format="eman-hdf")
    assert open_hdf(tmp_path / "b.hdf").volume
    assert open_hdf(tmp_path / "b.hdf").voxel == (2.1, 2.1, 2.1)


def test_eman2_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf"

    def refused(says: str, change: Callable[[Any], None]) -> None:
        write_hdf(path, np.ones((3, 4, 4)))
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(FormatError, match=says):
            open_hdf(path).read(0, 3)

    def external(file: Any) -> None:
        write_hdf(tmp_path / "other.hdf", np.ones((1, 4, 4)))
        del file["MDF/images/1"]
        file["MDF/images/1"] = h5py.ExternalLink("other.hdf", "/MDF/images/0")

    def other_storage(file: Any) -> None:
        del file["MDF/images/0/image"]
        (tmp_path / "raw").write_bytes(bytes(64))
        file["MDF/images/0"].create_dataset("image", (4, 4), "f4", external=[("raw", 0, 64)])

    def huge(file: Any) -> None:
        del file["MDF/images/0/image"]
        file["MDF/images/0"].create_dataset("image", (1 << 20, 1 << 20), "f4", chunks=(64, 64))

    def wide(file: Any) -> None:
        del file["MDF/images/1/image"]
        file["MDF/images/1"].create_dataset("image", data=np.ones((4, 5), "f4"))

    refused("image 2: expected an image; found a link", external)
    refused("real numbers in this file", other_storage)
    refused("found 0 stored bytes", huge)
    refused(r"image 2: expected shape \(4, 4\); found \(4, 5\)", wide)
    refused("image 2: expected 3 images; found 2", lambda f: f.pop("MDF/images/1"))
    refused("expected the group /MDF/images of EMAN2; found nothing", lambda f: f.pop("MDF"))
    refused("imageid_max of 0 or more; found -1", lambda f: f["MDF/images"].attrs.__setitem__("imageid_max", -1))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(FormatError, match="an HDF5 file that is whole"):
        open_hdf(path)
    with pytest.raises(ParameterError, match="attribute x: expected a number"):
        write_hdf(path, np.ones((1, 2, 2)), attributes=[{"x": {"a": 1}}])


# anywhere ------------------------------------------------------------------------------------------------------------


def test_every_format_at_a_remote_address(tmp_path: Path, images: Any) -> None:
    """Through fsspec, block by block: what lies in memory here lies in a bucket elsewhere."""
    fsspec = pytest.importorskip("fsspec")
    tifffile.imwrite(tmp_path / "a.tif", images[:, ::-1], compression="zlib", photometric="minisblack")
    write_spider(tmp_path / "a.spi", images, stack=True)
    write_imagic(tmp_path / "a.hed", images)
    write_hdf(tmp_path / "a.hdf", images)
    events = [[(i, i, 0), (11, 2, 3)] for i in range(5)]
    eer_file(tmp_path / "a.eer", [eer_frame(e, (12, 12), (7, 2, 2)) for e in events], (12, 12), (7, 2, 2))
    memory = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        memory.pipe_file(f"/formats/{path.name}", path.read_bytes())
    try:
        for name in ("a.tif", "a.spi", "a.hed", "a.img", "a.hdf"):
            behaves(open_image_file(f"memory://formats/{name}"), images)
        counts = np.array([counted(e, (12, 12), (7, 2, 2), 0) for e in events]).astype(np.uint8)
        behaves(open_image_file("memory://formats/a.eer"), counts)
    finally:
        memory.rm("/formats", recursive=True)


# micrographs ---------------------------------------------------------------------------------------------------------


def test_the_table_and_the_openers_agree(data: Path) -> None:
    """A row for every opener; the same images through the table and through ``open_image_file``."""
    path = data / "micrographs" / "KLH.tif"
    ds = open_data(path)
    np.testing.assert_array_equal(ds["image"].values[0], open_image_file(path).read(0, 1)[0])
    assert "pixel_size" not in ds
    assert read_images(read_header(data / "particles" / "parts.stk"), 0, 1).shape == (1, 128, 128)
