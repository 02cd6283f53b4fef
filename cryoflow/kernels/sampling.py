"""Search grids: orientations in SO(3), their oversampling, local sets around given orientations, and shifts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.kernels.rotation import euler_to_matrix, in_plane, minimal_rotation, vector_to_rotation
from cryoflow.kernels.symmetry import in_asymmetric_unit, orbit_once, point_group

__all__ = [
    "Grid",
    "LocalGrid",
    "angular_step",
    "local_rotations",
    "oversample",
    "oversample_local",
    "oversample_shifts",
    "shift_grid",
    "so3_grid",
]

Array = np.ndarray[Any, np.dtype[Any]]


def angular_step(order: int) -> float:
    """Step in degrees of the grid of a HEALPix order, 60 / 2^order.

    >>> [angular_step(order) for order in (0, 2, 3, 4)]
    [60.0, 15.0, 7.5, 3.75]
    """
    return float(60.0 / 2**order)


@dataclass(frozen=True, slots=True)
class Grid:
    """A product grid of SO(3): viewing directions x in-plane angles, made by ``so3_grid``.

    The rotation of index ``i`` has the direction ``i // n_psi`` and the in-plane angle ``i % n_psi``. Rotations are
    computed when asked for, since a fine grid has millions.
    """

    order: int
    group: str
    pixels: Array  # (n_directions,) HEALPix pixels, nested scheme
    perturbation: Array = field(default_factory=lambda: np.eye(3))  # R: the grid is R A for the plain rotations A

    @property
    def step(self) -> float:
        """In-plane step, and about the distance of neighbouring directions, in degrees."""
        return angular_step(self.order)

    @property
    def n_psi(self) -> int:
        """Number of in-plane angles."""
        return int(6 * 2**self.order)

    def __len__(self) -> int:
        return len(self.pixels) * self.n_psi

    @property
    def direction_index(self) -> Array:
        """(n,) position of each rotation's direction in ``pixels``."""
        return np.arange(len(self)) // self.n_psi

    @property
    def psi_index(self) -> Array:
        """(n,) index of each rotation's in-plane angle."""
        return np.arange(len(self)) % self.n_psi

    @property
    def directions(self) -> Array:
        """(n_directions, 3) unit vectors of the plain grid, before the perturbation."""
        return _pixel_vectors(self.order, self.pixels)

    def take(self, index: Any) -> Array:
        """Rotations (..., 3, 3) of the grid indices (...)."""
        i = np.asarray(index, dtype=np.int64)
        if i.size and (i.min() < 0 or i.max() >= len(self)):
            raise ParameterError(
                "Grid.take", expected=f"indices 0 .. {len(self) - 1}", found=f"{i.min()} .. {i.max()}"
            )  # fmt: skip
        d = self.directions[i // self.n_psi]
        rot, tilt = np.rad2deg(np.arctan2(d[..., 1], d[..., 0])), np.rad2deg(np.arccos(np.clip(d[..., 2], -1, 1)))
        return np.asarray(self.perturbation @ euler_to_matrix(rot, tilt, self.step * (i % self.n_psi)))

    @property
    def rotations(self) -> Array:
        """All rotations, (n, 3, 3) float64."""
        return self.take(np.arange(len(self)))


def so3_grid(order: int, group: str = "C1", random_shift: np.random.Generator | None = None) -> Grid:
    """Orientations on a regular grid, one of each set of symmetry-equivalent views.

    Directions are the HEALPix pixels of nside = 2^order inside the asymmetric unit of ``group``; in-plane angles
    step by 60 / 2^order degrees. Every grid point stands for (nearly) the same volume of SO(3).

    Parameters
    ----------
    order : 0 .. 12; the step is 60, 30, 15, 7.5, 3.75, 1.875 ... degrees.
    group : point group of the volume.
    random_shift : draws a rotation R of up to half a step a component, by which the whole grid is turned (A -> R A).
        A turn on this side keeps each view represented once under any group.

    Source: Gorski et al. 2005, Astrophys. J. 622:759; Scheres 2012, J. Struct. Biol. 180:519.

    >>> grid = so3_grid(1)
    >>> len(grid), grid.rotations.shape, grid.step
    (576, (576, 3, 3), 30.0)
    """
    if not 0 <= order <= 12:
        raise ParameterError("so3_grid", expected="a HEALPix order from 0 to 12", found=str(order))
    pixels = _unique_pixels(order, group)
    turn = np.eye(3)
    if random_shift is not None:
        turn = vector_to_rotation(angular_step(order) * random_shift.uniform(-0.5, 0.5, 3))
    return Grid(order, group, pixels, turn)


def _unique_pixels(order: int, group: str) -> Array:
    """Pixels that represent every orbit of directions once, with no gap at the edge of the asymmetric unit.

    Pixel centres cut at the edge can leave a seam wider than a pixel between the unit and its images (narrow sectors
    of C7 or D7 most). So the unit is probed with a 16 times finer grid, and where a probe is farther from all kept
    centres and their images than any pixel reaches, its own pixel is kept as well.
    """
    from scipy.spatial import cKDTree

    operators = point_group(group)
    centres = _pixel_vectors(order, np.arange(12 * 4**order))
    if len(operators) == 1:
        return np.arange(len(centres))
    kept = orbit_once(centres, group)
    probes = _pixel_vectors(order + 2, np.arange(12 * 4 ** (order + 2)))
    inside = np.flatnonzero(in_asymmetric_unit(probes, group))
    probes, owner = probes[inside], inside // 16
    reach = 2 * np.sin(0.5 * _pixel_radius(order))
    while True:
        images = (operators @ centres[kept].T).transpose(0, 2, 1).reshape(-1, 3)
        distance = np.asarray(cKDTree(images).query(probes)[0])
        worst = int(np.argmax(distance))
        if distance[worst] <= reach or owner[worst] in kept:
            return np.sort(kept)
        kept = np.append(kept, owner[worst])


def _pixel_radius(order: int) -> float:
    """Largest distance in radians from the centre of a pixel of nside 2^order to a corner, over the sphere."""
    nside = 2**order
    z = np.array([2 / 3, 1 - (1 - 1 / nside) ** 2 / 3])
    phi = np.array([np.pi / (4 * nside), 0.0])
    a, b = np.stack([np.sqrt(1 - z * z) * np.cos(phi), np.sqrt(1 - z * z) * np.sin(phi), z], axis=-1)
    return float(np.arccos(a @ b))


def _pixel_vectors(order: int, pixels: Array) -> Array:
    import healpix

    return np.stack(healpix.pix2vec(2**order, pixels, nest=True), axis=-1)


def oversample(grid: Grid, index: Any, levels: int = 1) -> Array:
    """The 8^levels finer rotations in the cells of the grid indices (n,), (n, 8^levels, 3, 3) float64.

    Directions are the nested HEALPix children, each carried from its parent by the smallest rotation, so that the
    children stay together also at the poles; in-plane angles are the 2^levels midpoints of equal parts of the step.
    The child of number c has the direction child c // 2^levels and the in-plane child c % 2^levels. All children of a
    grid are as uniform as the grid of order + levels.

    >>> oversample(so3_grid(1), [0, 5]).shape
    (2, 8, 3, 3)
    """
    i = np.asarray(index, dtype=np.int64).ravel()
    if levels == 0:
        return grid.take(i)[:, None]
    plain = np.swapaxes(grid.perturbation, -1, -2) @ grid.take(i)
    pixel = grid.pixels[i // grid.n_psi]
    parents = _pixel_vectors(grid.order, pixel)
    children = pixel[:, None] * 4**levels + np.arange(4**levels)
    vectors = _pixel_vectors(grid.order + levels, children)
    carry = minimal_rotation(vectors, parents[:, None])  # A carry has the child's direction and the parent's frame
    parts = (np.arange(2**levels) + 0.5) / 2**levels - 0.5
    turns = in_plane(grid.step * parts)
    cells = turns[None, None] @ (plain[:, None] @ carry)[:, :, None]
    return np.asarray(grid.perturbation @ cells.reshape(len(i), 8**levels, 3, 3))


@dataclass(frozen=True, slots=True)
class LocalGrid:
    """Small rotations D around the identity, to be composed as D @ A; made by ``local_rotations``."""

    vectors: Array  # (m, 3) rotation vectors in degrees, sorted by length
    step: float  # degrees; the spacing of the cubic lattice with the same covering radius
    radius: float  # degrees; the longest vectors kept

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def rotations(self) -> Array:
        """(m, 3, 3) float64."""
        return np.asarray(vector_to_rotation(self.vectors))

    @property
    def covering_radius(self) -> float:
        """Degrees, sqrt(3)/2 step: no rotation within ``radius - covering_radius`` is farther from the set."""
        return float(0.5 * np.sqrt(3.0) * self.step)


# A body-centred cubic lattice with cubic cell a has the covering radius sqrt(5)/4 a; a cubic one of spacing s has
# sqrt(3)/2 s. At equal radius it takes 2 / 1.549^3 = 0.54 of the points.
_CELL = 2.0 * np.sqrt(3.0 / 5.0)


def local_rotations(step: float, sigma: float, *, cutoff: float = 3.0) -> LocalGrid:
    """A fixed set of small rotations of up to ``cutoff * sigma`` degrees, for local searches.

    Rotation vectors on a body-centred cubic lattice, the thinnest lattice covering in three dimensions. Every
    orientation A searches the same D @ A, whatever A is, so one set serves all particles; a Gaussian prior of width
    sigma weighs a point by exp(-|v|^2 / (2 sigma^2)).

    Parameters
    ----------
    step : degrees; the set covers as well as a cubic grid of this spacing, with 0.54 of its points.
    sigma, cutoff : degrees and multiples of it; the largest deviation kept.

    Source: Conway & Sloane 1999, Sphere Packings, Lattices and Groups, chapter 2.

    >>> local = local_rotations(1.875, 3.75)
    >>> local.rotations.shape == (len(local), 3, 3), local.vectors[0].tolist()
    (True, [0.0, 0.0, 0.0])
    """
    if not (step > 0 and sigma > 0 and cutoff > 0):
        found = f"{step}, {sigma}, {cutoff}"
        raise ParameterError("local_rotations", expected="step, sigma and cutoff above 0", found=found)
    radius = cutoff * sigma
    if radius > 60.0:
        raise ParameterError(
            "local_rotations", expected="a search radius of at most 60 degrees", found=f"{radius:g} degrees",
            remedy="Search globally with so3_grid.",
        )  # fmt: skip
    cell = _CELL * step
    m = int(np.ceil(radius / cell)) + 1
    corner = np.stack(np.meshgrid(*[np.arange(-m, m + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = cell * np.concatenate([corner, corner + 0.5])
    length = np.linalg.norm(points, axis=1)
    keep = length <= radius + 1e-9
    points, length = points[keep], length[keep]
    ranking = np.lexsort((points[:, 2], points[:, 1], points[:, 0], length.round(9)))
    return LocalGrid(points[ranking], float(step), float(radius))


# representatives of the finer lattice (half the cell) modulo the coarse one, in units of the cell
_COSETS = 0.25 * np.array(
    [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [2, 0, 0], [0, 2, 0], [0, 0, 2]]
)  # fmt: skip


def oversample_local(local: LocalGrid, levels: int = 1) -> Array:
    """Children (8^levels, 3) of any point of a local set, as rotation vectors in degrees to be added to its own.

    The children of all points together are the lattice of step / 2^levels; each parent's are centred on it.

    >>> oversample_local(local_rotations(2.0, 4.0)).shape
    (8, 3)
    """
    offsets = np.zeros((1, 3))
    for level in range(levels):
        fresh = _COSETS * (_CELL * local.step / 2**level)
        offsets = (offsets[:, None] + (fresh - fresh.mean(axis=0))).reshape(-1, 3)
    return offsets


def shift_grid(range: float, step: float) -> Array:
    """Shifts (n, 2) on a square grid with |t| <= range, zero included, in the units given.

    >>> shift_grid(1.0, 1.0).tolist()
    [[-1.0, 0.0], [0.0, -1.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    """
    if not (range >= 0 and step > 0):
        raise ParameterError("shift_grid", expected="range of at least 0, step above 0", found=f"{range}, {step}")
    m = int(np.floor(range / step + 1e-6))
    points = np.stack(np.meshgrid(np.arange(-m, m + 1), np.arange(-m, m + 1), indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(step * points[(points**2).sum(axis=1) <= (range / step) ** 2 + 1e-6], dtype=np.float64)


def oversample_shifts(step: float, levels: int = 1) -> Array:
    """Offsets (4^levels, 2) from a shift of a square grid to its children, the midpoints of equal parts of its cell.

    >>> oversample_shifts(2.0).tolist()
    [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    """
    parts = step * ((np.arange(2**levels) + 0.5) / 2**levels - 0.5)
    return np.stack(np.meshgrid(parts, parts, indexing="ij"), axis=-1).reshape(-1, 2)
