"""From slices back to a map: round trips, symmetry, the Wiener filter; against brute force and relion_reconstruct."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import correlate1d, map_coordinates
from simulated import PIXEL, maps, particles

from cryoflow.io.images.mrc import read_map
from cryoflow.io.particles import write_particles
from cryoflow.kernels.expectation import transfer_of
from cryoflow.kernels.fourier import resample, rfft2c, shift_phases
from cryoflow.kernels.masks import soft_sphere
from cryoflow.kernels.projection import accumulator, gridding_correction, insert_slices, prepare_volume, slices
from cryoflow.kernels.reconstruction import (
    enforce_friedel,
    grid_shells,
    grid_to_map,
    shell_average,
    smooth_weights,
    symmetrise_sums,
    wiener,
)
from cryoflow.kernels.resolution import fsc
from cryoflow.kernels.rotation import random_rotations
from cryoflow.kernels.samples import half_plane
from cryoflow.kernels.symmetry import point_group

OPTICS = ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "voltage", "cs", "amplitude_contrast")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def sums_of(radius: int, padding: int, rng: np.random.Generator, count: int = 40) -> np.ndarray:
    """Sums of random slices, with Friedel symmetry enforced."""
    s = half_plane(2 * radius + 2, radius)
    total = accumulator(radius, padding)
    data = (rng.normal(size=(count, len(s))) + 1j * rng.normal(size=(count, len(s)))).astype(np.complex64)
    weight = rng.uniform(0.5, 1.5, data.shape).astype(np.float32)
    insert_slices(total, data, weight, random_rotations(count, rng), s, padding=padding)
    return enforce_friedel(total)


def whole(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights on the full grid x = -reach .. reach."""
    values, weight = total[..., 0] + 1j * total[..., 1], total[..., 2]
    return (
        np.concatenate([values[::-1, ::-1, :0:-1].conj(), values], axis=2),
        np.concatenate([weight[::-1, ::-1, :0:-1], weight], axis=2),
    )


# maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [24, 25])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_grid_and_map(n: int, padding: int, rng: np.random.Generator) -> None:
    """A prepared volume comes back; each way divides by the gridding correction once."""
    volume = maps(n, 1, rng)[0]
    back = grid_to_map(prepare_volume(volume, padding=padding), n, box=n, padding=padding)
    assert np.abs(back * gridding_correction(n, padding) ** 2 - volume).max() < 5e-3 * volume.max()


def test_a_coarser_map_is_the_resampled_one(rng: np.random.Generator) -> None:
    n, m, radius = 32, 20, 8
    total = sums_of(radius, 2, rng)
    values = wiener(total, grid_shells(total.shape[:3], 2), None)
    fine, coarse = (grid_to_map(values, size, box=n) * gridding_correction(size, 2) for size in (n, m))
    small = resample(fine[None] * 1.0, m, dims=3)[0]
    ball = soft_sphere(m, 0.3 * m, 2)  # the cut window is sharper in the one than in the other
    assert np.linalg.norm((small - coarse) * ball) < 0.04 * np.linalg.norm(coarse * ball)


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_slices_make_the_map_they_came_from(n: int, padding: int, rng: np.random.Generator) -> None:
    """600 slices from everywhere, no noise: the map, at its own grey values (a finer grid is filled more thinly)."""
    volume = maps(n, 1, rng)[0]
    radius = (n - 1) // 2
    s, a = half_plane(n, radius), random_rotations(600, rng)
    data = slices(prepare_volume(volume, padding=3), a, s, padding=3)
    total = accumulator(radius, padding)
    insert_slices(total, data, np.ones(data.shape, np.float32), a, s, padding=padding)
    enforce_friedel(total)
    got = grid_to_map(wiener(total, grid_shells(total.shape[:3], padding), None), n, box=n, padding=padding)
    ball = soft_sphere(n, 0.38 * n, 3)
    assert np.linalg.norm((got - volume) * ball) < {1: 0.25, 2: 0.06, 3: 0.08}[padding] * np.linalg.norm(volume)
    assert (got * volume).sum() / (volume**2).sum() == pytest.approx(1, abs=0.06)
    assert fsc(got * ball, volume * ball)[1 : n // 4].min() > (0.98 if padding == 1 else 0.998)


# symmetry ----------------------------------------------------------------------------------------------------


def test_friedel_mates_of_the_plane(rng: np.random.Generator) -> None:
    """After enforcing, the plane x = 0 is Hermitian and holds what the mates' half brought."""
    s, a = half_plane(18, 8), random_rotations(30, rng)
    data = (rng.normal(size=(30, len(s))) + 1j * rng.normal(size=(30, len(s)))).astype(np.complex64)
    total = accumulator(8)
    insert_slices(total, data, np.ones(data.shape, np.float32), a, s)
    before = total.copy()
    plane = enforce_friedel(total)[:, :, 0]
    np.testing.assert_array_equal(plane[::-1, ::-1, 0], plane[..., 0])
    np.testing.assert_array_equal(plane[::-1, ::-1, 1], -plane[..., 1])
    assert plane[..., 2].sum(dtype=float) == pytest.approx(2 * before[:, :, 0, 2].sum(dtype=float))
    np.testing.assert_array_equal(total[:, :, 1:], before[:, :, 1:])


@pytest.mark.parametrize("group", ["C3", "C4", "D2", "T", "O", "I"])
def test_symmetrised_sums_against_brute_force(group: str, rng: np.random.Generator) -> None:
    """Each operator by scipy's trilinear interpolation of the full Hermitian grid."""
    total = sums_of(6, 2, rng)
    reach = total.shape[0] // 2
    values, weight = whole(total)
    z, y, x = (g.ravel() for g in np.mgrid[-reach : reach + 1, -reach : reach + 1, 0 : reach + 1])
    inside = x**2 + y**2 + z**2 <= (reach - 1) ** 2
    k = np.stack([x, y, z])[:, inside]
    expected = np.zeros((k.shape[1], 3))
    for g in point_group(group):
        at = (g @ k)[::-1] + reach
        for i, part in enumerate((values.real, values.imag, weight)):
            expected[:, i] += map_coordinates(part.astype(float), at, order=1)
    got = symmetrise_sums(total, point_group(group), reach).reshape(-1, 4)
    assert np.abs(got[inside, :3] - expected).max() < 2e-5 * np.abs(expected).max()
    assert not got[~inside].any()


@pytest.mark.parametrize("group", ["C2", "C4", "D2", "D4"])
def test_symmetry_of_sums_is_symmetry_of_poses(group: str, rng: np.random.Generator) -> None:
    """Where operators map the grid onto itself: the same as inserting each slice at all its equivalent poses."""
    s, a, operators = half_plane(18, 8), random_rotations(10, rng), point_group(group)
    data = (rng.normal(size=(10, len(s))) + 1j * rng.normal(size=(10, len(s)))).astype(np.complex64)
    weight = np.ones(data.shape, np.float32)
    once, every = accumulator(8), accumulator(8)
    insert_slices(once, data, weight, a, s)
    for g in operators:
        insert_slices(every, data, weight, a @ g, s)
    got, expected = symmetrise_sums(enforce_friedel(once), operators, 99.0), enforce_friedel(every)
    reach = once.shape[0] // 2
    z, y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1, 0 : reach + 1]
    inside = x**2 + y**2 + z**2 <= (reach - 1) ** 2
    assert np.abs(got[inside] - expected[inside]).max() < 2e-5 * np.abs(expected).max()


# filters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_shells_of_the_grid(padding: int, rng: np.random.Generator) -> None:
    shape = accumulator(5, padding).shape[:3]
    shells = grid_shells(shape, padding)
    reach = shape[0] // 2
    for z, y, x in rng.integers(0, shape, (200, 3)):
        assert shells[z, y, x] == round(float(np.sqrt((z - reach) ** 2 + (y - reach) ** 2 + x**2)) / padding)
    values = rng.normal(size=shape)
    mean = shell_average(values, shells, 4)
    np.testing.assert_allclose(mean, [values[shells == s].mean() for s in range(4)])


def test_wiener_filter_and_its_limits(rng: np.random.Generator) -> None:
    total = sums_of(6, 2, rng, count=400)
    shells = grid_shells(total.shape[:3], 2)
    weight = total[..., 2]
    ratio = total[..., 0] + 1j * total[..., 1]
    ssnr = np.array([100.0, 10.0, 3.0, 1.0, 0.3])
    got = wiener(total, shells, ssnr)
    for s, value in enumerate(ssnr):
        at = shells == s
        np.testing.assert_allclose(got[at], ratio[at] / (weight[at] + weight[at].mean() / value), rtol=1e-4)
    assert not got[shells >= len(ssnr)].any()
    # much signal: the plain quotient; none: nothing
    plain = wiener(total, shells, None)
    filled = (weight > 0.01 * weight.max()) & (shells < 7)
    np.testing.assert_allclose(wiener(total, shells, np.full(7, 1e9))[filled], plain[filled], rtol=1e-4)
    np.testing.assert_allclose(plain[filled], (ratio / np.where(filled, weight, 1))[filled], rtol=1e-5)
    assert np.abs(wiener(total, shells, np.full(7, 1e-9))).max() < 1e-4 * np.abs(plain).max()


def test_nothing_inserted_gives_an_empty_map() -> None:
    total = accumulator(5)
    shells = grid_shells(total.shape[:3], 2)
    for ssnr in (None, np.ones(6)):
        volume = grid_to_map(wiener(total, shells, ssnr), 12, box=12)
        assert not volume.any()
        assert np.isfinite(volume).all()


# RELION ----------------------------------------------------------------------------------------------------


def test_weights_are_smoothed_over_the_whole_transform(rng: np.random.Generator) -> None:
    """The half grid with its Friedel mates against the same average on a full grid; nothing else is touched."""
    r = 6
    total = rng.random((2 * r + 1, 2 * r + 1, r + 1, 4)).astype(np.float32)
    total[:, :, 0] += total[::-1, ::-1, 0]
    full = np.concatenate([total[::-1, ::-1, :0:-1, 2], total[..., 2]], axis=2)
    radius = np.rint(np.sqrt(sum(k * k for k in np.mgrid[-r : r + 1, -r : r + 1, -r : r + 1]))).astype(int)
    inner = radius[:, :, r:]
    mean = np.array([total[inner == k, 2].mean() for k in range(inner.max() + 1)])[radius]
    full /= mean
    for axis in range(3):
        full = correlate1d(full, [0.25, 0.5, 0.25], axis=axis, mode="constant")
    found = smooth_weights(total.copy(), passes=1)
    np.testing.assert_allclose(found[..., :-1, 2], (full * mean)[:, :, r:-1], rtol=1e-5)
    assert (found[..., :2] == total[..., :2]).all()


def test_few_noisy_slices_give_a_better_map_with_smooth_weights(rng: np.random.Generator) -> None:
    n, count = 48, 60
    truth = maps(n, 1, rng)
    rows = particles(truth, count, rng, deviation=1.0)
    s = half_plane(n, (n - 1) // 2)
    transfer = transfer_of(s, PIXEL, *(rows[k] for k in OPTICS))
    centred = s.take(rfft2c(rows["image"]) * shift_phases(n, rows["shift"] / PIXEL))
    total = accumulator(s.radius)
    insert_slices(total, (centred * transfer).astype(np.complex64), transfer**2, rows["rotation"], s)
    shells, total = grid_shells(total.shape[:3], 2), enforce_friedel(total)
    ball = soft_sphere(n, 0.36 * n, 3)
    rough, smooth = (
        fsc(grid_to_map(wiener(t, shells, None), n, box=n) * ball, truth[0] * ball)[1 : n // 2].mean()
        for t in (total, smooth_weights(total.copy()))
    )
    assert smooth > rough + 0.02


@pytest.mark.relion
def test_relion_reconstruct(relion_programs: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """The same particles, CTFs, poses and shifts through relion_reconstruct: the same map."""
    n, count = 32, 400
    truth = maps(n, 1, rng)
    rows = particles(truth, count, rng, deviation=0.3)
    dims = {"image": ("particle", "y", "x"), "rotation": ("particle", "row", "col"), "shift": ("particle", "xy")}
    per_optics = {k: ("optics", rows[k][:1]) for k in ("voltage", "cs", "amplitude_contrast")}
    names = ("image", "rotation", "shift", "defocus_u", "defocus_v", "defocus_angle", "phase_shift")
    ds = xr.Dataset({k: (dims.get(k, ("particle",)), rows[k]) for k in names} | per_optics)
    ds = ds.assign(pixel_size=("optics", [PIXEL]), optics_group=("particle", np.zeros(count, int)))
    write_particles(ds, tmp_path / "particles.star", images=tmp_path / "particles.mrcs")
    command = [relion_programs / "relion_reconstruct", "--i", "particles.star", "--o", "map.mrc", "--ctf", "--pad", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (tmp_path / "map.mrc").exists(), done.stdout + done.stderr
    theirs = read_map(tmp_path / "map.mrc").values

    s = half_plane(n, (n - 1) // 2)
    transfer = transfer_of(s, PIXEL, *(rows[k] for k in OPTICS))
    centred = s.take(rfft2c(rows["image"]) * shift_phases(n, rows["shift"] / PIXEL))
    total = accumulator(s.radius)
    insert_slices(total, (centred * transfer).astype(np.complex64), transfer**2, rows["rotation"], s)
    shells = grid_shells(total.shape[:3], 2)
    ours = grid_to_map(wiener(enforce_friedel(total), shells, None), n, box=n)
    smooth = grid_to_map(wiener(smooth_weights(total), shells, None), n, box=n)

    ball = soft_sphere(n, 0.36 * n, 3)
    ours, theirs, true = ours * ball, theirs * ball, truth[0] * ball
    between, here, there = fsc(ours, theirs), fsc(ours, true), fsc(theirs, true)
    assert between[:9].min() > 0.999
    assert between[:13].min() > 0.95
    assert (ours * theirs).sum() / (theirs**2).sum() == pytest.approx(1, abs=0.03)
    signal = there > 0.143
    assert here[signal].min() > 0.143 * 0.9
    assert np.abs(here - there)[signal].max() < 0.03
    better = fsc(smooth * ball, true)
    assert (better - there)[1:9].min() > -4e-3  # where there is hardly noise, exact weights are better by a little
    assert better[signal].mean() > there[signal].mean() - 4e-3
