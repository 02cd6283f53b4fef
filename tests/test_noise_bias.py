"""The noise bias against references that hold one particle's noise and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from cryoflow.kernels.fourier import rfft2c
from cryoflow.kernels.masks import soft_sphere
from cryoflow.kernels.noise_bias import NoiseBias, _i0e, noise_bias, subtract_bias
from cryoflow.kernels.projection import accumulator, insert_slices, prepare_volume, slices
from cryoflow.kernels.rotation import random_rotations, rotation_about
from cryoflow.kernels.samples import half_plane
from cryoflow.kernels.symmetry import point_group
from cryoflow.refinement import maximise as mx

N, RADIUS, DIAMETER, IMAGES, SEEN = 40, 15, 28.0, 300, 24
SAMPLES = half_plane(N, RADIUS)
X, Y, Z = np.eye(3)
# turns in degrees about an axis, and shifts in pixels, away from the pose that a particle had
MOVES = [(X, 0, 0, 0), (Z, 2, 0, 0), (Z, 5, 0, 0), (Z, 10, 0, 0), (X, 2, 0, 0), (X, 5, 0, 0), (Y, 10, 0, 0),
         (X, 0, 0.5, 0), (X, 0, 1, 1), (X, 3, 0, 0.5), (X + Z, 6, 0, 0)]  # fmt: skip


def noise_images(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Samples of white noise of variance 1 a real part, as it is and within the particle's disc."""
    image = rng.standard_normal((IMAGES, N, N)) * np.sqrt(2)
    disc = soft_sphere(N, DIAMETER / 2, 5.0, dims=2)
    spectra = (rfft2c(x).astype(np.complex64) for x in (image, image * disc))
    return tuple(SAMPLES.take(x) for x in spectra)


@pytest.mark.parametrize("group", ["C1", "D2"])
def test_bias_is_that_of_the_particles_own_noise(group: str) -> None:
    """Score of each move in a reference made of one particle's noise, with the weights of all: the formula's value."""
    rng = np.random.default_rng(5)
    unmasked, masked = noise_images(rng)
    sigma2 = float((np.abs(masked[:, 1:]) ** 2).mean() / 2)
    transfer = np.cos(0.02 * SAMPLES.shell**2 + 0.5).astype(np.float32)
    rotations, operators = random_rotations(IMAGES, rng), point_group(group)
    weight = np.tile(transfer**2 / np.float32(sigma2), (IMAGES, 1))
    grid = mx.Grid(N, N, RADIUS, 2)
    shells = grid.shells()
    ssnr = np.linspace(20, 0.5, RADIUS + 1)
    mask = mx.solvent(None, DIAMETER, grid)

    def insert(some: slice) -> np.ndarray:
        total = accumulator(RADIUS)
        y = (unmasked[some] * transfer / sigma2).astype(np.complex64)
        insert_slices(total, y, weight[some], rotations[some], SAMPLES)
        return mx.finish_sums(total[None, None], operators)[0, 0]

    every = insert(slice(None))
    share = mx.own_share(every, ssnr, mask, grid, shells, diameter_px=DIAMETER)
    found = np.zeros((SEEN, len(MOVES)))
    told = np.zeros((SEEN, len(MOVES)), np.float32)
    for i in range(SEEN):
        alone = insert(slice(i, i + 1))
        alone[..., 2] = every[..., 2]
        volume = prepare_volume(mask * mx.reconstruct(alone, ssnr, grid, shells), radius=RADIUS)
        y = masked[i] * transfer / sigma2
        y[0] = 0
        for j, (axis, degrees, dx, dy) in enumerate(MOVES):
            turned = rotation_about(axis / np.linalg.norm(axis), degrees) @ rotations[i] @ operators[j % len(operators)]
            p = slices(volume, turned[None], SAMPLES)[0]
            phase = np.exp(-2j * np.pi * (SAMPLES.kx * dx + SAMPLES.ky * dy) / N)
            found[i, j] = float((p * np.conj(y * phase)).real.sum())
            bias = noise_bias(
                weight[i : i + 1], SAMPLES, share=share[None], rotation=rotations[i : i + 1], operators=operators,
                class_of=np.zeros(1, int), shift=np.zeros((1, 2)), rotation_width=np.zeros(1), shift_width=np.zeros(1),
                shifts=(np.zeros((1, 2)), np.array([[dx, dy]])), counts=(1, len(SAMPLES)), radius=DIAMETER / 2 + 2.5,
            )  # fmt: skip
            scores = np.zeros((1, 1), np.float32)
            subtract_bias(scores, turned[None], bias.own[0], bias.decay[0], bias.reach[0], bias.fine[0])
            told[i, j] = -scores[0, 0]
    found, told = found.mean(axis=0), told.mean(axis=0)
    assert found[0] > 1.0  # of log p: what the formula is about is not small
    np.testing.assert_allclose(told[0], found[0], rtol=0.08)
    np.testing.assert_allclose(told, found, atol=0.11 * found[0])


def test_a_wide_posterior_has_a_bias_that_is_low_and_wide() -> None:
    """The width of a pose blurs the bias: its values are the Gaussian mean of those of a sharp pose."""
    rng = np.random.default_rng(3)
    width = 4.0
    given = {
        "share": np.full((1, RADIUS + 1), 0.05), "operators": np.eye(3)[None], "class_of": np.zeros(1, int),
        "shift": np.zeros((1, 2)), "shift_width": np.zeros(1), "shifts": (np.zeros((1, 2)), np.zeros((1, 2))),
        "counts": (1, len(SAMPLES)), "radius": 14.0, "rotation": np.eye(3)[None],
    }  # fmt: skip
    weight = np.ones((1, len(SAMPLES)), np.float32)
    sharp, wide = (noise_bias(weight, SAMPLES, rotation_width=np.deg2rad([w]), **given) for w in (0.0, width))

    def of(bias: NoiseBias, rotations: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(rotations), 1), np.float32)
        subtract_bias(scores, rotations, bias.own[0], bias.decay[0], bias.reach[0], bias.fine[0])
        return -scores[:, 0]

    vectors = rng.standard_normal((20_000, 3)) * width / np.sqrt(3)  # the width is that of all three axes together
    for axis, degrees in ((Z, 0.0), (Z, 6.0), (X, 6.0)):
        here = rotation_about(axis, degrees)
        around = np.array([rotation_about(v / np.linalg.norm(v), float(np.linalg.norm(v))) for v in vectors[:4000]])
        mean = of(sharp, around @ here).mean()
        np.testing.assert_allclose(of(wide, here[None])[0], mean, rtol=0.06)
    assert of(wide, np.eye(3)[None])[0] < 0.9 * of(sharp, np.eye(3)[None])[0]


def test_a_reference_without_the_particle_has_no_bias() -> None:
    bias = noise_bias(
        np.ones((2, len(SAMPLES)), np.float32), SAMPLES, share=np.zeros((1, RADIUS + 1)), operators=np.eye(3)[None],
        rotation=np.stack([np.eye(3)] * 2), class_of=np.zeros(2, int), shift=np.zeros((2, 2)), radius=14.0,
        rotation_width=np.zeros(2), shift_width=np.zeros(2), shifts=(np.zeros((3, 2)), np.zeros((9, 2))), counts=(5, 9),
    )  # fmt: skip
    assert bias.coarse.shape == (2, 0, 3)
    assert bias.fine.shape == (2, 0, 9)


def test_bessel_function_of_the_compiled_loop() -> None:
    x = np.geomspace(1e-6, 500, 200)
    np.testing.assert_allclose([_i0e(v) for v in x], scipy.special.i0e(x), rtol=1e-6)
