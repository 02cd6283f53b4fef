"""Movies of any format as one lazy Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io import open_store, write_map, write_stack
from cryoflow.io.formats import detect, open_data
from cryoflow.io.movies import open_movies

SHAPE = (20, 24)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    movies = {f"{name}.mrcs": rng.normal(size=(frames, *SHAPE)).astype("f4") for name, frames in (("a", 5), ("b", 3))}
    (tmp_path / "Movies").mkdir()
    for name, frames in movies.items():
        write_stack(tmp_path / "Movies" / name, xr.DataArray(frames, dims=("frame", "y", "x")), pixel_size=1.2)
    (tmp_path / "Movies" / "c.mrcs").write_bytes((tmp_path / "Movies" / "a.mrcs").read_bytes()[:-100])
    return tmp_path, movies


def test_frames_counts_and_broken_ones(folder: tuple[Path, dict[str, np.ndarray[Any, Any]]]) -> None:
    path, movies = folder
    ds = open_movies(path / "Movies", pixel_size=1.2, voltage=300, cs=2.7, dose_per_frame=1.5)
    assert ds.movie.shape == (3, 5, *SHAPE)
    assert ds.frames.values.tolist() == [5, 3, 0]
    assert ds.usable.values.tolist() == [True, True, False]
    assert "bytes" in str(ds.reason.values[2])
    np.testing.assert_array_equal(ds.movie[0].values, movies["a.mrcs"])
    np.testing.assert_array_equal(ds.movie[1, :3].values, movies["b.mrcs"])
    assert not ds.movie[1, 3:].values.any()
    assert not ds.movie[2].values.any()
    np.testing.assert_array_equal(ds.movie[0:2, 1, 3:5, ::2].values[1], movies["b.mrcs"][1, 3:5, ::2])
    assert ds.dose_per_frame.values.tolist() == [1.5] * 3
    small = open_movies(path / "Movies", pixel_size=1.2, chunk_bytes=2 * SHAPE[0] * SHAPE[1] * 4).movie
    assert small.chunks[:2] == ((1, 1, 1), (2, 2, 1))
    np.testing.assert_array_equal(small.values, ds.movie.values)


def test_relion_star_with_optics(folder: tuple[Path, dict[str, np.ndarray[Any, Any]]]) -> None:
    path, movies = folder
    (path / "Import").mkdir()
    star = path / "Import" / "movies.star"
    optics = ("data_optics\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnMicrographOriginalPixelSize\n_rlnVoltage\n"
              "_rlnSphericalAberration\n_rlnAmplitudeContrast\ng1 1 1.2 300 2.7 0.1\n")  # fmt: skip
    rows = "data_movies\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\nMovies/b.mrcs 1\nMovies/a.mrcs 1\n"
    star.write_text(optics + rows)
    assert detect(star).name == "relion-movies"
    ds = open_data(star)
    assert ds.frames.values.tolist() == [3, 5]
    assert float(ds.pixel_size[0]) == 1.2
    assert [str(n) for n in ds.movie_name.values] == ["Movies/b.mrcs", "Movies/a.mrcs"]
    np.testing.assert_array_equal(ds.movie[1].values, movies["a.mrcs"])
    for name in ("../../etc/passwd", "/etc/passwd", "https://host/x.mrcs"):
        star.write_text(optics + rows.replace("Movies/b.mrcs", name))
        with pytest.raises(FormatError, match="row 1"):
            open_movies(star)


def test_tiff_counts_and_gain(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(1, (4, *SHAPE)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", counts, photometric="minisblack", compression="deflate")
    write_map(tmp_path / "gain.mrc", np.full(SHAPE, 1.5), pixel_size=1.0)
    ds = open_movies([tmp_path / "m.tif"], pixel_size=0.9, gain=tmp_path / "gain.mrc")
    assert ds.movie.dtype == np.uint8
    np.testing.assert_array_equal(ds.movie[0].values, counts[:, ::-1])  # rows of a TIFF count from the bottom
    assert float(ds.gain[0, 0]) == 1.5
    write_map(tmp_path / "gain.mrc", np.ones((3, 3)), pixel_size=1.0)
    with pytest.raises(ParameterError, match="size of the frames"):
        open_movies([tmp_path / "m.tif"], pixel_size=0.9, gain=tmp_path / "gain.mrc")


def test_what_is_refused(folder: tuple[Path, dict[str, np.ndarray[Any, Any]]]) -> None:
    path, _ = folder
    with pytest.raises(ParameterError, match=r"1\.2"):
        open_movies(path / "Movies", pixel_size=2.4)
    with pytest.raises(ParameterError, match="no such file"):
        open_movies(path / "*.eer")
    with pytest.raises(ParameterError, match="dose_per_frame"):
        open_movies(path / "Movies", dose_per_frame=-1)
    with pytest.raises(FormatError, match="broken"):
        open_movies([path / "Movies" / "c.mrcs"])


def test_import(folder: tuple[Path, dict[str, np.ndarray[Any, Any]]]) -> None:
    from cryoflow.workflow.importing import import_data

    path, movies = folder
    done = import_data(path / "Movies", path / "m.zarr", format="movies", pixel_size=1.2, chunk_bytes=4000)
    assert (done.kind, done.rows) == ("movie", 3)
    back = open_store(path / "m.zarr")
    np.testing.assert_array_equal(back.movie[0].values, movies["a.mrcs"])
    assert back.frames.values.tolist() == [5, 3, 0]
