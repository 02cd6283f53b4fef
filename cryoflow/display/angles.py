"""Where the particles were seen from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cryoflow.display.style import INK, SEQUENTIAL

if TYPE_CHECKING:
    from matplotlib.projections.geo import MollweideAxes

__all__ = ["direction_counts", "draw_orientations", "viewing_directions"]


def viewing_directions(rotations: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """Unit vectors (x, y, z) in the frame of the volume along which particles are seen, (n, 3) or (n * order, 3).

    The direction of A is its third row, (cos rot sin tilt, sin rot sin tilt, cos tilt). With the matrices of a point
    ``group`` (order, 3, 3) every equivalent direction is given.

    >>> viewing_directions(np.eye(3)[None]).tolist()
    [[0.0, 0.0, 1.0]]
    """
    directions = np.asarray(rotations, dtype=np.float64)[:, 2, :]
    if group is None:
        return directions
    expanded: np.ndarray = np.einsum("ni,gij->ngj", directions, np.asarray(group, dtype=np.float64))
    return expanded.reshape(-1, 3)


def direction_counts(directions: np.ndarray, level: int = 3) -> np.ndarray:
    """Number of directions in each of the 12 * 4**level equal areas of the HEALPix sphere (ring order).

    >>> int(direction_counts(np.array([[0.0, 0.0, 1.0]] * 5)).sum())
    5
    """
    import healpix

    nside = 2**level
    x, y, z = np.asarray(directions, dtype=np.float64).T
    pixels = healpix.vec2pix(nside, x, y, z)
    return np.bincount(pixels, minlength=12 * nside**2)


def draw_orientations(
    ax: MollweideAxes, rotations: np.ndarray, *, group: np.ndarray | None = None, level: int | None = None
) -> None:
    """Density of viewing directions on the whole sphere, equal-area (an axes of ``projection="mollweide"``).

    Colours count particles for each HEALPix area over their mean: 1 everywhere is an even coverage. Without ``level``
    areas are as small as about 25 directions each allow.
    """
    import healpix

    directions = viewing_directions(rotations, group)
    if level is None:
        level = int(np.clip(np.floor(np.log2(max(len(directions), 1) / (12 * 25)) / 2), 1, 4))
    counts = direction_counts(directions, level)
    relative = counts / max(counts.mean(), 1e-12)
    lon = np.radians(np.linspace(-180, 180, 361))
    lat = np.radians(np.linspace(-90, 90, 181))
    mid_lon, mid_lat = 0.5 * (lon[1:] + lon[:-1]), 0.5 * (lat[1:] + lat[:-1])
    grid_lon, grid_lat = np.meshgrid(mid_lon, mid_lat)
    pixels = healpix.ang2pix(2**level, 0.5 * np.pi - grid_lat, grid_lon % (2 * np.pi))
    top = max(2.0, float(np.percentile(relative, 99.5)))
    mesh = ax.pcolormesh(lon, lat, relative[pixels], cmap=SEQUENTIAL, vmin=0, vmax=top, rasterized=True)
    ax.grid(visible=True, color="white", alpha=0.25, lw=0.5)
    ax.set_xticks(np.radians([-120, -60, 0, 60, 120]), ["−120°", "−60°", "rot 0°", "60°", "120°"], fontsize=7)
    ax.set_yticks(np.radians([-60, -30, 0, 30, 60]), ["150°", "120°", "tilt 90°", "60°", "30°"], fontsize=7)
    for label in ax.get_xticklabels():
        label.set_color("white")
    ax.spines["geo"].set_edgecolor(INK)
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.6, pad=0.03, aspect=25)
    bar.set_label("particles / mean", fontsize=8)
    bar.outline.set_visible(False)
