"""``cryoflow convert`` and references to images where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from test_cli import command

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io import open_store, read_particles, save, write_map, write_stack
from cryoflow.io.convert import convert
from cryoflow.io.datasets import open_images
from cryoflow.io.formats import open_data
from cryoflow.io.images.references import write_references

BETAGAL = "metadata/betagal_refine3d/run_it016_data.star"


@pytest.mark.data
@pytest.mark.parametrize("suffix", [".cs", ".xmd", ".lst", ".cistem"])
def test_refined_particles_through_other_programs_and_back(data: Path, tmp_path: Path, suffix: str) -> None:
    """Poses, shifts, CTF and half-sets of a real refinement survive STAR -> other -> STAR."""
    there, back = tmp_path / f"p{suffix}", tmp_path / "p.star"
    options: dict[str, Any] = {"write_options": {"box": 100}} if suffix == ".cs" else {}
    done = convert(data / BETAGAL, there, **options)
    assert done.rows == 4748
    a = open_data(data / BETAGAL, images=False)
    b = open_data(there, images=False)
    apart = np.linalg.norm(a.rotation.values - b.rotation.values, axis=(1, 2)) / np.sqrt(2)  # radians, small angles
    assert np.degrees(apart).max() < 1e-4
    np.testing.assert_allclose(a["shift"].values, b["shift"].values, atol=1e-4)
    np.testing.assert_allclose(a.defocus_u.values, b.defocus_u.values, atol=0.01)
    assert ("half" in done.lost) == ("half" not in b)
    if "half" in b:
        np.testing.assert_array_equal(a.half.values, b.half.values)
    if suffix in (".cs", ".xmd"):
        again = convert(there, back)
        c = open_data(back, images=False)
        np.testing.assert_allclose(a["shift"].values, c["shift"].values, atol=1e-4)
        np.testing.assert_array_equal(a.half.values, c.half.values)
        assert again.rows == 4748


def particles(folder: Path, *, dtype: str = "float32", n: int = 6, box: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for k in range(2):
        image = xr.DataArray(rng.normal(size=(n, box, box)).astype("f4"), dims=("particle", "y", "x"))
        write_stack(folder / f"{k}.mrcs", image, pixel_size=1.5, dtype=dtype)
    rows = "".join(f"{i // 2 + 1}@{i % 2}.mrcs 1.5 {9000 + i} mic{i}.mrc\n" for i in range(2 * n))
    labels = "_rlnImageName\n_rlnPixelSize\n_rlnDefocusU\n_rlnMicrographName\n"
    (folder / "p.star").write_text(f"data_\nloop_\n{labels}{rows}")
    return folder / "p.star"


def referred(path: Path) -> zarr.Group:
    files = fsspec.filesystem("reference", fo=str(path), asynchronous=True, remote_protocol="file",
                              remote_options={"asynchronous": True, "auto_mkdir": False})  # fmt: skip
    return zarr.open_group(zarr.storage.FsspecStore(files, read_only=True, path=""), mode="r")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_references_read_the_same_bits(tmp_path: Path, dtype: str) -> None:
    ds = read_particles(particles(tmp_path, dtype=dtype))
    write_references(ds, tmp_path / "r.json")
    group = referred(tmp_path / "r.json")
    image = group["image"]
    assert image.dtype == dtype
    np.testing.assert_array_equal(np.asarray(image[:]).astype("f4"), ds.image.values)
    np.testing.assert_array_equal(group["defocus_u"][:], ds.defocus_u.values)
    files = fsspec.filesystem("reference", fo=str(tmp_path / "r.json"), asynchronous=True, remote_protocol="file",
                              remote_options={"asynchronous": True, "auto_mkdir": False})  # fmt: skip
    store = zarr.storage.FsspecStore(files, read_only=True, path="")
    opened = xr.open_zarr(store, consolidated=False, zarr_format=2)
    assert opened.image.dims == ("particle", "y", "x")
    np.testing.assert_array_equal(opened.image[3].values.astype("f4"), ds.image[3].values)


def test_references_to_selections_and_other_byte_orders(tmp_path: Path, data: Path) -> None:
    from cryoflow.io.images.gather import take_rows

    ds = read_particles(particles(tmp_path))
    rows = np.array([5, 0, 5, 11])
    taken = xr.Dataset({"image": take_rows(ds["image"].variable, rows)})
    write_references(taken, tmp_path / "r.json")
    np.testing.assert_array_equal(referred(tmp_path / "r.json")["image"][:], ds.image.values[rows])
    with pytest.raises(FormatError, match=r"square pixels; found 90\.3438 x 107\.25"):
        open_images(data / "particles/parts.stk")  # its header is wrong
    real = open_images(data / "particles/parts.stk", pixel_size=1.7)
    write_references(real, tmp_path / "s.json")
    np.testing.assert_array_equal(referred(tmp_path / "s.json")["image"][:], real.image.values)


def test_what_cannot_be_referred_to_is_named(tmp_path: Path, data: Path) -> None:
    ds = read_particles(particles(tmp_path))
    with pytest.raises(ParameterError, match="in memory"):
        write_references(ds.load(), tmp_path / "r.json")
    save(ds, tmp_path / "p.zarr", function="x", parameters={})
    with pytest.raises(ParameterError, match="store"):
        write_references(open_store(tmp_path / "p.zarr"), tmp_path / "r.json")
    with pytest.raises(ParameterError, match=r"uncompressed MRC file; found .*KLH\.tif"):
        write_references(open_images(data / "micrographs/KLH.tif"), tmp_path / "r.json")
    write_stack(tmp_path / "1.mrcs", ds.image[:6], pixel_size=1.5, dtype="float16")  # the other stack is float32
    with pytest.raises(ParameterError, match=r"row 2: .*<f2 in .*1\.mrcs"):
        write_references(read_particles(tmp_path / "p.star"), tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_the_command(tmp_path: Path) -> None:
    particles(tmp_path)
    ended = command("convert", "p.star", "r.json", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "r.json: 12 rows, relion-particles to references\n")
    assert "does not hold: micrograph_name" in ended.stderr
    assert json.loads((tmp_path / "r.json").read_text())["version"] == 1
    assert command("convert", "p.star", "r.json", folder=tmp_path).returncode == 2
    ended = command("convert", "p.star", "q.star", "--images", "q.mrcs", folder=tmp_path)
    assert ended.returncode == 0
    np.testing.assert_array_equal(read_particles(tmp_path / "q.star").image.values,
                                  read_particles(tmp_path / "p.star").image.values)  # fmt: skip
    assert command("convert", "p.star", "p.nonsense", folder=tmp_path).returncode == 2
    assert command("convert", "p.star", "p.star", "--overwrite", folder=tmp_path).returncode == 2
    assert command("convert", "none.star", "q.cs", folder=tmp_path).returncode == 3
    assert command("convert", "p.star", "p.zarr", folder=tmp_path).returncode == 0
    assert open_store(tmp_path / "p.zarr").image.shape == (12, 12, 12)


def test_maps_and_lost_columns(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", np.random.default_rng(0).normal(size=(8, 8, 8)), pixel_size=2.0)
    convert(tmp_path / "m.mrc", tmp_path / "m.map")
    a, b = (open_data(tmp_path / name)["map"].values for name in ("m.mrc", "m.map"))
    np.testing.assert_array_equal(a, b)
    done = convert(particles(tmp_path), tmp_path / "q.mrcs")
    assert "defocus_u" in done.lost
    with pytest.raises(ParameterError, match="names a stack"):
        convert(tmp_path / "m.mrc", tmp_path / "n.map", images=tmp_path / "x.mrcs")


def test_maps_go_to_formats_that_hold_volumes(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(12, 12, 12)).astype("f4")
    write_map(tmp_path / "m.mrc", volume, pixel_size=2.0)
    for suffix in (".spi", ".hdf", ".hed"):
        convert(tmp_path / "m.mrc", tmp_path / f"m{suffix}")
        np.testing.assert_array_equal(open_data(tmp_path / f"m{suffix}")["map"].values, volume)
    with pytest.raises(ParameterError, match=r"holds a map; found '\.star', for .*RELION.*mrc \(\.mrc") as told:
        convert(tmp_path / "m.mrc", tmp_path / "m.star")
    assert "relion" not in told.value.remedy


def test_other_tables_of_star_files(tmp_path: Path) -> None:
    (tmp_path / "mtf.star").write_text("data_\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.5 0.4\n")
    assert convert(tmp_path / "mtf.star", tmp_path / "o.star").rows == 2
    with pytest.raises(ParameterError, match=r"such tables; .* these: star"):
        convert(tmp_path / "mtf.star", tmp_path / "o.cs")
    assert open_data(tmp_path / "o.star")[""].rlnMtfValue.tolist() == [1, 0.4]


def test_a_table_of_micrographs_is_checked_without_them(tmp_path: Path) -> None:
    (tmp_path / "mics").mkdir()
    write_map(tmp_path / "mics" / "a.mrc", np.ones((20, 30), "f4"), pixel_size=1.5)
    options = ["--pixel-size", "1.5", "--voltage", "300", "--cs", "2.7", "--amplitude-contrast", "0.1"]
    ended = command("convert", "mics", "m.star", *options, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "relative to" in ended.stderr
    assert "--root" not in ended.stderr  # which tables of micrographs do not take


def test_options_that_only_some_formats_have(tmp_path: Path) -> None:
    star = particles(tmp_path)
    done = command("convert", str(star), "o.box", folder=tmp_path)
    assert done.returncode == 2
    (tmp_path / "picks.star").write_text("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n20 30\n")
    done = command("convert", "picks.star", "p.box", folder=tmp_path)
    assert (done.returncode, "--box" in done.stderr) == (2, True)
    assert command("convert", "picks.star", "p.box", "--box", "16", folder=tmp_path).returncode == 0
    assert (tmp_path / "p.box").read_text().split()[:4] == ["12", "22", "16", "16"]
    rows = "".join(f"{i + 1} 0 0 0 0 0 50000 1 9000 9000 0 50 50\n" for i in range(6))
    (tmp_path / "p.par").write_text(rows)
    done = command("convert", "p.par", "q.star", folder=tmp_path)
    assert "--pixel-size" in done.stderr
    assert "--option detector_pixel=" in done.stderr
    done = command("convert", "p.par", "q.star", "--stack", "0.mrcs", "--option", "detector_pixel=7.5", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_particles(tmp_path / "q.star").image.shape == (6, 12, 12)
    assert command("convert", "p.par", "r.star", "--option", "detector", folder=tmp_path).returncode == 2
    done = command("convert", "p.par", "r.star", "--option", "nonsense=3", folder=tmp_path)
    assert (done.returncode, "nonsense" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
