"""Validate and sharpen a map from its two halves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.kernels.fourier import irfft3c, rfft3c
from cryoflow.kernels.masks import auto_mask, checked_mask
from cryoflow.kernels.resolution import fsc_weight, low_pass, resolution_at, shell_frequencies
from cryoflow.kernels.significance import fsc_significance
from cryoflow.kernels.symmetry import group_order
from cryoflow.postprocess.curves import FSC_CURVES, five_curves
from cryoflow.postprocess.sharpening import GuinierFit, apply_b_factor, apply_shells, fit_guinier, log_amplitudes
from cryoflow.postprocess.sharpening import read_mtf as _read_mtf
from cryoflow.schema import validate

__all__ = ["postprocess"]

Volume = np.ndarray | xr.DataArray

SIGNIFICANT = 5.0  # standard deviations of noise the halves must correlate by before a resolution is named
THRESHOLD = 0.143  # of the FSC at the resolution
POOR_FIT = -0.9  # a Guinier line of a weaker correlation is reported as uncertain


def postprocess(
    half1: Volume,
    half2: Volume,
    *,
    pixel_size: float,
    mask: Volume | None = None,
    mtf: str | Path | None = None,
    mtf_pixel_size: float | None = None,
    b_factor: float | Literal["auto"] | None = None,
    fit_range: tuple[float, float | None] = (10.0, None),
    low_pass_to: float | None = None,
    mask_low_pass: float = 15.0,
    symmetry: str | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """FSC curves, resolution, mask, B-factor, and the FSC-weighted and the sharpened map of two half-maps.

    The mean of the halves is divided by the MTF, weighted by C_ref = sqrt(2 FSC / (1 + FSC)) of the corrected curve up
    to the shell where that falls to 0, and low-passed at the resolution: ``map``. Multiplied by exp(-B s^2 / 4) too it
    is ``map_sharpened``. Neither is masked.

    Parameters
    ----------
    half1, half2 : (n, n, n) unfiltered, unmasked half-maps, any n.
    pixel_size : angstrom.
    mask : (n, n, n) between 0 and 1. Replaces the tight mask, and is the ``mask`` of the result; without it the result
        has an automatic one (``kernels.masks.auto_mask`` of the mean map at ``mask_low_pass``).
    mtf : STAR file with rlnResolutionInversePixel and rlnMtfValue; ``mtf_pixel_size``: the detector's pixel, angstrom.
    b_factor : angstrom^2, negative sharpens, 0 leaves the amplitudes; None or "auto" fits the Guinier plot over
        ``fit_range`` (angstrom; its second value None: the resolution).
    low_pass_to : angstrom; None takes the resolution, 0 no low-pass.
    mask_low_pass : angstrom; low-pass before maps are thresholded into masks.
    symmetry : point group of the halves (C1 if not given): fewer independent values, more scatter of the FSC.
    seed : of the random phases.

    Returns
    -------
    Dataset, valid under the schema: ``fsc_curves`` (curve, shell), ``fsc`` (the corrected one) and ``fsc_deviation``
    (its standard deviation by chance), ``frequency``, ``resolution_143`` and ``resolution_50`` (curve; angstrom,
    infinity where there is none), ``log_amplitude``, ``log_amplitude_weighted``, ``log_amplitude_sharpened`` (shell),
    ``map``, ``map_sharpened``, ``mask``. attrs: ``pixel_size``, ``resolution``, ``resolution_coarse`` and
    ``resolution_fine`` (where the curve less and plus its deviation fall below 0.143), ``randomised_from`` (shell),
    ``significance`` (of the unmasked correlation, in standard deviations), ``b_factor``, ``guinier_*`` (the fit),
    ``warnings``.

    Where the unmasked halves correlate by less than 5 standard deviations of noise no curve has a resolution: masks
    cut from a map make its halves agree at low frequency even in pure noise. Nor has it where both are the same map.

    Raises
    ------
    ParameterError : boxes, pixel sizes, masks or values that do not fit together or are not finite.
    FormatError : the MTF file is not one.

    Source: Rosenthal & Henderson 2003, J. Mol. Biol. 333:721; Chen et al. 2013, Ultramicroscopy 135:24.

    >>> from cryoflow.kernels.masks import soft_sphere
    >>> rng = np.random.default_rng(0)
    >>> halves = soft_sphere(32, 8, 3) + 0.2 * rng.standard_normal((2, 32, 32, 32))
    >>> result = postprocess(*halves, pixel_size=2.0, b_factor=0)
    >>> bool(result.resolution_143.sel(curve="corrected") < 15)
    True
    """
    if b_factor not in (None, "auto") and not np.isfinite(float(b_factor)):
        raise ParameterError("postprocess: b_factor", expected='a finite number, None or "auto"', found=str(b_factor))
    a, b = _half(half1, "half1", pixel_size), _half(half2, "half2", pixel_size)
    if a.shape != b.shape:
        raise ParameterError(
            "postprocess: half2", expected=f"the box of half1, {a.shape}", found=str(b.shape),
            remedy="Both halves must come from one refinement.",
        )  # fmt: skip
    given = None if mask is None else _checked_mask(mask, a.shape, pixel_size)
    n = a.shape[0]
    transfer = None if mtf is None else _read_mtf(mtf, box=n, pixel_size=pixel_size, mtf_pixel_size=mtf_pixel_size)

    notes: list[str] = []
    five = five_curves(
        a, b, pixel_size=pixel_size, mask=given, mask_low_pass=mask_low_pass,
        order=group_order(symmetry or "C1"), seed=seed,
    )  # fmt: skip
    significance = fsc_significance(five.curves["none"], n)
    same = np.array_equal(a, b)
    if same:
        notes.append("both half-maps are the same: their FSC says nothing, and there is no resolution")
    elif significance < SIGNIFICANT:
        notes.append(f"the halves share no signal ({significance:.1f} standard deviations of noise): no resolution")

    def resolutions(threshold: float) -> list[float]:
        if same or significance < SIGNIFICANT:
            return [math.inf] * len(FSC_CURVES)
        return [resolution_at(five.curves[name], n, pixel_size, threshold) for name in FSC_CURVES]

    at_143, at_50 = resolutions(THRESHOLD), resolutions(0.5)
    resolution = at_143[FSC_CURVES.index("corrected")]
    coarse, fine = _range(five.curves["corrected"], five.deviation, resolution, n, pixel_size, notes)

    mean = 0.5 * (a + b)
    final_mask = auto_mask(mean, pixel_size=pixel_size, low_pass_to=mask_low_pass) if given is None else given
    spectrum = rfft3c(mean)
    original = log_amplitudes(spectrum)
    if transfer is not None:
        spectrum = apply_shells(spectrum, 1.0 / transfer)
    spectrum = apply_shells(spectrum, _weights(five.curves["corrected"]))
    weighted = log_amplitudes(spectrum)

    fit = None
    if b_factor is None or b_factor == "auto":
        low, high = fit_range
        fit = _fit(weighted, n, pixel_size, low, resolution if high is None else high, notes)
        applied = fit.b_factor if fit else 0.0
    else:
        applied = float(b_factor)
    sharp = apply_b_factor(spectrum, applied, pixel_size)

    cut = resolution if low_pass_to is None else low_pass_to

    def volume(s: Any) -> np.ndarray:
        real: np.ndarray = irfft3c(s, n)
        if cut and math.isfinite(cut):
            real = low_pass(real, cut, pixel_size)
        return real.astype(np.float32, copy=False)

    shells = ("shell",)
    ds = xr.Dataset(
        {
            "fsc_curves": (("curve", "shell"), np.stack([five.curves[name] for name in FSC_CURVES])),
            "fsc": (shells, five.curves["corrected"]),
            "fsc_deviation": (shells, five.deviation),
            "frequency": (shells, shell_frequencies(n, pixel_size)),
            "resolution_143": (("curve",), np.array(at_143)),
            "resolution_50": (("curve",), np.array(at_50)),
            "log_amplitude": (shells, original),
            "log_amplitude_weighted": (shells, weighted),
            "log_amplitude_sharpened": (shells, log_amplitudes(sharp)),
            "map": (("z", "y", "x"), volume(spectrum)),
            "map_sharpened": (("z", "y", "x"), volume(sharp)),
            "mask": (("z", "y", "x"), np.asarray(final_mask, dtype=np.float32)),
        },
        coords={"curve": list(FSC_CURVES)},
        attrs={
            "pixel_size": float(pixel_size),
            "resolution": resolution,
            "resolution_coarse": coarse,
            "resolution_fine": fine,
            "randomised_from": five.randomised_from,
            "significance": significance,
            "b_factor": applied,
            "warnings": notes,
        },
    )
    if fit is not None:
        ds.attrs.update(
            guinier_slope=fit.slope, guinier_intercept=fit.intercept, guinier_correlation=fit.correlation,
            guinier_low=fit.low, guinier_high=fit.high, guinier_shells=fit.shells,
        )  # fmt: skip
    return validate(ds, "postprocess")


def _range(
    curve: np.ndarray, deviation: np.ndarray, resolution: float, n: int, pixel_size: float, notes: list[str]
) -> tuple[float, float]:
    """(coarse, fine) resolutions of the curve less and plus its deviation; ``notes`` tell what is uncertain."""
    if not math.isfinite(resolution):
        return math.inf, math.inf
    coarse, fine = (resolution_at(curve + sign * deviation, n, pixel_size) for sign in (-1, 1))
    shell = min(round(n * pixel_size / resolution), n // 2)
    if 2 * deviation[shell] > THRESHOLD:
        notes.append(
            f"the FSC scatters by {deviation[shell]:.2f} by chance at {resolution:.3g} A (the mask and the point group "
            f"leave few independent values there): the resolution lies between {coarse:.3g} and {fine:.3g} A"
        )
    if np.all(curve[1:] >= THRESHOLD):
        notes.append(f"the FSC never falls below {THRESHOLD}: the pixels, not the data, end the resolution")
    return coarse, fine


def _half(volume: Volume, name: str, pixel_size: float) -> np.ndarray:
    """A half-map as float32, with everything checked that would spoil later steps."""
    where = f"postprocess: {name}"
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ParameterError("postprocess: pixel_size", expected="a finite number above 0", found=str(pixel_size))
    _same_pixel(volume, where, pixel_size)
    array = np.asarray(volume, dtype=np.float32)
    if array.ndim != 3 or len(set(array.shape)) != 1 or array.shape[0] < 8:
        raise ParameterError(
            where, expected="a cubic volume of at least 8 voxels a side", found=f"shape {array.shape}",
            remedy="Pad or crop it to a cube.",
        )  # fmt: skip
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise ParameterError(where, expected="finite values", found=f"{bad} voxels NaN or infinite")
    if float(array.max()) == float(array.min()):
        raise ParameterError(
            where, expected="a map", found=f"every voxel {array.flat[0]:g}",
            remedy="An empty half-set gives such a map; check the half-sets of the particles.",
        )  # fmt: skip
    return array


def _same_pixel(volume: Volume, where: str, pixel_size: float) -> None:
    own = volume.attrs.get("pixel_size") if isinstance(volume, xr.DataArray) else None
    if own and abs(float(own) / pixel_size - 1) > 1e-3:
        raise ParameterError(
            where, expected=f"the pixel size given, {pixel_size:g} angstrom", found=f"{float(own):g} in its header",
            remedy="Give the pixel size that is right, or correct the header.",
        )  # fmt: skip


def _checked_mask(mask: Volume, shape: tuple[int, ...], pixel_size: float) -> np.ndarray:
    where = "postprocess: mask"
    _same_pixel(mask, where, pixel_size)
    array = np.asarray(mask, dtype=np.float32)
    if array.shape != shape:
        raise ParameterError(where, expected=f"the box of the half-maps, {shape}", found=str(array.shape))
    out: np.ndarray = checked_mask(array, where)
    return out


def _weights(curve: np.ndarray) -> np.ndarray:
    """C_ref up to the first shell without correlation, 0 from there on: what follows is noise."""
    weights: np.ndarray = fsc_weight(curve)
    weights[0] = 1.0
    none = np.flatnonzero(curve[1:] <= 0)
    if none.size:
        weights[none[0] + 1 :] = 0.0
    return weights


def _fit(
    weighted: np.ndarray, n: int, pixel_size: float, low: float, high: float, notes: list[str]
) -> GuinierFit | None:
    fit = fit_guinier(weighted, box=n, pixel_size=pixel_size, low=low, high=high) if high < low else None
    if fit is None:
        reach = f"{high:.3g} A" if math.isfinite(high) else "no resolution"
        notes.append(f"B-factor not fitted: too few shells between {low:g} A and {reach}; the map is not sharpened")
    elif fit.slope > 0:
        notes.append(f"Guinier plot rises with resolution (B = {fit.b_factor:.0f} A^2): the map is smoothed by it")
    elif fit.correlation > POOR_FIT:
        notes.append(f"poor Guinier fit (correlation {fit.correlation:.2f}): B = {fit.b_factor:.0f} A^2 is uncertain")
    return fit
