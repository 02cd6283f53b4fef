"""Damaged and hostile image files of every format: read or refused by a typed error, in little time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from fuzz_harness import Report, fuzz, on_file
from mrcfile.dtypes import get_ext_header_dtype
from test_image_formats import eer_file, eer_frame, imagic_by_hand, spider_by_hand
from test_mrc_extended import mrc

from cryoflow.errors import FormatError
from cryoflow.io.images.eer import open_eer
from cryoflow.io.images.eman_hdf import open_hdf, read_attributes, write_hdf
from cryoflow.io.images.imagic import open_imagic
from cryoflow.io.images.mrc import read_header, read_map
from cryoflow.io.images.mrc_extended import read_extended, symmetry_operators
from cryoflow.io.images.spider import open_spider, read_spider_header
from cryoflow.io.images.tiff import open_tiff

MANY = [pytest.param(300, id="300"), pytest.param(10_000, id="10000", marks=pytest.mark.slow)]
FEW = [pytest.param(150, id="150"), pytest.param(3_000, id="3000", marks=pytest.mark.slow)]


def all_of(open_file: Callable[..., Any], path: Path) -> None:
    """Every section, one at a time, of a file opened with and without the check of its size."""
    for check in (False, True):
        file = open_file(path, check_size=check)
        for section in range(min(file.shape[0], 50)):
            file.read(section, 1)


def mrc_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    fei = np.zeros(2, get_ext_header_dtype(b"FEI1", "<"))
    fei["Metadata size"], fei["Bitmask 1"] = fei.itemsize, 0xFFFFFFFF
    seeds = []
    for mode, item in {0: 1, 1: 2, 2: 4, 6: 2, 12: 2}.items():
        seeds += [mrc((3, 4, 6), mode, rng.bytes(72 * item), order=order) for order in "<>"]
    seeds += [
        mrc((3, 4, 7), 101, rng.bytes(48)),
        mrc((3, 4, 3), 0, rng.bytes(36), at_152=("i", 1146047817), at_156=("i", 16)),
        mrc((2, 4, 4), 6, rng.bytes(64), extended=fei.tobytes(), kind=b"FEI1"),
        mrc((2, 4, 4), 1, rng.bytes(64), extended=rng.bytes(16), kind=b"SERI", at_128=("h", 8), at_130=("h", 7)),
        mrc((2, 4, 4), 1, rng.bytes(64), extended=rng.bytes(256), at_130=("h", 32)),
        mrc((2, 4, 4), 2, rng.bytes(128), extended=b"X,  Y,  Z".ljust(80), at_88=("i", 4)),
        mrc((4, 4, 4), 2, rng.bytes(256), at_88=("i", 401), at_36=("i", 2)),
    ]
    return seeds


@pytest.mark.parametrize("cases", MANY)
def test_mrc(cases: int, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        read_extended(path)
        symmetry_operators(path)
        all_of(read_header, path)
        read_map(path, anisotropic=True)

    report = fuzz(on_file(read, ".mrc", tmp_path), mrc_seeds(), cases, seed=1, cover=["io/images/mrc"])
    told(report, cases)


def tiff_seeds(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    seeds = []
    path = folder / "seed.tif"
    for codec, predictor, order, tile in (
        (None, None, "<", None), (None, None, ">", None), ("lzw", 2, "<", None), ("zlib", 3, ">", None),
        ("packbits", None, "<", None), ("zstd", None, "<", (16, 16)), ("lzw", None, ">", (16, 16)),
    ):  # fmt: skip
        dtype = np.float32 if predictor == 3 else np.uint16 if order == ">" else np.uint8
        tifffile.imwrite(path, rng.poisson(3, (2, 12, 20)).astype(dtype), compression=codec, predictor=predictor,
                         byteorder=order, bigtiff=codec == "lzw", tile=tile, photometric="minisblack", rowsperstrip=5,
                         resolution=(1e8, 1e8), resolutionunit="CENTIMETER")  # fmt: skip
        seeds.append(path.read_bytes())
    return seeds


@pytest.mark.parametrize("cases", MANY)
def test_tiff(cases: int, tmp_path: Path) -> None:
    target = on_file(lambda path: all_of(open_tiff, path), ".tif", tmp_path)
    report = fuzz(target, tiff_seeds(tmp_path), cases, seed=2, cover=["io/images/tiff"])
    told(report, cases)


@pytest.mark.parametrize("cases", FEW)
def test_eer(cases: int, tmp_path: Path) -> None:
    seeds = []
    for bits in ((8, 2, 2), (7, 2, 2), (6, 3, 3)):
        frames = [eer_frame([(i, 3, 1), (15, 2 * i, 7)], (24, 20), bits) for i in range(3)]
        eer_file(tmp_path / "seed.eer", frames, (24, 20), bits, integrated=bits[0] == 7, strips=1 + (bits[0] == 6))
        seeds.append((tmp_path / "seed.eer").read_bytes())

    def read(path: Path) -> None:
        all_of(open_eer, path)
        open_eer(path, fractions=2, upsampling=2).read(0, 2)

    report = fuzz(on_file(read, ".eer", tmp_path), seeds, cases, seed=3, cover=["io/images/eer", "io/images/tiff"],
                  words=[b"<item name='totalDose'>", b"<!ENTITY", b"</metadata>"])  # fmt: skip
    told(report, cases)


@pytest.mark.parametrize("cases", FEW)
def test_spider(cases: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)
    seeds = [spider_by_hand(images, order, stack=stack) for order in "<>" for stack in (True, False)]

    def read(path: Path) -> None:
        read_spider_header(path)
        all_of(open_spider, path)

    target = on_file(read, ".spi", tmp_path)
    told(fuzz(target, seeds, cases, seed=4, cover=["io/images/spider", "io/images/raw"]), cases)


@pytest.mark.parametrize("cases", FEW)
def test_imagic(cases: int, tmp_path: Path) -> None:
    """The header is damaged; the data are those of the type that it names."""
    images = np.random.default_rng(0).integers(0, 99, (3, 6, 8))
    seeds = []
    for kind, dtype, order in ((b"REAL", "f4", "<"), (b"INTG", "i2", ">"), (b"PACK", "u1", "<")):
        imagic_by_hand(tmp_path, images, kind, dtype, order)
        seeds.append((tmp_path / "a.hed").read_bytes())

    def target(raw: bytes) -> None:
        (tmp_path / "a.hed").write_bytes(raw)
        (tmp_path / "a.img").write_bytes(bytes(images.size * {b"INTG": 2, b"PACK": 1}.get(raw[56:60], 4)))
        all_of(open_imagic, tmp_path / "a.hed")

    told(fuzz(target, seeds, cases, seed=5, cover=["io/images/imagic"]), cases)


@pytest.mark.parametrize("cases", FEW)
def test_hdf(cases: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)
    seeds = []
    for i, options in enumerate(({}, {"compress": True}, {"volume": True})):
        notes = [{"ctf": "E1.5", "xform": np.eye(3, 4), "coord": [1, 2]}]
        write_hdf(tmp_path / f"{i}.hdf", images, pixel_size=1.2, attributes=notes, **options)  # type: ignore[arg-type]
        seeds.append((tmp_path / f"{i}.hdf").read_bytes())

    def read(path: Path) -> None:
        all_of(open_hdf, path)
        read_attributes(path)

    told(fuzz(on_file(read, ".hdf", tmp_path), seeds, cases, seed=6, cover=["io/images/eman_hdf"]), cases)


def told(report: Report, cases: int) -> None:
    """The run was no empty one: files were refused, and some were read."""
    print(report)
    assert report.accepted + report.refused == cases
    assert report.refused > cases // 10
    assert report.accepted > 0


def test_the_harness_finds_what_it_looks_for() -> None:
    """A reader with one fault is caught, whichever fault it is; one without passes."""
    seed = b"0123456789"

    def reader(fault: Callable[[], object]) -> Callable[[bytes], None]:
        def read(raw: bytes) -> None:
            if len(raw) > len(seed):
                raise FormatError("x", expected="a short file", found="a long one")
            if raw != seed:
                fault()

        return read

    def endless() -> None:
        while True:
            pass

    faults = {
        "KeyError escaped": lambda: {}["x"],
        "too much memory": lambda: np.zeros(1 << 26),
        "took more than": endless,
    }
    for says, fault in faults.items():
        with pytest.raises(AssertionError, match=says):
            fuzz(reader(fault), [seed], 50, seed=1, seconds=0.05)
    told(fuzz(reader(lambda: None), [seed], 50, seed=1), 50)
