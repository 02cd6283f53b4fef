"""The expectation step: fused CPU path against whole arrays, and both against what was simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulated import NOISE, PIXEL, maps, particles

from cryoflow.kernels.expectation import cross_and_norm, expectation, make_tables, prepare_images
from cryoflow.kernels.expectation_device import expectation_arrays
from cryoflow.kernels.expectation_reference import significance_thresholds
from cryoflow.kernels.fourier import rfft2c
from cryoflow.kernels.posterior import significance_threshold
from cryoflow.kernels.projection import prepare_volume
from cryoflow.kernels.rotation import angular_distance, rotation_about
from cryoflow.kernels.samples import half_plane
from cryoflow.kernels.search import Search, fixed_search, global_search, local_search
from cryoflow.kernels.symmetry import point_group


def arguments(
    search: Search, *, classes: int = 1, groups: int = 1, table: bool = True, free_scale: bool = False, n: int = 24,
    count: int = 14, radii: tuple[int, int, int] = (6, 8, 10), seed: int = 0, halves: bool = True, limit: int = 40,
    fraction: float = 0.99, padding: int = 2, deviation: float = NOISE, share: float = 0.0, group: str = "C1",
    **other: Any,
) -> dict[str, Any]:  # fmt: skip
    """Everything ``expectation`` takes, for particles whose truth is in the rows."""
    rng = np.random.default_rng(seed)
    volumes = maps(n, classes, rng)
    rows = particles(volumes, count, rng, groups, deviation)
    prepared = np.stack([prepare_volume(v, radius=radii[1], padding=padding) for v in volumes])
    prepared = np.stack([prepared, 0.9 * prepared]) if halves else prepared[None]
    n_half = len(prepared)
    samples = half_plane(n, (n - 1) // 2)
    counts = (samples.count(radii[0]), samples.count(radii[1]))
    coarse = fine = np.zeros((n_half, classes, 0, 0), np.complex64)
    if search.absolute:
        coarse, fine = make_tables(prepared, search, samples, counts)
        fine = fine if table else fine[:, :, :0, :0]
    sigma2 = (
        0.5 * (deviation * (1 + 0.5 * np.arange(groups))[:, None] * (1 + 0.01 * np.arange(samples.radius + 1))) ** 2
    )
    return {
        **rows, "volumes": prepared, "coarse_table": coarse, "fine_table": fine, "search": search,
        "sigma2": np.stack([sigma2] * n_half), "scale": np.array([[1.0, 1.1]] * n_half), "radii": radii,
        "pixel_size": PIXEL, "mask_radius": 0.4 * n, "shift_sigma": 3.0, "fraction": fraction, "limit": limit,
        "free_scale": free_scale, "lock_classes": False,
        "class_weight": np.full((n_half, classes), 1 / classes), "padding": padding,
        "rotation_width": np.linspace(0, 3, count), "shift_width": np.linspace(0, PIXEL, count),
        "share": np.full((n_half, classes, samples.radius + 1), share), "operators": point_group(group), **other,
    }  # fmt: skip


def near(step: float, **other: Any) -> Search:
    return local_search(step, sigma=1.5 * step, shift_range=2.0, shift_step=1.0, **other)


COARSE = global_search(1, "C1", shift_range=3.0, shift_step=1.5)
CASES = {
    "global with table": {"search": COARSE},
    "global without table": {"search": COARSE, "table": False},
    "jittered grid": {"search": global_search(0, "D2", shift_range=2, shift_step=1, rng=np.random.default_rng(1))},
    "few kept": {"search": COARSE, "limit": 5, "fraction": 0.999},
    "local": {"search": near(6.0)},
    "odd box, padding 3": {"search": near(8.0), "n": 23, "padding": 3},
    "padding 1": {"search": near(8.0), "padding": 1},
    "fixed": {"search": fixed_search()},
    "fixed rotation, free shift": {"search": fixed_search(shift_range=2.0, shift_step=1.0)},
    "free scale": {"search": COARSE, "free_scale": True, "fraction": 0.9, "limit": 24},
    "two classes": {"search": COARSE, "classes": 2, "halves": False},
    "two classes, local": {"search": near(8.0), "classes": 2, "halves": False, "table": False},
    "classes locked": {"search": COARSE, "classes": 2, "halves": False, "lock_classes": True},
    "two noise groups": {"search": near(8.0), "groups": 2},
    "its own noise, local": {"search": near(8.0), "share": 0.03},
    "its own noise, global": {"search": COARSE, "share": 0.03},
    "its own noise, D2": {"search": global_search(0, "D2", shift_range=2, shift_step=1), "share": 0.02, "group": "D2",
                          "seed": 1},
    "its own noise, two classes": {"search": near(8.0), "classes": 2, "halves": False, "share": 0.05, "padding": 1},
    "model beyond the alignment": {"search": near(8.0), "radii": (5, 7, 11)},
    "model within the alignment": {"search": near(8.0), "radii": (5, 9, 6)},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_fused_path_and_whole_arrays_agree(case: str) -> None:
    """Same rows and sums to float32 rounding, from code that shares neither loops nor products."""
    given = arguments(**CASES[case])
    rows, sums = expectation(**given)
    other_rows, other_sums = expectation_arrays(**given)
    assert rows.keys() == other_rows.keys()
    for name, tolerance in (("rotation", 1e-9), ("shift", 1e-9), ("class_number", 0), ("significant", 0)):
        assert np.abs(rows[name] - other_rows[name]).max() <= tolerance, name
    for name in ("max_probability", "log_likelihood", "rotation_width", "shift_width", "x_residual"):
        np.testing.assert_allclose(other_rows[name], rows[name], rtol=2e-4, atol=2e-3, err_msg=name)
    assert sums.keys() == other_sums.keys()
    for name, value in sums.items():
        assert np.abs(other_sums[name] - value).max() <= 2e-5 * np.abs(value).max(), name
    assert float(np.abs(sums["model"]).max()) > 0


def test_cases_leave_something_to_decide() -> None:
    """The comparison above is worth something only where posteriors are broad and lists of different lengths."""
    kept = {case: expectation(**arguments(**CASES[case]))[0]["significant"] for case in CASES}
    assert all(np.ptp(k) > 0 for case, k in kept.items() if case != "fixed")
    assert max(k.max() for k in kept.values()) > 100
    assert sum(bool(k.mean() > 5) for k in kept.values()) >= 7


@pytest.mark.parametrize("fraction", [0.2, 0.9, 0.999])
def test_significance_threshold_against_sorting(fraction: float) -> None:
    rng = np.random.default_rng(2)
    for spread in (0.5, 3.0, 30.0):
        scores = rng.normal(0, spread, (40, 30)).astype(np.float32) - 100
        best, log_sum, threshold = significance_threshold(scores, fraction)
        flat = np.sort(scores.ravel().astype(float))[::-1]
        weight = np.exp(flat - flat[0])
        assert best == flat[0]
        assert log_sum == pytest.approx(flat[0] + np.log(weight.sum()), abs=1e-6)
        held = np.cumsum(weight) / weight.sum()
        exact = flat[int(np.argmax(held >= fraction))]  # the last score that is needed
        assert exact - 0.0501 <= threshold <= exact
        assert weight[flat >= threshold].sum() >= fraction * weight.sum()


def test_significance_thresholds_of_many_images() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(0, rng.uniform(0.5, 40, (6, 1)), (6, 500)).astype(np.float32)
    scores[:, 450:] = -np.inf  # padding
    each = [significance_threshold(s[:450], 0.95) for s in scores]
    for got, expected in zip(significance_thresholds(scores, 0.95), zip(*each)):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_cross_and_norm_are_the_inner_products() -> None:
    rng = np.random.default_rng(0)
    moved = (rng.normal(size=(3, 4, 50)) + 1j * rng.normal(size=(3, 4, 50))).astype(np.complex64)
    table = (rng.normal(size=(7, 50)) + 1j * rng.normal(size=(7, 50))).astype(np.complex64)
    weight = rng.uniform(size=(3, 50)).astype(np.float32)
    cross, norm = cross_and_norm(moved, weight, table)
    np.testing.assert_allclose(cross, np.einsum("btk,rk->btr", moved.astype(complex), table.conj()).real, atol=1e-4)
    np.testing.assert_allclose(norm, np.einsum("bk,rk->br", weight, np.abs(table) ** 2), rtol=1e-5)


@pytest.mark.parametrize("n", [24, 25])
def test_prepared_images_are_moved_masked_and_scaled(n: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, n, n)).astype(np.float32)
    shift, samples = np.array([[0.0, 0.0], [2.2, -3.4], [-5.0, 1.0]]), half_plane(n, (n - 1) // 2)
    masked, unmasked = prepare_images(image, shift, np.array([1.0, 2.0, 0.5]), samples, 0.3 * n)
    y, x = np.mgrid[:n, :n] - n // 2
    inside, outside = np.hypot(x, y) <= 0.3 * n, np.hypot(x, y) >= 0.3 * n + 5
    for i, (dx, dy) in enumerate([(0, 0), (2, -3), (-5, 1)]):
        moved = np.roll(image[i], (dy, dx), axis=(0, 1)) / [1.0, 2.0, 0.5][i]
        # whole pixels by moving, their fractions (0.2, -0.4 of the second) by a phase
        rest = shift[i] - [dx, dy]
        phase = np.exp(-2j * np.pi * (samples.kx * rest[0] + samples.ky * rest[1]) / n)
        assert np.abs(unmasked[i] - samples.take(rfft2c(moved)) * phase).max() < 1e-4
        disc = np.zeros((n, n))
        d = np.hypot(x, y) - 0.3 * n
        disc[inside] = 1
        rim = ~inside & ~outside
        disc[rim] = 0.5 + 0.5 * np.cos(np.pi * d[rim] / 5)
        assert np.abs(masked[i] - samples.take(rfft2c(moved * disc)) * phase).max() < 1e-4


def test_fixed_poses_keep_fractions_of_a_pixel() -> None:
    search = fixed_search()
    given = arguments(search, n=32, count=8, radii=(15, 15, 15), fraction=0.999, limit=10)
    fraction = given["shift"] + PIXEL * np.array([0.3, -0.45])
    rows, _ = expectation(**{**given, "shift": fraction})
    np.testing.assert_allclose(rows["shift"], fraction, atol=1e-6)
    better, _ = expectation(**given)
    assert (better["log_likelihood"] > rows["log_likelihood"]).all()


def off_by(given: dict[str, Any], degrees: float, pixels: float, seed: int = 1) -> dict[str, Any]:
    """The same particles with poses in the rows away from the truth."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(len(given["image"]), 3))
    turn = np.array([rotation_about(a, degrees) for a in axes])
    shift = given["shift"] + PIXEL * pixels * rng.choice([-1.0, 1.0], given["shift"].shape)
    return {**given, "rotation": turn @ given["rotation"], "shift": shift}


def test_global_search_finds_the_truth() -> None:
    """A 7.5-degree grid finds poses within its spacing, shifts within half a pixel, for nearly all particles."""
    search = global_search(2, "C1", shift_range=3.0, shift_step=1.5)
    given = arguments(search, n=32, count=24, radii=(9, 13, 15), fraction=0.999, limit=100)
    truth = given["rotation"], given["shift"]
    rows, sums = expectation(
        **{**given, "rotation": np.broadcast_to(np.eye(3), (24, 3, 3)), "shift": np.zeros((24, 2))}
    )
    assert np.median(angular_distance(rows["rotation"], truth[0])) < 7.5
    assert (np.asarray(angular_distance(rows["rotation"], truth[0])) < 15).mean() > 0.9
    assert np.median(np.abs(rows["shift"] - truth[1])) / PIXEL < 0.5
    assert sums["particles"].sum() == 24


def test_local_search_returns_to_the_truth() -> None:
    search = near(2.0)
    given = arguments(search, n=32, count=20, radii=(10, 14, 15), fraction=0.999, deviation=0.7)
    away = off_by(given, 3.0, 0.7)
    rows, _ = expectation(**away)
    before = np.asarray(angular_distance(away["rotation"], given["rotation"]))
    after = np.asarray(angular_distance(rows["rotation"], given["rotation"]))
    assert before.min() > 2.9
    assert np.median(after) < 1.5
    assert np.median(np.abs(rows["shift"] - given["shift"])) < 0.4 * PIXEL


def test_classes_are_told_apart() -> None:
    given = arguments(near(3.0), classes=3, halves=False, n=32, count=24, radii=(10, 14, 15))
    rows, sums = expectation(**{**given, "class_number": np.ones(24, int)})
    assert (rows["class_number"] == given["class_number"]).mean() > 0.9
    assert sums["classes"].sum() == 24


def test_residual_is_the_noise_that_was_put_in() -> None:
    """At the true poses the residual power over the count is the noise variance of one component, by group."""
    search = replace(fixed_search(), shifts=np.zeros((1, 2)), child_shifts=np.zeros((1, 1, 2)))
    given = arguments(search, groups=2, n=32, count=160, radii=(15, 15, 15), halves=False, mask_radius=100.0)
    given |= {"shift": np.zeros((160, 2)), "scale": np.ones((1, 2))}
    rng = np.random.default_rng(3)
    given["image"] = given["image"] * 0 + rng.normal(size=given["image"].shape).astype("f4") * (
        NOISE * (1 + 0.5 * given["optics_group"][:, None, None])
    ).astype("f4")  # fmt: skip
    given["volumes"] = given["volumes"] * 0  # of a reference that is nothing, everything is residual
    _, sums = expectation(**given)
    sigma2 = (sums["residual"] / sums["count"])[0]
    for g, deviation in enumerate((NOISE, 1.5 * NOISE)):
        assert sigma2[g, 1:].mean() == pytest.approx(0.5 * deviation**2, rel=0.02)


def test_scale_of_a_group_is_recovered() -> None:
    """xa / aa at the true poses is the factor by which a group's images are brighter than the reference says."""
    given = arguments(fixed_search(), n=32, count=60, radii=(13, 13, 13), halves=False, scale=np.ones((1, 2)))
    bright = np.where(given["group"] == 2, 1.5, 1.0)[:, None, None]
    given |= {"image": (given["image"] * bright).astype(np.float32), "mask_radius": 100.0}
    _, sums = expectation(**given)
    ratio = sums["xa"][0] / sums["aa"][0]
    assert ratio[1] / ratio[0] == pytest.approx(1.5, rel=0.1)


def test_particles_of_a_half_set_touch_nothing_of_the_other() -> None:
    given = arguments(near(8.0))
    keep = np.flatnonzero(given["half"] == 1)
    names = [k for k in given if np.ndim(given[k]) and len(given[k]) == len(given["image"])]
    alone = {**given, **{k: given[k][keep] for k in names}}
    rows, sums = expectation(**given)
    rows_1, sums_1 = expectation(**alone)
    for name in rows:
        np.testing.assert_array_equal(rows[name][keep], rows_1[name])
    np.testing.assert_array_equal(sums["model"][0], sums_1["model"][0])
    assert not sums_1["model"][1].any()
    assert sums["particles"].tolist() == [len(keep), len(given["image"]) - len(keep)]
