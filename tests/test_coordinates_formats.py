"""Coordinates and document files of other programs: EMAN, crYOLO, Topaz, SPIDER, and the front that reads any."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from fuzz_harness import fuzz, on_file

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.formats import detect
from cryoflow.io.programs.border import coordinate_set
from cryoflow.io.programs.coordinates import read_coordinate_star, read_picks, write_coordinate_star, write_picks
from cryoflow.io.programs.cryolo import read_cbox, write_cbox
from cryoflow.io.programs.eman2_boxes import read_eman_box, read_eman_info, write_eman_box, write_eman_info
from cryoflow.io.programs.spider_doc import (
    angles_to_spider_doc,
    matrix_to_spider,
    read_spider_coordinates,
    read_spider_doc,
    spider_rotations,
    spider_to_matrix,
    write_spider_coordinates,
    write_spider_doc,
)
from cryoflow.io.programs.topaz import read_topaz, write_topaz
from cryoflow.kernels.rotation import angular_distance, euler_to_matrix, random_rotations

CBOX = """
data_global

_cbox_format_version 1.0


data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
100.5 200.25 <NA> 64 64 1 60.5 58.0 0.75 1 <NA>
-10 0 <NA> 64 64 1 <NA> <NA> 0.25 1 <NA>


data_cryolo_include

loop_
_slice_index #1

"""
TOPAZ = "image_name\tx_coord\ty_coord\tscore\nmic1\t420\t586\t0.613\nmic2\t0\t7\t-0.5\n"
SPIDER = (
    " ;tst/tst   16-JUN-1999 AT 13:03:18   jnkdoc001.tst\n    9 1  11.000\n   99 2  11.000      12.000\n"
    " ; KEY 5556\n 5556 7 5554.0 6.0 13.0 -14.0 1.5E+01 16.0 17.0\n"
)


def random_picks(rng: np.random.Generator, n: int, micrographs: int = 1) -> xr.Dataset:
    names = [f"mic_{i}.mrc" for i in rng.integers(0, micrographs, n)]
    sides = rng.integers(20, 400, n).astype(float)
    return coordinate_set(
        rng.uniform(0, 5000, (n, 2)).round(4), names, rng.uniform(0, 1, n).round(6), x_box_width=sides,
        x_box_height=sides,
    )  # fmt: skip


def test_boxes_are_corners(tmp_path: Path) -> None:
    (tmp_path / "mic.box").write_text("10\t20\t64\t32\n-8 0 64 32\n")
    ds = read_eman_box(tmp_path / "mic.box")
    assert ds.coordinate.values.tolist() == [[42, 36], [24, 16]]
    assert set(ds.micrograph_name.values) == {"mic.mrc"}
    write_eman_box(ds, tmp_path / "back.box")
    assert (tmp_path / "back.box").read_text() == "10\t20\t64\t32\n-8\t0\t64\t32\n"


def test_info_boxes_are_centres_and_the_rest_of_the_file_stays(tmp_path: Path) -> None:
    document = {"ctf": [512, {"x": 1}], "boxes": [[100, 200, "manual"], [1.5, 2.5, "auto_ref", 0.7]]}
    (tmp_path / "mic_info.json").write_text(json.dumps(document))
    ds = read_eman_info(tmp_path / "mic_info.json")
    assert ds.coordinate.values.tolist() == [[100, 200], [1.5, 2.5]]
    assert set(ds.micrograph_name.values) == {"mic.mrc"}
    write_eman_info(ds.isel(particle=[1]), tmp_path / "mic_info.json")
    after = json.loads((tmp_path / "mic_info.json").read_text())
    assert after == {"ctf": [512, {"x": 1}], "boxes": [[1.5, 2.5, "auto_ref", 0.7]]}


def test_cbox(tmp_path: Path) -> None:
    (tmp_path / "mic.cbox").write_text(CBOX)
    ds = read_cbox(tmp_path / "mic.cbox")
    assert ds.coordinate.values.tolist() == [[132.5, 232.25], [22, 32]]
    assert ds.pick_score.values.tolist() == [0.75, 0.25]
    np.testing.assert_array_equal(ds.x_cbox_EstWidth, [60.5, np.nan])
    write_cbox(ds, tmp_path / "back.cbox")
    xr.testing.assert_identical(read_cbox(tmp_path / "back.cbox", suffix=".mrc").drop_vars("micrograph_name"),
                                ds.drop_vars("micrograph_name"))  # fmt: skip
    rows = [line for line in (tmp_path / "back.cbox").read_text().splitlines() if len(line.split()) == 11]
    assert rows[0] == "100.5 200.25 <NA> 64 64 1 60.5 58 0.75 1 <NA>"


def test_first_form_of_cbox(tmp_path: Path) -> None:
    (tmp_path / "mic.cbox").write_text("10\t20\t64\t64\t0.9\t60\t61\n")
    ds = read_cbox(tmp_path / "mic.cbox")
    assert ds.coordinate.values.tolist() == [[42, 52]]
    assert (ds.pick_score.item(), ds.x_cbox_EstHeight.item()) == (0.9, 61)


def test_topaz_scale(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TOPAZ)
    ds = read_topaz(tmp_path / "t.txt", scale=4)
    assert ds.coordinate.values.tolist() == [[1680, 2344], [0, 28]]
    assert ds.micrograph_name.values.tolist() == ["mic1.mrc", "mic2.mrc"]
    write_topaz(ds, tmp_path / "b.txt", scale=4)
    assert (tmp_path / "b.txt").read_text() == TOPAZ


def test_spider_documents(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_text(SPIDER)
    table = read_spider_doc(tmp_path / "a.dat")
    assert table.index.tolist() == [9, 99, 5556]
    assert table.to_numpy()[2].tolist() == [5554, 6, 13, -14, 15, 16, 17]
    assert np.isnan(table.to_numpy()[0, 1])
    assert table.attrs["comments"] == [SPIDER.splitlines()[0], " ; KEY 5556"]
    write_spider_doc(tmp_path / "b.dat", table)
    again = read_spider_doc(tmp_path / "b.dat")
    assert again.equals(table)
    assert again.attrs == table.attrs


def test_old_spider_columns_may_touch(tmp_path: Path) -> None:
    row = f"{999999:6d}{3:1d}" + "".join(f"{v:12.5f}" for v in (-12345.12345, -54321.54321, 1.0))
    (tmp_path / "a.dat").write_text(" ; old\n" + row + "\n")
    table = read_spider_doc(tmp_path / "a.dat")
    assert table.index.tolist() == [999999]
    assert table.to_numpy()[0].tolist() == [-12345.12345, -54321.54321, 1.0]


def test_spider_angles_are_relions(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    psi, theta, phi = rng.uniform(0, 180, (3, 40))
    np.testing.assert_allclose(spider_to_matrix(psi, theta, phi), euler_to_matrix(phi, theta, psi), atol=1e-12)
    np.testing.assert_allclose(matrix_to_spider(spider_to_matrix(psi, theta, phi)), (psi, theta, phi), atol=1e-7)
    rotation = random_rotations(40, rng)
    angles_to_spider_doc(tmp_path / "a.dat", rotation)
    assert angular_distance(spider_rotations(read_spider_doc(tmp_path / "a.dat")), rotation).max() < 1e-5
    with pytest.raises(ParameterError, match="columns"):
        spider_rotations(read_spider_doc(tmp_path / "a.dat"), columns=(4, 5, 6))


def test_spider_pixels_count_from_one(tmp_path: Path) -> None:
    (tmp_path / "mic.spi").write_text(" ; picks\n    1 3  1.0 1.0 0.5\n    2 3 10.5 20.0 0.4\n")
    ds = read_spider_coordinates(tmp_path / "mic.spi")
    assert ds.coordinate.values.tolist() == [[0, 0], [9.5, 19]]
    write_spider_coordinates(ds, tmp_path / "b.spi")
    np.testing.assert_array_equal(read_spider_coordinates(tmp_path / "b.spi").coordinate, ds.coordinate)


Pair = tuple[Callable[..., Any], Callable[..., Any], str]
PAIRS: list[Pair] = [
    (write_eman_box, read_eman_box, "mic_0.box"),
    (write_cbox, read_cbox, "mic_0.cbox"),
    (write_eman_info, read_eman_info, "mic_0_info.json"),
    (write_spider_coordinates, read_spider_coordinates, "mic_0.spi"),
    (write_topaz, read_topaz, "picks.txt"),
    (write_coordinate_star, read_coordinate_star, "mic_0.star"),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: p[2])
def test_round_trips_of_random_picks(pair: Pair, tmp_path: Path) -> None:
    write, read, name = pair
    rng = np.random.default_rng(17)
    for _ in range(60):
        many = 4 if write in (write_topaz, write_coordinate_star) else 1
        ds = random_picks(rng, int(rng.integers(1, 20)), many)
        write(ds, tmp_path / name)
        back = read(tmp_path / name)
        np.testing.assert_allclose(back.coordinate, ds.coordinate, atol=1e-5)
        assert back.micrograph_name.values.tolist() == ds.micrograph_name.values.tolist()
        if "pick_score" in back:
            np.testing.assert_allclose(back.pick_score, ds.pick_score, atol=1e-6)
        if "x_box_width" in back:
            np.testing.assert_array_equal(back.x_box_width, ds.x_box_width)
        assert detect(tmp_path / name).name in (
            "eman-box", "cbox", "eman-info", "spider-doc", "topaz", "relion-coordinates"
        )  # fmt: skip


@pytest.mark.parametrize("format", ["eman-box", "cbox", "eman-info", "spider-doc", "relion-coordinates"])
def test_the_front_writes_and_reads_one_file_a_micrograph(tmp_path: Path, format: str) -> None:
    ds = random_picks(np.random.default_rng(3), 50, 5)
    files = write_picks(ds, tmp_path, format=format, flip_height=4096)
    assert len(files) == 5
    back = read_picks(tmp_path, flip_height=4096)
    for name in set(ds.micrograph_name.values.tolist()):
        mine, theirs = (d.coordinate.values[d.micrograph_name.values == name] for d in (ds, back))
        np.testing.assert_allclose(theirs, mine, atol=1e-5)
    plain = read_picks(tmp_path)
    np.testing.assert_allclose(plain.coordinate[:, 1], 4095 - back.coordinate[:, 1], atol=1e-9)


def test_the_front_reads_the_real_picks(data: Path) -> None:
    folder = data / "empiar-10146/picks"
    ds = read_picks(folder)
    assert len(set(ds.micrograph_name.values.tolist())) == len(list(folder.glob("*.star")))
    assert (ds.coordinate.values >= 0).all()


def test_empty_files_are_micrographs_without_particles(tmp_path: Path) -> None:
    (tmp_path / "a.box").write_text("")
    (tmp_path / "b.box").write_text("1 2 3 4\n")
    assert read_eman_box(tmp_path / "a.box").sizes["particle"] == 0
    assert read_picks([tmp_path / "a.box", tmp_path / "b.box"]).sizes["particle"] == 1


def test_several_micrographs_need_several_files(tmp_path: Path) -> None:
    ds = random_picks(np.random.default_rng(1), 20, 3)
    for write in (write_eman_box, write_cbox, write_eman_info, write_spider_coordinates):
        with pytest.raises(ParameterError, match="write_picks"):
            write(ds, tmp_path / "a")
    with pytest.raises(ParameterError, match="box_size"):
        write_cbox(coordinate_set([[1.0, 2.0]], ["a.mrc"]), tmp_path / "a.cbox")
    with pytest.raises(ParameterError, match="one name"):
        write_picks(coordinate_set([[1, 2], [3, 4]], ["a/m.mrc", "b/m.mrc"]), tmp_path, format="eman-box", box_size=8)


BAD: list[tuple[Callable[..., Any], str, str]] = [
    (read_eman_box, "1 2 3 4\n1 2 3\n", "line 2"),
    (read_eman_box, "1 2\n", "line 1"),
    (read_eman_box, "1 2 3 x\n", "'x'"),
    (read_eman_info, "[1]", "JSON object"),
    (read_eman_info, '{"boxes": [[1]]}', "at least 2"),
    (read_eman_info, '{"boxes": [["a", "b"]]}', "numbers"),
    (read_eman_info, '{"boxes": [[true, 1]]}', "2 numbers"),
    (read_eman_info, "{", "JSON"),
    (read_cbox, "1 2 3\n", "line 1"),
    (read_cbox, CBOX.replace("100.5", "abc"), "row 1"),
    (read_cbox, CBOX.replace("0.75", "high"), "row 1.*Confidence"),
    (read_cbox, CBOX.replace("_Width", "_Breadth"), "_Width"),
    (read_topaz, "a b c\n1 2 3\n", "line 1"),
    (read_topaz, TOPAZ + "mic3\tx\t1\t2\n", "row 3"),
    (read_topaz, TOPAZ + "mic3\t1\n", "row 3"),
    (read_spider_doc, " ; only a comment\n", "at least one row"),
    (read_spider_doc, " ; c\n 1 3 1.0 2.0\n", "line 2"),
    (read_spider_doc, " ; c\n 1 1 x\n", "line 2"),
    (read_spider_coordinates, " ; c\n 1 1 5.0\n", "columns"),
]


@pytest.mark.parametrize(("read", "content", "told"), BAD)
def test_damaged_files_are_named(tmp_path: Path, read: Callable[..., Any], content: str, told: str) -> None:
    (tmp_path / "bad.file").write_text(content)
    with pytest.raises(FormatError, match=told) as caught:
        read(tmp_path / "bad.file")
    assert "bad.file" in str(caught.value)


SEEDS: list[tuple[Callable[..., Any], str, str]] = [
    (read_eman_box, "10 20 64 64\n1 2 64 64\n", ".box"),
    (read_eman_info, '{"boxes": [[1, 2, "manual"]], "boxes_3d": [[1, 2, 3, "x", 0.5]]}', "_info.json"),
    (read_cbox, CBOX, ".cbox"),
    (read_topaz, TOPAZ, ".txt"),
    (read_spider_doc, SPIDER, ".dat"),
]


def fuzz_coordinates(cases: int, folder: Path) -> None:
    for number, (read, seed, suffix) in enumerate(SEEDS):
        target = on_file(read, suffix, folder)
        report = fuzz(target, [seed.encode()], cases, seed=number, words=[b"\n", b"\t", b"nan", b"1e400", b";"])
        assert report.accepted


def test_fuzz(tmp_path: Path) -> None:
    fuzz_coordinates(100, tmp_path)


@pytest.mark.slow
def test_fuzz_long(tmp_path: Path) -> None:
    fuzz_coordinates(10_000, tmp_path)
