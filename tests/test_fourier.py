"""Transforms, shells, cropping and shifting: against plain definitions and relion_image_handler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from cryoflow.io.images.mrc import read_map, write_map
from cryoflow.kernels.fourier import (
    crop,
    frequencies,
    irfft2c,
    irfft3c,
    resample,
    rfft2c,
    rfft3c,
    shell_index,
    shell_mean,
    shell_sum,
    shift_phases,
)
from cryoflow.kernels.masks import raised_cosine

BOXES = [12, 13]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def smooth(n: int, rng: np.random.Generator, dims: int, width: float = 1.5) -> np.ndarray:
    """Gaussians well inside the box."""
    axis = np.arange(n) - n // 2
    out = np.zeros((n,) * dims)
    for _ in range(8):
        one = [np.exp(-0.5 * ((axis - rng.uniform(-0.2 * n, 0.2 * n)) / width) ** 2) for _ in range(dims)]
        out += rng.uniform(0.5, 1.5) * (np.einsum("y,x", *one) if dims == 2 else np.einsum("z,y,x", *one))
    return out.astype(np.float32)


def image_handler(programs: Path, folder: Path, image: np.ndarray, pixel_size: float, *arguments: str) -> np.ndarray:
    write_map(folder / "in.mrc", image, pixel_size=pixel_size)
    command = [programs / "relion_image_handler", "--i", "in.mrc", "--o", "out.mrc", "--angpix", str(pixel_size)]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert (folder / "out.mrc").exists(), done.stdout + done.stderr
    return np.asarray(read_map(folder / "out.mrc", anisotropic=True).values)


# transforms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", BOXES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centred_transform_is_its_definition(n: int, dtype: type, rng: np.random.Generator) -> None:
    """X(k) = n^-1 sum_r x(r) exp(-2 pi i k . (r - n // 2) / n)."""
    image = rng.normal(size=(n, n)).astype(dtype)
    r = np.arange(n) - n // 2
    wave = np.exp(-2j * np.pi * np.outer(np.fft.fftfreq(n), r))
    expected = (wave @ image @ wave.T)[:, : n // 2 + 1] / n
    got = rfft2c(image)
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    assert got.dtype == np.result_type(dtype, np.complex64)
    assert np.abs(got - expected).max() < tolerance * n
    assert np.abs(irfft2c(got, n) - image).max() < tolerance


@pytest.mark.parametrize("n", BOXES)
def test_three_dimensions(n: int, rng: np.random.Generator) -> None:
    volume = rng.normal(size=(n, n, n)).astype(np.float32)
    spectrum = rfft3c(volume)
    assert spectrum.dtype == np.complex64
    assert np.abs(irfft3c(spectrum, n) - volume).max() < 1e-5
    full = np.fft.fftn(np.fft.ifftshift(volume), norm="ortho")
    assert np.abs(spectrum - full[..., : n // 2 + 1]).max() < 1e-4
    assert shell_sum(np.abs(spectrum) ** 2, n, dims=3)[: (n - 1) // 2].sum() < (volume.astype(float) ** 2).sum()


@pytest.mark.parametrize("n", BOXES)
@pytest.mark.parametrize("dims", [2, 3])
def test_shells_count_the_full_spectrum(n: int, dims: int, rng: np.random.Generator) -> None:
    volume = rng.normal(size=(n,) * dims)
    full = np.abs(np.fft.fftn(volume)) ** 2
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(n, 1 / n)] * dims, indexing="ij"))
    shell = np.rint(np.sqrt((k**2).sum(axis=0))).astype(int)
    half = full[..., : n // 2 + 1]
    assert np.array_equal(shell_index(n, dims=dims), shell[..., : n // 2 + 1])
    sums = np.array([full[shell == s].sum() for s in range(n // 2 + 1)])
    np.testing.assert_allclose(shell_sum(half, n, dims=dims), sums, rtol=1e-10)
    means = np.array([full[shell == s].mean() for s in range(n // 2 + 1)])
    np.testing.assert_allclose(shell_mean(half[None], n, dims=dims)[0], means, rtol=1e-10)


@pytest.mark.parametrize("n", BOXES)
def test_frequencies(n: int) -> None:
    kx, ky, kz = frequencies(n, dims=3)
    assert np.allclose(np.ravel(kx), np.fft.rfftfreq(n) * np.sign(np.arange(n // 2 + 1)))
    assert np.allclose(np.ravel(ky), np.fft.fftfreq(n))
    assert (kx + ky + kz).shape == (n, n, n // 2 + 1)


# shifting, cropping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", BOXES)
def test_whole_shifts_are_rolls(n: int, rng: np.random.Generator) -> None:
    images = rng.normal(size=(3, n, n)).astype(np.float32)
    shift = np.array([[0, 0], [2, -3], [-1, 5]])
    moved = irfft2c(rfft2c(images) * shift_phases(n, shift), n)
    for i, (dx, dy) in enumerate(shift):
        assert np.abs(moved[i] - np.roll(images[i], (dy, dx), (0, 1))).max() < 1e-5


def test_fractional_shift_moves_the_centre(rng: np.random.Generator) -> None:
    image = smooth(33, rng, 2, 2.0)
    moved = irfft2c(rfft2c(image) * shift_phases(33, np.array([0.3, -1.7])), 33)
    y, x = np.mgrid[:33, :33]
    for axis, by in ((x, 0.3), (y, -1.7)):
        assert (moved * axis).sum() / moved.sum() - (image * axis).sum() / image.sum() == pytest.approx(by, abs=2e-3)


@pytest.mark.parametrize(("n", "m"), [(24, 16), (24, 15), (25, 16), (25, 15), (16, 24), (15, 24), (16, 25), (15, 25)])
@pytest.mark.parametrize("dims", [2, 3])
def test_resampling_keeps_the_function(n: int, m: int, dims: int) -> None:
    """A band-limited function about the centre is the same function on the other grid, grey values included."""

    def wave(size: int) -> np.ndarray:
        r = [np.asarray(g) for g in np.meshgrid(*[(np.arange(size) - size // 2) / size] * dims, indexing="ij")]
        return (2 + np.cos(2 * np.pi * (2 * r[0] - r[1])) + np.sin(2 * np.pi * (5 * r[-1] + r[0]))).astype(np.float64)

    assert np.abs(resample(wave(n)[None], m, dims=dims)[0] - wave(m)).max() < 1e-10


@pytest.mark.parametrize("dims", [2, 3])
def test_cutting_what_was_padded_gives_it_back(dims: int, rng: np.random.Generator) -> None:
    for n in BOXES:
        x = rng.normal(size=(1, *(n,) * dims))
        if n % 2 == 0:  # what an even box says of its Nyquist planes has no place in a larger one
            forward, backward = (rfft2c, irfft2c) if dims == 2 else (rfft3c, irfft3c)
            spectrum = forward(x)
            for axis in range(dims - 1):
                spectrum[(slice(None), *(slice(None),) * axis, n // 2)] = 0
            spectrum[..., -1] = 0
            x = backward(spectrum, n)
        assert np.abs(resample(resample(x, 2 * n + 1, dims=dims), n, dims=dims) - x).max() < 1e-10


def test_cropping_to_the_same_box_changes_nothing(rng: np.random.Generator) -> None:
    spectrum = rfft2c(rng.normal(size=(2, 8, 8)))
    assert crop(spectrum, 8, 8) is spectrum


# RELION ---------------------------------------------------------------------------------------------------------------


@pytest.mark.relion
@pytest.mark.parametrize(("n", "m"), [(48, 32), (48, 36), (32, 48)])
def test_relion_rescales_alike(n: int, m: int, relion_programs: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """relion_image_handler --rescale_angpix keeps grey values and the origin n // 2, as ``resample`` does.

    The image has no Nyquist terms, and where RELION enlarges none in the corners of Fourier space, which it cuts off.
    """
    image = resample(rng.normal(size=(1, n, n)), m - 3)[0] if n > m else smooth(n, rng, 2, 2.5)
    image = resample(image[None], n)[0].astype(np.float32)
    theirs = image_handler(relion_programs, tmp_path, image[None], 1.5, "--rescale_angpix", repr(1.5 * n / m))
    assert np.abs(theirs - resample(image[None], m)).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("n", [15, 16])
@pytest.mark.parametrize("dims", [2, 3])
def test_twice_the_box_keeps_every_pixel(n: int, dims: int, rng: np.random.Generator) -> None:
    """White noise, so that the Nyquist planes of even boxes count as much as the rest."""
    values = rng.normal(size=(n,) * dims)
    fine = resample(values[None], 2 * n, dims=dims)[0]
    at = 2 * (np.arange(n) - n // 2) + n  # origins coincide
    np.testing.assert_allclose(fine[np.ix_(*(at,) * dims)], values, atol=1e-12)


@pytest.mark.relion
def test_relion_shifts_alike(relion_programs: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    image = smooth(32, rng, 2)  # RELION fills with zeros what comes in at the edges
    theirs = image_handler(relion_programs, tmp_path, image[None], 1.0, "--shift_x", "2", "--shift_y", "-3")
    ours = irfft2c(rfft2c(image) * shift_phases(32, np.array([2.0, -3.0])), 32)
    assert np.abs(theirs - ours).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.relion
def test_relion_low_passes_alike(relion_programs: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """A raised cosine about the cut-off, two shells wide."""
    n, pixel_size, cut = 32, 2.0, 8.0
    volume = rng.normal(size=(n, n, n)).astype(np.float32)
    theirs = image_handler(relion_programs, tmp_path, volume, pixel_size, "--lowpass", str(cut))
    shell = np.sqrt(sum((k * n) ** 2 for k in frequencies(n, dims=3, dtype=np.float64)))
    ours = irfft3c(rfft3c(volume) * raised_cosine(shell, n * pixel_size / cut - 1, 2.0), n)
    assert np.linalg.norm(theirs - ours) < 1e-5 * np.linalg.norm(ours)
