"""The kernels of picking, each over the rows (micrographs) of one batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.kernels.backend import array_module, to_host
from cryoflow.picking.chance import independent_positions, same_upside_down
from cryoflow.picking.contaminants import contaminant_mask
from cryoflow.picking.log import laplacian_of_gaussian, scales
from cryoflow.picking.peaks import find_peaks
from cryoflow.picking.prepare import Coarse, coarsen, sigma_of
from cryoflow.picking.template import normalised_correlation, radial_profiles

__all__ = ["Settings", "log_pass", "profile_pass", "template_pass"]

Settings = dict[str, Any]  # diameter, min_diameter, max_diameter, min_distance (angstrom), dark, contaminants, coverage
DISC = 1.25  # diameters of the disc that template and background share


def _rows(n: int, max_picks: int) -> dict[str, NDArray[Any]]:
    return {
        "x_picks": np.full((n, max_picks, 4), np.nan, np.float32),
        "x_decoys": np.full((n, max_picks), np.nan, np.float32),
        "x_score_mean": np.full(n, np.nan, np.float32),
        "x_score_sigma": np.full(n, np.nan, np.float32),
        "x_positions": np.zeros(n, np.float32),
        "x_chance": np.ones(n, np.float32),
        "reason": np.full(n, "", object),
    }


def _coarse(micrograph: Any, pixel_size: Any, settings: Settings) -> Coarse:
    return coarsen(micrograph, pixel_size=float(pixel_size), diameter=settings["diameter"], dark=settings["dark"])


def _usable(
    micrograph: Any, pixel_size: Any, usable: Any, settings: Settings, rows: dict[str, NDArray[Any]]
) -> Iterator[tuple[int, Coarse]]:
    """The micrographs that can be picked, with their numbers; why another cannot goes into ``rows``."""
    for i in range(len(micrograph)):
        if usable is not None and not bool(usable[i]):
            continue
        try:
            coarse = _coarse(micrograph[i], pixel_size[i], settings)
        except FormatError as error:
            rows["reason"][i] = f"picking: {error.found}"
            continue
        yield i, coarse


def _allowed(coarse: Coarse, settings: Settings) -> Any:
    if not settings["contaminants"]:
        return None
    return ~contaminant_mask(coarse.image, settings["diameter"] / coarse.pixel, sigmas=settings["contaminants"])


def _store(
    rows: dict[str, NDArray[Any]], i: int, score: Any, negative: Any, levels: list[Any], allowed: Any, coarse: Coarse,
    settings: Settings,
) -> None:  # fmt: skip
    """Peaks (x, y in pixels of the micrograph, score, z), best first, padded with NaN; and what noise does.

    z is the largest of ``levels``, forms of the score that noise gives the standard deviation 1 everywhere. Decoys are
    the peaks of ``negative``, the map of the negated micrograph; ``chance`` explains the rest.
    """
    most, distance = rows["x_picks"].shape[1], settings["min_distance"] / coarse.pixel
    peaks, pits = (
        find_peaks(m, min_distance=distance, threshold=0.0, allowed=allowed)[:most] for m in (score, negative)
    )
    x, y = np.rint(peaks[:, :2]).astype(int).T
    rows["x_picks"][i, : len(peaks), :2] = coarse.fine(peaks[:, :2])
    rows["x_picks"][i, : len(peaks), 2] = peaks[:, 2]
    rows["x_picks"][i, : len(peaks), 3] = np.max([np.asarray(to_host(level))[y, x] for level in levels], axis=0)
    rows["x_decoys"][i, : len(pits)] = pits[:, 2]
    rows["x_score_mean"][i], rows["x_score_sigma"][i] = sigma_of(score)
    rows["x_positions"][i] = sum(independent_positions(level, allowed) for level in levels)
    half, radius = min(len(peaks), len(pits)) // 2, 0.5 * DISC * settings["diameter"] / coarse.pixel
    if half:
        up, down = (radial_profiles(coarse.image, p[:half], radius) for p in (peaks, pits))
        rows["x_chance"][i] = same_upside_down(up, down)


def log_pass(
    micrograph: Any, pixel_size: Any, usable: Any = None, *, settings: Settings, max_picks: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Peaks of the Laplacian of Gaussian; the score is in standard deviations of the micrograph's own map."""
    rows = _rows(len(micrograph), max_picks)
    low, high = settings["min_diameter"], settings["max_diameter"]
    for i, coarse in _usable(micrograph, pixel_size, usable, settings, rows):
        score = _merit(coarse.image, coarse.pixel, low, high)
        negative, levels = -score, [score]
        if low < high:  # the largest of several responses is no Gaussian field, nor odd in the image
            negative = _merit(-coarse.image, coarse.pixel, low, high)
            levels = [_merit(coarse.image, coarse.pixel, d, d) for d in scales(low, high)]
        _store(rows, i, score, negative, levels, _allowed(coarse, settings), coarse, settings)
    return rows, {}


def _merit(image: Any, pixel: float, low: float, high: float) -> Any:
    """The Laplacian's figure of merit, in robust deviations: so a contaminant does not lower all other scores."""
    merit = laplacian_of_gaussian(image, pixel_size=pixel, min_diameter=low, max_diameter=high)
    median, sigma = sigma_of(merit)
    return (merit - median) / (sigma or 1.0)


def profile_pass(
    micrograph: Any, pixel_size: Any, x_picks: Any, *, settings: Settings, bins: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sum of the radial profiles of given picks, on ``bins`` samples from the centre to the edge of the disc."""
    total, count = np.zeros(bins), 0
    radius = 0.5 * DISC * settings["diameter"]
    for i in range(len(micrograph)):
        xy = np.asarray(to_host(x_picks[i]))[:, :2]
        xy = xy[np.isfinite(xy).all(axis=1)]
        if not len(xy):
            continue
        coarse = _coarse(micrograph[i], pixel_size[i], settings)
        profiles = radial_profiles(coarse.image, coarse.coarse(xy), radius / coarse.pixel)
        if not len(profiles):
            continue
        mean = np.asarray(to_host(profiles.mean(axis=0)), dtype=np.float64)
        # micrographs of different pixel sizes meet on one grid in angstrom
        total += len(profiles) * np.interp(np.linspace(0, radius, bins), np.arange(len(mean)) * coarse.pixel, mean)
        count += len(profiles)
    return {}, {"profile": total, "count": np.array(float(count))}


def template_pass(
    micrograph: Any, pixel_size: Any, usable: Any = None, *, settings: Settings, profile: Any, max_picks: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Peaks of the normalised correlation with the radial template; the score is that correlation."""
    rows = _rows(len(micrograph), max_picks)
    profile = np.asarray(to_host(profile))
    radius = 0.5 * DISC * settings["diameter"]
    for i, coarse in _usable(micrograph, pixel_size, usable, settings, rows):
        reach = radius / coarse.pixel
        own = np.interp(np.arange(int(reach) + 2) * coarse.pixel, np.linspace(0, radius, len(profile)), profile)
        found = normalised_correlation(coarse.image, own, reach)
        allowed = found.coverage >= settings["coverage"]
        clean = _allowed(coarse, settings)
        allowed = allowed if clean is None else allowed & clean
        # noise correlates the more, the less of the disc it fills
        level = found.score * array_module(found.score).sqrt(found.coverage)
        level = level / (sigma_of(level)[1] or 1.0)
        _store(rows, i, found.score, -found.score, [level], allowed, coarse, settings)
    return rows, {}
