"""Where no particle should be picked: ice crystals, carbon, edges of the support, bright holes."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.kernels.backend import array_module, to_host
from cryoflow.picking.prepare import sigma_of, smooth

__all__ = ["contaminant_mask"]

LARGER = 1.3  # diameters of the disc that must fit into a contaminant


def contaminant_mask(image: Any, diameter: float, *, sigmas: float = 5.0) -> Any:
    """True where the local mean or the local contrast is far from usual over an area larger than a particle.

    With m the Gaussian average of the image over an eighth of a diameter less a cubic surface (ice of varying thickness
    is no contaminant), and c the logarithm of the root mean square of the image around m over a quarter diameter,

        z = max(|m - median m| / sigma m, (c - median c) / sigma c)        (robust sigmas)

    a contaminant is a connected region of z > ``sigmas``, holes filled, in which a disc of 1.3 diameters fits; it is
    widened by a quarter diameter, since a particle centred nearer than that would overlap it. Blobs of the size of the
    particle stay: in a sparse micrograph they are the particles, and a template tells them apart.

    Parameters
    ----------
    image : (y, x), the coarse micrograph.
    diameter : of the particle, pixels.
    sigmas : lower finds more.

    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(size=(160, 160)).astype(np.float32)
    >>> image[95:145, 20:80] -= 4
    >>> mask = contaminant_mask(image, 24.0)
    >>> bool(mask[120, 45]), bool(mask[:80].any())
    (True, False)
    """
    from scipy import ndimage

    xp = array_module(image)
    mean = smooth(image, diameter / 8.0)
    contrast = xp.log(xp.sqrt(xp.maximum(smooth((image - mean) ** 2, diameter / 4.0), 1e-6)))
    z = xp.maximum(xp.abs(_score(mean - _surface(mean))), _score(contrast))
    # small images, and labels are not worth a kernel of their own on a device
    region = ndimage.binary_fill_holes(np.asarray(to_host(z)) > sigmas)
    if not region.any():
        return xp.zeros(image.shape, dtype=bool)
    depth = ndimage.distance_transform_edt(region) if not region.all() else np.full(image.shape, np.inf)
    labels, _ = ndimage.label(region)
    large = np.unique(labels[depth > 0.5 * LARGER * diameter])
    region = np.isin(labels, large[large > 0])
    if not region.any():
        return xp.zeros(image.shape, dtype=bool)
    return xp.asarray(ndimage.distance_transform_edt(~region) <= diameter / 4.0)


def _surface(field: Any, *, step: int = 4, rounds: int = 5, clip: float = 2.5) -> Any:
    """Cubic polynomial in x and y through a field, fitted to every fourth sample, outliers left out."""
    xp = array_module(field)
    y, x = (xp.linspace(-1.0, 1.0, n, dtype=xp.float32) for n in field.shape)
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    terms = [(y**i)[:, None] * (x**j)[None, :] for i, j in powers]
    design = np.stack([np.asarray(to_host(t[::step, ::step])).ravel() for t in terms], axis=1).astype(np.float64)
    values = np.asarray(to_host(field[::step, ::step])).ravel().astype(np.float64)
    use = np.ones(len(values), dtype=bool)
    weights = np.zeros(len(powers))
    for _ in range(rounds):
        weights[:] = np.linalg.lstsq(design[use], values[use], rcond=None)[0]
        rest = values - design @ weights
        median, sigma = sigma_of(rest[use])
        use = np.abs(rest - median) <= clip * sigma
        if sigma == 0.0 or use.sum() < 10 * len(powers):
            break
    return sum(float(w) * t for w, t in zip(weights, terms))


def _score(field: Any) -> Any:
    median, sigma = sigma_of(field)
    return (field - median) / (sigma or 1.0)
