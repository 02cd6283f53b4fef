"""The maximisation step: from sums to half-maps, their FSC, the prior and the next references.

Source: Scheres 2012, J. Mol. Biol. 415:406 (regularised likelihood); Scheres & Chen 2012, Nat. Methods 9:853 (gold
standard); Chen et al. 2013, Ultramicroscopy 135:24 (mask-corrected FSC).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.fourier import resample
from cryoflow.kernels.masks import soft_sphere
from cryoflow.kernels.projection import prepare_volume, reach_of
from cryoflow.kernels.reconstruction import (
    enforce_friedel,
    grid_shells,
    grid_to_map,
    shell_average,
    smooth_weights,
    symmetrise_sums,
    wiener,
)
from cryoflow.kernels.resolution import corrected_fsc, fsc, phase_randomise

__all__ = [
    "Grid",
    "coarse_box",
    "finish_sums",
    "flatten",
    "fsc_of_halves",
    "join_low",
    "own_share",
    "reconstruct",
    "solvent",
    "ssnr_of_fsc",
    "ssnr_of_spectrum",
    "without_spherical_average",
]

EDGE = 5.0  # pixels of the full box


@dataclass(frozen=True, slots=True)
class Grid:
    """Sizes of one iteration: image box ``n``, map box ``m`` <= n of the same field of view, model radius, padding."""

    n: int
    m: int
    radius: int
    padding: int

    def shells(self) -> Any:
        """Shell of every cell of the padded half grid."""
        reach = reach_of(self.radius, self.padding)
        return grid_shells((2 * reach + 1, 2 * reach + 1, reach + 1), self.padding)


def coarse_box(n: int, radius: int) -> int:
    """Smallest convenient even map box that holds shells up to ``radius``, at most ``n``."""
    from scipy.fft import next_fast_len

    m = 2 * int(next_fast_len(max(radius + 2, 12)))
    return m if m < n else n


def finish_sums(model: Any, operators: NDArray[np.float64]) -> Any:
    """Friedel and point-group symmetry of all sums (H, C, Z, Y, X, 4), and weights as smooth as the map needs them."""

    def finish(v: Any) -> Any:
        return smooth_weights(symmetrise_sums(enforce_friedel(np.array(v)), operators, v.shape[0] // 2))

    return np.stack([[finish(v) for v in half] for half in model])


def join_low(model: Any, shells: Any, to_shell: int) -> Any:
    """Sums (2, C, ...) with the mean of both half-sets up to ``to_shell``, which keeps them in one orientation."""
    if len(model) != 2 or to_shell < 0:
        return model
    low = shells <= to_shell
    out = model.copy()
    out[:, :, low] = 0.5 * (model[0][:, low] + model[1][:, low])
    return out


def reconstruct(total: Any, ssnr: Any | None, grid: Grid, shells: Any) -> Any:
    """Map (m, m, m) of one sum; regularised by ``ssnr`` or not at all."""
    return grid_to_map(wiener(total, shells, ssnr), grid.m, box=grid.n, padding=grid.padding)


def own_share(
    total: Any, ssnr: NDArray[np.float64], mask: Any, grid: Grid, shells: Any, *, diameter_px: float, joined: int = -1
) -> NDArray[np.float64]:
    """What a sample of weight one, put into ``total``, becomes where the reference is read again; (n + 1) // 2 shells.

    share_s = l / (W_s (1 + 1 / SSNR_s)) for the mean weight W_s of an independent sample of shell s. A back-projection
    runs through the whole box; of its length the solvent mask M leaves the part l = <M, d> / (n <d, d>) where it is
    seen again, in the particle's disc d.
    ``joined`` : shells up to it are the mean of two half-sets, of which a particle is in one.
    """
    ratio = grid.m / grid.n
    disc = soft_sphere(grid.m, diameter_px / 2 * ratio, EDGE * ratio, dims=2)
    length = float((mask.sum(axis=0) * disc).sum() / (disc**2).sum()) / grid.m
    inside = grid_shells(total.shape[:3], 1) < total.shape[0] // 2  # sums over a point group stop there
    held, weight = (shell_average(w, shells, grid.radius + 1) for w in (inside, total[..., 2] * inside))
    # the padded grid spreads the weight of one independent sample over padding^3 cells
    weight = weight / np.maximum(held, 1e-3) * grid.padding**3
    share = length * held / np.maximum(weight * (1 + 1 / ssnr), np.finfo(np.float32).tiny)
    share[: joined + 1] /= 2
    out = np.zeros((grid.n + 1) // 2)
    out[: grid.radius + 1] = share
    return out


def solvent(mask: Any | None, diameter_px: float, grid: Grid) -> Any:
    """The user's mask on the map grid of this iteration, or a soft sphere of the particle's diameter."""
    ratio = grid.m / grid.n
    if mask is None:
        return soft_sphere(grid.m, diameter_px / 2 * ratio, EDGE * ratio)
    return mask if grid.m == grid.n else np.clip(resample(mask[None], grid.m, dims=3)[0], 0, 1)


def flatten(volume: Any, mask: Any) -> Any:
    """``volume`` with its solvent at zero: the mean outside the mask is taken off, and the mask applied."""
    outside = 1.0 - mask
    level = float((volume * outside).sum() / max(float(outside.sum()), 1e-6))
    return ((volume - level) * mask).astype(np.float32)


def fsc_of_halves(a: Any, b: Any, mask: Any | None, grid: Grid, rng: np.random.Generator) -> tuple[Any, Any]:
    """(unmasked, corrected) FSC of two half-maps up to the model's radius, shells 0 .. n // 2.

    The corrected one is that within ``mask`` less what the mask brings in, phases being randomised from the shell
    where the unmasked curve falls below 0.8; without a mask it is the unmasked one.
    """
    plain = fsc(a, b)
    corrected = plain
    if mask is not None:
        below = np.flatnonzero(plain[1 : grid.radius + 1] < 0.8)
        start = int(below[0]) + 1 if below.size else grid.radius
        masked = fsc(a * mask, b * mask)
        noise = fsc(phase_randomise(a, start, rng) * mask, phase_randomise(b, start, rng) * mask)
        corrected = corrected_fsc(masked, noise, start)
    return tuple(_whole(c, grid) for c in (plain, corrected))  # type: ignore[return-value]


def without_spherical_average(volume: Any) -> Any:
    """``volume`` less its mean over every sphere about the origin, which is all that senseless poses leave of it."""
    m = volume.shape[-1]
    x2 = (np.arange(m) - m // 2) ** 2
    radius = np.sqrt(x2[:, None, None] + x2[:, None] + x2)
    index = np.rint(radius).astype(np.int64)
    profile = np.bincount(index.ravel(), weights=volume.ravel()) / np.maximum(np.bincount(index.ravel()), 1)
    smooth = np.interp(radius, np.arange(len(profile)), profile)
    return (volume - smooth).astype(np.float32)


def _whole(curve: Any, grid: Grid) -> NDArray[np.float64]:
    out = np.zeros(grid.n // 2 + 1)
    count = min(len(curve), grid.radius + 1)
    out[:count] = curve[:count]
    return out


def ssnr_of_fsc(curve: NDArray[np.float64], grid: Grid, *, whole: bool = False) -> NDArray[np.float64]:
    """SSNR = FSC / (1 - FSC) of a half-map, twice that for the sum of both; shells 0 .. radius."""
    c = np.clip(curve[: grid.radius + 1], 1e-3, 0.999)
    c[0] = 0.999
    ratio: NDArray[np.float64] = c / (1 - c)
    return 2 * ratio if whole else ratio


def ssnr_of_spectrum(reference: Any, total: Any, grid: Grid, shells: Any, tau_fudge: float) -> NDArray[np.float64]:
    """SSNR of a class without half-sets: tau_fudge x power of the present reference over the noise of the new one."""
    volume = prepare_volume(reference, box=grid.n, radius=grid.radius, padding=grid.padding)
    power = shell_average(np.abs(volume) ** 2, shells, grid.radius + 1)
    # the padded grid spreads the weight of one independent sample over padding^3 cells
    weight = shell_average(total[..., 2], shells, grid.radius + 1) * grid.padding**3
    ratio: NDArray[np.float64] = np.maximum(tau_fudge * 0.5 * power * weight, 1e-3)
    return ratio
