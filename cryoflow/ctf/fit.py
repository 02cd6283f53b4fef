"""The CTF of one micrograph: spectrum, search and quality put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cryoflow.ctf.quality import (
    LATEST_START,
    equiphase_profile,
    fit_resolution,
    local_quality,
    mean_ctf,
    without_background,
)
from cryoflow.ctf.rings import Optics, SearchRange, correlate, ring_model
from cryoflow.ctf.search import Defocus, search_defocus
from cryoflow.ctf.spectrum import FINEST_PIXEL, amplitude_spectrum, tile_size, to_polar
from cryoflow.ctf.tiles import UnusableMicrographError
from cryoflow.kernels.backend import to_host
from cryoflow.kernels.fourier import crop

__all__ = ["CtfFit", "fit_micrograph", "significance"]

SECTORS = 36
SIGNIFICANT = 6.5  # in standard deviations of the score of one trial on noise; the best of all trials reaches about 5
PHASES_TRIED = 1.0  # is added to it if phases are searched: noise reaches higher
EDGE = 1e-3  # of the search range, and
EDGE_ANGSTROM = 5.0  # besides: a fit this near the end of the range would have gone further


@dataclass(frozen=True, slots=True, eq=False)
class CtfFit:
    """What one micrograph yields. ``reason`` is empty where the fit can be used; shells are ``step`` apart."""

    defocus: Defocus
    resolution: float
    reason: str
    spectrum: npt.NDArray[
        np.float32
    ]  # (2 reach + 1, reach + 1) to max_resolution: ln A, background taken off; ky rises
    profile: npt.NDArray[np.float32]  # (shell), equiphase average without background
    fit: npt.NDArray[np.float32]  # |CTF| at the mean defocus
    quality: npt.NDArray[np.float32]  # local correlation


def significance(score: float, sectors: int, radii: int) -> float:
    """``score`` in standard deviations of a trial on noise: a correlation over sectors x radii bins, half independent.

    >>> round(significance(0.5, 36, 127), 1)
    23.9
    """
    return score * float(np.sqrt(0.5 * sectors * radii))


def fit_micrograph(
    image: Any,
    optics: Optics,
    search: SearchRange,
    *,
    box: int = 512,
    target: float = FINEST_PIXEL,
    step: float | None = None,
    reach: int | None = None,
) -> CtfFit:
    """Estimate the CTF of one micrograph (y, x), NumPy or CuPy.

    Parameters
    ----------
    box : samples of the spectrum; ``target`` : the finest pixel it stands for (``spectrum.tile_size``), angstrom.
    step : distance of the shells of the profiles, 1/angstrom; default that of the spectrum.
    reach : samples of the spectrum kept for its picture; default those up to ``max_resolution``.

    Raises
    ------
    UnusableMicrographError : nothing can be fitted (blank, not finite, too few clean areas, too small).

    Source: Rohou & Grigorieff 2015, J. Struct. Biol. 192:216 (spectrum, score, quality of fit); here rings and
    background are fitted together, and the search is exhaustive (``cryoflow.ctf.rings``).
    """
    tile = tile_size(box, optics.pixel_size, target)
    if min(image.shape) < tile:
        raise UnusableMicrographError(f"{image.shape[1]} x {image.shape[0]} pixels hold no tile of {tile}")
    radii = box // 2
    spectrum = amplitude_spectrum(image, tile)
    polar, grid = to_polar(spectrum, sectors=SECTORS, radii=radii)
    rings = ring_model(optics, search, tile, radii)
    defocus = search_defocus(correlate(polar, grid.angles, rings), search)

    step = step or 1.0 / (tile * optics.pixel_size)
    s = np.arange(radii) * step
    equiphase = equiphase_profile(spectrum, defocus, optics, tile=tile, step=step, radii=radii)
    profile = without_background(equiphase, s, 1.0 / search.min_resolution)
    quality = local_quality(profile, s, defocus, optics)
    resolution = fit_resolution(quality, s, max(LATEST_START, 1.0 / search.min_resolution + 4 * step))
    reason = _verdict(defocus, resolution, search, rings.weights.size)
    reach = min(reach or int(1.0 / (search.max_resolution * step)) + 1, radii - 1)
    picture = _flattened(to_host(crop(spectrum, tile, 2 * reach + 1)), polar)
    fit = mean_ctf(s, defocus, optics)
    return CtfFit(defocus, resolution, reason, picture, *(a.astype(np.float32) for a in (profile, fit, quality)))


def _verdict(defocus: Defocus, resolution: float, search: SearchRange, radii: int) -> str:
    least = SIGNIFICANT + (PHASES_TRIED if search.phase_shift else 0.0)
    if significance(defocus.score, SECTORS, radii) < least:
        return f"no Thon rings: score {defocus.score:.3f} is that of noise"
    if not np.isfinite(resolution):
        return "no Thon rings: the fit does not hold at low frequency"
    low, high = search.min_defocus, search.max_defocus
    margin = EDGE * (high - low) + EDGE_ANGSTROM
    if not low + margin < defocus.mean < high - margin:
        return f"defocus {defocus.mean:.0f} A lies at the end of the search range"
    return ""


def _flattened(spectrum: npt.NDArray[np.float32], polar: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """ln A of a half spectrum less its mean over directions, smoothed over 15 radii; ky rises, origin at n // 2."""
    from scipy.ndimage import uniform_filter1d

    n = spectrum.shape[0]
    values = np.log(np.maximum(spectrum, 1e-30))
    ky, kx = np.meshgrid(np.fft.fftfreq(n) * n, np.arange(n // 2 + 1), indexing="ij")
    level = np.log(np.maximum(polar.mean(axis=0), 1e-30))
    radius = np.arange(level.size)
    known = (radius >= 2) & (radius < level.size - 1)
    smooth = uniform_filter1d(np.interp(radius, radius[known], level[known]), 15, mode="nearest")
    flat = values - np.interp(np.hypot(kx, ky), radius, smooth)
    return np.fft.fftshift(flat, axes=0).astype(np.float32)
