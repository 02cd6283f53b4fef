"""Particle sets: every real file, RELION's own reader, names that lead outside, and damage."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoflow.errors import FormatError, ParameterError, SchemaError
from cryoflow.io.images.mrc import write_stack
from cryoflow.io.particles import read_particles, write_particles
from cryoflow.io.star.star import read_star

WITH_STACK = [
    "empiar_10076_7.star", "relion31.star", "sample_particles_relion30.star", "sample_particles_relion31.star",
]  # fmt: skip
WITHOUT = ["FinalRefinement-OriginalParticles-PfCRT.star", "relion31.6opticsgroups.star", "relion5.star"]
STAR = """data_optics
loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
1 one 300 2.7 0.1 1.5
data_particles
loop_
_rlnImageName
_rlnOpticsGroup
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnRandomSubset
_rlnDefocusU
{rows}
"""


def small_set(folder: Path, rows: list[str] | None = None, *, star: str = STAR, **stacks: int) -> Path:
    """A STAR file with stacks of 8 x 8 images whose values are 100 * (number of the stack) + section."""
    for i, (name, count) in enumerate((stacks or {"a": 3, "b": 4}).items()):
        values = np.full((count, 8, 8), 100.0 * i) + np.arange(count)[:, None, None]
        write_stack(folder / f"{name}.mrcs", xr.DataArray(values, dims=("particle", "y", "x")), pixel_size=1.5)
    rows = rows or ["2@b.mrcs 1 10 20 30 1 9000", "000001@a.mrcs 1 0 0 0 2 9100", "3@a.mrcs 1 0 0 0 1 9200"]
    (folder / "p.star").write_text(star.format(rows="\n".join(rows)))
    return folder / "p.star"


def same(a: xr.Dataset, b: xr.Dataset, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    for name in set(map(str, a.variables)) - but:
        x, y = a[name].values, b[name].values
        if x.dtype.kind == "f":
            np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(y, x, err_msg=name)


@pytest.mark.parametrize("name", WITH_STACK)
def test_real_sets_with_their_stacks_round_trip(data: Path, tmp_path: Path, name: str, relion_programs: Path) -> None:
    ds = read_particles(data / "particles" / name)
    assert ds.image.chunks is not None
    first = str(ds.image_name.values[0]).split("@")[1]
    with warnings.catch_warnings():  # one of the stacks has no "MAP " and no stamp
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.open(data / "particles" / first, permissive=True) as file:
            np.testing.assert_array_equal(ds.image.values, file.data[: ds.sizes["particle"]])
    write_particles(ds, tmp_path / "out.star", images=tmp_path / "out.mrcs")
    again = read_particles(tmp_path / "out.star")
    same(ds, again, but={"image_name"})
    order = [c for c in ds.attrs["star_columns"] if c in again.attrs["star_columns"]]
    assert order == [c for c in again.attrs["star_columns"] if c in ds.attrs["star_columns"]]
    assert {str(v) for v in ds.variables if str(v).startswith("x_rln")} <= set(map(str, again.variables))
    command = [relion_programs / "relion_star_handler", "--i", tmp_path / "out.star", "--o", tmp_path / "r.star"]
    subprocess.run([*command, "--select", "rlnDefocusU", "--minval", "0"], check=True, capture_output=True)
    theirs = starfile.read(tmp_path / "r.star")["particles"]
    larger = theirs[["rlnDefocusU", "rlnDefocusV"]].max(axis=1)  # in the source's order, which may be the other one
    np.testing.assert_allclose(larger, ds.defocus_u.values, rtol=1e-6)
    statistics = [relion_programs / "relion_image_handler", "--i", tmp_path / "out.star", "--stats"]
    printed = subprocess.run(statistics, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    lines = [line for line in printed.splitlines() if "out.mrcs" in line]
    assert len(lines) == ds.sizes["particle"]
    mean = float(lines[-1].split("avg=")[1].split()[0])
    assert mean == pytest.approx(float(ds.image[-1].mean()), abs=1e-4)


@pytest.mark.parametrize("name", [*WITHOUT, "../metadata/betagal_refine3d/run_it016_data.star"])
def test_real_metadata_round_trips(data: Path, tmp_path: Path, name: str) -> None:
    path = data / "particles" / name
    options: dict[str, Any] = {"images": False, "mixed_pixel_sizes": True}
    ds = read_particles(path, **options)
    write_particles(ds, tmp_path / "out.star")
    same(ds, read_particles(tmp_path / "out.star", **options))
    before, after = read_star(path), read_star(tmp_path / "out.star")
    rows = before.get("particles", before.get("images"))
    assert rows is not None
    for label in rows:
        if label in after["particles"] and rows[label].dtype.kind == "f" and not label.startswith("rlnDefocus"):
            a, b = rows[label].to_numpy(), after["particles"][label].to_numpy()
            if label.startswith("rlnAngle"):
                a, b = np.cos(np.deg2rad(a - b)), np.ones(len(a))
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=1.1e-6, err_msg=label)
    with pytest.raises(FormatError, match="missing"):
        read_particles(path, mixed_pixel_sizes=True)


def test_whole_refinement_keeps_half_sets_and_aberrations(data: Path) -> None:
    ds = read_particles(data / "metadata" / "betagal_refine3d" / "run_it016_data.star", images=False)
    assert ds.sizes["particle"] == 4748
    assert set(np.unique(ds.half)) == {1, 2}
    assert ds.odd_zernike.shape[1] == 6
    assert ds.even_zernike.shape[1] == 9
    assert ds.magnification.shape == (1, 2, 2)
    assert ds.pixel_size.item() == 1.244835


def test_angles_become_matrices(tmp_path: Path) -> None:
    ds = read_particles(small_set(tmp_path))
    rot, tilt, psi = np.deg2rad([10, 20, 30])

    def about_z(t: float) -> np.ndarray:
        return np.array([[np.cos(t), np.sin(t), 0], [-np.sin(t), np.cos(t), 0], [0, 0, 1]])

    about_y = np.array([[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]])
    np.testing.assert_allclose(ds.rotation.values[0], about_z(psi) @ about_y @ about_z(rot), atol=1e-12)


def test_images_of_several_stacks_in_any_order(tmp_path: Path) -> None:
    ds = read_particles(small_set(tmp_path), chunk_bytes=2 * 256)
    assert ds.image.chunks is not None
    assert ds.image.chunks[0] == (2, 1)
    assert ds.image.values[:, 0, 0].tolist() == [101.0, 0.0, 2.0]
    assert pickle.loads(pickle.dumps(ds)).image.values[:, 7, 7].tolist() == [101.0, 0.0, 2.0]
    assert ds.half.values.tolist() == [1, 2, 1]
    moved = tmp_path / "Refine3D" / "job001"
    moved.mkdir(parents=True)
    shutil.move(tmp_path / "p.star", moved / "p.star")  # names are relative to the project, as RELION has it
    assert read_particles(moved / "p.star").image.values[0, 0, 0] == 101.0


def test_relion30_optics_and_origins(data: Path) -> None:
    ds = read_particles(data / "particles" / "sample_particles_relion30.star")
    raw = read_star(data / "particles" / "sample_particles_relion30.star")["model_class_1"]
    pixel = raw.rlnDetectorPixelSize * 1e4 / raw.rlnMagnification
    np.testing.assert_allclose(ds["shift"].values[:, 0], raw.rlnOriginX * pixel)
    np.testing.assert_array_equal(ds.voltage.values[ds.optics_group.values], raw.rlnVoltage)
    assert (ds.defocus_u >= ds.defocus_v).all()
    swapped = raw.rlnDefocusU.to_numpy() < raw.rlnDefocusV.to_numpy()
    assert swapped.any()
    angle = ds.defocus_angle.values - raw.rlnDefocusAngle.to_numpy() - 90.0 * swapped
    np.testing.assert_allclose(np.cos(np.deg2rad(2 * angle)), 1.0, atol=1e-12)
    assert ((ds.defocus_angle > -90) & (ds.defocus_angle <= 90)).all()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("9@b.mrcs 1 0 0 0 1 9000", "row 1: expected an image number from 1 to 4 of b.mrcs; found 9"),
        ("0@b.mrcs 1 0 0 0 1 9000", "row 1: expected an image number from 1"),
        ("x@b.mrcs 1 0 0 0 1 9000", "row 1: expected an image name"),
        ("1@c.mrcs 1 0 0 0 1 9000", "row 1: expected the stack c.mrcs"),
        ("1@../b.mrcs 1 0 0 0 1 9000", "row 1: expected a file below"),
        ("1@/etc/passwd 1 0 0 0 1 9000", "row 1: expected a file below"),
        ("1@https://x.org/b.mrcs 1 0 0 0 1 9000", "https://x.org/b.mrcs"),
        ("1@link.mrcs 1 0 0 0 1 9000", "row 1: expected a file below"),
        ("1@b.mrcs 7 0 0 0 1 9000", "row 1: expected an optics group of [1]; found 7"),
        ("1@b.mrcs 1 0 nan 0 1 9000", "row 1: expected a number for _rlnAngleTilt"),
        ("1@b.mrcs 1 0 0 0 1 inf", "row 1: expected a number for _rlnDefocusU"),
        ("1@b.mrcs 1 0 0 0 1 many", "row 1: expected a number for _rlnDefocusU; found 'many'"),
        ("1@b.mrcs 1 0 0 0 5 9000", "_rlnRandomSubset of 0, 1 or 2"),
        ("1@short.mrcs 1 0 0 0 1 9000", "found 1948 bytes. The file is truncated in section 4"),
        ("1@big.mrcs 1 0 0 0 1 9000", "expected images of"),
    ],
)
def test_bad_rows_are_named_at_opening(tmp_path: Path, row: str, says: str) -> None:
    outside = tmp_path / "outside.mrcs"
    folder = tmp_path / "project"
    folder.mkdir()
    star = small_set(folder, [row, "1@a.mrcs 1 0 0 0 1 9000"])
    shutil.copy(folder / "b.mrcs", outside)
    shutil.copy(folder / "b.mrcs", tmp_path / "b.mrcs")
    (folder / "link.mrcs").symlink_to(outside)
    (folder / "short.mrcs").write_bytes((folder / "b.mrcs").read_bytes()[:-100])
    write_stack(folder / "big.mrcs", xr.DataArray(np.ones((1, 9, 9)), dims=("particle", "y", "x")), pixel_size=1.5)
    with pytest.raises(FormatError) as error:
        read_particles(star)
    assert says in str(error.value)
    if "a file below" in says and "passwd" not in row:
        ds = read_particles(star, allow_outside=True)
        assert ds.sizes["particle"] == 2


def test_one_stack_of_another_pixel_size_among_many_is_named(tmp_path: Path) -> None:
    for name, size in (("a", 1.5), ("b", 1.5), ("c", 3.0)):
        with mrcfile.new(tmp_path / f"{name}.mrcs", np.zeros((2, 8, 8), np.float32)) as mrc:
            mrc.voxel_size = size
    rows = "\n".join(f"{i}@{name}.mrcs 1 0 0 0 1 9000" for name in "abc" for i in (1, 2))
    (tmp_path / "many.star").write_text(STAR.format(rows=rows))
    with pytest.raises(ParameterError, match=r"stacks of 1\.5000 .*3\.0000 in the header of .*c\.mrcs"):
        read_particles(tmp_path / "many.star")
    assert read_particles(tmp_path / "many.star", trust_given=True).sizes["particle"] == 6


def test_pixel_sizes(tmp_path: Path) -> None:
    star = small_set(tmp_path)
    wrong = STAR.replace("0.1 1.5", "0.1 1.6")
    (tmp_path / "w.star").write_text(wrong.format(rows="1@a.mrcs 1 0 0 0 1 9000"))
    with pytest.raises(ParameterError, match=r"1\.5000 angstrom, as 1 file headers say; found 1\.6000"):
        read_particles(tmp_path / "w.star")
    assert read_particles(tmp_path / "w.star", trust_given=True).pixel_size.item() == 1.6
    assert read_particles(star, pixel_size=1.505).pixel_size.item() == 1.505
    with pytest.raises(ParameterError, match="above 0"):
        read_particles(star, pixel_size=-1.0)
    mixed = STAR.replace("1 one 300 2.7 0.1 1.5", "1 one 300 2.7 0.1 1.5\n2 two 300 2.7 0.1 1.8")
    (tmp_path / "m.star").write_text(mixed.format(rows="1@a.mrcs 1 0 0 0 1 9000\n2@a.mrcs 2 0 0 0 1 9000"))
    with pytest.raises(FormatError, match=r"one pixel size; found 1\.5, 1\.8"):
        read_particles(tmp_path / "m.star", trust_given=True)
    (tmp_path / "n.star").write_text(STAR.replace("_rlnImagePixelSize", "_rlnFoo").format(rows="1@a.mrcs 1 0 0 0 1 9"))
    with pytest.raises(FormatError, match="Give pixel_size="):
        read_particles(tmp_path / "n.star")


def test_other_unusable_files(tmp_path: Path) -> None:
    star = small_set(tmp_path)
    text = STAR.replace("PixelSize", "PixelSize\n_rlnImageSize").replace("0.1 1.5", "0.1 1.5 16")
    other = small_set(tmp_path, star=text)
    with pytest.raises(FormatError, match="_rlnImageSize 8"):
        read_particles(other)
    (tmp_path / "e.star").write_text(STAR.format(rows=""))
    with pytest.raises(FormatError, match="at least one row"):
        read_particles(tmp_path / "e.star")
    (tmp_path / "e.star").write_text("data_optics\nloop_\n_rlnOpticsGroup\n1\n")
    with pytest.raises(FormatError, match="a block data_particles"):
        read_particles(tmp_path / "e.star")
    ds = read_particles(small_set(tmp_path))
    with pytest.raises(ParameterError, match="The selection is empty"):
        write_particles(ds.isel(particle=[]), star)
    with pytest.raises(SchemaError, match="image_name"):
        write_particles(ds.drop_vars("image_name"), tmp_path / "o.star")
    (tmp_path / "i.star").write_text(STAR.replace("_rlnImageName", "_rlnFoo").format(rows="1@a.mrcs 1 0 0 0 1 9"))
    with pytest.raises(FormatError, match="images=False"):
        read_particles(tmp_path / "i.star")


numbers = st.floats(-1e5, 1e5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(numbers, st.floats(0, 180), numbers, st.integers(0, 2), st.text("ab _#'1", max_size=5)),
                  min_size=1, max_size=4)
)  # fmt: skip
def test_any_metadata_round_trips(tmp_path: Path, rows: list[tuple[float, float, float, int, str]]) -> None:
    from cryoflow.io.star.relion import text
    from cryoflow.kernels.rotation import euler_to_matrix

    rot, tilt, psi, half, names = zip(*rows, strict=True)
    ds = xr.Dataset(
        {
            "rotation": (("particle", "row", "col"), euler_to_matrix(np.array(rot), np.array(tilt), np.array(psi))),
            "shift": (("particle", "xy"), np.array([rot, psi]).T),
            "half": ("particle", np.array(half, np.int32)),
            "image_name": ("particle", text(f"{i + 1}@s.mrcs" for i in range(len(rows)))),
            "x_rlnSomeName": ("particle", text(names)),
            "x_odd": ("particle", np.array(rot)),
            "pixel_size": ("optics", [1.25]),
        }
    )
    write_particles(ds, tmp_path / "h.star")
    same(ds, read_particles(tmp_path / "h.star", images=False))
