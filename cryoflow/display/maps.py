"""Pictures of maps (slices, projections, shaded surfaces along three axes), of micrographs and of many images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cryoflow.display.style import CYCLE, INK, clean_image, scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "AXES",
    "draw_micrograph",
    "draw_montage",
    "draw_projections",
    "draw_slices",
    "draw_surfaces",
    "render_surface",
]

VIEWS = ("along z", "along y", "along x")
AXES = "Along z, x points right and y up; along y, x right and z up; along x, y right and z up."


def draw_slices(axes: Sequence[Axes], volume: np.ndarray, *, pixel_size: float, titles: bool = True) -> None:
    """Central slices of an (n, n, n) volume through as many axes as ``axes``, one common grey scale, a scale bar."""
    n = volume.shape[0]
    planes = [np.take(volume, n // 2, axis=axis) for axis in range(len(axes))]
    low, high = np.percentile(np.stack(planes), [0.5, 99.7])
    for ax, plane, view in zip(axes, planes, VIEWS, strict=False):
        ax.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower")
        clean_image(ax, f"Slice {view}" if titles else "")
    scale_bar(axes[0], n, pixel_size)


def draw_projections(axes: Sequence[Axes], volume: np.ndarray, *, pixel_size: float, titles: bool = True) -> None:
    """Sums of an (n, n, n) volume along three axes, one common grey scale, with a scale bar."""
    sums = [volume.sum(axis=axis, dtype=np.float64) for axis in range(3)]
    low, high = np.percentile(np.stack(sums), [0.5, 99.8])
    for ax, plane, view in zip(axes, sums, VIEWS, strict=True):
        ax.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower")
        clean_image(ax, f"Projection {view}" if titles else "")
    scale_bar(axes[0], volume.shape[0], pixel_size)


def render_surface(volume: np.ndarray, level: float, axis: int = 0) -> np.ndarray:
    """Shaded image of the isosurface at ``level`` seen along an axis: (n, n, 4) RGBA, transparent beside it.

    Drawn with its first row below, it shows the hand of the map: it is seen from +z (x right, y up), from -y (x right,
    z up) or from +x (y right, z up).

    For every line of sight the first crossing of ``level`` is found, placed between voxels by linear interpolation,
    and lit from the upper left with the density's gradient as its normal; what lies deeper is darker.

    >>> ball = np.indices((16, 16, 16)) - 8
    >>> image = render_surface(6.0 - np.sqrt((ball**2).sum(0)), 0.0)
    >>> image.shape, float(image[8, 8, 3]), float(image[0, 0, 3])
    ((16, 16, 4), 1.0, 0.0)
    """
    v: np.ndarray = np.moveaxis(np.asarray(volume, dtype=np.float32), axis, 0)
    if axis != 1:  # right x up points to the viewer: y x z = +x and x x y = +z, but x x z = -y
        v = v[::-1]
    above: np.ndarray = v > level
    hit: np.ndarray = np.asarray(above.any(axis=0))
    first = above.argmax(axis=0)
    rows, columns = np.indices(first.shape)
    at, before = v[first, rows, columns], v[np.maximum(first - 1, 0), rows, columns]
    step = np.where((first > 0) & (at > before), (at - level) / np.maximum(at - before, 1e-20), 0.0)
    depth = first - step
    # density gradient at the crossing, between the two voxels beside it
    places = (first, rows, columns), (np.maximum(first - 1, 0), rows, columns)
    normal = [-((1 - step) * _slope(v, places[0], i) + step * _slope(v, places[1], i)) for i in range(3)]
    length = np.sqrt(sum(g * g for g in normal)) + 1e-20
    nz, ny, nx = (g / length for g in normal)
    lit = np.clip(-0.80 * nz + 0.42 * ny - 0.42 * nx, 0, 1)
    shine = np.clip(-0.95 * nz + 0.22 * ny - 0.22 * nx, 0, 1) ** 30
    inside = depth[hit]
    near, far = (inside.min(), inside.max()) if inside.size else (0.0, 1.0)
    fog = 1 - 0.55 * (depth - near) / max(far - near, 1e-6)
    colour = np.array([0.42, 0.72, 0.90], dtype=np.float32)
    shade = (0.25 + 0.85 * lit) * fog
    rgb = np.clip(shade[..., None] * colour + 0.25 * (shine * fog)[..., None], 0, 1)
    return np.concatenate([rgb, hit[..., None].astype(np.float32)], axis=-1).astype(np.float32)


def _slope(v: np.ndarray, place: tuple[np.ndarray, ...], axis: int) -> np.ndarray:
    """Derivative of v along an axis at some voxels: the difference of both neighbours, of those that there are."""
    after, before = list(place), list(place)
    after[axis] = np.minimum(place[axis] + 1, v.shape[axis] - 1)
    before[axis] = np.maximum(place[axis] - 1, 0)
    out: np.ndarray = (v[tuple(after)] - v[tuple(before)]) / (after[axis] - before[axis])
    return out


def draw_surfaces(axes: Sequence[Axes], volume: np.ndarray, *, pixel_size: float, level: float, box: int = 360) -> None:
    """Shaded isosurfaces of an (n, n, n) volume along three axes, Fourier-resampled to at least ``box`` pixels.

    What surrounds the density is cut away, so that the molecule fills the picture.
    """
    from cryoflow.kernels.fourier import resample

    n = volume.shape[0]
    inside = np.argwhere(volume > level)
    half = n // 2
    if inside.size:
        half = int(min(n // 2, np.abs(inside - n // 2).max() + 3))
    cut = volume[(slice(n // 2 - half, n // 2 + half),) * 3]
    size = max(2 * half, min(box, 12 * half))
    fine = resample(np.ascontiguousarray(cut), size, dims=3)
    for axis, (ax, view) in enumerate(zip(axes, VIEWS, strict=True)):
        ax.imshow(render_surface(fine, level, axis), origin="lower", interpolation="bilinear")
        clean_image(ax, f"Surface {view}")
    scale_bar(axes[0], size, pixel_size * 2 * half / size, colour=INK)


def draw_montage(ax: Axes, images: np.ndarray, *, columns: int = 10, pixel_size: float | None = None) -> None:
    """Images (k, n, n) side by side, each on its own grey scale (1st to 99th percentile), with a scale bar.

    The first row of an image is its lowest, as in pictures of micrographs.

    >>> from cryoflow.display.style import new_figure
    >>> ax = new_figure(2, 2).subplots()
    >>> draw_montage(ax, np.zeros((3, 8, 8)), columns=2)
    >>> ax.get_images()[0].get_array().shape
    (17, 17)
    """
    k, n = images.shape[0], images.shape[-1]
    columns = min(columns, k)
    rows = -(-k // columns)
    pitch = n + max(1, n // 40)
    sheet = np.full((rows * pitch - (pitch - n), columns * pitch - (pitch - n)), np.nan, dtype=np.float32)
    for i, image in enumerate(images):
        low, high = np.percentile(image, [1, 99])
        y, x = (i // columns) * pitch, (i % columns) * pitch
        sheet[y : y + n, x : x + n] = np.clip((image[::-1] - low) / max(high - low, 1e-12), 0, 1)
    ax.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    clean_image(ax)
    if pixel_size:
        scale_bar(ax, 2 * n, pixel_size)


def draw_micrograph(
    ax: Axes, micrograph: np.ndarray, coordinates: np.ndarray, diameter_px: float, *, pixel_size: float, size: int = 700
) -> None:
    """A micrograph (y, x) with a circle of ``diameter_px`` at each of ``coordinates`` (n, 2; x, y in pixels).

    Pixels are averaged in square blocks until the longer side is at most ``size``, which also makes particles visible.
    """
    from matplotlib.collections import EllipseCollection

    block = max(1, -(-max(micrograph.shape) // size))
    ny, nx = (side // block for side in micrograph.shape)
    cut = micrograph[: ny * block, : nx * block].astype(np.float32)
    small = cut.reshape(ny, block, nx, block).mean(axis=(1, 3))
    finite = small[np.isfinite(small)]
    left, middle, right = np.percentile(finite, [16, 50, 84]) if finite.size else (-1.0, 0.0, 1.0)
    low, high = middle - 3.5 * (middle - left), middle + 3.5 * (right - middle)  # contaminants do not set the scale
    # the first pixel's centre is 0, so a block's picture begins half a pixel before it
    extent = (-0.5, nx * block - 0.5, -0.5, ny * block - 0.5)
    ax.imshow(small, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="bilinear")
    if len(coordinates):
        sizes = np.full(len(coordinates), diameter_px)
        ax.add_collection(
            EllipseCollection(
                sizes, sizes, np.zeros(len(coordinates)), units="xy", offsets=np.asarray(coordinates, dtype=float),
                offset_transform=ax.transData, facecolors="none", edgecolors=CYCLE[4], linewidths=0.9,
            )
        )  # fmt: skip
    clean_image(ax)
    scale_bar(ax, nx * block, pixel_size)
