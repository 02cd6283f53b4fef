"""Fourier shell correlation, what follows from it, and radial spectra of volumes.

A curve has one value per shell 0 .. n // 2 (``conventions``); shell s lies at s / (n pixel_size) in 1/angstrom.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.kernels.backend import array_module, to_host
from cryoflow.kernels.fourier import irfft3c, rfft2c, rfft3c, shell_index, shell_mean, shell_sum

__all__ = [
    "corrected_fsc",
    "fsc",
    "fsc_from_ssnr",
    "fsc_weight",
    "low_pass",
    "map_model_fsc",
    "phase_randomise",
    "power_spectrum",
    "resolution_at",
    "shell_frequencies",
    "ssnr",
]

NO_RESOLUTION = math.inf


def fsc(a: Any, b: Any, *, dims: int = 3) -> Any:
    """Fourier shell correlation of two volumes (or ring correlation of two images, ``dims=2``).

    FSC(s) = sum_s Re(A B*) / sqrt(sum_s |A|^2 sum_s |B|^2), summed in float64 over the full spectrum.

    Parameters
    ----------
    a, b : (..., n, n, n) real volumes, or their half spectra (..., n, n, n // 2 + 1), complex. Leading dims broadcast.
    dims : 3 for volumes, 2 for images.

    Returns
    -------
    (..., n // 2 + 1) float64 between -1 and 1; 0 where a shell is empty in either.

    Raises
    ------
    ParameterError : shapes differ, boxes are not cubic, or values are not finite.

    Source: Harauz & van Heel 1986, Optik 73:146.

    >>> rng = np.random.default_rng(0)
    >>> volume = rng.standard_normal((9, 9, 9))
    >>> fsc(volume, 3 * volume).round(6).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    fa, fb = _spectrum(a, dims), _spectrum(b, dims)
    if fa.shape[-dims:] != fb.shape[-dims:]:
        raise ParameterError(
            "fsc", expected=f"the same box for both, here {fa.shape[-dims]}", found=f"a box of {fb.shape[-dims]}",
            remedy="Resample one of them (kernels.fourier.resample) to the other's pixel size and box.",
        )  # fmt: skip
    n = fa.shape[-dims]
    xp = array_module(fa)
    products = xp.broadcast_arrays(fa.real * fb.real + fa.imag * fb.imag, abs(fa) ** 2, abs(fb) ** 2)
    cross, power_a, power_b = shell_sum(xp.stack(products), n, dims=dims)
    product = xp.sqrt(power_a) * xp.sqrt(power_b)
    if not bool(xp.isfinite(product).all()):
        raise ParameterError(
            "fsc", expected="finite values in both volumes", found="NaN or infinity",
            remedy="Find where they come from: a half-set without particles, or a damaged file.",
        )  # fmt: skip
    return xp.clip(xp.where(product > 0, cross / xp.where(product > 0, product, 1.0), 0.0), -1.0, 1.0)


def _spectrum(x: Any, dims: int) -> Any:
    """The half spectrum of ``x``; phases of a common origin cancel in the FSC, but odd boxes need the centred form."""
    shape = tuple(x.shape[-dims:])
    if x.dtype.kind == "c":
        good = len(shape) == dims and len({*shape[:-1], shape[0]}) == 1 and shape[-1] == shape[0] // 2 + 1
    else:
        good = len(shape) == dims and len(set(shape)) == 1
    if not good:
        raise ParameterError("fsc", expected="equal sides (real) or a half spectrum of such", found=f"shape {x.shape}")
    if x.dtype.kind == "c":
        return x
    return (rfft3c if dims == 3 else rfft2c)(x)


def shell_frequencies(box: int, pixel_size: float) -> np.ndarray:
    """Frequency of every shell, 1/angstrom.

    >>> shell_frequencies(4, 2.0).tolist()
    [0.0, 0.125, 0.25]
    """
    return np.arange(box // 2 + 1) / (box * pixel_size)


def resolution_at(
    curve: Any,
    box: int,
    pixel_size: float,
    threshold: float = 0.143,
    *,
    convention: Literal["interpolate", "whole-shell"] = "interpolate",
) -> float:
    """Resolution in angstrom at which an FSC curve first falls below ``threshold``; infinity if it starts below.

    ``"interpolate"`` (default): between the last shell above and the first below, s is interpolated linearly in s, and
    the resolution is n pixel_size / s. ``"whole-shell"``: the last shell above, as RELION prints it; use it to compare.
    Shell 0 is not looked at. A curve that never falls gives the resolution of its last shell (Nyquist for even boxes).

    >>> curve = np.array([1.0, 0.9, 0.543, 0.043, 0.5])
    >>> resolution_at(curve, 8, 1.0), resolution_at(curve, 8, 1.0, convention="whole-shell")
    (2.857142857142857, 4.0)
    >>> resolution_at(np.zeros(5), 8, 1.0), resolution_at(np.ones(5), 8, 1.0)
    (inf, 2.0)
    """
    values = np.asarray(to_host(curve), dtype=np.float64)
    if values.shape != (box // 2 + 1,):
        raise ParameterError(
            "resolution_at", expected=f"{box // 2 + 1} shells for a box of {box}", found=f"shape {values.shape}"
        )
    if not pixel_size > 0:
        raise ParameterError("resolution_at", expected="a pixel size above 0", found=str(pixel_size))
    below = np.flatnonzero(~(values[1:] >= threshold))  # a NaN counts as below
    if below.size == 0:
        return box * pixel_size / (values.size - 1)
    first = int(below[0]) + 1
    if first == 1:
        return NO_RESOLUTION
    shell = float(first - 1)
    if convention == "interpolate" and np.isfinite(values[first]):
        shell += float((values[first - 1] - threshold) / (values[first - 1] - values[first]))
    return box * pixel_size / shell


def phase_randomise(volume: Any, from_shell: int, rng: np.random.Generator) -> Any:
    """``volume`` with all phases from shell ``from_shell`` on replaced by random ones; amplitudes are kept.

    The new phases are those of a real white-noise volume, so that Friedel symmetry holds everywhere and every
    amplitude survives exactly.

    Source: Chen et al. 2013, Ultramicroscopy 135:24.

    >>> volume = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32)
    >>> other = phase_randomise(volume, 2, np.random.default_rng(1))
    >>> bool(np.allclose(power_spectrum(volume), power_spectrum(other), rtol=1e-4))
    True
    """
    xp = array_module(volume)
    n = volume.shape[-1]
    spectrum = rfft3c(volume)
    noise = rfft3c(xp.asarray(rng.standard_normal((n, n, n), dtype=np.float32)))
    size = xp.abs(noise)
    phases = xp.where(size > 0, noise / xp.where(size > 0, size, 1), 1)
    beyond = shell_index(n, dims=3, xp=xp) >= max(from_shell, 1)
    return irfft3c(xp.where(beyond, xp.abs(spectrum) * phases, spectrum), n).astype(volume.dtype)


def corrected_fsc(masked: Any, randomised: Any, from_shell: int) -> Any:
    """FSC free of the correlation a mask brings in: (FSC_t - FSC_n) / (1 - FSC_n) from ``from_shell`` + 2 on.

    Two shells are left out beyond the randomisation, where the mask smears true signal into the randomised part.
    Negative values are kept. Source: Chen et al. 2013, Ultramicroscopy 135:24.

    >>> corrected_fsc(np.array([1, .9, .8, .6]), np.array([1, .9, .7, .2]), 1).round(3).tolist()
    [1.0, 0.9, 0.8, 0.5]
    """
    xp = array_module(masked)
    rest = xp.maximum(1.0 - randomised, 1e-6)  # FSC_n = 1 happens only to noiseless volumes that fill the box
    true = xp.clip((masked - randomised) / rest, -1.0, 1.0)
    return xp.where(xp.arange(masked.shape[-1]) < from_shell + 2, masked, true)


def fsc_weight(curve: Any) -> Any:
    """C_ref = sqrt(2 FSC / (1 + FSC)): correlation of the full map with the noiseless one, the weight of its shells.

    Negative correlations weigh 0. Source: Rosenthal & Henderson 2003, J. Mol. Biol. 333:721.

    >>> fsc_weight(np.array([1.0, 1 / 7, -0.1])).round(3).tolist()
    [1.0, 0.5, 0.0]
    """
    xp = array_module(curve)
    positive = xp.clip(curve, 0.0, 1.0)
    return xp.sqrt(2 * positive / (1 + positive))


def ssnr(curve: Any, *, full: bool = True, largest: float = 0.9999) -> Any:
    """Spectral signal-to-noise ratio (of power) behind an FSC of halves.

    FSC / (1 - FSC) is that of one half, twice that of the ``full`` map. FSC is held within 0 .. ``largest``.

    >>> ssnr(np.array([0.5, -0.2])).tolist(), ssnr(np.array([0.5]), full=False).tolist()
    ([2.0, 0.0], [1.0])
    """
    held = array_module(curve).clip(curve, 0.0, largest)
    return (2.0 if full else 1.0) * held / (1.0 - held)


def fsc_from_ssnr(ratio: Any, *, full: bool = True) -> Any:
    """Inverse of ``ssnr``: R / (R + 1) with R the ratio of one half.

    >>> fsc_from_ssnr(np.array([2.0])).tolist()
    [0.5]
    """
    half = ratio / 2 if full else ratio
    return half / (half + 1)


def power_spectrum(volume: Any) -> Any:
    """Mean |F|^2 of every shell of a (..., n, n, n) real volume (orthonormal transform), (..., n // 2 + 1) float64.

    >>> power_spectrum(np.random.default_rng(0).standard_normal((32,) * 3))[4:].round(0).tolist()[:3]
    [1.0, 1.0, 1.0]
    """
    spectrum = rfft3c(volume)
    return shell_mean(spectrum.real**2 + spectrum.imag**2, volume.shape[-1], dims=3)


def low_pass(volume: Any, resolution: float, pixel_size: float, *, edge: float = 2.0) -> Any:
    """``volume`` (..., n, n, n) without frequencies above 1 / ``resolution``, raised-cosine edge of ``edge`` shells.

    The edge is centred on the cut-off. A resolution beyond Nyquist changes nothing.

    >>> low_pass(np.ones((8, 8, 8), np.float32), 6.0, 1.0).round(3).max()
    np.float32(1.0)
    """
    xp = array_module(volume)
    n = volume.shape[-1]
    cut = n * pixel_size / resolution
    if cut - edge / 2 >= n // 2:
        return volume
    k = xp.asarray(np.fft.fftfreq(n)) * n
    half = xp.arange(n // 2 + 1)
    radius = xp.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + half[None, None, :] ** 2)
    step = xp.clip((radius - cut) / edge + 0.5, 0, 1)
    weight = (0.5 + 0.5 * xp.cos(xp.pi * step)).astype(volume.dtype)
    return irfft3c(rfft3c(volume) * weight, n).astype(volume.dtype)


def map_model_fsc(volume: Any, model: Any, *, mask: Any = None) -> Any:
    """FSC of a map against the density of its model, both under ``mask`` if one is given.

    The scale of either does not matter; 0.5 is the usual threshold, since only the map is noisy:
    C_ref = 0.5 corresponds to a half-map FSC of 0.143.

    >>> cube = np.pad(np.ones((2, 2, 2)), 3)
    >>> round(float(map_model_fsc(cube, 5 * cube)[1]), 6)
    1.0
    """
    return fsc(volume, model) if mask is None else fsc(volume * mask, model * mask)
