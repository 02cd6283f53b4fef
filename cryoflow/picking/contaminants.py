"""Where no particle should be picked: ice crystals, carbon, edges of the support, bright holes."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.kernels.backend import array_module, to_host
from cryoflow.picking.prepare import sigma_of, smooth

__all__ = ["contaminant_mask"]


def contaminant_mask(image: Any, diameter: float, *, sigmas: float = 5.0) -> Any:
    """True where the local mean or the local contrast is far from what is usual in this micrograph.

    With m the Gaussian average of the image over a quarter diameter, and c the logarithm of the root mean square of
    the image around m over the same range,

        z = max(|m - median m| / sigma m, (c - median c) / sigma c)        (robust sigmas)

    a contaminant is a connected region of z > ``sigmas`` / 2 that reaches ``sigmas`` somewhere, holes filled, and
    widened by a quarter diameter: a particle centred nearer than that would overlap it.

    Parameters
    ----------
    image : (y, x), the coarse micrograph.
    diameter : of the particle, pixels.
    sigmas : lower finds more.

    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(size=(160, 160)).astype(np.float32)
    >>> image[100:140, 20:70] -= 4
    >>> mask = contaminant_mask(image, 24.0)
    >>> bool(mask[120, 45]), bool(mask[:80].any())
    (True, False)
    """
    from scipy import ndimage

    xp = array_module(image)
    sigma = diameter / 4.0
    mean = smooth(image, sigma)
    contrast = xp.log(xp.sqrt(xp.maximum(smooth((image - mean) ** 2, sigma), 1e-6)))
    z = xp.maximum(xp.abs(_score(mean)), _score(contrast))
    z_host = np.asarray(to_host(z))  # small, and labels are not worth a kernel
    labels, _ = ndimage.label(z_host > 0.5 * sigmas)
    seeds = np.unique(labels[z_host > sigmas])
    region = np.isin(labels, seeds[seeds > 0])
    if not region.any():
        return xp.zeros(image.shape, dtype=bool)
    region = ndimage.binary_fill_holes(region)
    return xp.asarray(ndimage.distance_transform_edt(~region) <= sigma)


def _score(field: Any) -> Any:
    median, sigma = sigma_of(field)
    return (field - median) / (sigma or 1.0)
