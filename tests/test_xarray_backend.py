"""``xarray.open_dataset(..., engine="cryoflow")``."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cryoflow.errors import FormatError
from cryoflow.io import read_particles, write_map, write_stack
from cryoflow.io.xarray_backend import CryoflowBackend

N, BOX = 7, 16


@pytest.fixture
def star(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).normal(size=(N, BOX, BOX)).astype("f4")
    write_stack(tmp_path / "p.mrcs", xr.DataArray(image, dims=("particle", "y", "x")), pixel_size=1.5)
    rows = "".join(f"{N - i}@p.mrcs 1.5\n" for i in range(N))
    (tmp_path / "p.star").write_text(f"data_\nloop_\n_rlnImageName\n_rlnPixelSize\n{rows}")
    return tmp_path / "p.star"


def test_xarray_finds_the_engine_by_itself(star: Path, tmp_path: Path) -> None:
    """The entry point of pyproject.toml, installed under another name: by its name, and by the suffix alone."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    value = project["entry-points"]["xarray.backends"]["cryoflow"]
    info = tmp_path / "site" / "cryoflow_engine-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cryoflow-engine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[xarray.backends]\ncryoflow = {value}\n")
    code = f"import xarray as xr; print(xr.open_dataset({str(star)!r}, engine='cryoflow').image.shape, "
    code += f"xr.open_dataset({str(star)!r}).sizes['particle'])"
    env = {**os.environ, "PYTHONPATH": f"{info.parent}:{Path(__file__).parents[1]}"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert ended.stdout == f"({N}, {BOX}, {BOX}) {N}\n", ended.stderr


def test_particles_open_lazily(star: Path) -> None:
    ds = xr.open_dataset(star, engine=CryoflowBackend)
    truth = read_particles(star)
    assert ds.image.chunks is None
    assert not ds.image.variable._in_memory
    np.testing.assert_array_equal(ds.image[2:5, 3].values, truth.image.values[2:5, 3])
    np.testing.assert_array_equal(ds.image.values, truth.image.values)
    assert ds.pixel_size.values.tolist() == [1.5]
    assert ds.encoding["source"] == str(star)


def test_chunks_and_dropped_variables(star: Path) -> None:
    ds = xr.open_dataset(star, engine=CryoflowBackend, chunks={"particle": 3}, drop_variables=["pixel_size", "none"])
    assert ds.image.chunks[0] == (3, 3, 1)
    assert "pixel_size" not in ds
    own = xr.open_dataset(star, engine=CryoflowBackend, chunks={}, backend_kwargs={"chunk_bytes": 2 * BOX * BOX * 4})
    assert own.image.chunks[0] == (2, 2, 2, 1)
    np.testing.assert_array_equal(own.image.values, ds.image.values)


def test_maps_stacks_and_options(tmp_path: Path, star: Path) -> None:
    write_map(tmp_path / "m.mrc", np.ones((8, 8, 8)), pixel_size=2.0)
    assert xr.open_dataset(tmp_path / "m.mrc", engine=CryoflowBackend)["map"].attrs["pixel_size"] == 2.0
    stack = xr.open_dataset(star.with_name("p.mrcs"), engine=CryoflowBackend, pixel_size=3.0)
    assert (stack.image.shape, float(stack.pixel_size[0])) == ((N, BOX, BOX), 3.0)
    with pytest.raises(FormatError, match="nothing there"):
        xr.open_dataset(tmp_path / "none.star", engine=CryoflowBackend)


def test_real_files(data: Path) -> None:
    star = xr.open_dataset(data / "particles/empiar_10076_7.star", engine=CryoflowBackend)
    cs = xr.open_dataset(data / "particles/empiar_10076_7.cs", engine=CryoflowBackend, backend_kwargs={"images": False})
    assert star.image.shape == (7, 320, 320)
    np.testing.assert_allclose(star.defocus_u.values, cs.defocus_u.values, atol=0.01)


def test_tables_without_a_schema_are_a_tree(data: Path) -> None:
    path = data / "metadata/betagal_refine3d/run_it016_half1_model.star"
    with pytest.raises(FormatError, match="open_datatree"):
        xr.open_dataset(path, engine=CryoflowBackend)
    tree = xr.open_datatree(path, engine=CryoflowBackend)
    assert float(tree["model_general"]["rlnPixelSize"][0]) == 1.244835
    assert tree["model_class_1"].sizes["row"] == 129


def test_only_our_own_suffixes_are_guessed() -> None:
    backend = CryoflowBackend()
    assert all(backend.guess_can_open(name) for name in ("a.star", Path("b.MRC"), "https://h/c.mrcs?x=1", "d.cs"))
    assert not any(backend.guess_can_open(name) for name in ("a.nc", "a.zarr", "a.tif", "a.h5", object()))
