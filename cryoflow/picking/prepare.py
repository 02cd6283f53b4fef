"""From a micrograph as recorded to the small, white-on-black image that pickers look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoflow.errors import FormatError
from cryoflow.kernels.backend import array_module, fft_module

__all__ = ["Coarse", "coarsen", "sigma_of", "smooth"]

SAMPLES_PER_DIAMETER = 32
OUTLIER_SIGMAS = 6.0  # hot and dead pixels; one pixel of a single-particle micrograph never carries that much signal


@dataclass(frozen=True, slots=True)
class Coarse:
    """A coarse micrograph: ``image`` (y, x) white on black, ``pixel`` angstrom, ``scale`` (x, y) of the pixels."""

    image: Any
    pixel: float
    scale: tuple[float, float]

    def fine(self, xy: Any) -> Any:
        """Coordinates (n, 2) of the coarse grid in pixels of the micrograph (first pixel centre 0 in both)."""
        return (np.asarray(xy, dtype=np.float64) + 0.5) * np.asarray(self.scale) - 0.5

    def coarse(self, xy: Any) -> Any:
        """The inverse of ``fine``."""
        return (np.asarray(xy, dtype=np.float64) + 0.5) / np.asarray(self.scale) - 0.5


def sigma_of(values: Any) -> tuple[float, float]:
    """Median and robust standard deviation (1.4826 times the median absolute deviation) of an array.

    >>> median, sigma = sigma_of(np.r_[np.arange(-50.0, 51.0), 1e9])
    >>> median, round(sigma, 1)
    (0.5, 37.8)
    """
    xp = array_module(values)
    flat = values.ravel()
    median = float(xp.median(flat))
    return median, 1.4826 * float(xp.median(xp.abs(flat - median)))


def coarsen(micrograph: Any, *, pixel_size: float, diameter: float, dark: bool) -> Coarse:
    """Clip outliers, make particles white, and resample to ``diameter / 32`` angstrom a pixel (never finer than given).

    The resampling keeps the lowest coefficients of the cosine transform (type II), which continues the micrograph by
    its mirror image: unlike a Fourier crop it does not smear one edge into the opposite one. Background and noise are
    scaled so that the robust standard deviation of the result is 1.

    Parameters
    ----------
    micrograph : (y, x), any real dtype.
    pixel_size, diameter : angstrom.
    dark : whether particles are darker than the background.

    Raises
    ------
    FormatError : NaN, infinite or constant micrographs.

    >>> rng = np.random.default_rng(0)
    >>> c = coarsen(rng.normal(size=(100, 120)), pixel_size=1.0, diameter=64.0, dark=False)
    >>> c.image.shape, c.pixel, [float(v) for v in c.fine([[0, 0]])[0]]
    ((50, 60), 2.0, [0.5, 0.5])
    """
    xp, fft = array_module(micrograph), fft_module(micrograph)
    image = xp.asarray(micrograph, dtype=xp.float32)
    if not bool(xp.isfinite(image.sum(dtype=xp.float64))):
        bad = int((~xp.isfinite(image)).sum())
        raise FormatError("micrograph", expected="finite values", found=f"{bad} NaN or infinite pixels")
    # a sixteenth of the pixels is enough for the two numbers
    centre, sigma = sigma_of(image[::4, ::4])
    if sigma == 0.0:
        raise FormatError("micrograph", expected="an image", found="more than half of its pixels have one value")
    limit = OUTLIER_SIGMAS * sigma
    image = xp.clip(image - centre, -limit, limit)
    if dark:
        image = -image
    shape = image.shape
    target = max(pixel_size, diameter / SAMPLES_PER_DIAMETER)
    small = tuple(max(1, min(n, round(n * pixel_size / target))) for n in shape)
    if small != shape:
        spectrum = fft.dctn(image, type=2, norm="ortho")[: small[0], : small[1]]
        image = fft.idctn(spectrum, type=2, norm="ortho")
    image = image / xp.float32(sigma_of(image)[1] or 1.0)
    scale = (shape[1] / small[1], shape[0] / small[0])
    return Coarse(image, pixel_size * 0.5 * (scale[0] + scale[1]), scale)


def smooth(image: Any, sigma: float) -> Any:
    """Gaussian average of ``sigma`` pixels with mirror boundaries, as a product after a cosine transform.

    >>> bool(np.allclose(smooth(np.ones((8, 9), np.float32), 2.0), 1.0, atol=1e-5))
    True
    """
    xp, fft = array_module(image), fft_module(image)
    ny, nx = image.shape
    wy = xp.exp(-0.5 * (sigma * xp.pi / ny * xp.arange(ny, dtype=xp.float32)) ** 2)
    wx = xp.exp(-0.5 * (sigma * xp.pi / nx * xp.arange(nx, dtype=xp.float32)) ** 2)
    return fft.idctn(fft.dctn(image, type=2, norm="ortho") * wy[:, None] * wx[None], type=2, norm="ortho")
