"""All copies of a particle that its symmetry makes: of the whole (expansion), or of a part (sub-particles)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from cryoflow.errors import ParameterError
from cryoflow.io.expression import row_dim
from cryoflow.io.query import take
from cryoflow.kernels.rotation import minimal_rotation, rotation_about
from cryoflow.kernels.symmetry import point_group
from cryoflow.schema import require
from cryoflow.tables.recentre import move_centre

__all__ = ["expand_symmetry", "select_views", "subparticles"]


def expand_symmetry(ds: xr.Dataset, symmetry: str) -> xr.Dataset:
    """Every particle once for each operator S of a point group, in the pose A S; all show the same projection.

    The copies of a particle follow each other, the first in the pose as it was. ``particle_id`` is new for each;
    ``x_parent_id`` is that of the particle and ``x_symmetry_copy`` the number of the operator. Half-sets are kept, so
    copies of one particle are never in both. Images stay lazy and are not copied.

    Raises
    ------
    ParameterError : no such point group.
    SchemaError : no poses.

    Examples
    --------
    >>> ds = xr.Dataset({"rotation": (("particle", "row", "col"), np.eye(3)[None])})
    >>> expand_symmetry(ds, "D7").sizes["particle"]
    14
    """
    require(ds, "expand_symmetry", ["rotation"])
    operators = point_group(symmetry)
    n = ds.sizes[row_dim(ds, "expand_symmetry")]
    out = _copies(ds, len(operators))
    turned = np.einsum("nij,gjk->ngik", ds["rotation"].values.astype(np.float64), operators)
    dims = out["rotation"].dims
    return out.assign(rotation=(dims, turned.reshape(n * len(operators), 3, 3).astype(ds["rotation"].dtype)))


def _copies(ds: xr.Dataset, count: int) -> xr.Dataset:
    """Each row ``count`` times, with ids of its own."""
    dim = row_dim(ds, "copies")
    n = ds.sizes[dim]
    out = take(ds, np.repeat(np.arange(n), count))
    copy = np.tile(np.arange(count), n)
    parent = ds["particle_id"].values if "particle_id" in ds else np.arange(n)
    parent = np.repeat(parent, count)
    return out.assign(
        particle_id=(dim, _new_ids(parent, copy, count)), x_parent_id=(dim, parent),
        x_symmetry_copy=(dim, copy.astype(np.int32)),
    )  # fmt: skip


def _new_ids(parent: NDArray[Any], copy: NDArray[Any], count: int) -> NDArray[Any]:
    """An id for each copy, the same every time: parent * count + copy, or a mix of both where ids are large."""
    if len(parent) == 0 or (parent.min() >= 0 and int(parent.max()) < (1 << 62) // count):
        return np.asarray(parent * parent.dtype.type(count) + copy.astype(parent.dtype))
    x = parent.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * (copy.astype(np.uint64) + np.uint64(1))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64 (Steele, Lea & Flood 2014)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return np.asarray((x >> np.uint64(1)).astype(np.int64) if parent.dtype.kind == "i" else x.astype(parent.dtype))


def subparticles(
    ds: xr.Dataset,
    vectors: ArrayLike,
    symmetry: str = "C1",
    *,
    frame: Literal["axis", "map"] | ArrayLike = "axis",
    defocus_hand: int = 0,
) -> xr.Dataset:
    """A row for each copy of a part of the particle: its pose, and the shift that centres it.

    The part lies at v in the map; symmetry S puts copies at S v. In the frame of the part, w = R (S^T u - v), the pose
    is A' = A S R^T and shift' = shift - (A S v)_xy. Copies that fall on each other (v on a symmetry axis) count once.
    ``recentre`` then brings the shifts into the coordinates, to extract the parts.

    Parameters
    ----------
    vectors : (3,) or (m, 3), angstrom from the centre of the map: one part or several, numbered in ``x_site``.
    symmetry : point group of the whole.
    frame : ``axis`` turns v onto z by the smallest rotation, so that a part which has an axis along v has it on z;
        ``map`` leaves the frame of the map; or a rotation R (3, 3), whose rows are the axes x, y, z of the part's frame
        in the map.
    defocus_hand : see ``move_centre``.

    Raises
    ------
    ParameterError : no such point group, vectors that are not finite, or R not a rotation.
    SchemaError : no poses.

    Source: Ilca et al. 2015, Nat. Commun. 6:8843.

    Examples
    --------
    >>> ds = xr.Dataset({"rotation": (("particle", "row", "col"), np.eye(3)[None])})
    >>> parts = subparticles(ds, (0, 0, 50), "D7")
    >>> parts.sizes["particle"], parts["rotation"].values[:, 2, 2].round(6).tolist()
    (2, [1.0, -1.0])
    """
    require(ds, "subparticles", ["rotation"])
    sites = np.atleast_2d(np.asarray(vectors, np.float64))
    if sites.ndim != 2 or sites.shape[1] != 3 or not len(sites) or not np.isfinite(sites).all():
        raise ParameterError("subparticles", expected="vectors (x, y, z) in angstrom", found=f"{vectors!r}"[:80])
    operators = point_group(symmetry)
    turns, places, site = [], [], []
    for i, v in enumerate(sites):
        own = _frame(frame, v)
        for operator in operators[_distinct(operators @ v)]:
            turns.append(operator @ own.T)
            places.append(operator @ v)
            site.append(i)
    n, count = ds.sizes[row_dim(ds, "subparticles")], len(turns)
    out = move_centre(_copies(ds, count), np.tile(np.array(places), (n, 1)), defocus_hand=defocus_hand)
    turned = np.einsum("nij,gjk->ngik", ds["rotation"].values.astype(np.float64), np.array(turns))
    dims = out["rotation"].dims
    return out.assign(
        rotation=(dims, turned.reshape(n * count, 3, 3).astype(ds["rotation"].dtype)),
        x_site=(dims[0], np.tile(np.array(site, np.int32), n)),
    )  # fmt: skip


def _distinct(places: NDArray[np.float64]) -> list[int]:
    """The first of the points that lie on each other."""
    found: list[int] = []
    reach = 1e-3 * max(1.0, float(np.linalg.norm(places[0])))
    for i, place in enumerate(places):
        if all(np.linalg.norm(place - places[j]) > reach for j in found):
            found.append(i)
    return found


def _frame(frame: Any, v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation R from the frame of the map to that of a part at ``v``."""
    if isinstance(frame, str):
        length = float(np.linalg.norm(v))
        if frame == "map" or (frame == "axis" and length == 0):
            return np.eye(3)
        if frame != "axis":
            raise ParameterError("subparticles", expected="frame 'axis', 'map' or a rotation", found=repr(frame))
        unit = v / length
        if unit[2] < -1 + 1e-9:
            return np.asarray(rotation_about((1.0, 0.0, 0.0), 180.0))
        return np.asarray(minimal_rotation(unit, np.array([0.0, 0.0, 1.0])))
    turn = np.asarray(frame, np.float64)
    if turn.shape != (3, 3) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) or np.linalg.det(turn) < 0:
        raise ParameterError("subparticles", expected="a rotation matrix (3, 3)", found=f"{turn.tolist()}"[:80])
    return turn


def select_views(
    ds: xr.Dataset, direction: ArrayLike, within: float, *, symmetry: str = "C1", opposite: bool = False
) -> xr.Dataset:
    """The rows seen within an angle (degrees) of a direction of the map, in any symmetry copy.

    The view of a pose A is its last row. ``opposite`` also takes views from the other side (mirrored projections).

    Raises
    ------
    ParameterError : no such view, a direction without length, or an angle out of 0 to 180.

    Examples
    --------
    >>> from cryoflow.kernels.rotation import euler_to_matrix
    >>> poses = euler_to_matrix(np.zeros(3), np.array([5.0, 85.0, 90.0]), np.zeros(3))
    >>> ds = xr.Dataset({"rotation": (("particle", "row", "col"), poses)})
    >>> select_views(ds, (1, 0, 0), within=10).sizes["particle"]
    2
    """
    require(ds, "select_views", ["rotation"])
    d = np.asarray(direction, np.float64)
    length = float(np.linalg.norm(d))
    if d.shape != (3,) or not np.isfinite(length) or length == 0 or not 0 <= within <= 180:
        raise ParameterError("select_views", expected="a direction (x, y, z) and an angle from 0 to 180",
                             found=f"{direction!r}, {within}"[:80])  # fmt: skip
    view = ds["rotation"].values[:, 2, :].astype(np.float64)
    nearest = np.full(len(view), -1.0)
    for operator in point_group(symmetry):
        cosine = view @ (operator @ d) / length
        nearest = np.maximum(nearest, np.abs(cosine) if opposite else cosine)
    keep = np.flatnonzero(nearest >= np.cos(np.deg2rad(within)) - 1e-12)
    if not len(keep):
        raise ParameterError("select_views", expected="at least one row", found=f"none of {len(view)}")
    return take(ds, keep)
