"""The Laplacian-of-Gaussian picker: bright blobs of a range of diameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.kernels.backend import array_module, fft_module

__all__ = ["laplacian_of_gaussian", "mirror_gain"]

LARGEST = 16.0  # of omega times the diameter: exp(-32) is left of the filter there
DIAMETER_STEP = 1.15  # ratio of neighbouring scales; the response of a disc falls by 2 % half-way between


def scales(min_diameter: float, max_diameter: float) -> Any:
    """Diameters of the filters: geometric from the least to the largest.

    >>> scales(100, 100).tolist(), scales(100, 200).round().tolist()
    ([100.0], [100.0, 115.0, 132.0, 152.0, 174.0, 200.0])
    """
    count = 1 + int(np.ceil(np.log(max_diameter / min_diameter) / np.log(DIAMETER_STEP) - 1e-9))
    return np.geomspace(min_diameter, max_diameter, count)


def laplacian_of_gaussian(image: Any, *, pixel_size: float, min_diameter: float, max_diameter: float) -> Any:
    """Figure of merit (y, x): the largest scale-normalised negative Laplacian over the diameters.

        F(x) = max over d of  -sigma^2 laplace (G_sigma * I)(x) / g_d(x),   sigma = d / (2 sqrt 2),

    whose response to a disc of diameter d is greatest at that sigma. Computed as a product with
    (2 pi k)^2 sigma^2 exp(-(2 pi k)^2 sigma^2 / 2) after a cosine transform (mirror boundaries); g is ``mirror_gain``,
    1 but near the edges, so that noise has the same standard deviation everywhere.

    Parameters
    ----------
    image : (y, x), particles bright.
    pixel_size, min_diameter, max_diameter : angstrom.

    Source: Lindeberg 1998, Int. J. Comput. Vis. 30:79.

    >>> y, x = np.mgrid[:64, :64]
    >>> disc = ((x - 40) ** 2 + (y - 20) ** 2 < 64).astype(np.float32)
    >>> f = laplacian_of_gaussian(disc, pixel_size=1.0, min_diameter=12, max_diameter=20)
    >>> [int(v) for v in np.unravel_index(f.argmax(), f.shape)]
    [20, 40]
    """
    xp, fft = array_module(image), fft_module(image)
    spectrum = fft.dctn(image, type=2, norm="ortho")
    ny, nx = image.shape
    omega_y = xp.pi / ny * xp.arange(ny, dtype=xp.float32)[:, None]
    omega_x = xp.pi / nx * xp.arange(nx, dtype=xp.float32)[None, :]
    omega2 = omega_y**2 + omega_x**2
    best = None
    for diameter in scales(min_diameter, max_diameter):
        u = omega2 * xp.float32((diameter / pixel_size) ** 2 / 8.0)
        response = fft.idctn(spectrum * (u * xp.exp(-0.5 * u)), type=2, norm="ortho")
        response = response / mirror_gain(image.shape, diameter / pixel_size, xp=xp)
        best = response if best is None else xp.maximum(best, response)
    return best


def mirror_gain(shape: tuple[int, int], diameter: float, *, xp: Any = np) -> Any:
    """Deviation of filtered noise by that far from all edges, (y, x) float32: sqrt 2 at an edge, 2 at a corner.

    A filter that sees an image and its mirror image meets the same noise twice. With the coefficients w(k, l) of the
    filter and n pixels along an axis

        g^2(y, x) = sum_kl w^2 (1 + c_k(y)) (1 + c_l(x)) / sum_kl w^2,    c_k(y) = cos(pi k (2 y + 1) / n),

    where terms of k = 0 count half, and those of l = 0.

    diameter : of the particle, pixels.

    >>> mirror_gain((96, 96), 20.0)[[0, 0, 48], [0, 48, 48]].round(2) + 0.0
    array([1.99, 1.41, 1.  ], dtype=float32)
    """
    waves, omegas = [], []
    for n in shape:
        k = xp.arange(min(n, int(n * LARGEST / (np.pi * diameter)) + 1))
        waves.append(1.0 + xp.cos((np.pi / n) * (2 * xp.arange(n)[:, None] + 1) * k))
        omegas.append(np.pi / n * k)
    u = (omegas[0][:, None] ** 2 + omegas[1] ** 2) * (diameter**2 / 8.0)
    power = (u * xp.exp(-0.5 * u)) ** 2
    power[0] *= 0.5
    power[:, 0] *= 0.5
    return xp.sqrt(waves[0] @ power @ waves[1].T / power.sum()).astype(xp.float32)
