"""Atomic models as sources: onto the axes of their point group, then to density."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage

from cryoflow.errors import ParameterError
from cryoflow.kernels.fourier import resample
from cryoflow.kernels.rotation import (
    angular_distance,
    minimal_rotation,
    rotation_about,
    rotation_to_vector,
    vector_to_rotation,
)
from cryoflow.kernels.symmetry import point_group

__all__ = ["Alignment", "align_to_symmetry", "model_chains", "model_source"]

Array = np.ndarray[Any, np.dtype[Any]]
Alignment = tuple[Array, Array, float]  # rotation R (3, 3), centre c (3,), residual in angstrom: x -> R (x - c)
TOLERANCE = 3.0  # angstrom and degrees by which chains of one kind may differ from the exact group


def model_source(path: Path, *, box: int, pixel_size: float, symmetry: str) -> xr.DataArray:
    """Density of a model file with the axes of ``symmetry`` through the voxel n // 2, as ``point_group`` has them."""
    from cryoflow.io import model_to_map

    if len(point_group(symmetry)) == 1:
        return model_to_map(path, box=box, pixel_size=pixel_size)
    turn, centre, residual = align_to_symmetry(model_chains(path), symmetry)
    if not residual <= TOLERANCE:
        raise ParameterError(
            "simulate", expected=f"a model with the symmetry {symmetry}",
            found=f"chains of {path.name} that deviate from it by {residual:.1f} A",
            remedy="Give the symmetry of the model, or the biological assembly.",
        )  # fmt: skip
    origin = (float(centre[0]), float(centre[1]), float(centre[2]))
    if float(angular_distance(turn, np.eye(3))) < 0.05:
        return model_to_map(path, box=box, pixel_size=pixel_size, centre=origin)
    fine = model_to_map(path, box=2 * box, pixel_size=pixel_size / 2, centre=origin)
    matrix = turn.T[::-1, ::-1]  # rho'(x) = rho(R^T x), array axes z, y, x
    middle = np.full(3, box)
    turned = ndimage.affine_transform(fine.values, matrix, middle - matrix @ middle, order=3)
    return fine.isel(z=slice(0, box), y=slice(0, box), x=slice(0, box)).copy(
        data=resample(turned, box, dims=3).astype(np.float32)
    ).assign_attrs(pixel_size=float(pixel_size))  # fmt: skip


def model_chains(path: str | Path) -> list[Array]:
    """CA (or P) positions of every chain of a model file, each (m, 3) angstrom; chains of one sequence have one length.

    Only residues that all chains of the same entity have are kept.
    """
    from cryoflow.io.model import read_model

    kinds: dict[str, list[dict[str, list[float]]]] = defaultdict(list)
    for chain in read_model(Path(path), None, "simulate")[0]:
        atoms = {
            f"{residue.seqid}": atom.pos.tolist()
            for residue in chain for atom in residue
            if atom.name in ("CA", "P") and atom.element.name in ("C", "P")
        }  # fmt: skip
        if atoms:
            kinds[next((r.entity_id for r in chain if r.entity_id), chain.name)].append(atoms)
    result = []
    for chains in kinds.values():
        common = [key for key in chains[0] if all(key in other for other in chains)]
        result += [np.array([chain[key] for key in common]) for chain in chains if len(common) >= 3]
    return result


def align_to_symmetry(chains: list[Array], symmetry: str) -> Alignment:
    """The rotation R and centre c that bring equal chains onto the axes of a point group: x -> R (x - c).

    Superposing the chains of one kind gives operators x -> Q x + t. The centre is their common fixed point. R turns the
    axes of two of them onto generating axes of the group; of all such pairs the one is taken whose group best maps the
    chains onto each other, and of equal ones the smallest rotation, so that an aligned model stays as it is.

    Parameters
    ----------
    chains : (m, 3) positions; chains of the same length are taken for copies.
    symmetry : point group of ``point_group``.

    Returns
    -------
    R, c, residual : the largest root-mean-square distance of an image of the first chain to the nearest chain,
        angstrom; infinity if there are no copies or none of their axes fit.

    Source: Kabsch 1976, Acta Cryst. A32:922 (superposition).

    >>> rng = np.random.default_rng(0)
    >>> one = rng.normal(size=(9, 3)) + 20
    >>> turn = rotation_about((1, 1, 0), 30.0)
    >>> chains = [(g @ one.T).T @ turn.T + 50 for g in point_group("D2")]
    >>> rotation, centre, residual = align_to_symmetry(chains, "D2")
    >>> centre.round(3).tolist(), round(residual, 6)
    ([50.0, 50.0, 50.0], 0.0)
    """
    group = point_group(symmetry)
    everything = np.concatenate(chains) if chains else np.zeros((1, 3))
    lengths = [len(chain) for chain in chains]
    best = max(set(lengths), key=lambda m: (lengths.count(m), m), default=0)
    copies = [chain for chain in chains if len(chain) == best]
    if len(copies) < 2:
        return np.eye(3), everything.mean(axis=0), 0.0 if len(group) == 1 else np.inf
    turns, shifts = zip(*[_superpose(copies[0], other) for other in copies[1:]])
    q, t = np.array(turns), np.array(shifts)
    # fixed point of all operators, nearest to the mean of the copies where an axis leaves it free
    start = np.concatenate(copies).mean(axis=0)
    rows = (np.eye(3) - q).reshape(-1, 3)
    centre = start + np.linalg.lstsq(rows, (t - start + q @ start).reshape(-1), rcond=1e-3)[0]
    if len(group) == 1:
        return np.eye(3), centre, 0.0
    rotation, misfit = np.eye(3), np.inf
    rough = _candidates(q, group)
    # settings that the group makes equivalent are many: three atoms a chain tell which are worth a closer look
    few = np.array([chain[[0, best // 2, -1]] for chain in copies]) - centre
    guesses = np.array([_residual(few @ r.T, group) for r in rough])
    close: Array = np.flatnonzero(guesses <= 1.5 * guesses.min(initial=np.inf) + 0.5)[:4]
    placed = np.array(copies) - centre
    for i in close:
        candidate = _polish(rough[i], q, group)
        residual = _residual(placed @ candidate.T, group)
        # equal settings differ by the deviations of the chains: keep the first, which is the smaller rotation
        if residual < 0.8 * misfit - 0.01:
            rotation, misfit = candidate, residual
    return rotation, centre, misfit


def _residual(chains: Array, group: Array) -> float:
    """Largest root-mean-square distance of an image of the first of (c, m, 3) chains to the nearest chain."""
    images = (group @ chains[0].T).transpose(0, 2, 1)
    squares = [((images - chain) ** 2).sum(axis=-1).mean(axis=-1) for chain in chains]
    return float(np.sqrt(np.min(squares, axis=0).max()))


def _superpose(source: Array, target: Array) -> tuple[Array, Array]:
    """Q, t of least squares with Q source + t = target."""
    a, b = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - b).T @ (source - a))
    q = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return q, b - q @ a


def _candidates(q: Array, group: Array) -> list[Array]:
    """Rotations that bring axes of operators Q onto two generating axes of the group, the smallest first."""
    mine, theirs = rotation_to_vector(q), rotation_to_vector(group[1:])
    angle_q, angle_g = np.linalg.norm(mine, axis=1), np.linalg.norm(theirs, axis=1)
    axis_q, axis_g = mine / np.maximum(angle_q, 1e-9)[:, None], theirs / angle_g[:, None]
    first = int(np.argmin(angle_g))
    crossing = np.linalg.norm(np.cross(axis_g, axis_g[first]), axis=1)
    second = int(np.argmax(crossing))
    found: list[Array] = []
    for one in _signed(axis_q, angle_q, angle_g[first]):
        if crossing[second] < 1e-6:  # one axis only: the rest is free, so turn as little as possible
            found.append(_onto(one, axis_g[first]))
            continue
        found.extend(
            _frame(axis_g[first], axis_g[second]) @ _frame(one, two).T
            for two in _signed(axis_q, angle_q, angle_g[second])
            if abs(one @ two - axis_g[first] @ axis_g[second]) < 0.1
        )
    return sorted(found, key=lambda r: round(float(angular_distance(r, np.eye(3))), 3))


def _signed(axes: Array, angles: Array, wanted: float) -> list[Array]:
    """Axes of the operators with the angle wanted; half turns have no sense, so theirs come both ways."""
    fits = axes[np.abs(angles - wanted) < 2 * TOLERANCE]
    return [*fits, *-fits] if wanted > 179 else list(fits)


def _polish(rotation: Array, q: Array, group: Array) -> Array:
    """Turn R a little, so that the axes of all operators lie best on those of their nearest elements of the group."""
    mine = rotation_to_vector(q)
    for _ in range(2):
        turned = rotation @ q @ rotation.T
        distance = angular_distance(turned[:, None], group[None])
        near = distance.min(axis=1) < 10.0
        target = rotation_to_vector(group[distance.argmin(axis=1)])
        source = mine @ rotation.T
        source = np.where((source * target).sum(axis=1, keepdims=True) < 0, -source, source)  # half turns
        # w x source = target - source, least squares in w; directions that no axis fixes stay at 0
        rows = np.cross(np.eye(3)[None], source[near][:, None]).transpose(0, 2, 1).reshape(-1, 3)
        if not near.any():
            return rotation
        step = np.linalg.lstsq(rows, (target - source)[near].ravel(), rcond=1e-3)[0]
        rotation = vector_to_rotation(np.rad2deg(step)) @ rotation
    return rotation


def _onto(source: Array, target: Array) -> Array:
    if source @ target > -1 + 1e-9:
        return np.asarray(minimal_rotation(source, target))
    side = np.cross(source, np.eye(3)[int(np.argmin(np.abs(source)))])
    return np.asarray(rotation_about(side, 180.0))


def _frame(a: Array, b: Array) -> Array:
    """Right-handed orthonormal axes as columns: the bisector of two vectors, across it in their plane, the normal."""
    along = (a + b) / np.linalg.norm(a + b)
    normal = np.cross(a, b)
    normal /= np.linalg.norm(normal)
    return np.stack([along, np.cross(normal, along), normal], axis=1)
