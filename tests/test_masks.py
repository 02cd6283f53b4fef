"""Masks against distances worked out by hand and shapes of known size."""

import numpy as np
import pytest

from cryoflow.errors import ParameterError
from cryoflow.kernels import masks


@pytest.mark.parametrize("n", [20, 21])
def test_soft_sphere_at_every_voxel(n):
    z, y, x = np.indices((n, n, n)) - n // 2
    d = np.sqrt(x**2 + y**2 + z**2)
    expected = np.where(d <= 5, 1.0, np.where(d >= 8, 0.0, 0.5 + 0.5 * np.cos(np.pi * (d - 5) / 3)))
    sphere = masks.soft_sphere(n, 5, 3)
    assert sphere.dtype == np.float32
    np.testing.assert_allclose(sphere, expected, atol=1e-6)
    np.testing.assert_array_equal(masks.soft_sphere(n, 5, 3, dims=2), sphere[n // 2])
    assert set(np.unique(masks.soft_sphere(n, 5, 0))) == {0.0, 1.0}


def test_soft_edge_is_a_function_of_the_exact_distance():
    rng = np.random.default_rng(0)
    binary = rng.random((12, 13, 14)) < 0.003
    points = np.argwhere(binary)
    assert len(points) > 2
    grid = np.stack(np.indices(binary.shape), -1)
    d = np.sqrt(((grid[..., None, :] - points) ** 2).sum(-1)).min(-1)
    expected = np.where(d <= 2, 1.0, np.where(d >= 4.5, 0.0, 0.5 + 0.5 * np.cos(np.pi * (d - 2) / 2.5)))
    np.testing.assert_allclose(masks.soft_edge(binary, 2, 2.5), expected, atol=1e-6)
    assert masks.soft_edge(np.zeros((4, 4, 4), bool), 2, 2).max() == 0
    assert np.isinf(masks.distance_outside(np.zeros((4, 4, 4), bool))).all()
    assert masks.soft_edge(np.ones((4, 4, 4), bool), 2, 2).min() == 1


def test_largest_component_takes_the_larger_of_two():
    volume = np.zeros((16, 16, 16), bool)
    volume[1:4, 1:4, 1:4] = True
    volume[8:14, 8:14, 8:14] = True
    volume[14, 14, 14] = True  # touches by a corner
    kept = masks.largest_component(volume)
    assert kept.sum() == 6**3 + 1
    assert not kept[2, 2, 2]
    assert not masks.largest_component(np.zeros((4, 4, 4), bool)).any()


def test_auto_mask_finds_a_ball_in_noise_and_leaves_out_dust():
    rng = np.random.default_rng(1)
    ball = masks.soft_sphere(48, 10, 2)
    volume = ball + 0.5 * rng.standard_normal(ball.shape).astype(np.float32)
    volume[3:7, 3:7, 3:7] += 3
    mask = masks.auto_mask(volume, pixel_size=2.0, low_pass_to=12.0, extend=4.0, soft=6.0)
    d = np.sqrt(((np.indices(mask.shape) - 24) ** 2).sum(0))
    assert mask[d <= 11].min() == 1
    assert mask[d >= 20].max() == 0
    assert (mask >= 0).all()
    assert (mask <= 1).all()
    with_dust = masks.auto_mask(volume, pixel_size=2.0, low_pass_to=12.0, largest=False)
    assert with_dust[5, 5, 5] == 1


def test_auto_mask_does_not_depend_on_scale_or_offset():
    ball = masks.soft_sphere(32, 8, 4) + 0.01 * np.random.default_rng(2).standard_normal((32,) * 3).astype(np.float32)
    first = masks.auto_mask(ball, pixel_size=2.0)
    np.testing.assert_allclose(masks.auto_mask(1000 * ball - 70, pixel_size=2.0), first, atol=0.35)
    assert abs((masks.auto_mask(1000 * ball - 70, pixel_size=2.0) - first).mean()) < 1e-3


def test_auto_mask_encloses_the_mass_of_apoferritin(data):
    """440 kDa of protein at 1.21 cubic angstrom a dalton, in a shell whose cavity is empty."""
    import mrcfile

    halves = [mrcfile.read(data / "maps" / f"apoferritin_half{i}_unfil.mrc") for i in (1, 2)]
    mean = 0.5 * (halves[0] + halves[1])
    bare = masks.auto_mask(mean, pixel_size=1.5, extend=0.0, soft=0.0)
    volume = bare.sum() * 1.5**3
    assert 0.9 * 532_000 < volume < 1.5 * 532_000
    assert bare[64, 64, 64] == 0


@pytest.mark.parametrize("bad", ["nan", "constant", "threshold"])
def test_auto_mask_refuses(bad):
    ball = masks.soft_sphere(16, 4, 2)
    volume = {"nan": np.where(ball > 0.5, np.nan, ball), "constant": np.ones_like(ball), "threshold": ball}[bad]
    with pytest.raises(ParameterError):
        masks.auto_mask(volume, pixel_size=2.0, threshold=9.0 if bad == "threshold" else None)


def test_soft_sphere_refuses_negative_sizes():
    with pytest.raises(ParameterError):
        masks.soft_sphere(16, -1, 2)


def test_device_masks_agree_with_the_host():
    cupy = pytest.importorskip("cupy", reason="needs CuPy and a CUDA device")
    if not cupy.cuda.is_available():
        pytest.skip("no CUDA device")
    ball = masks.soft_sphere(32, 8, 4)
    on_device = masks.auto_mask(cupy.asarray(ball), pixel_size=2.0)
    np.testing.assert_allclose(on_device.get(), masks.auto_mask(ball, pixel_size=2.0), atol=1e-4)
