"""Correlations of noise: what is significant, and how far the FSC strays, against simulated noise."""

import itertools

import numpy as np
import pytest

from cryoflow.errors import ParameterError
from cryoflow.kernels.masks import soft_sphere
from cryoflow.kernels.resolution import fsc, low_pass
from cryoflow.kernels.significance import fsc_deviation, fsc_significance
from cryoflow.postprocess import five_curves


def octahedral_mean(volume):
    """Mean over the 24 proper rotations of the cube, exact on an odd grid."""
    total = np.zeros_like(volume)
    for axes in itertools.permutations(range(3)):
        even = axes in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
        for signs in itertools.product((1, -1), repeat=3):
            if np.prod(signs) == (1 if even else -1):
                total += volume.transpose(axes)[:: signs[0], :: signs[1], :: signs[2]]
    return total / 24


def test_significance_of_noise_and_of_weak_signal_with_and_without_symmetry():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a, b, signal = rng.standard_normal((3, 33, 33, 33))
        assert fsc_significance(fsc(a, b), 33) < 5
        assert fsc_significance(fsc(octahedral_mean(a), octahedral_mean(b)), 33) < 5
        weak = 3 * low_pass(signal, 8.0, 1.0)
        assert fsc_significance(fsc(a + weak, b + weak), 33) > 5


@pytest.mark.parametrize(("n", "radius", "order"), [(25, None, 1), (33, 8, 1), (32, 11, 1), (33, 9, 24)])
def test_deviation_is_the_scatter_of_noise(n, radius, order):
    """Of 150 pairs of noise volumes, in a mask and under a point group; 6 % is the scatter of one shell's deviation."""
    rng = np.random.default_rng(7)
    mask = None if radius is None else soft_sphere(n, radius, 3)
    curves = []
    for _ in range(150):
        pair = rng.standard_normal((2, n, n, n))
        if order == 24:
            pair = [octahedral_mean(v) for v in pair]
        curves.append(fsc(*(pair if mask is None else [v * mask for v in pair])))
    ratio = np.std(curves, axis=0)[4:] / fsc_deviation(n, mask=mask, order=order)[4:]
    assert ratio.mean() == pytest.approx(1, abs=0.07)
    assert abs(ratio - 1).max() < 0.25


@pytest.mark.parametrize("order", [1, 24])
def test_deviation_of_the_corrected_curve_counts_the_random_phases(order):
    rng = np.random.default_rng(3)
    mask, found, told = soft_sphere(33, 9, 3), [], []
    for seed in range(40):
        pair = rng.standard_normal((2, 33, 33, 33)).astype(np.float32)
        if order == 24:
            pair = [octahedral_mean(v) for v in pair]
        five = five_curves(*pair, pixel_size=2.0, mask=mask, order=order, seed=seed)
        found.append(five.curves["corrected"])
        told.append(five.deviation)
    ratio = np.std(found, axis=0)[6:] / np.mean(told, axis=0)[6:]
    assert ratio.mean() == pytest.approx(1, abs=0.12)


def test_a_mask_of_another_box_or_of_nothing_is_refused():
    for mask in (soft_sphere(16, 4, 1), np.zeros((24, 24, 24))):
        with pytest.raises(ParameterError, match="fsc_deviation"):
            fsc_deviation(24, mask=mask)
