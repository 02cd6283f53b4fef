"""EMAN2's Transforms: rotations of type "eman" and "spider", and matrices, with their translations.

A rotation of type "eman" is Rz(phi) Rx(alt) Rz(az), of type "spider" Rz(psi) Ry(theta) Rz(phi), all passive: the 3 x 3
part of a Transform is our matrix. Its translation (pixels) moves the projection to where the particle lies, so what
must be added is its negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.programs.plain_json import json_numbers
from cryoflow.kernels.rotation import euler_to_matrix, matrix_to_euler

__all__ = ["eman_to_matrix", "matrix_to_eman", "transforms"]


def eman_to_matrix(az: Any, alt: Any, phi: Any) -> NDArray[np.float64]:
    """Rotations (..., 3, 3) of EMAN's angles in degree: A = Rz(phi) Rx(alt) Rz(az), passive.

    With Ry(t) = Rz(-90) Rx(t) Rz(90) this is RELION's rotation of (rot, tilt, psi) = (az - 90, alt, phi + 90).

    >>> eman_to_matrix(0.0, 90.0, 0.0).round(6)[1] + 0.0
    array([0., 0., 1.])
    """
    return np.asarray(euler_to_matrix(np.asarray(az, np.float64) - 90, alt, np.asarray(phi, np.float64) + 90))


def matrix_to_eman(rotation: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(az, alt, phi) in degree of rotations (..., 3, 3), az and phi in [0, 360), alt in [0, 180].

    >>> [float(a) for a in matrix_to_eman(eman_to_matrix(10.0, 20.0, 300.0))]
    [10.0, 20.0, 300.0]
    """
    rot, tilt, psi = np.moveaxis(np.asarray(matrix_to_euler(rotation)), -1, 0)
    return (rot + 90).round(9) % 360 + 0.0, tilt.round(9), (psi - 90).round(9) % 360 + 0.0


def transforms(poses: list[Any], where: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (n, 3, 3) and translations (n, 2) of Transforms: their matrices, or angles of type eman or spider."""
    table = np.array([_twelve(pose, at) for pose, at in zip(poses, where, strict=True)]).reshape(-1, 3, 4)
    rotation = table[:, :, :3]
    with np.errstate(all="ignore"):
        scale = np.cbrt(np.linalg.det(rotation))  # a Transform may hold a magnification
        scaled = (scale > 1e-6) & (np.abs(scale - 1) > 1e-5)
        rotation = rotation / np.where(scaled, scale, 1.0)[:, None, None]
        off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    bad = np.flatnonzero(~(off < 2e-3) | ~(scale > 0))
    if len(bad):
        raise FormatError(where[bad[0]], expected="a rotation (no mirror)", found=f"{table[bad[0], :, :3].tolist()}")
    coarse = off > 1e-8  # six digits: the nearest rotation; more digits: as it is
    if coarse.any():
        u, _, vt = np.linalg.svd(rotation[coarse])
        rotation[coarse] = u @ vt
    return rotation, table[:, :2, 3]


def _twelve(value: Any, where: str) -> list[float]:
    """The matrix [R | t] of a Transform, row by row."""
    fields = value if isinstance(value, dict) else {}
    if "matrix" in fields:
        words = fields["matrix"]
        if isinstance(words, str):
            words = words.strip("[] \t").replace(",", " ").split()
        numbers = json_numbers(words, where)
        if len(numbers) != 12:
            raise FormatError(where, expected="a Transform of 12 numbers", found=f"{len(numbers)}")
        return numbers
    kind = fields.get("type")
    angles = {"eman": ("az", "alt", "phi"), "spider": ("phi", "theta", "psi")}.get(str(kind))
    if angles is None:
        raise FormatError(where, expected="a Transform: matrix, or type eman or spider", found=repr(value)[:60])
    az, alt, phi, x, y = json_numbers([fields.get(key, 0.0) for key in (*angles, "tx", "ty")], where)
    rotation = eman_to_matrix(az, alt, phi) if kind == "eman" else euler_to_matrix(az, alt, phi)
    return np.concatenate([rotation, [[x], [y], [0.0]]], axis=1).ravel().tolist()
