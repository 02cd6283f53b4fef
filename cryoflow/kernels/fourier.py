"""Centred Fourier transforms, frequency grids, shells, cropping, padding and shifting."""

from __future__ import annotations

from typing import Any

import numpy as np

from cryoflow.kernels.backend import array_module, fft_module

__all__ = [
    "crop",
    "frequencies",
    "irfft2c",
    "irfft3c",
    "resample",
    "rfft2c",
    "rfft3c",
    "shell_index",
    "shell_mean",
    "shell_sum",
    "shift_phases",
]


def rfft2c(images: Any) -> Any:
    """Centred orthonormal half transform of (..., n, n) real images: origin n // 2, zero frequency at index 0."""
    return _forward(images, (-2, -1))


def irfft2c(spectra: Any, n: int) -> Any:
    """Inverse of ``rfft2c`` onto a box of ``n`` pixels."""
    return _backward(spectra, (n, n), (-2, -1))


def rfft3c(volumes: Any) -> Any:
    """Centred orthonormal half transform of (..., n, n, n) real volumes."""
    return _forward(volumes, (-3, -2, -1))


def irfft3c(spectra: Any, n: int) -> Any:
    """Inverse of ``rfft3c`` onto a box of ``n`` voxels."""
    return _backward(spectra, (n, n, n), (-3, -2, -1))


def _forward(x: Any, axes: tuple[int, ...]) -> Any:
    xp, fft = array_module(x), fft_module(x)
    return fft.rfftn(xp.fft.ifftshift(x, axes=axes), axes=axes, norm="ortho")


def _backward(spectrum: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    xp, fft = array_module(spectrum), fft_module(spectrum)
    return xp.fft.fftshift(fft.irfftn(spectrum, s=shape, axes=axes, norm="ortho"), axes=axes)


def frequencies(n: int, *, dims: int = 2, xp: Any = np, dtype: Any = np.float32) -> tuple[Any, ...]:
    """Broadcastable grids (kx, ky[, kz]) of a half spectrum, cycles per pixel.

    >>> kx, ky = frequencies(4)
    >>> kx.shape, ky.shape
    ((1, 3), (4, 1))
    """
    half = xp.arange(n // 2 + 1, dtype=dtype) / n
    full = xp.asarray(np.fft.fftfreq(n), dtype=dtype)
    last = half.reshape((1,) * (dims - 1) + (-1,))
    others = [full.reshape((1,) * (dims - 1 - i) + (-1,) + (1,) * i) for i in range(1, dims)]
    return (last, *others)


def shell_index(n: int, *, dims: int = 2, xp: Any = np) -> Any:
    """Integer shell round(|k| n) of every sample of a half spectrum, shape of ``rfftn`` of an n-box, int32."""
    squares = sum((k * n) ** 2 for k in frequencies(n, dims=dims, xp=xp, dtype=np.float64))
    return xp.rint(xp.sqrt(squares)).astype(xp.int32)


def _friedel_weights(n: int, xp: Any) -> Any:
    """How often each column of a half spectrum occurs in the full one: 1 on the x = 0 and Nyquist planes, else 2."""
    weight = xp.full(n // 2 + 1, 2.0)
    weight[0] = 1.0
    if n % 2 == 0:
        weight[-1] = 1.0
    return weight


def shell_sum(values: Any, n: int, *, dims: int = 2) -> Any:
    """Sum over the FULL spectrum of a real quantity given on the half spectrum, per shell 0 .. n // 2.

    ``values`` has shape (..., n[, n], n // 2 + 1); returns (..., n // 2 + 1) in float64.
    """
    xp = array_module(values)
    index = shell_index(n, dims=dims, xp=xp).ravel()
    weight = xp.broadcast_to(_friedel_weights(n, xp), values.shape[-dims:]).ravel()
    keep = index <= n // 2
    flat = values.reshape(-1, index.size)
    rows = [xp.bincount(index[keep], weights=(row * weight)[keep], minlength=n // 2 + 1) for row in flat]
    return xp.stack(rows).reshape(*values.shape[:-dims], n // 2 + 1)


def shell_mean(values: Any, n: int, *, dims: int = 2) -> Any:
    """Mean over the full spectrum per shell; see ``shell_sum``."""
    xp = array_module(values)
    ones = xp.ones(values.shape[-dims:])
    return shell_sum(values, n, dims=dims) / shell_sum(ones, n, dims=dims)


def shift_phases(n: int, shift: Any, *, dims: int = 2) -> Any:
    """exp(-2 pi i k . t) that moves an image by ``shift`` pixels, (..., 2) as (x, y); shape (..., n, n // 2 + 1).

    >>> shift_phases(4, np.zeros((1, 2))).shape
    (1, 4, 3)
    """
    xp = array_module(shift)
    grids = frequencies(n, dims=dims, xp=xp, dtype=np.float64)
    t = xp.asarray(shift, dtype=np.float64)
    phase = sum(k * t[..., i].reshape(*t.shape[:-1], *(1,) * dims) for i, k in enumerate(grids))
    return xp.exp(-2j * xp.pi * phase).astype(np.complex64)


def crop(spectrum: Any, n: int, m: int, *, dims: int = 2) -> Any:
    """Half spectrum of an ``m``-box from that of an ``n``-box: cut (m < n) or zero-padded (m > n).

    Values are kept, so with orthonormal transforms real-space values scale by (n / m)^(dims / 2); ``resample``
    undoes that. Where an even Nyquist plane is cut it is kept once, and made consistent by ``irfftn``. Where one is
    opened, that of the last axis counts twice in ``irfftn``, as in RELION; ``resample`` halves it.
    """
    if m == n:
        return spectrum
    xp = array_module(spectrum)
    small = min(n, m)
    lead = spectrum.shape[:-dims]
    out = xp.zeros((*lead, *(m,) * (dims - 1), m // 2 + 1), dtype=spectrum.dtype)
    low, high = (small + 1) // 2, small // 2  # counts of non-negative and negative frequencies of an fft axis

    def halves(axis: int) -> list[tuple[slice, ...]]:
        if axis == 0:
            return [()]
        tails = halves(axis - 1)
        heads = (slice(0, low), slice(-high, None)) if high else (slice(0, low),)
        return [(head, *tail) for head in heads for tail in tails]

    last = slice(0, small // 2 + 1)
    for corner in halves(dims - 1):
        region = (..., *corner, last)
        out[region] = spectrum[region]
    return out


def resample(images: Any, m: int, *, dims: int = 2) -> Any:
    """Fourier-resample (..., n, n[, n]) real arrays to a box of ``m``, keeping grey values (all of them where m = 2 n).

    >>> resample(np.ones((1, 8, 8), np.float32), 4).round(5).max()
    np.float32(1.0)
    """
    n = images.shape[-1]
    forward, backward = (rfft2c, irfft2c) if dims == 2 else (rfft3c, irfft3c)
    spectrum = crop(forward(images), n, m, dims=dims) * (m / n) ** (dims / 2)
    if m > n and n % 2 == 0:
        spectrum[..., n // 2] *= 0.5  # of the Nyquist plane the half spectrum now holds one side, irfftn adds the other
    return backward(spectrum, m).astype(images.dtype)
