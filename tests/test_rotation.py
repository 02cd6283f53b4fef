"""Rotations against RELION's matrices and images, and against their own group laws."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cryoflow.errors import ParameterError
from cryoflow.kernels import rotation as rn
from cryoflow.kernels.symmetry import point_group

# Euler angles and matrices as printed by RELION 3.1.3: relion_refine --sym <group> --print_symmetry_ops (5 digits)
RELION = {
    (-110.905, 60.0, 69.0948): [[0.80902, -0.5, -0.30902], [0.5, 0.30902, 0.80902], [-0.30902, -0.80902, 0.5]],  # I1
    (-58.2825, 36.0, 121.717): [[0.5, 0.80902, 0.30902], [-0.80902, 0.30902, 0.5], [0.30902, -0.5, 0.80902]],  # I2
    (108.0, 63.4349, -144.0): [
        [0.67082, -0.16246, 0.72361], [0.68819, 0.5, -0.52573], [-0.27639, 0.85065, 0.44721],
    ],  # I3
    (-30.0, 109.471, 90.0): [[0.5, 0.86603, 0], [0.28867, -0.16667, 0.94281], [0.8165, -0.4714, -0.33333]],  # T
    (0.0, 180.0, -128.571): [[0.62349, -0.78183, 0], [-0.78183, -0.62349, 0], [0, 0, -1]],  # D7
}  # fmt: skip


@pytest.mark.parametrize("angles", list(RELION))
def test_euler_matrices_are_relions(angles: tuple[float, float, float]) -> None:
    matrix = np.array(RELION[angles])
    np.testing.assert_allclose(rn.euler_to_matrix(*angles), matrix, atol=2e-5)
    back = rn.euler_to_matrix(*rn.matrix_to_euler(matrix))
    np.testing.assert_allclose(back, matrix, atol=5e-5)


@pytest.mark.relion
@pytest.mark.skipif(not shutil.which("relion_project"), reason="relion_project is not installed")
@pytest.mark.parametrize("angles", [(10.0, 20.0, 30.0), (100.0, 80.0, -50.0), (-35.5, 140.0, 77.0)])
def test_projection_of_relion_shows_atoms_where_the_matrix_puts_them(tmp_path: Path, angles: tuple[float, ...]) -> None:
    import mrcfile

    n, width = 48, 2.0
    rng = np.random.default_rng(1)
    atoms, weights = rng.uniform(-9, 9, (14, 3)), rng.uniform(0.5, 2, 14)
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    gauss = [np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * width**2)) for a, b, c in atoms]
    with mrcfile.new(tmp_path / "v.mrc") as mrc:
        mrc.set_data(np.tensordot(weights, gauss, 1).astype(np.float32))
        mrc.voxel_size = 2.0
    flags = [f"--{k}={v}" for k, v in zip(("rot", "tilt", "psi"), angles)]
    flags = [part for flag in flags for part in flag.split("=")]
    subprocess.run(
        ["relion_project", "--i", "v.mrc", "--o", "p.mrc", "--angpix", "2", *flags], cwd=tmp_path, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    image = mrcfile.read(tmp_path / "p.mrc").squeeze()
    placed = atoms @ rn.euler_to_matrix(*angles).T
    y2, x2 = np.mgrid[:n, :n] - n // 2
    analytic = sum(
        w * np.exp(-((x2 - a) ** 2 + (y2 - b) ** 2) / (2 * width**2)) for w, (a, b, _) in zip(weights, placed)
    )
    assert np.corrcoef(image.ravel(), analytic.ravel())[0, 1] > 0.9998


def test_euler_angles_come_back_also_at_gimbal_lock() -> None:
    rng = np.random.default_rng(0)
    tilt = np.concatenate([rng.uniform(0, 180, 500), [0, 180, 1e-9, 1e-7, 1e-5, 180 - 1e-7, 180 - 1e-9]])
    a = rn.euler_to_matrix(rng.uniform(-180, 180, tilt.size), tilt, rng.uniform(-180, 180, tilt.size))
    angles = rn.matrix_to_euler(a)
    np.testing.assert_allclose(rn.euler_to_matrix(*angles.T), a, atol=1e-12)
    assert np.all(angles[..., 1] >= 0)
    # float32 rotations near the pole: the sum rot + psi survives though rot alone is undetermined
    near = rn.euler_to_matrix(np.full(50, 33.0), np.full(50, 1e-5), rng.uniform(-180, 180, 50)).astype(np.float32)
    np.testing.assert_allclose(rn.euler_to_matrix(*rn.matrix_to_euler(near).T), near, atol=3e-7)


def test_vectors_and_rotations_are_inverse_for_small_angles_and_half_turns() -> None:
    rng = np.random.default_rng(1)
    axis = rng.standard_normal((200, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    for angle in (0.0, 1e-7, 1.0, 90.0, 179.999, 180.0):
        v = angle * axis
        back = rn.rotation_to_vector(rn.vector_to_rotation(v))
        error = np.minimum(np.linalg.norm(back - v, axis=1), np.linalg.norm(back + v, axis=1) + (angle < 179.9999))
        assert error.max() < 1e-6
    r = rn.rotation_about((1, 2, 3), np.array([30.0, 60.0]))
    np.testing.assert_allclose(r[0] @ r[0], r[1], atol=1e-14)
    np.testing.assert_allclose(r[0] @ [1, 2, 3], [1, 2, 3], atol=1e-14)
    with pytest.raises(ParameterError, match="non-zero length"):
        rn.rotation_about((0, 0, 0), 10.0)


def test_minimal_rotation_is_minimal() -> None:
    rng = np.random.default_rng(2)
    s, t = rng.standard_normal((2, 100, 3))
    s /= np.linalg.norm(s, axis=1, keepdims=True)
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    r = rn.minimal_rotation(s, t)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", r, s), t, atol=1e-12)
    angle = np.rad2deg(np.arccos((s * t).sum(1)))
    np.testing.assert_allclose(rn.angular_distance(r, np.eye(3)), angle, atol=1e-5)
    with pytest.raises(ParameterError, match="opposite"):
        rn.minimal_rotation(s[0], -s[0])


def test_distance_is_a_metric_and_knows_symmetry() -> None:
    rng = np.random.default_rng(3)
    a, b = rn.random_rotations(50, rng), rn.random_rotations(50, rng)
    group = point_group("O")
    d = rn.angular_distance(a, b, group)
    np.testing.assert_allclose(d, rn.angular_distance(b, a, group), atol=1e-9)
    np.testing.assert_allclose(rn.angular_distance(a @ group[7], b, group), d, atol=1e-9)  # equivalent views
    brute = np.min([rn.angular_distance(a, b @ g) for g in group], axis=0)
    np.testing.assert_allclose(d, brute, atol=1e-9)
    assert d.max() < 62.8  # no rotation is farther from the octahedral group
    tiny = rn.vector_to_rotation(np.array([1e-9, 0, 0]))
    np.testing.assert_allclose(rn.angular_distance(tiny @ a, a), 1e-9, rtol=1e-4)  # no loss near zero


def test_random_rotations_are_uniform() -> None:
    r = rn.random_rotations(20000, np.random.default_rng(4))
    np.testing.assert_allclose(r @ r.transpose(0, 2, 1), np.broadcast_to(np.eye(3), r.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(r), 1, atol=1e-12)
    assert np.abs(r.mean(0)).max() < 0.02
    # the angle of a uniform rotation has the density (1 - cos t) / pi, mean pi/2 + 2/pi
    mean = rn.angular_distance(r, np.eye(3)).mean()
    assert abs(mean - np.rad2deg(np.pi / 2 + 2 / np.pi)) < 0.8


@pytest.mark.gpu
def test_device_and_host_agree() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("no CUDA device")
    r = rn.random_rotations(100, np.random.default_rng(5))
    on_device = cupy.asarray(r)
    group = point_group("D2")
    for function in (rn.matrix_to_euler, rn.rotation_to_vector):
        np.testing.assert_allclose(function(on_device).get(), function(r), atol=1e-9)
    angles = rn.matrix_to_euler(on_device)
    np.testing.assert_allclose(rn.euler_to_matrix(*angles.T).get(), r, atol=1e-12)
    distance = rn.angular_distance(on_device, on_device[::-1], group)
    np.testing.assert_allclose(distance.get(), rn.angular_distance(r, r[::-1], group), atol=1e-9)
