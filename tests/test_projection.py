"""Slices, projections and their adjoint: against analytic transforms, dot products, and a C compiler's reading."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest

from cryoflow.errors import ParameterError
from cryoflow.io.images.mrc import write_map
from cryoflow.io.star.star import write_star
from cryoflow.kernels.fourier import resample, rfft2c
from cryoflow.kernels.projection import (
    accumulator,
    insert_slices,
    prepare_volume,
    project,
    project_adjoint,
    reach_of,
    slices,
)
from cryoflow.kernels.rotation import euler_to_matrix, random_rotations
from cryoflow.kernels.samples import Samples, half_plane

BOXES = [16, 17]
PADDINGS = [1, 2, 3]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def blobs(n: int, rng: np.random.Generator, count: int = 12) -> tuple[np.ndarray, np.ndarray, float]:
    """Centres (x, y, z) and weights of Gaussians well inside a box of ``n``, and their width."""
    return rng.uniform(-0.2 * n, 0.2 * n, (count, 3)), rng.uniform(0.5, 1.5, count), 0.05 * n + 0.6


def density(n: int, centres: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    """Sum of Gaussians on the (z, y, x) grid."""
    axis = np.arange(n) - n // 2
    terms = [np.exp(-0.5 * ((axis - centres[:, i : i + 1]) / width) ** 2) for i in range(3)]
    return np.einsum("a,az,ay,ax->zyx", weights, terms[2], terms[1], terms[0]).astype(np.float32)


def picture(n: int, a: np.ndarray, centres: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    """The exact line integral of the same Gaussians seen through rotation ``a``."""
    seen = centres @ a.T
    axis = np.arange(n) - n // 2
    x, y = (np.exp(-0.5 * ((axis - seen[:, i : i + 1]) / width) ** 2) for i in range(2))
    return np.sqrt(2 * np.pi) * width * np.einsum("a,ay,ax->yx", weights, y, x)


def hermitian(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


# samples ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 15, 32, 33])
def test_samples_hold_every_friedel_pair_once(n: int) -> None:
    s = half_plane(n, (n - 1) // 2)
    points = {(int(x), int(y)) for x, y in zip(s.kx, s.ky)}
    assert len(points) == len(s)
    for y in range(-s.radius, s.radius + 1):
        for x in range(-s.radius, s.radius + 1):
            inside = round(float(np.hypot(x, y))) <= s.radius
            assert ((x, y) in points) + ((-x, -y) in points) == (inside * (2 if x == y == 0 else 1))


@pytest.mark.parametrize("n", [16, 17])
def test_lower_resolution_is_a_prefix(n: int) -> None:
    whole = half_plane(n, (n - 1) // 2)
    for radius in range(whole.radius + 1):
        part = half_plane(n, radius)
        count = whole.count(radius)
        assert len(part) == count == part.count(radius)
        for name in ("kx", "ky", "shell"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[:count])
        assert np.array_equal(np.flatnonzero(whole.shell <= radius), np.arange(count))


def test_samples_are_taken_where_they_say() -> None:
    n = 12
    s = half_plane(n, 5)
    ky, kx = np.meshgrid(np.fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1), indexing="ij")
    taken = s.take((kx + 100j * ky).astype(np.complex64)[None])[0]
    assert np.array_equal(taken.real, s.kx)
    assert np.array_equal(taken.imag, 100 * s.ky)


# slices -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", BOXES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_grid_points_are_read_exactly(n: int, padding: int, rng: np.random.Generator) -> None:
    """Along the axes every sample is a grid point: the plain transform of the gridding-corrected map."""
    volume = rng.normal(size=(n, n, n)).astype(np.float32)
    s = half_plane(n, (n - 1) // 2)
    got = slices(prepare_volume(volume, padding=padding), np.eye(3)[None], s, padding=padding)[0]
    x = (np.arange(n) - n // 2) / (padding * n)
    flat = volume / (np.sinc(x)[:, None, None] * np.sinc(x)[:, None] * np.sinc(x)) ** 2
    expected = s.take(rfft2c(flat.sum(axis=0)[None]))[0]
    assert np.abs(got - expected).max() < 2e-6 * np.abs(expected).max() * n


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_smaller_map_of_the_same_field_gives_the_same_slices(padding: int, rng: np.random.Generator) -> None:
    n, m, radius = 32, 20, 8
    volume = density(n, *blobs(n, rng)[:2], 2.5)
    s, a = half_plane(n, radius), random_rotations(5, rng)
    whole = slices(prepare_volume(volume, radius=radius, padding=padding), a, s, padding=padding)
    small = resample(volume[None], m, dims=3)[0]
    part = slices(prepare_volume(small, box=n, radius=radius, padding=padding), a, s, padding=padding)
    assert np.abs(whole - part).max() < 2e-3 * np.abs(whole).max()


@pytest.mark.parametrize("padding", PADDINGS)
def test_friedel(padding: int, rng: np.random.Generator) -> None:
    """Turning the image by 180 degrees about the beam conjugates its samples."""
    n = 17
    s, a = half_plane(n, 8), random_rotations(6, rng)
    volume = prepare_volume(rng.normal(size=(n, n, n)).astype(np.float32), padding=padding)
    here = slices(volume, a, s, padding=padding)
    turned = slices(volume, np.diag([-1.0, -1.0, 1.0]) @ a, s, padding=padding)
    assert np.abs(turned - np.conj(here)).max() < 1e-5 * np.abs(here).max()


@pytest.mark.parametrize("n", BOXES)
@pytest.mark.parametrize(("padding", "limit"), [(1, 0.14), (2, 0.03), (3, 0.014)])
def test_projections_of_gaussians(n: int, padding: int, limit: float, rng: np.random.Generator) -> None:
    centres, weights, width = blobs(2 * n, rng)
    volume = density(2 * n + n % 2, centres, weights, width)
    rotations = random_rotations(6, rng)
    got = project(volume, rotations, padding=padding)  # what is left is the error of trilinear interpolation
    for image, a in zip(got, rotations):
        exact = picture(volume.shape[0], a, centres, weights, width)
        assert np.linalg.norm(image - exact) < limit * np.linalg.norm(exact)


def test_axes_and_angles_are_the_conventions() -> None:
    """A point on the volume's x axis appears where the rotation sends it, in (x, y) pixels."""
    volume = np.zeros((32, 32, 32), np.float32)
    volume[16, 16, 24] = 1  # +8 along x
    a = euler_to_matrix(30.0, 60.0, 20.0)
    x, y, _ = a @ [8.0, 0.0, 0.0]
    image = project(volume, a[None])[0]
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert abs(column - 16 - x) <= 0.5
    assert abs(row - 16 - y) <= 0.5


# adjoints -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", BOXES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_insertion_is_the_adjoint_of_slicing(n: int, padding: int, rng: np.random.Generator) -> None:
    """<slices(V), Y> = <V, insert(Y)> as real inner products on the half grid, and the same for weights."""
    s, a = half_plane(n, (n - 1) // 2), random_rotations(9, rng)
    total = accumulator(s.radius, padding)
    volume = hermitian(total.shape[:3], rng)
    y = hermitian((9, len(s)), rng)
    w = rng.uniform(size=y.shape).astype(np.float32)
    insert_slices(total, y, w, a, s, padding=padding)
    values = slices(volume, a, s, padding=padding)
    left = float((values.conj().astype(complex) * y).real.sum())
    right = float((volume.conj().astype(complex) * (total[..., 0] + 1j * total[..., 1])).real.sum())
    assert left == pytest.approx(right, abs=float(2e-5 * np.linalg.norm(values) * np.linalg.norm(y)))
    # every sample hands out its whole weight: the eight coefficients sum to one
    assert float(total[..., 2].sum(dtype=float)) == pytest.approx(float(w.sum(dtype=float)), rel=1e-5)
    assert not total[..., 3].any()


@pytest.mark.parametrize("n", BOXES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_project_and_its_adjoint(n: int, padding: int, rng: np.random.Generator) -> None:
    a = random_rotations(4, rng)
    v = rng.normal(size=(n, n, n)).astype(np.float32)
    y = rng.normal(size=(4, n, n)).astype(np.float32)
    p, q = project(v, a, padding=padding), project_adjoint(y, a, padding=padding)
    left, right = float((p.astype(float) * y).sum()), float((v.astype(float) * q).sum())
    assert left == pytest.approx(right, abs=float(1e-5 * np.linalg.norm(p) * np.linalg.norm(y)))


@pytest.mark.parametrize("padding", PADDINGS)
def test_every_touched_cell_exists(padding: int, rng: np.random.Generator) -> None:
    """The outermost samples of a shell, turned anywhere, stay inside the grid of ``reach_of``."""
    s = half_plane(33, 16)
    outer = np.argsort(np.hypot(s.kx, s.ky))[-40:]
    k = np.stack([s.kx[outer], s.ky[outer], np.zeros(40, np.float32)])
    reach = reach_of(16, padding)
    where = np.abs(padding * np.einsum("rji,jk->rik", random_rotations(4000, rng), k))
    assert where.max() < reach
    # and for rotations that put a sample on an axis exactly
    assert padding * np.hypot(s.kx, s.ky).max() < reach


def test_volumes_that_do_not_reach_are_refused() -> None:
    s = half_plane(16, 7)
    volume = prepare_volume(np.ones((16, 16, 16), np.float32), radius=5)
    with pytest.raises(ParameterError, match="larger radius"):
        slices(volume, np.eye(3)[None], s)
    assert slices(volume, np.eye(3)[None], s, count=s.count(5)).shape == (1, s.count(5))
    with pytest.raises(ParameterError):
        insert_slices(accumulator(5), np.zeros((1, len(s)), np.complex64), np.zeros((1, len(s))), np.eye(3)[None], s)
    with pytest.raises(ParameterError, match="contiguous"):
        insert_slices(
            accumulator(7)[::-1], np.zeros((1, len(s)), np.complex64), np.zeros((1, len(s))), np.eye(3)[None], s
        )
    with pytest.raises(ParameterError, match="cubic"):
        prepare_volume(np.zeros((4, 4, 5), np.float32))


# RELION ---------------------------------------------------------------------------------------------------------------


@pytest.mark.relion
def test_relion_project(relion_programs: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """The same map and angles through relion_project (padding 2, trilinear): the same images."""
    n, pixel_size = 40, 2.0
    centres, weights, _ = blobs(n, rng, 30)
    volume = density(n, centres, weights, 1.2)
    angles = np.column_stack([rng.uniform(-180, 180, 6), rng.uniform(0, 180, 6), rng.uniform(-180, 180, 6)])
    write_map(tmp_path / "map.mrc", volume, pixel_size=pixel_size)
    table = pd.DataFrame(angles, columns=["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]).assign(rlnOpticsGroup=1)
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "one", "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7,
              "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": pixel_size, "rlnImageSize": n,
              "rlnImageDimensionality": 2}  # fmt: skip
    write_star(tmp_path / "angles.star", {"optics": pd.DataFrame([optics]), "particles": table})
    command = [relion_programs / "relion_project", "--i", "map.mrc", "--o", "out", "--ang", "angles.star",
               "--angpix", str(pixel_size), "--pad", "2"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (tmp_path / "out.mrcs").exists(), done.stdout + done.stderr
    with mrcfile.open(tmp_path / "out.mrcs") as stack:
        theirs = np.array(stack.data)
    ours = project(volume, np.asarray(euler_to_matrix(*angles.T)))
    s = half_plane(n, n // 2 - 1)
    a, b = s.take(rfft2c(theirs)), s.take(rfft2c(ours))
    for shell in range(1, s.radius + 1):
        at = s.shell == shell
        assert np.linalg.norm(a[:, at] - b[:, at]) < 2e-3 * np.linalg.norm(a[:, at]), f"shell {shell}"


def test_slices_and_projections_are_one(rng: np.random.Generator) -> None:
    """The transform of a projection is the slice: no hidden factor between the two."""
    n = 24
    volume, a = density(n, *blobs(n, rng)), random_rotations(3, rng)
    s: Samples = half_plane(n, 11)
    values = slices(prepare_volume(volume), a, s)
    assert np.abs(s.take(rfft2c(project(volume, a))) - values).max() < 1e-5 * np.abs(values).max()
