"""The rotational average of picked particles as a template, and its normalised correlation with a micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.backend import array_module, fft_module

__all__ = ["Correlation", "normalised_correlation", "radial_profiles"]


@dataclass(frozen=True, slots=True)
class Correlation:
    """``score`` (y, x) in [-1, 1]; ``coverage`` (y, x): the part of the template that lay inside the micrograph."""

    score: Any
    coverage: Any


def radial_profiles(image: Any, xy: NDArray[Any], radius: float) -> Any:
    """Mean grey value at distance 0, 1, ... pixels of each point, standardised within the disc: (n, ceil(radius) + 1).

    Each profile has mean 0 and its patch standard deviation 1 within ``radius``, so that a contaminant does not weigh
    more than a particle. Points whose disc leaves the image are left out.

    >>> radial_profiles(np.eye(9), np.array([[4, 4], [0, 0]]), 2.0).shape
    (1, 3)
    """
    xp = array_module(image)
    reach = int(np.ceil(radius))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    ny, nx = image.shape
    at = np.rint(np.asarray(xy)[:, :2]).astype(int)
    inside = ((at >= reach) & (at < np.array([nx, ny]) - reach)).all(axis=1)
    at = at[inside]
    distance = np.hypot(dx, dy)
    disc = distance <= radius
    ring = np.rint(distance[disc]).astype(int)
    # one product with the ring membership instead of a histogram a point
    membership = np.zeros((ring.size, reach + 1), np.float32)
    membership[np.arange(ring.size), ring] = 1.0
    counts = membership.sum(axis=0)
    rows = at[:, 1, None] + dy[disc][None]
    columns = at[:, 0, None] + dx[disc][None]
    patches = image[xp.asarray(rows), xp.asarray(columns)]
    patches = patches - patches.mean(axis=1, keepdims=True)
    patches = patches / (patches.std(axis=1, keepdims=True) + xp.float32(1e-6))
    return patches @ xp.asarray(membership / np.maximum(counts, 1.0))


def normalised_correlation(image: Any, profile: Any, radius: float) -> Correlation:
    """Pearson correlation of a radial template with the image around every pixel, edges taken into account.

    With the disc W of ``radius``, the template T(r) and the valid region M (1 inside the image),

        score = cov_w(I, T) / sqrt(var_w(I) var_w(T)),   weights w(u) = W(u) M(x + u),

    all six sums by fast Fourier transforms. Where the disc leaves the image the sums run over what is inside, so a
    particle cut by the edge is judged by its visible part and by nothing else.

    Parameters
    ----------
    image : (y, x).
    profile : (n,), template at distance 0, 1, ... pixels.
    radius : of the disc, pixels.

    Source: Padfield 2012, IEEE Trans. Image Process. 21:2706 (masks); Roseman 2003, Ultramicroscopy 94:225.

    >>> y, x = np.mgrid[:40, :40]
    >>> ring = np.exp(-((np.hypot(x - 25, y - 12) - 5.0) ** 2) / 2)
    >>> c = normalised_correlation(ring, np.exp(-((np.arange(9) - 5.0) ** 2) / 2), 8.0)
    >>> [int(v) for v in np.unravel_index(c.score.argmax(), c.score.shape)], bool(c.score.max() > 0.99)
    ([12, 25], True)
    """
    xp, fft = array_module(image), fft_module(image)
    ny, nx = image.shape
    pad = int(np.ceil(radius)) + 1
    shape = tuple(fft.next_fast_len(n + pad, real=True) for n in (ny, nx))

    disc, template = _on_grid(shape, profile, radius, xp)
    weight = float(disc.sum())
    template = template - float((disc * template).sum()) / weight
    valid = xp.ones((ny, nx), xp.float32)

    def spectrum(a: Any) -> Any:
        return fft.rfft2(a, s=shape)

    def sums(a: Any, b: Any) -> Any:  # the kernels are even, so correlation is convolution
        return fft.irfft2(a * b, s=shape)[:ny, :nx]

    f_image, f_square, f_valid = spectrum(image), spectrum(image * image), spectrum(valid)
    f_disc, f_template, f_template2 = spectrum(disc), spectrum(disc * template), spectrum(disc * template**2)
    n = xp.maximum(sums(f_valid, f_disc), 1.0)
    mean_i, mean_t = sums(f_image, f_disc) / n, sums(f_valid, f_template) / n
    var_i = sums(f_square, f_disc) / n - mean_i**2
    var_t = sums(f_valid, f_template2) / n - mean_t**2
    covariance = sums(f_image, f_template) / n - mean_i * mean_t
    floor = xp.float32(1e-4)  # of a variance of 1: single-precision sums know no less
    score = covariance / xp.sqrt(xp.maximum(var_i, floor * float(var_i.mean())) * xp.maximum(var_t, floor))
    return Correlation(score, n / weight)


def _on_grid(shape: tuple[int, ...], profile: Any, radius: float, xp: Any) -> tuple[Any, Any]:
    """Disc with a soft edge of one pixel, and the template, both centred at index 0 of a periodic grid."""
    away = [np.minimum(np.arange(n), n - np.arange(n)) for n in shape]
    distance = np.hypot(away[0][:, None], away[1][None])
    disc = np.clip(radius - distance + 0.5, 0.0, 1.0)
    host = profile.get() if hasattr(profile, "get") else np.asarray(profile)
    template = np.interp(distance, np.arange(len(host)), host)
    return xp.asarray(disc, dtype=xp.float32), xp.asarray(template * (disc > 0), dtype=xp.float32)
