"""Rotations: Euler angles, rotation vectors, random orientations and distances between orientations.

A rotation is the matrix A of ``cryoflow.conventions``: v_image = A @ v_volume, vectors (x, y, z).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.kernels.backend import array_module

__all__ = [
    "angular_distance",
    "euler_to_matrix",
    "in_plane",
    "matrix_to_euler",
    "minimal_rotation",
    "quaternion_to_matrix",
    "random_rotations",
    "rotation_about",
    "rotation_to_vector",
    "vector_to_rotation",
    "view_direction",
]


def _matrix(rows: tuple[tuple[Any, ...], ...], xp: Any) -> Any:
    flat = xp.broadcast_arrays(*[xp.asarray(entry, dtype=np.float64) for row in rows for entry in row])
    return xp.stack(flat, axis=-1).reshape(*flat[0].shape, 3, 3)


def euler_to_matrix(rot: Any, tilt: Any, psi: Any) -> Any:
    """Matrix of the ZYZ Euler angles of RELION, in degrees: A = Rz(psi) Ry(tilt) Rz(rot), all passive.

    The three arrays are broadcast against each other; returns (..., 3, 3) float64. The last row of A is the viewing
    direction in the volume, (cos rot sin tilt, sin rot sin tilt, cos tilt).

    Source: Heymann, Chagoyen & Belnap 2005, J. Struct. Biol. 151:196.

    >>> euler_to_matrix(90.0, 0.0, 0.0).round(6) + 0.0
    array([[ 0.,  1.,  0.],
           [-1.,  0.,  0.],
           [ 0.,  0.,  1.]])
    """
    xp = array_module(rot, tilt, psi)
    a, b, g = (xp.deg2rad(xp.asarray(angle, dtype=np.float64)) for angle in (rot, tilt, psi))
    ca, sa, cb, sb, cg, sg = xp.cos(a), xp.sin(a), xp.cos(b), xp.sin(b), xp.cos(g), xp.sin(g)
    return _matrix(
        (
            (cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb),
            (-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb),
            (sb * ca, sb * sa, cb),
        ),
        xp,
    )


def matrix_to_euler(rotation: Any) -> Any:
    """Euler angles (rot, tilt, psi) in degrees of (..., 3, 3) rotations, the inverse of ``euler_to_matrix``.

    Returns (..., 3) float64 with tilt in [0, 180] and the others in (-180, 180]. Where the tilt is 0 or 180, rot is 0.
    psi is read after undoing rot, so the three angles give back A to rounding however close the tilt comes to 0.

    >>> matrix_to_euler(euler_to_matrix(10.0, 20.0, 30.0)).round(9)
    array([10., 20., 30.])
    """
    xp = array_module(rotation)
    a = xp.asarray(rotation, dtype=np.float64)
    sine = xp.hypot(a[..., 2, 0], a[..., 2, 1])
    tilt = xp.arctan2(sine, a[..., 2, 2])
    rot = xp.where(sine > 1e-12, xp.arctan2(a[..., 2, 1], a[..., 2, 0]), 0.0)
    # the second column of A Rz(rot)^T = Rz(psi) Ry(tilt) is (sin psi, cos psi, 0)
    c, s = xp.cos(rot), xp.sin(rot)
    psi = xp.arctan2(c * a[..., 0, 1] - s * a[..., 0, 0], c * a[..., 1, 1] - s * a[..., 1, 0])
    return xp.rad2deg(xp.stack([rot, tilt, psi], axis=-1))


def view_direction(rotation: Any) -> Any:
    """Viewing direction of (..., 3, 3) rotations in the frame of the volume: the unit vector A.T @ (0, 0, 1)."""
    return rotation[..., 2, :]


def in_plane(degrees: Any) -> Any:
    """Rz(degrees), the passive rotation about z: ``in_plane(p) @ A`` adds p to the psi of A.

    >>> matrix_to_euler(in_plane(15.0) @ euler_to_matrix(10.0, 20.0, 30.0)).round(9)
    array([10., 20., 45.])
    """
    return euler_to_matrix(0.0, 0.0, degrees)


def vector_to_rotation(vectors: Any) -> Any:
    """Active rotations by |v| degrees about v, for (..., 3) rotation vectors in degrees (Rodrigues' formula).

    R = 1 + sin(t) K + (1 - cos t) K^2, K the cross-product matrix of v / |v|, t = |v|.

    >>> (vector_to_rotation(np.array([0.0, 0.0, 90.0])) @ np.array([1.0, 0.0, 0.0])).round(6) + 0.0
    array([0., 1., 0.])
    """
    xp = array_module(vectors)
    v = xp.deg2rad(xp.asarray(vectors, dtype=np.float64))
    angle = xp.sqrt((v * v).sum(axis=-1))
    # sin(t)/t and (1 - cos t)/t^2 = sinc(t/2)^2 / 2 stay finite at t = 0
    first, second = xp.sinc(angle / np.pi), 0.5 * xp.sinc(angle / (2 * np.pi)) ** 2
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    zero = xp.zeros_like(x)
    cross = _matrix(((zero, -z, y), (z, zero, -x), (-y, x, zero)), xp)
    return xp.eye(3) + first[..., None, None] * cross + second[..., None, None] * (cross @ cross)


def rotation_to_vector(rotation: Any) -> Any:
    """Rotation vectors (..., 3) in degrees, |v| <= 180, of (..., 3, 3) rotations; inverse of ``vector_to_rotation``.

    Goes through the unit quaternion, taken from its largest component, so half turns are as exact as small ones.

    >>> rotation_to_vector(vector_to_rotation(np.array([0.0, -179.0, 0.0]))).round(6) + 0.0
    array([   0., -179.,    0.])
    """
    xp = array_module(rotation)
    q = _quaternion(xp.asarray(rotation, dtype=np.float64), xp)
    q = xp.where(q[..., :1] < 0, -q, q)
    sine = xp.sqrt((q[..., 1:] ** 2).sum(axis=-1, keepdims=True))
    angle = 2 * xp.arctan2(sine, q[..., :1])
    scale = xp.where(sine > 1e-300, angle / xp.maximum(sine, 1e-300), 2.0)
    return xp.rad2deg(scale * q[..., 1:])


def _quaternion(a: Any, xp: Any) -> Any:
    """Unit quaternions (w, x, y, z): the best-conditioned row of 4 q q^T, each of which is parallel to q."""
    xx, yy, zz = a[..., 0, 0], a[..., 1, 1], a[..., 2, 2]
    wx, wy, wz = a[..., 2, 1] - a[..., 1, 2], a[..., 0, 2] - a[..., 2, 0], a[..., 1, 0] - a[..., 0, 1]
    xy, xz, yz = a[..., 0, 1] + a[..., 1, 0], a[..., 0, 2] + a[..., 2, 0], a[..., 1, 2] + a[..., 2, 1]
    rows = xp.stack(
        [
            xp.stack([1 + xx + yy + zz, wx, wy, wz], axis=-1),
            xp.stack([wx, 1 + xx - yy - zz, xy, xz], axis=-1),
            xp.stack([wy, xy, 1 - xx + yy - zz, yz], axis=-1),
            xp.stack([wz, xz, yz, 1 - xx - yy + zz], axis=-1),
        ],
        axis=-2,
    )
    diagonal = xp.stack([rows[..., i, i] for i in range(4)], axis=-1)
    best = xp.argmax(diagonal, axis=-1)[..., None, None]
    q = xp.take_along_axis(rows, best, axis=-2)[..., 0, :]
    return q / xp.sqrt((q * q).sum(axis=-1, keepdims=True))


def rotation_about(axis: Any, degrees: Any) -> Any:
    """Active rotations by ``degrees`` (...) about the axis (3,), by the right-hand rule; returns (..., 3, 3).

    Raises ``ParameterError`` for an axis of zero length.

    >>> rotation_about((0, 0, 1), 180.0).round(6).diagonal()
    array([-1., -1.,  1.])
    """
    xp = array_module(axis, degrees)
    v = xp.asarray(axis, dtype=np.float64)
    length = float(xp.sqrt((v * v).sum()))
    if not length > 0:
        raise ParameterError("rotation_about", expected="an axis of non-zero length", found=f"{axis!r}")
    return vector_to_rotation(xp.asarray(degrees, dtype=np.float64)[..., None] * (v / length))


def minimal_rotation(source: Any, target: Any) -> Any:
    """The smallest rotations R with R @ source = target, for unit vectors (..., 3); opposite vectors are refused.

    R = 1 + K + K^2 / (1 + s.t), K the cross-product matrix of s x t.

    >>> minimal_rotation(np.array([1.0, 0, 0]), np.array([0, 1.0, 0])).round(6) @ np.array([1.0, 0, 0])
    array([0., 1., 0.])
    """
    xp = array_module(source, target)
    s, t = (xp.asarray(v, dtype=np.float64) for v in (source, target))
    s, t = xp.broadcast_arrays(s, t)
    cosine = (s * t).sum(axis=-1)
    if bool((cosine <= -1 + 1e-9).any()):
        raise ParameterError("minimal_rotation", expected="vectors that are not opposite", found="opposite vectors")
    x, y, z = (xp.cross(s, t)[..., i] for i in range(3))
    zero = xp.zeros_like(x)
    cross = _matrix(((zero, -z, y), (z, zero, -x), (-y, x, zero)), xp)
    return xp.eye(3) + cross + (cross @ cross) / (1 + cosine)[..., None, None]


def angular_distance(first: Any, second: Any, group: Any = None) -> Any:
    """Angle in degrees between orientations, (...,) float64, the smallest over the symmetry operators g of ``group``.

    d(A, B) = min_g angle(A, B g), since B and B g show the same view of a volume with rho(g v) = rho(v).

    Parameters
    ----------
    first, second : (..., 3, 3) rotations, broadcast against each other.
    group : (order, 3, 3) operators of ``symmetry.point_group``, or None.

    >>> float(angular_distance(euler_to_matrix(0, 0, 170.0), euler_to_matrix(0, 0, -170.0)).round(6))
    20.0
    """
    xp = array_module(first, second)
    a, b = (xp.asarray(r, dtype=np.float64) for r in (first, second))
    if group is not None:
        g = xp.asarray(group, dtype=np.float64)
        relative = xp.swapaxes(b, -1, -2) @ a  # trace(A (B g)^T) = <g, B^T A>
        best = xp.argmax(relative.reshape(*relative.shape[:-2], 9) @ g.reshape(-1, 9).T, axis=-1)
        b = b @ g[best]
    chord = xp.sqrt(((a - b) ** 2).sum(axis=(-2, -1)))  # |A - B|_F = 2 sqrt(2) sin(angle / 2), exact for small angles
    return xp.rad2deg(2 * xp.arcsin(xp.minimum(chord / np.sqrt(8.0), 1.0)))


def random_rotations(n: int, rng: np.random.Generator) -> Any:
    """``n`` rotations uniform in SO(3), (n, 3, 3) float64, from normalised Gaussian quaternions.

    Source: Shoemake 1992, Graphics Gems III:124.

    >>> random_rotations(2, np.random.default_rng(0)).shape
    (2, 3, 3)
    """
    return quaternion_to_matrix(rng.standard_normal((n, 4)))


def quaternion_to_matrix(quaternions: Any) -> Any:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) as (w, x, y, z) of any length above 0; q and -q agree.

    >>> quaternion_to_matrix(np.array([2.0, 0.0, 0.0, 0.0])).diagonal()
    array([1., 1., 1.])
    """
    xp = array_module(quaternions)
    q = xp.asarray(quaternions, dtype=np.float64)
    q = q / xp.sqrt((q * q).sum(axis=-1, keepdims=True))
    w, x, y, z = (q[..., i] for i in range(4))
    return _matrix(
        (
            (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ),
        xp,
    )
