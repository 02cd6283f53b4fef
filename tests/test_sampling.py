"""Search grids: counts, coverage, uniformity, symmetry, oversampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from cryoflow.errors import ParameterError
from cryoflow.kernels import sampling as sg
from cryoflow.kernels.rotation import angular_distance, matrix_to_euler, random_rotations, vector_to_rotation
from cryoflow.kernels.symmetry import group_order, point_group


def nearest(grid: np.ndarray, group: str, probes: np.ndarray) -> np.ndarray:
    """Degrees from each probe to the nearest rotation of the grid or its images: |A - B|_F = sqrt(8) sin(angle / 2)."""
    full = np.concatenate([grid @ g for g in point_group(group)]).reshape(-1, 9)
    chord, _ = cKDTree(full).query(probes.reshape(-1, 9))
    return np.rad2deg(2 * np.arcsin(chord / np.sqrt(8)))


def test_counts_and_angles_are_relions() -> None:
    # RELION: 12 * 4^order directions times 360 / (60 / 2^order) in-plane angles
    assert [len(sg.so3_grid(order)) for order in range(4)] == [72, 576, 4608, 36864]
    assert [sg.angular_step(order) for order in range(6)] == [60, 30, 15, 7.5, 3.75, 1.875]
    grid = sg.so3_grid(1)
    angles = matrix_to_euler(grid.rotations)
    np.testing.assert_allclose(np.unique(np.mod(angles[:, 2] + 1e-7, 360).round(5)), np.arange(0, 360, 30))
    np.testing.assert_array_equal(grid.psi_index[:13], [*range(12), 0])
    np.testing.assert_array_equal(grid.direction_index[[0, 11, 12]], [0, 0, 1])
    np.testing.assert_allclose(grid.take([77, 5]), grid.rotations[[77, 5]])
    np.testing.assert_allclose(grid.rotations[::12, 2], grid.directions, atol=1e-12)


@pytest.mark.parametrize("group", ["C1", "C2", "C4", "C7", "D2", "D7", "T", "O", "I"])
def test_grid_covers_all_views_and_is_no_larger_than_needed(group: str) -> None:
    probes = random_rotations(4000, np.random.default_rng(0))
    for order in (2, 3):
        grid = sg.so3_grid(order, group, np.random.default_rng(order))
        share = len(grid) * group_order(group) / len(sg.so3_grid(order))
        assert 0.9 < share < (1.03 if group in {"C1", "C2", "C4", "D2"} else 1.25)
        distance = nearest(grid.rotations, group, probes)
        assert distance.max() < 1.1 * grid.step  # measured: 0.80 to 1.05 of the step
        assert distance.mean() < 0.5 * grid.step


def test_no_two_grid_points_are_the_same_view() -> None:
    for group in ("C2", "D2", "O"):
        r = sg.so3_grid(1, group).rotations
        d = angular_distance(r[:, None], r[None], point_group(group))
        assert d[~np.eye(len(r), dtype=bool)].min() > 5.0


def test_children_fill_their_cells_and_make_the_finer_grid() -> None:
    probes = random_rotations(4000, np.random.default_rng(1))
    for shift in (None, np.random.default_rng(5)):
        grid = sg.so3_grid(2, "C1", shift)
        children = sg.oversample(grid, np.arange(len(grid)))
        assert children.shape == (len(grid), 8, 3, 3)
        assert angular_distance(children, grid.rotations[:, None]).max() < 0.6 * grid.step  # also at the poles
        distance = nearest(children.reshape(-1, 3, 3), "C1", probes)
        assert distance.max() < 1.0 * sg.angular_step(3)
        assert distance.mean() < 0.49 * sg.angular_step(3)  # as the grid of order 3 itself: 0.47
    np.testing.assert_allclose(sg.oversample(grid, [3], 0)[0, 0], grid.take(3))
    two = sg.oversample(grid, [3, 9], 2)
    assert two.shape == (2, 64, 3, 3)
    # grandchildren are uniform around the parent: their mean direction is the parent's
    mean = two[:, :, 2].mean(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.rad2deg(np.arccos((mean * grid.take([3, 9])[:, 2]).sum(1))).max() < 0.1 * grid.step


def test_random_shift_moves_the_grid_by_at_most_half_a_step_and_is_repeatable() -> None:
    plain = sg.so3_grid(2, "D2")
    turned = [sg.so3_grid(2, "D2", np.random.default_rng(7)) for _ in range(2)]
    np.testing.assert_array_equal(turned[0].rotations, turned[1].rotations)
    moved = angular_distance(turned[0].rotations, plain.rotations)
    assert 0.1 < moved.max() <= np.sqrt(3) / 2 * plain.step


def test_local_set_covers_what_it_says_with_fewer_points_than_a_cubic_grid() -> None:
    local = sg.local_rotations(1.875, 3.75)
    cubic = 4 / 3 * np.pi * (local.radius / local.step) ** 3
    assert len(local) < 0.62 * cubic
    rng = np.random.default_rng(2)
    v = rng.standard_normal((3000, 3))
    reach = local.radius - local.covering_radius
    v *= (reach * rng.random(3000) ** (1 / 3) / np.linalg.norm(v, axis=1))[:, None]
    chord, _ = cKDTree(local.rotations.reshape(-1, 9)).query(vector_to_rotation(v).reshape(-1, 9))
    worst = np.rad2deg(2 * np.arcsin(chord / np.sqrt(8))).max()
    assert 0.9 * local.covering_radius < worst <= local.covering_radius
    # the set is symmetric: with D also its inverse
    np.testing.assert_allclose(np.sort(local.vectors, axis=0), np.sort(-local.vectors, axis=0), atol=1e-12)


def test_local_children_are_the_finer_lattice() -> None:
    local = sg.local_rotations(2.0, 4.0)
    offsets = sg.oversample_local(local)
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=1e-12)
    children = (local.vectors[:, None] + offsets).reshape(-1, 3)
    pairs = cKDTree(children).query(children, 2)[0][:, 1]
    fine = sg.local_rotations(1.0, 4.0)
    spacing = cKDTree(fine.vectors).query(fine.vectors, 2)[0][:, 1].min()
    np.testing.assert_allclose(pairs, spacing, rtol=1e-9)  # no child twice, none nearer than the lattice allows
    assert sg.oversample_local(local, 2).shape == (64, 3)


def test_shift_grids() -> None:
    for extent, step in ((5.0, 1.0), (6.0, 2.0), (3.3, 0.7), (0.0, 1.0)):
        t = sg.shift_grid(extent, step)
        assert (np.hypot(*t.T) <= extent + 1e-9).all()
        assert (t == 0).all(axis=1).sum() == 1
        m = np.arange(-20, 21)
        assert len(t) == (np.hypot(m[:, None], m[None]) * step <= extent + 1e-9).sum()
    fine = (sg.shift_grid(4.0, 2.0)[:, None] + sg.oversample_shifts(2.0)).reshape(-1, 2)
    assert len(np.unique(fine, axis=0)) == len(fine)
    np.testing.assert_allclose(cKDTree(fine).query(fine, 2)[0][:, 1], 1.0)
    np.testing.assert_allclose(sg.oversample_shifts(1.0, 2).mean(axis=0), 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sg.so3_grid(-1),
        lambda: sg.so3_grid(13),
        lambda: sg.so3_grid(1, "X3"),
        lambda: sg.so3_grid(1).take(576),
        lambda: sg.local_rotations(0.0, 1.0),
        lambda: sg.local_rotations(1.0, 30.0),
        lambda: sg.shift_grid(-1.0, 1.0),
        lambda: sg.shift_grid(1.0, 0.0),
    ],
)
def test_bad_parameters_are_refused(call: object) -> None:
    with pytest.raises(ParameterError):
        call()  # type: ignore[operator]
