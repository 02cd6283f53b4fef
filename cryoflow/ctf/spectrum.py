"""The averaged amplitude spectrum of a micrograph, and its samples in polar bins."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from cryoflow.ctf.tiles import clipped, tile_stacks
from cryoflow.kernels.backend import array_module, fft_module, is_device, to_device, to_host

__all__ = ["FINEST_PIXEL", "PolarGrid", "amplitude_spectrum", "polar_grid", "tile_size", "to_polar"]

FINEST_PIXEL = 1.4  # angstrom: a finer pixel spends the box on frequencies without rings, and undersamples the rings


def tile_size(box: int, pixel_size: float, target: float = FINEST_PIXEL) -> int:
    """Tile in pixels whose transform has the frequency step of ``box`` pixels of size max(``pixel_size``, ``target``).

    A finer micrograph is cut into larger tiles instead of being resampled: the samples that reach to the target's
    Nyquist frequency are the same.

    >>> tile_size(512, 1.5), tile_size(512, 0.7)
    (512, 1024)
    """
    if pixel_size >= target:
        return box
    return int(scipy.fft.next_fast_len(2 * round(box * target / pixel_size / 2), real=True))


@functools.lru_cache(maxsize=8)
def _window(tile: int) -> npt.NDArray[np.float32]:
    """Sine window: against the cross of a tile's edges and the leakage of low frequencies.

    A Hann window leaks less but blurs close rings more; half-overlapping sine windows weigh all pixels alike.
    """
    sine = np.sin(np.pi * (np.arange(tile) + 0.5) / tile)
    return np.asarray(sine[:, None] * sine, dtype=np.float32)


def amplitude_spectrum(image: Any, tile: int, *, overlap: float = 0.5) -> Any:
    """Mean amplitude |F| of overlapping windowed tiles, the half spectrum (tile, tile // 2 + 1), float32.

    Welch's method on amplitudes: they weigh single bright events less than powers do. Bad areas are left out.
    Raises ``UnusableMicrographError`` for blank, broken or mostly bad images.

    Source: Rohou & Grigorieff 2015, J. Struct. Biol. 192:216; Welch 1967.

    >>> amplitude_spectrum(np.random.default_rng(0).normal(size=(96, 80)), 64).shape
    (64, 33)
    """
    xp, fft = array_module(image), fft_module(image)
    window = xp.asarray(_window(tile))
    total, count = xp.zeros((tile, tile // 2 + 1), dtype=xp.float32), 0
    for stack in tile_stacks(clipped(image), tile, overlap):
        stack *= window
        total += xp.abs(fft.rfft2(stack)).sum(axis=0)
        count += len(stack)
    return total / xp.float32(count)


@dataclass(frozen=True, slots=True, eq=False)
class PolarGrid:
    """Where each sample of a half spectrum falls in (sector, radius), for ``to_polar``.

    A sample between two radii is shared by both in proportion (linear weights keep its radius on average).
    ``angles`` are the centres of the sectors, degrees from the x axis in (-90, 90).
    """

    samples: Any
    bins: Any
    fraction: Any
    weight: npt.NDArray[np.floating[Any]]
    angles: npt.NDArray[np.floating[Any]]

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]


@functools.lru_cache(maxsize=8)
def polar_grid(tile: int, sectors: int, radii: int, device: bool = False) -> PolarGrid:
    """Polar bins of the half spectrum of a ``tile``, without the central cross; radii 0 .. ``radii`` - 1 samples.

    >>> polar_grid(64, 18, 30).shape
    (18, 30)
    """
    ky, kx = np.meshgrid(np.fft.fftfreq(tile) * tile, np.arange(tile // 2 + 1), indexing="ij")
    radius, angle = np.hypot(kx, ky), np.arctan2(ky, kx)
    keep = (radius < radii - 1) & (np.abs(ky) >= 1) & (kx >= 1)
    samples = np.flatnonzero(keep)
    sector = np.minimum((angle.ravel()[samples] / np.pi + 0.5) * sectors, sectors - 1).astype(np.int64)
    low = radius.ravel()[samples].astype(np.int64)
    fraction = radius.ravel()[samples] - low
    bins = sector * radii + low
    size = sectors * radii
    weight: npt.NDArray[np.floating[Any]] = np.bincount(bins, 1 - fraction, size) + 0.0
    weight += np.bincount(bins + 1, fraction, size)
    angles = (np.arange(sectors) + 0.5) * (180.0 / sectors) - 90.0
    place = to_device if device else np.asarray
    return PolarGrid(place(samples), place(bins), place(fraction), weight.reshape(sectors, radii), angles)


def to_polar(spectrum: Any, *, sectors: int, radii: int) -> tuple[npt.NDArray[np.float64], PolarGrid]:
    """Mean of a half spectrum in bins (sectors, radii), on the host, and the grid used.

    Empty bins (near the origin) take the mean of their radius.
    """
    xp = array_module(spectrum)
    grid = polar_grid(spectrum.shape[0], sectors, radii, is_device(spectrum))
    values = spectrum.ravel()[grid.samples].astype(xp.float64)
    size = sectors * radii
    total = xp.bincount(grid.bins, (1 - grid.fraction) * values, size)
    total += xp.bincount(grid.bins + 1, grid.fraction * values, size)
    polar = to_host(total).reshape(sectors, radii)
    around = polar.sum(axis=0) / np.maximum(grid.weight.sum(axis=0), 1e-9)
    filled = grid.weight > 0.05
    return np.where(filled, polar / np.where(filled, grid.weight, 1.0), around), grid
