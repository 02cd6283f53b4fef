"""Pictures of picking and extraction: a micrograph with its picks, and a montage of particles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cryoflow.display.style import CYCLE, clean_image, new_figure, scale_bar, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["micrograph_figure", "montage_figure"]


def micrograph_figure(
    micrograph: Any, *, pixel_size: float, picks: Any = None, diameter: float | None = None, title: str = "",
    width: int = 640,
) -> Figure:  # fmt: skip
    """A micrograph as recorded, averaged to about ``width`` samples, with a circle of ``diameter`` around each pick.

    Parameters
    ----------
    micrograph : (y, x).
    pixel_size, diameter : angstrom.
    picks : (n, 2) coordinates (x, y), pixels.

    >>> noise = np.random.default_rng(0).normal(size=(64, 80))
    >>> len(micrograph_figure(noise, pixel_size=2.0, picks=[[20, 30]], diameter=30.0).axes)
    1
    """
    image = np.asarray(micrograph, dtype=np.float32)
    step = max(1, round(image.shape[1] / width))
    ny, nx = (n // step * step for n in image.shape)
    small = image[:ny, :nx].reshape(ny // step, step, nx // step, step).mean(axis=(1, 3))
    low, high = np.nanpercentile(small, (0.5, 99.5))
    with style():
        figure = new_figure(5.2, 5.2 * ny / nx + (0.3 if title else 0.0))
        ax = figure.add_subplot()
        edge = step - 1  # pixel centres of the full image as coordinates
        ax.imshow(small, cmap="gray", vmin=low, vmax=high, extent=(-0.5, nx - 0.5, ny - 0.5, -0.5),
                  interpolation="bilinear" if edge else "nearest")  # fmt: skip
        if picks is not None and len(picks):
            _circles(ax, np.asarray(picks)[:, :2], 0.5 * (diameter or 20 * pixel_size) / pixel_size)
        ax.set_xlim(-0.5, nx - 0.5)
        ax.set_ylim(ny - 0.5, -0.5)
        scale_bar(ax, nx, pixel_size)
        clean_image(ax, title)
    return figure


def _circles(ax: Any, xy: Any, radius: float) -> None:
    from matplotlib.collections import EllipseCollection

    size = np.full(len(xy), 2 * radius)
    ax.add_collection(
        EllipseCollection(size, size, np.zeros(len(xy)), units="xy", offsets=xy, facecolors="none",
                                        offset_transform=ax.transData, edgecolors=CYCLE[4], linewidths=0.9)
    )  # fmt: skip


def montage_figure(images: Any, *, pixel_size: float, columns: int = 10, sigma: float = 1.5, title: str = "") -> Figure:
    """Particles side by side, smoothed by ``sigma`` pixels, one grey scale for all (-2.5 to 2.5 of their deviations).

    Parameters
    ----------
    images : (particle, n, n).

    >>> len(montage_figure(np.zeros((5, 16, 16)), pixel_size=2.0, columns=3).axes)
    1
    """
    from scipy.ndimage import gaussian_filter

    stack = np.asarray(images, dtype=np.float32)
    count, box = len(stack), stack.shape[-1]
    columns = min(columns, max(1, count))
    rows = -(-count // columns)
    gap = max(1, box // 32)
    canvas = np.full((rows * (box + gap) - gap, columns * (box + gap) - gap), np.nan, np.float32)
    for i, image in enumerate(stack):
        y, x = (box + gap) * (i // columns), (box + gap) * (i % columns)
        canvas[y : y + box, x : x + box] = gaussian_filter(image, sigma) if sigma else image
    spread = float(np.nanstd(canvas)) or 1.0
    centre = float(np.nanmean(canvas))
    with style():
        figure = new_figure(7.2, 7.2 * rows / columns + (0.3 if title else 0.0))
        ax = figure.add_subplot()
        ax.imshow(canvas, cmap="gray", vmin=centre - 2.5 * spread, vmax=centre + 2.5 * spread)
        scale_bar(ax, box, pixel_size)
        clean_image(ax, title)
    return figure
