"""A protein from nothing: alpha-helical subunits under any point group, to atoms and to density."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numba
import numpy as np
import scipy.fft
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.kernels.fourier import crop, irfft3c
from cryoflow.kernels.rotation import minimal_rotation, random_rotations, rotation_about
from cryoflow.kernels.symmetry import point_group
from cryoflow.simulate.noise import stream

__all__ = ["alpha_helix", "atoms_to_map", "procedural_atoms", "procedural_protein"]

Array = np.ndarray[Any, np.dtype[Any]]

RISE, TWIST = 1.5, 100.0  # angstrom and degrees a residue of an alpha helix, right-handed
SPACING = 10.0  # angstrom between the axes of packed helices
# radius, angle and height of the atoms of one residue about the helix axis (angstrom, degrees): N CA C O CB
BACKBONE = np.array(
    [[1.55, -27.6, -0.88], [2.29, 0.0, 0.0], [1.66, 26.9, 1.11], [2.02, 23.9, 2.32], [3.29, -18.4, -0.76]]
)


def alpha_helix(residues: int, rng: np.random.Generator) -> Array:
    """Atoms (m, 3) of a right-handed alpha helix along z, centred: backbone, CB and two side-chain atoms a residue.

    1.5 A and 100 degrees a residue, CA at 2.29 A from the axis; the outer side-chain atoms are scattered, so that no
    two residues look alike.

    Source: Arnott & Dover 1967, J. Mol. Biol. 30:209.

    >>> alpha_helix(10, np.random.default_rng(0)).shape
    (70, 3)
    """
    side = np.stack(
        [
            rng.uniform(4.2, 5.0, (2, residues)),
            rng.uniform(-35, 0, (2, residues)),
            rng.uniform(-1.5, 0.8, (2, residues)),
        ],
        axis=-1,
    )
    side[1, :, 0] += 1.2
    polar = np.concatenate([np.repeat(BACKBONE[:, None], residues, axis=1), side]).transpose(1, 0, 2)
    step = np.arange(residues)[:, None]
    angle = np.deg2rad(polar[..., 1] + TWIST * step)
    z = polar[..., 2] + RISE * (step - 0.5 * (residues - 1))
    return np.stack([polar[..., 0] * np.cos(angle), polar[..., 0] * np.sin(angle), z], axis=-1).reshape(-1, 3)


def procedural_atoms(symmetry: str, size: float, seed: int) -> Array:
    """Atoms (m, 3) in angstrom of an assembly about the origin with largest diameter near ``size``.

    A subunit is an ellipsoid cut by a plane into two domains, each a bundle of helices on a hexagonal lattice of 10 A
    spacing along its own axis; loops join consecutive helix ends. It has no symmetry and so a hand. The subunit is
    placed where its images keep farthest apart, just in contact.

    >>> atoms = procedural_atoms("C3", 80.0, 0)
    >>> 60 < 2 * float(np.linalg.norm(atoms, axis=1).max()) < 100
    True
    """
    group = point_group(symmetry)
    if not size >= 20:
        raise ParameterError("procedural_protein", expected="a size of at least 20 angstrom", found=f"{size}")
    rng = stream(seed, 10)
    direction, gap = _roomiest_direction(group, rng)
    # subunits of radius r at distance R from the centre: gap R = 1.66 r (they are ellipsoids) and R + r = size / 2
    radius = 0.5 * size / (1 + (1.66 / gap if gap else 0.0))
    if radius < 8:
        raise ParameterError(
            "procedural_protein", expected=f"a size that gives {len(group)} subunits at least 16 angstrom each",
            found=f"{size:g} angstrom", remedy="Give a larger size, or a smaller group.",
        )  # fmt: skip
    subunit = _subunit(radius, rng)
    if gap:
        subunit = subunit + (0.5 * size - radius) * direction
    return (group @ subunit.T).transpose(0, 2, 1).reshape(-1, 3)


def procedural_protein(
    *,
    symmetry: str = "C1",
    box: int,
    pixel_size: float,
    size: float | None = None,
    b_factor: float = 30.0,
    seed: int = 0,
) -> xr.DataArray:
    """Density of a made-up alpha-helical protein under a point group; see ``procedural_atoms``.

    Parameters
    ----------
    symmetry : point group, axes as ``point_group``.
    box, pixel_size : voxels, angstrom.
    size : largest diameter, angstrom; default 0.6 of the box.
    b_factor : angstrom^2 of every atom.
    seed : another seed is another protein.

    Returns
    -------
    map (z, y, x) float32 with attrs pixel_size; positive density of 1 an atom and cubic angstrom.

    >>> volume = procedural_protein(symmetry="D2", box=32, pixel_size=5.0)
    >>> volume.shape, bool(volume.max() > 0)
    ((32, 32, 32), True)
    """
    from cryoflow.simulate.source import as_map, check_grid

    check_grid(box, pixel_size)
    extent = 0.6 * box * pixel_size if size is None else float(size)
    if extent > 0.95 * box * pixel_size:
        raise ParameterError(
            "procedural_protein", expected=f"a size below 0.95 of the box ({box * pixel_size:g} angstrom)",
            found=f"{extent:g} angstrom",
        )  # fmt: skip
    return as_map(atoms_to_map(procedural_atoms(symmetry, extent, seed), box, pixel_size, b_factor), pixel_size)


def atoms_to_map(atoms: Any, box: int, pixel_size: float, b_factor: float) -> Array:
    """Sum of unit Gaussians at ``atoms`` (m, 3), angstrom from the voxel n // 2; (n, n, n) float32, no aliasing.

    rho(x) = sum_a (4 pi / B)^(3/2) exp(-4 pi^2 |x - a|^2 / B), drawn on a grid fine enough for B and cropped to
    ``box`` in Fourier space.

    >>> float(atoms_to_map(np.zeros((1, 3)), 16, 2.0, 80.0).sum().round(3)) * 8
    1.0
    """
    if not b_factor > 0:
        raise ParameterError("atoms_to_map", expected="a B-factor above 0", found=f"{b_factor}")
    sigma = np.sqrt(b_factor / (8 * np.pi**2))
    factor = max(1, int(np.ceil(pixel_size / (1.3 * sigma))))  # 0.77 pixels of standard deviation hold 99.9 % of a step
    n = box * factor
    fine = pixel_size / factor
    total = np.zeros((n, n, n), dtype=np.float32)
    # the voxel box // 2 of the coarse grid is the fine voxel n // 2 only if the crop says so: both are the origin
    _draw(total, np.asarray(atoms, dtype=np.float64) / fine + n // 2, sigma / fine)
    total /= np.float32(fine**3)
    if factor == 1:
        return total
    spectrum = scipy.fft.rfftn(np.fft.ifftshift(total), norm="ortho")
    return np.asarray(irfft3c(crop(spectrum, n, box, dims=3), box) * factor**-1.5, dtype=np.float32)


@numba.njit(nogil=True, cache=True)
def _draw(total, atoms, sigma):  # type: ignore[no-untyped-def]
    n = total.shape[0]
    reach = int(np.ceil(5 * sigma))
    norm = 1 / (np.sqrt(2 * np.pi) * sigma)
    w = np.empty((3, 2 * reach + 1))
    for a in range(len(atoms)):
        first = np.empty(3, np.int64)
        for d in range(3):
            first[d] = int(np.rint(atoms[a, d])) - reach
            for i in range(2 * reach + 1):
                w[d, i] = norm * np.exp(-0.5 * ((first[d] + i - atoms[a, d]) / sigma) ** 2)
        for iz in range(max(0, -first[2]), min(2 * reach + 1, n - first[2])):
            for iy in range(max(0, -first[1]), min(2 * reach + 1, n - first[1])):
                c = w[2, iz] * w[1, iy]
                for ix in range(max(0, -first[0]), min(2 * reach + 1, n - first[0])):
                    total[first[2] + iz, first[1] + iy, first[0] + ix] += c * w[0, ix]


def _roomiest_direction(group: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """The unit vector whose images under the group keep farthest apart, and their distance; (x, 0) for C1."""
    if len(group) == 1:
        return np.array([1.0, 0.0, 0.0]), 0.0
    trial = random_rotations(4000, rng)[:, 2]
    images = np.einsum("gij,nj->ngi", group[1:], trial)
    gaps = np.linalg.norm(images - trial[:, None], axis=2).min(axis=1)
    best = int(np.argmax(gaps))
    return trial[best], float(gaps[best])


def _subunit(radius: float, rng: np.random.Generator) -> Array:
    """Atoms of one subunit within about ``radius`` of the origin."""
    turn = random_rotations(1, rng)[0]
    axes = radius * np.array([1.0, 0.88, 0.76]) - 2.0  # half axes of the ellipsoid; side chains reach 2 A beyond
    # domains: u.x above or below an off-centre plane, bundles along axes a large angle apart
    split = random_rotations(1, rng)[0][2]
    offset = 0.15 * radius
    first = random_rotations(1, rng)[0]
    second = rotation_about(first[1], rng.uniform(50, 80)) @ first
    ends, pieces = [], []
    for side, frame in ((1, first), (-1, second)):
        for start, stop in _bundle(axes, split, offset, side, frame, rng):
            length = float(np.linalg.norm(stop - start))
            residues = int(length / RISE)
            helix = alpha_helix(residues, rng)
            up = (stop - start) / length
            if up[2] < -1 + 1e-6:
                helix, up = helix * [1, -1, -1], -up
            helix = helix @ (minimal_rotation(np.array([0.0, 0.0, 1.0]), up)).T
            pieces.append(helix + 0.5 * (start + stop))
            ends.append((start, stop))
    for (_, here), (there, _) in pairwise(ends):
        pieces.append(_loop(here, there, rng))
    if not pieces:
        raise ParameterError("procedural_protein", expected="room for a helix", found=f"a radius of {radius:g} A")
    return np.asarray(np.concatenate(pieces) @ turn.T)


def _bundle(
    axes: Array, split: Array, offset: float, side: int, frame: Array, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """Helix axes (start, stop) of one domain: a hexagonal lattice along frame[2], neighbours antiparallel."""
    m = int(max(axes) / SPACING) + 2
    shift = rng.uniform(-0.5, 0.5, 2)
    helices: list[tuple[Array, Array]] = []
    for i in range(-m, m + 1):
        row = range(-m, m + 1) if i % 2 else range(m, -m - 1, -1)  # a serpentine: consecutive helices are neighbours
        for j in row:
            across = SPACING * ((i + shift[0] + 0.5 * j) * frame[0] + (np.sqrt(0.75) * j + shift[1]) * frame[1])
            along = frame[2] + 0.12 * rng.standard_normal(3)  # about 7 degrees off the bundle's axis
            along /= np.linalg.norm(along)
            t = np.arange(-max(axes), max(axes), 1.0)
            points = across + t[:, None] * along
            inside = ((points / axes) ** 2).sum(axis=1) < 1
            inside &= side * (points @ split - offset) > 2.5
            if inside.sum() < 10:  # shorter than 7 residues
                continue
            t = t[inside] if len(helices) % 2 else t[inside][::-1]
            start, stop = across + t[0] * along, across + t[-1] * along
            helices += _broken(start, stop, rng)
    return helices


def _broken(start: Array, stop: Array, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """One helix, or two with a kink between where it is longer than proteins have."""
    length = float(np.linalg.norm(stop - start))
    if length < 38:
        return [(start, stop)]
    at = rng.uniform(0.35, 0.65)
    kink = start + at * (stop - start) + rng.uniform(-2, 2, 3)
    gap = 3.0 * (stop - start) / length
    return [(start, kink - gap), (kink + gap, stop)]


def _loop(here: Array, there: Array, rng: np.random.Generator) -> Array:
    """Backbone atoms of a loop bulging away from the centre: a quadratic Bezier curve, a residue every 3.4 A."""
    middle = 0.5 * (here + there)
    length = float(np.linalg.norm(there - here))
    out = middle / max(float(np.linalg.norm(middle)), 1e-6)
    control = middle + out * min(6.0, 0.4 * length) + rng.uniform(-2, 2, 3)
    count = max(2, int(2.5 * length / 3.4))  # backbone atoms are 1.4 A apart
    t = (np.arange(count) + 0.5)[:, None] / count
    curve = (1 - t) ** 2 * here + 2 * t * (1 - t) * control + t**2 * there
    return np.asarray(curve + rng.uniform(-0.7, 0.7, curve.shape))
