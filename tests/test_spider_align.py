"""SPIDER's alignment documents, by numbers: what "RT SQ" makes of a particle is the projection that the row names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fault_server import serving
from fuzz_harness import fuzz, on_file
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io import open_data, read_particles, write_data, write_stack
from cryoflow.io.formats import detect
from cryoflow.io.programs.spider_align import read_spider_alignment, write_spider_alignment
from cryoflow.kernels.fourier import shift_phases
from cryoflow.kernels.rotation import angular_distance, random_rotations
from cryoflow.simulate.projector import prepare, slice_spectra

# as "AP SH" writes it; the second row fitted a mirrored reference
DOC = """\
 ;dat/dat   05-JAN-2012 AT 12:00:00   align_01.dat
 ; KEY     PSI,    THE,    PHI,   REF#,    EXP#,  CUM.{ROT,   SX,    SY},  NPROJ,   DIFF,      CCROT,    ROT,     SX,     SY,   MIR-CC
      1 15    0.00   40.00   25.00      7.       1.   130.00    2.50   -1.25    130.  12.50     1234.50  130.00    2.50   -1.25   1.0000
      2 15    0.00  215.00  300.00     11.       2.    20.00   -3.00    0.75    130.   3.00     1100.25   20.00   -3.00    0.75  -1.0000
"""  # noqa: E501


def about(axis: str, degrees: float) -> NDArray[np.float64]:
    """The passive rotation: the transpose of the active one by the right-hand rule."""
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix().T


def rt_sq(image: NDArray[np.float64], theta: float, x_shift: float, y_shift: float) -> NDArray[np.float64]:
    """What the manual of "RT SQ" describes, pixel by pixel as its published loop goes (with a cubic spline)."""
    ny, nx = image.shape
    c, s = np.cos(np.deg2rad(theta)), np.sin(np.deg2rad(theta))
    iy, ix = np.mgrid[1 : ny + 1, 1 : nx + 1]
    yi, xi = iy - (ny // 2 + 1) - y_shift, ix - (nx // 2 + 1) - x_shift
    y_old, x_old = xi * s + yi * c + ny // 2 + 1, xi * c - yi * s + nx // 2 + 1
    return np.asarray(map_coordinates(image, [y_old - 1, x_old - 1], order=3))


def volume(n: int) -> NDArray[np.float64]:
    """Atoms of different weights: a structure without symmetry."""
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    atoms = [(9, 0, 2, 1.0), (0, 7, -3, 1.7), (-4, -5, 6, 2.6), (3, -8, -6, 0.8)]
    return np.asarray(
        sum(w * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 8.0) for a, b, c, w in atoms), np.float32
    )


def projection(n: int, rotation: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """cryoflow's own: the particle that ``shift`` (pixels) centres."""
    spectrum = slice_spectra(prepare(volume(n)), rotation[None])[0] * shift_phases(n, -shift)
    return np.asarray(np.fft.fftshift(np.fft.irfft2(spectrum, s=(n, n), norm="ortho")), np.float64)


@pytest.mark.parametrize("row", [0, 1])
def test_rt_sq_brings_the_particle_onto_its_reference(tmp_path: Path, row: int) -> None:
    (tmp_path / "a.doc").write_text(DOC)
    psi, theta, phi, _, _, turn, x, y = [float(w) for w in DOC.splitlines()[2 + row].split()[2:10]]
    ds = read_spider_alignment(tmp_path / "a.doc", pixel_size=1.5)
    n, pose = 64, ds.rotation.values[row]
    particle = projection(n, pose, ds["shift"].values[row] / 1.5)
    reference = projection(n, about("z", psi) @ about("y", theta) @ about("z", phi), np.zeros(2))

    def agreement(image: NDArray[np.float64]) -> float:
        return float(np.corrcoef(image.ravel(), reference.ravel())[0, 1])

    assert agreement(rt_sq(particle, turn, x, y)) > 0.999
    for wrong in ((-turn, x, y), (turn, -x, -y), (turn, x, -y), (turn, *(about("z", -turn)[:2, :2] @ [x, y]))):
        assert agreement(rt_sq(particle, *wrong)) < 0.98


def test_alignments_add_up_as_in_spider(tmp_path: Path) -> None:
    """One alignment after another, by the formula of its source: turns add, the first shift is turned by the second."""
    rng = np.random.default_rng(3)
    (t1, t2), s1, s2 = rng.uniform(0, 360, 2), *rng.normal(0, 3, (2, 2))
    c, s = np.cos(np.deg2rad(t2)), -np.sin(np.deg2rad(t2))
    both = s2 + np.array([s1[0] * c - s1[1] * s, s1[0] * s + s1[1] * c])
    rows = [(0, 30, 40, 1, 1, t1, *s1), (0, 30, 40, 1, 2, t1 + t2, *both)]
    (tmp_path / "a.doc").write_text(
        " ; PSI, THE, PHI, REF#, EXP#\n"
        + "".join(f"{i} 8 {' '.join(map(repr, map(float, row)))}\n" for i, row in enumerate(rows, 1))
    )
    first, second = (read_spider_alignment(tmp_path / "a.doc", pixel_size=1.0).isel(particle=i) for i in (0, 1))
    # aligned by the first row, a particle still has the pose (t2, s2); so q = Rz(-t1) (p1 - s1), p1 = Rz(-t2) (p - s2)
    z1, z2 = (about("z", t)[:2, :2] for t in (t1, t2))
    np.testing.assert_allclose(second["shift"], first["shift"] + z1.T @ z2.T @ s2, atol=1e-9)
    np.testing.assert_allclose(second.rotation, about("z", -t2) @ first.rotation.values, atol=1e-12)


def test_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text(DOC)
    assert detect(tmp_path / "a.doc").name == "spider-align"
    ds = open_data(tmp_path / "a.doc", pixel_size=1.5)
    write_data(ds, tmp_path / "b.doc")
    again = open_data(tmp_path / "b.doc", pixel_size=1.5)
    xr.testing.assert_allclose(again, ds, atol=1e-6)
    assert again.attrs == ds.attrs
    first = (tmp_path / "b.doc").read_text().splitlines()[2].split()
    assert [float(w) for w in first[2:10]] == [0, 40, 25, 7, 1, 130, 2.5, -1.25]
    assert ds.x_spider_mirror.values.tolist() == [1, -1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.floats(0.3, 8.0))
def test_any_poses_come_back(tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, pixel: float) -> None:
    rng = np.random.default_rng(seed)
    ds = xr.Dataset({
        "rotation": (("particle", "row", "col"), random_rotations(n, rng)),
        "shift": (("particle", "xy"), rng.normal(0, 9, (n, 2))), "pixel_size": ("optics", [pixel]),
        "optics_group": ("particle", np.zeros(n, np.int32)),
    })  # fmt: skip
    path = tmp_path_factory.mktemp("spider") / "a.doc"
    write_spider_alignment(ds, path)
    back = read_spider_alignment(path, pixel_size=pixel)
    assert angular_distance(back.rotation.values, ds.rotation.values).max() < 1e-5
    np.testing.assert_allclose(back["shift"], ds["shift"], atol=1e-5)


def test_relions_particles_with_their_images(tmp_path: Path) -> None:
    """RELION to SPIDER with a stack, and back through it."""
    rng = np.random.default_rng(1)
    image = xr.DataArray(rng.normal(size=(3, 16, 16)).astype(np.float32), dims=("particle", "y", "x"))
    write_stack(tmp_path / "p.mrcs", image, pixel_size=2.0)
    labels = ("ImageName", "AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "OpticsGroup")
    head = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 2.0\n\ndata_particles\nloop_\n"
    rows = "3@p.mrcs 10 20 30 1 -2 1\n1@p.mrcs 50 100 -70 -3 0.5 1\n"
    (tmp_path / "p.star").write_text(head + "".join(f"_rln{label}\n" for label in labels) + rows)
    ds = read_particles(tmp_path / "p.star")
    write_spider_alignment(ds, tmp_path / "p.doc")
    back = read_spider_alignment(tmp_path / "p.doc", stack=tmp_path / "p.mrcs", pixel_size=2.0)
    np.testing.assert_array_equal(back.image.values, image.values[[2, 0]])
    np.testing.assert_allclose(back["shift"], [[1, -2], [-3, 0.5]], atol=1e-8)
    write_spider_alignment(ds, tmp_path / "q.doc", images=tmp_path / "q.mrcs")
    fresh = read_spider_alignment(tmp_path / "q.doc", stack=tmp_path / "q.mrcs", pixel_size=2.0)
    np.testing.assert_array_equal(fresh.image.values, ds.image.values)
    twice = ds.isel(particle=[0, 0])
    with pytest.raises(ParameterError, match="one row for each image"):
        write_spider_alignment(twice, tmp_path / "r.doc")


def test_a_stack_beside_the_document_or_behind_a_url(tmp_path: Path) -> None:
    image = xr.DataArray(np.random.default_rng(2).normal(size=(2, 8, 8)).astype("f4"), dims=("particle", "y", "x"))
    (tmp_path / "a.doc").write_text(DOC)
    assert "image" not in read_spider_alignment(tmp_path / "a.doc", pixel_size=1.5)
    write_stack(tmp_path / "a.mrcs", image, pixel_size=1.5)
    np.testing.assert_array_equal(read_spider_alignment(tmp_path / "a.doc", pixel_size=1.5).image, image)
    with serving(tmp_path) as server:
        url = f"{server.url}/a.mrcs?signature=%2Fx"
        there = read_spider_alignment(tmp_path / "a.doc", stack=url, pixel_size=1.5)
        np.testing.assert_array_equal(there.image.values, image)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.replace("   25.00", "      x"), "line 3"),
        (lambda _: " ; c\n 1 3 1 2 3\n", "psi, theta, phi"),
        (lambda d: d.replace("     1.  ", "   1.5   ", 1).replace("    7. ", "  7.25 "), "whole number"),
        (lambda d: d[: d.index("      1 15")], "at least one row"),
    ],
)
def test_damaged_documents_are_refused(tmp_path: Path, change: object, says: str) -> None:
    (tmp_path / "a.doc").write_text(change(DOC))  # type: ignore[operator]
    with pytest.raises(FormatError, match=says):
        read_spider_alignment(tmp_path / "a.doc", pixel_size=1.0)


def test_the_pixel_size_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text(DOC)
    with pytest.raises(FormatError, match="Give pixel_size="):
        read_spider_alignment(tmp_path / "a.doc")


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_documents(tmp_path: Path, count: int) -> None:
    target = on_file(lambda path: read_spider_alignment(path, pixel_size=1.0), ".doc", tmp_path)
    fuzz(target, [DOC.encode()], count, seed=0)
