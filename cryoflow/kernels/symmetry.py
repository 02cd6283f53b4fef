"""Point groups in RELION's settings, their asymmetric units, and the symmetrisation of volumes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.kernels.rotation import rotation_about

__all__ = ["group_order", "in_asymmetric_unit", "orbit_once", "point_group", "symmetrise_volume"]

_PHI = (1 + 5**0.5) / 2  # the axes of the icosahedron are built from the golden ratio

# generators (fold, axis); an axis of an I setting is named by the folds that lie on x, y and z
_POLYHEDRAL: dict[str, tuple[tuple[int, tuple[float, float, float]], ...]] = {
    "T": ((3, (0, 0, 1)), (2, (0, np.sqrt(2.0), 1))),  # 3-fold on z, unlike the 222 setting of other programs
    "O": ((4, (0, 0, 1)), (3, (1, 1, 1))),
    "I1": ((2, (0, 0, 1)), (5, (_PHI, 0, 1))),  # 2-folds on x, y, z; 5-folds in the xz plane nearer x (Crowther 2)
    "I2": ((2, (0, 0, 1)), (5, (1, 0, _PHI))),  # 2-folds on x, y, z; 5-folds in the xz plane nearer z (Crowther)
    "I3": ((5, (0, 0, 1)), (2, (-1, 0, _PHI))),  # 5-fold on z, a 2-fold in the xz plane at negative x
    "I4": ((5, (0, 0, 1)), (2, (1, 0, _PHI))),  # 5-fold on z, a 2-fold in the xz plane at positive x
}
_ALIAS = {"I": "I2"}


def point_group(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Rotations G of a point group, (order, 3, 3) float64, identity first: rho(G v) = rho(v).

    ``C1 Cn Dn T O I I1 I2 I3 I4`` (any case), axes as in RELION: n-fold on z; Dn with a 2-fold on x; T with a
    3-fold on z; O with 4-folds on x, y, z; I (= I2) and I1 with 2-folds on x, y, z; I3 and I4 with a 5-fold on z.

    Raises ``ParameterError`` for any other name (groups with mirrors cannot occur in chiral molecules).

    >>> [len(point_group(name)) for name in ("C1", "c7", "D2", "T", "O", "I")]
    [1, 7, 4, 12, 24, 60]
    """
    return _group(_parse(name)).copy()


def group_order(name: str) -> int:
    """Number of operators of a point group.

    >>> group_order("D7")
    14
    """
    return len(_group(_parse(name)))


def _parse(name: str) -> str:
    text = str(name).strip().upper()
    text = _ALIAS.get(text, text)
    cyclic = re.fullmatch(r"[CD]([1-9][0-9]?)", text)
    if cyclic or text in _POLYHEDRAL:
        return text
    raise ParameterError(
        "symmetry",
        expected="a point group C1-C99, D1-D99, T, O, I, I1, I2, I3 or I4",
        found=repr(name),
        remedy="Give the name as RELION writes it, for example D2.",
    )


@lru_cache(maxsize=64)
def _group(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    if name in _POLYHEDRAL:
        generators = _POLYHEDRAL[name]
    elif name[0] == "C":
        generators = ((int(name[1:]), (0.0, 0.0, 1.0)),)
    else:
        generators = ((int(name[1:]), (0.0, 0.0, 1.0)), (2, (1.0, 0.0, 0.0)))
    found = np.eye(3)[None]
    turns = [rotation_about(axis, 360.0 / fold) for fold, axis in generators]
    fresh = found
    while len(fresh):  # multiply by the generators until nothing new appears
        products = np.concatenate([fresh @ turn for turn in turns])
        fresh = np.empty((0, 3, 3))
        for product in products:
            if not np.any(np.all(np.abs(found - product) < 1e-6, axis=(1, 2))):
                found = np.concatenate([found, product[None]])
                fresh = np.concatenate([fresh, product[None]])
    found.setflags(write=False)
    return found


def _pole(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A direction that no operator but the identity keeps: the centre of the asymmetric unit."""
    if name[0] == "C":
        return np.array([1.0, 0.0, 0.0])
    if name[0] == "D":  # close to the n-fold axis, so the unit is nearly a sector of the upper hemisphere
        angle = 0.5 * np.pi / int(name[1:])
        pole = np.array([0.1 * np.cos(angle), 0.1 * np.sin(angle), 1.0])
    else:  # any direction off all axes will do; this one is well away from those of every setting
        pole = np.array([0.31, 0.17, 1.0])
    return np.asarray(pole / np.linalg.norm(pole))


def in_asymmetric_unit(directions: Any, group: str, *, margin: float = 0.0) -> Any:
    """Whether unit vectors (..., 3) lie in the asymmetric unit of ``group``, (...,) bool.

    The unit is the Dirichlet cell of a direction p of trivial stabiliser: d.p >= (G d).p for all G. Every orbit has
    a member in it; only orbits on its edge have more than one (``orbit_once`` thins those). ``margin`` in degrees
    widens the unit (positive) by about that angle.

    >>> in_asymmetric_unit(np.array([[1.0, 0, 0], [-1.0, 0, 0]]), "C2")
    array([ True, False])
    """
    key = _parse(group)
    d = np.asarray(directions, dtype=np.float64)
    pole = _pole(key)
    normals = pole - _group(key).transpose(0, 2, 1) @ pole  # d.(p - G^T p) >= 0
    lengths = np.linalg.norm(normals, axis=1)
    normals = normals[lengths > 1e-9] / lengths[lengths > 1e-9, None]
    return np.all(d @ normals.T >= -np.sin(np.deg2rad(margin)) - 1e-9, axis=-1)


def orbit_once(directions: Any, group: str) -> Any:
    """Indices of ``directions`` (n, 3) in the asymmetric unit, each orbit once.

    Of directions on the edge that symmetry maps onto each other, the first in the list is kept.

    >>> orbit_once(np.array([[0, 1.0, 0], [0, -1.0, 0], [1.0, 0, 0]]), "C2").tolist()
    [0, 2]
    """
    key = _parse(group)
    d = np.asarray(directions, dtype=np.float64)
    inside = np.flatnonzero(in_asymmetric_unit(d, key))
    edge = inside[~in_asymmetric_unit(d[inside], key, margin=-1e-4)]
    dropped: set[int] = set()
    for i, this in enumerate(edge):
        if int(this) in dropped:
            continue
        orbit = _group(key) @ d[this]
        same = (orbit @ d[edge[i + 1 :]].T > 1 - 1e-9).any(axis=0)
        dropped.update(int(j) for j in edge[i + 1 :][same])
    return np.array([i for i in inside if int(i) not in dropped], dtype=np.int64)


def symmetrise_volume(volume: Any, group: str) -> Any:
    """Mean of a (n, n, n) volume over a point group about the voxel n // 2: (1/|G|) sum_G rho(G v).

    Interpolates with cubic splines; voxels that the rotation brings from outside count as zero.

    >>> symmetrise_volume(np.eye(5)[2][:, None, None] * np.ones((5, 5, 5)), "C2").shape
    (5, 5, 5)
    """
    from scipy import ndimage

    values = np.asarray(volume)
    if values.ndim != 3 or len(set(values.shape)) != 1:
        raise ParameterError("symmetrise_volume", expected="a cubic volume", found=f"shape {values.shape}")
    operators = _group(_parse(group))
    if len(operators) == 1:
        return values.copy()
    spline = ndimage.spline_filter(values.astype(np.float64), order=3)
    centre = np.full(3, float(values.shape[0] // 2))
    total = np.zeros(values.shape)
    for g in operators:
        matrix = g[::-1, ::-1]  # the array axes are z, y, x
        total += ndimage.affine_transform(spline, matrix, centre - matrix @ centre, order=3, prefilter=False)
    return (total / len(operators)).astype(values.dtype if values.dtype.kind == "f" else np.float64)
