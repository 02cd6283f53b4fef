"""Point groups against RELION's operators; asymmetric units; symmetrisation."""

from __future__ import annotations

import numpy as np
import pytest

from cryoflow.errors import ParameterError
from cryoflow.kernels.rotation import random_rotations
from cryoflow.kernels.symmetry import group_order, in_asymmetric_unit, orbit_once, point_group, symmetrise_volume

GROUPS = ["C1", "C2", "C4", "C7", "D2", "D3", "D7", "T", "O", "I1", "I2", "I3", "I4"]

# Two generating operators of each group, printed by RELION 3.1.3: relion_refine --sym <group> --print_symmetry_ops
RELION = {
    "C4": (4, [[[0, 1, 0], [-1, 0, 0], [0, 0, 1]]]),
    "D2": (4, [[[-1, 0, 0], [0, -1, 0], [0, 0, 1]], [[1, 0, 0], [0, -1, 0], [0, 0, -1]]]),
    "D7": (14, [[[0.62349, -0.78183, 0], [-0.78183, -0.62349, 0], [0, 0, -1]]]),
    "T": (
        12,
        [
            [[0.5, 0.86603, 0], [0.28867, -0.16667, 0.94281], [0.8165, -0.4714, -0.33333]],
            [[-1, 0, 0], [0, 0.33333, 0.94281], [0, 0.94281, -0.33333]],
        ],
    ),
    "O": (24, [[[0, 1, 0], [1, 0, 0], [0, 0, -1]]]),
    "I1": (60, [[[0.80902, -0.5, -0.30902], [0.5, 0.30902, 0.80902], [-0.30902, -0.80902, 0.5]]]),
    "I2": (60, [[[0.5, 0.80902, 0.30902], [-0.80902, 0.30902, 0.5], [0.30902, -0.5, 0.80902]]]),
    "I3": (
        60,
        [
            [[-0.44721, 0, -0.89443], [0, -1, 0], [-0.89443, 0, 0.44721]],
            [[0.67082, -0.16246, 0.72361], [0.68819, 0.5, -0.52573], [-0.27639, 0.85065, 0.44721]],
        ],
    ),
    "I4": (60, [[[0.3618, 0.58779, -0.72361], [-0.26287, 0.80902, 0.52573], [0.89443, 0, 0.44721]]]),
}


@pytest.mark.parametrize("name", list(RELION))
def test_operators_are_relions(name: str) -> None:
    order, operators = RELION[name]
    group = point_group(name)
    assert len(group) == order
    for operator in operators:
        assert np.abs(group - np.array(operator)).max(axis=(1, 2)).min() < 1e-5


def test_icosahedral_settings_differ_and_i_is_i2() -> None:
    np.testing.assert_array_equal(point_group("I"), point_group("I2"))
    for other in ("I1", "I3", "I4"):
        nearest = np.abs(point_group("I2")[:, None] - point_group(other)[None]).max(axis=(2, 3)).min(axis=1)
        assert nearest.max() > 0.1


@pytest.mark.parametrize("name", GROUPS)
def test_group_laws(name: str) -> None:
    group = point_group(name)
    assert len(group) == group_order(name)
    np.testing.assert_array_equal(group[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(group), 1)
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 9)
    distance = np.abs(products[:, None] - group.reshape(-1, 9)[None]).max(axis=2)
    np.testing.assert_array_equal((distance < 1e-9).sum(axis=1), 1)  # closed, no element twice


@pytest.mark.parametrize("name", ["", "C0", "D", "CNV", "I5", "O H", "C100", "../C2", None])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="point group"):
        point_group(name)


@pytest.mark.parametrize("name", GROUPS)
def test_asymmetric_unit_holds_each_orbit_once(name: str) -> None:
    group = point_group(name)
    d = random_rotations(3000, np.random.default_rng(0))[:, 2]
    orbits = np.einsum("gij,nj->ngi", group, d)
    np.testing.assert_array_equal(in_asymmetric_unit(orbits, name).sum(axis=1), 1)  # no random direction is on the edge
    assert in_asymmetric_unit(d, name, margin=5.0).mean() >= in_asymmetric_unit(d, name).mean()


@pytest.mark.parametrize("name", GROUPS)
def test_orbits_on_the_edge_are_kept_once(name: str) -> None:
    group = point_group(name)
    rng = np.random.default_rng(1)
    # axes of the group lie on edges and corners of the unit: special orbits, fewer members than operators
    special = (
        np.concatenate([np.linalg.eigh(g + g.T)[1][:, -1][None] for g in group[1:]]) if len(group) > 1 else np.eye(3)
    )
    seeds = np.concatenate([special[:6], random_rotations(20, rng)[:, 2]])
    kinds = []
    for seed in seeds:
        orbit = group @ seed
        unique = orbit[[i for i in range(len(orbit)) if not (np.abs(orbit[:i] - orbit[i]).max(-1) < 1e-9).any()]]
        kinds.append(len(orbit_once(unique, name)))
    assert kinds == [1] * len(kinds)


@pytest.mark.parametrize("n", [33, 32])
@pytest.mark.parametrize("name", ["C3", "D2", "O"])
def test_symmetrised_volume_is_invariant(n: int, name: str) -> None:
    rng = np.random.default_rng(2)
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    atoms = rng.uniform(-7, 7, (5, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 8.0) for a, b, c in atoms)
    group = point_group(name)
    # the truth is analytic: the same Gaussians at all images of their centres
    images = np.einsum("gji,nj->gni", group, atoms).reshape(-1, 3)
    truth = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 8.0) for a, b, c in images) / len(group)
    np.testing.assert_allclose(symmetrise_volume(volume, name), truth, atol=6e-3)
    with pytest.raises(ParameterError, match="cubic"):
        symmetrise_volume(volume[1:], name)
