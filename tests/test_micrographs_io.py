"""Micrographs: the real ones, broken ones among them, wrong pixel sizes, and the STAR files RELION reads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile

from cryoflow.errors import CryoflowError, FormatError, ParameterError, ResourceError
from cryoflow.io.images.mrc import write_map
from cryoflow.io.micrographs import open_micrographs, read_coordinates, write_coordinates, write_micrographs
from cryoflow.io.stores.store import open_store, save

OPTICS: dict[str, Any] = {"pixel_size": 1.5, "voltage": 300, "cs": 2.7, "amplitude_contrast": 0.07}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five micrographs: two good, one truncated, one of another shape, one that is no MRC file."""
    where = tmp_path / "mics"
    where.mkdir()
    for i in range(4):
        shape = (20, 31) if i != 2 else (20, 30)
        write_map(where / f"m{i}.mrc", np.full(shape, i + 1.0), pixel_size=1.5)
    raw = (where / "m1.mrc").read_bytes()
    (where / "m1.mrc").write_bytes(raw[:1500])
    (where / "m4.mrc").write_bytes(b"<html>not found</html>" * 100)
    return where


def test_real_micrographs(data: Path) -> None:
    ds = open_micrographs(data / "empiar-10146" / "micrographs", **OPTICS)
    assert ds["micrograph"].shape == (20, 1200, 1240)
    assert ds["micrograph"].dtype == np.uint16
    assert ds.usable.all()
    with mrcfile.open(data / "empiar-10146" / "micrographs" / str(ds.micrograph_name.values[7])) as file:
        np.testing.assert_array_equal(ds["micrograph"][7].values, file.data)
    with pytest.raises(ParameterError, match=r"1\.5000 angstrom, as 20 file headers say; found 1\.3400"):
        open_micrographs(data / "empiar-10146" / "micrographs", **OPTICS | {"pixel_size": 1.34})
    picks = read_coordinates(next((data / "empiar-10146" / "picks").glob("*.star")))
    assert picks.shape[1] == 2
    assert (picks >= 0).all()
    assert (picks < (1240, 1200)).all()


def test_other_real_formats(data: Path) -> None:
    fei = open_micrographs(data / "micrographs" / "fei-extended.mrc", **OPTICS | {"pixel_size": 0.8538})
    assert fei["micrograph"].shape == (1, 3838, 3710)
    with mrcfile.open(data / "micrographs" / "fei-extended.mrc") as file:
        np.testing.assert_array_equal(fei["micrograph"][0, 100:140].values, file.data[100:140])
    tifffile = pytest.importorskip("tifffile")
    klh = open_micrographs(data / "micrographs" / "KLH.tif", **OPTICS)
    np.testing.assert_array_equal(klh["micrograph"][0].values, tifffile.imread(data / "micrographs" / "KLH.tif")[::-1])
    # a header of 1 angstrom says nothing
    open_micrographs(data / "micrographs" / "contaminated_edge.mrc", **OPTICS)


def test_a_truncated_tiff_is_set_aside(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    raw = (data / "micrographs" / "KLH.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(raw)
    (tmp_path / "b.tif").write_bytes(raw[: len(raw) // 2])
    ds = open_micrographs(tmp_path, **OPTICS)
    assert ds.usable.values.tolist() == [True, False]
    assert ds["micrograph"][1].values.max() == 0


def test_broken_ones_are_set_aside_by_name(folder: Path) -> None:
    ds = open_micrographs(folder, **OPTICS)
    assert ds.usable.values.tolist() == [True, False, False, True, False]
    reasons = ds.reason.values
    assert "expected 3504 bytes" in reasons[1]
    assert "found 1500 bytes" in reasons[1]
    assert "shape (20, 30) differs from (20, 31)" in reasons[2]
    assert "not an MRC file" in reasons[4]
    assert reasons[0] == ""
    assert ds["micrograph"].values[:, 0, 0].tolist() == [1.0, 0.0, 0.0, 4.0, 0.0]
    save(ds, folder / "m.zarr", function="test", parameters={})
    back = open_store(folder / "m.zarr")
    np.testing.assert_array_equal(back["micrograph"].values, ds["micrograph"].values)
    assert back.reason.values.tolist() == reasons.tolist()


def test_one_file_a_pattern_and_a_list(folder: Path) -> None:
    assert open_micrographs(folder / "m0.mrc", **OPTICS).sizes["micrograph"] == 1
    assert open_micrographs(str(folder / "m[03].mrc"), **OPTICS).micrograph_name.values.tolist() == ["m0.mrc", "m3.mrc"]
    (folder / "sub").mkdir()
    shutil.move(folder / "m3.mrc", folder / "sub" / "m3.mrc")
    ds = open_micrographs([folder / "m0.mrc", folder / "sub" / "m3.mrc"], **OPTICS)
    assert ds.micrograph_name.values.tolist() == ["m0.mrc", "sub/m3.mrc"]
    assert ds["micrograph"].values[:, 0, 0].tolist() == [1.0, 4.0]


def test_star_files_come_back_and_relion_reads_them(folder: Path, tmp_path: Path, relion_programs: Path) -> None:
    ds = open_micrographs(folder, **OPTICS)
    n = ds.sizes["micrograph"]
    ctf = {"defocus_u": 15000.0, "defocus_v": 14000.0, "defocus_angle": 15.0, "ctf_resolution": 5.0, "ctf_score": 0.1}
    for name, value in ctf.items():
        ds[name] = ("micrograph", np.where(ds.usable, value + np.arange(n), np.nan))
    star = folder / "micrographs_ctf.star"
    write_micrographs(ds, star)
    back = open_micrographs(star)
    assert back.usable.values.tolist() == ds.usable.values.tolist()
    assert back.reason.values[1] == ds.reason.values[1]
    assert {v: float(back[v].values[0]) for v in OPTICS} == OPTICS
    np.testing.assert_allclose(back.defocus_u.values, np.nan_to_num(ds.defocus_u.values))
    handler = [relion_programs / "relion_star_handler", "--i", star, "--o", tmp_path / "r.star"]
    subprocess.run([*handler, "--select", "rlnDefocusU", "--minval", "100"], check=True, capture_output=True)
    theirs = starfile.read(tmp_path / "r.star")["micrographs"]
    assert theirs.rlnMicrographName.tolist() == ["m0.mrc", "m3.mrc"]
    np.testing.assert_allclose(theirs.rlnDefocusU, [15000, 15003])
    assert theirs.cryoflowUsable.tolist() == [1, 1]


def test_wrong_use_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="Give voltage="):
        open_micrographs(folder, pixel_size=1.5)
    with pytest.raises(ParameterError, match="pixel_size above 0"):
        open_micrographs(folder, **OPTICS | {"pixel_size": 0.0})
    with pytest.raises(ParameterError, match="no such file"):
        open_micrographs(tmp_path / "none", **OPTICS)
    with pytest.raises(ParameterError, match="no such file"):
        open_micrographs([], **OPTICS)
    assert open_micrographs(folder, **OPTICS | {"pixel_size": 3.0}, trust_given=True).pixel_size.item() == 3.0
    with pytest.raises(FormatError, match="at least one readable"):
        open_micrographs(folder / "m4.mrc", **OPTICS)
    (folder / "a.star").write_text("data_\nloop_\n_rlnMicrographName\n../../m0.mrc\n")
    with pytest.raises(FormatError, match="a file below"):
        open_micrographs(folder / "a.star", **OPTICS)


def test_a_micrograph_that_is_missing_from_a_star_file_is_set_aside(folder: Path) -> None:
    (folder / "a.star").write_text("data_\nloop_\n_rlnMicrographName\nm0.mrc\ngone.mrc\n")
    ds = open_micrographs(folder / "a.star", **OPTICS)
    assert ds.usable.values.tolist() == [True, False]
    assert "gone.mrc" in str(ds.reason.values[1])


def test_the_root_of_a_star_file_may_be_given(folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "elsewhere"
    away.mkdir()
    write_micrographs(open_micrographs(folder, **OPTICS), folder / "m.star")
    shutil.move(folder / "m.star", away / "m.star")
    with pytest.raises(CryoflowError):
        open_micrographs(away / "m.star")
    found = open_micrographs(away / "m.star", root=folder)
    np.testing.assert_array_equal(found.micrograph, open_micrographs(folder, **OPTICS).micrograph)
    with pytest.raises(ParameterError, match="root: expected a folder"):
        open_micrographs(away / "m.star", root=tmp_path / "none")
    with pytest.raises(ParameterError, match="files are where they are"):
        open_micrographs(folder, root=folder, **OPTICS)


def test_a_place_that_does_not_answer_says_nothing_about_a_micrograph(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(path: Path) -> Any:
        raise ResourceError(str(path), expected="an answer", found="none within 10 s")

    monkeypatch.setattr("cryoflow.io.micrographs.open_image_file", silent)
    with pytest.raises(ResourceError, match="expected an answer"):
        open_micrographs(folder, pixel_size=1.5, voltage=300, cs=2.7, amplitude_contrast=0.07)


def test_coordinates(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).uniform(0, 4000, (50, 2))
    write_coordinates(tmp_path / "a.star", xy, rlnAutopickFigureOfMerit=np.arange(50.0))
    np.testing.assert_allclose(read_coordinates(tmp_path / "a.star"), xy, atol=1e-6)
    write_coordinates(tmp_path / "none.star", np.zeros((0, 2)))
    assert read_coordinates(tmp_path / "none.star").shape == (0, 2)
    with pytest.raises(ParameterError, match="finite"):
        write_coordinates(tmp_path / "b.star", [[1.0, np.nan]])
    (tmp_path / "c.star").write_text("data_\nloop_\n_rlnCoordinateX\n1.0\n")
    with pytest.raises(FormatError, match="_rlnCoordinateY"):
        read_coordinates(tmp_path / "c.star")


def test_a_header_of_another_pixel_size_sets_that_micrograph_aside(tmp_path: Path) -> None:
    for name, size in (("a", 1.5), ("b", 3.0), ("c", 1.5), ("d", 1.0)):  # 1.0 says nothing
        write_map(tmp_path / f"{name}.mrc", np.ones((8, 9)), pixel_size=size)
    ds = open_micrographs(tmp_path, **OPTICS)
    assert ds.usable.values.tolist() == [True, False, True, True]
    assert str(ds.reason.values[1]) == "pixel size 3 A in its header, not 1.5 A"
    assert open_micrographs(tmp_path, **OPTICS, trust_given=True).usable.values.all()
