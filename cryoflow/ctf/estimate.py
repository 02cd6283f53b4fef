"""Estimate the CTF of all micrographs of a Dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from cryoflow.ctf.fit import fit_micrograph
from cryoflow.ctf.rings import Optics, SearchRange
from cryoflow.ctf.spectrum import FINEST_PIXEL, tile_size
from cryoflow.ctf.tiles import UnusableMicrographError
from cryoflow.errors import ParameterError
from cryoflow.schema import require

__all__ = ["ctf_rows", "estimate_ctf"]

SCALARS = ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "ctf_resolution", "ctf_score")
CURVES = ("ctf_profile", "ctf_fit", "ctf_quality")
NYQUIST_MARGIN = 2.2  # pixels: the finest resolution that is fitted, in units of the pixel size


def ctf_rows(
    micrograph: Any,
    voltage: Any,
    cs: Any,
    amplitude_contrast: Any,
    pixel_size: Any,
    usable: Any = None,
    reason: Any = None,
    *,
    search: dict[str, Any],
    box: int,
    target: float,
    step: float,
    reach: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Kernel of ``estimate_ctf``: rows of CTF variables of micrographs (n, y, x). A row that fails says why."""
    n = len(micrograph)
    rows: dict[str, Any] = {name: np.full(n, np.nan, np.float32) for name in SCALARS}
    rows |= {name: np.full((n, box // 2), np.nan, np.float32) for name in CURVES}
    rows["power_spectrum"] = np.full((n, 2 * reach + 1, reach + 1), np.nan, np.float16)
    rows["usable"] = np.ones(n, bool) if usable is None else np.array(usable, bool)
    rows["reason"] = np.array([""] * n if reason is None else [str(r or "") for r in reason], object)
    for i in range(n):
        if not rows["usable"][i]:
            continue
        optics = Optics(float(voltage[i]), float(cs[i]), float(amplitude_contrast[i]), float(pixel_size[i]))
        try:
            # resolution limits finer than the micrograph's own are drawn back to it
            finest = max(search["max_resolution"], NYQUIST_MARGIN * optics.pixel_size)
            limits = SearchRange(**{**search, "max_resolution": finest})
            fit = fit_micrograph(micrograph[i], optics, limits, box=box, target=target, step=step, reach=reach)
        except UnusableMicrographError as error:
            rows["usable"][i], rows["reason"][i] = False, f"CTF: {error}"
            continue
        rows["ctf_score"][i] = fit.defocus.score
        rows["power_spectrum"][i] = np.clip(fit.spectrum, -1e4, 1e4)
        rows["ctf_profile"][i] = fit.profile
        if fit.reason:  # shown, but not given a defocus that someone might use
            rows["usable"][i], rows["reason"][i] = False, f"CTF: {fit.reason}"
            continue
        rows["ctf_fit"][i], rows["ctf_quality"][i] = fit.fit, fit.quality
        d = fit.defocus
        for name, value in zip(SCALARS, (d.u, d.v, d.angle, d.phase_shift, fit.resolution)):
            rows[name][i] = value
    return rows, {}


def estimate_ctf(
    micrographs: xr.Dataset,
    *,
    box: int = 512,
    min_resolution: float = 30.0,
    max_resolution: float = 5.0,
    min_defocus: float = 5000.0,
    max_defocus: float = 50000.0,
    astigmatism_limit: float = 3000.0,
    phase_shift: bool = False,
    client: Any = None,
) -> xr.Dataset:
    """Defocus, astigmatism and, if asked for, phase shift of every usable micrograph.

    Maximises the correlation between ln A of the averaged amplitude spectrum, less a smooth background, and the rings
    of |sin chi|^2 between ``min_resolution`` and ``max_resolution`` over

        chi(s) = pi lambda z(theta) s^2 - pi/2 Cs lambda^3 s^4 + phase_shift + asin Q.

    Parameters
    ----------
    micrographs : Dataset with ``micrograph`` (micrograph, y, x) and ``voltage``, ``cs``, ``amplitude_contrast`` and
        ``pixel_size`` (optics). Rows with ``usable`` False are passed by.
    box : samples of the spectrum. Micrographs finer than 1.4 A a pixel are cut into larger tiles of the same extent.
    min_resolution, max_resolution : band of the fit, angstrom; ``max_resolution`` is drawn back to 2.2 pixels.
    min_defocus, max_defocus : range of the mean defocus, angstrom.
    astigmatism_limit : largest ``defocus_u - defocus_v``, angstrom.
    phase_shift : also search 0 to 180 degrees (a phase plate).
    client : Dask client; None for the embedded default.

    Returns
    -------
    micrographs with ``defocus_u, defocus_v, defocus_angle, phase_shift, ctf_score, ctf_resolution, usable, reason``
    and, for pictures, ``power_spectrum, ctf_profile, ctf_fit, ctf_quality`` on the shells ``frequency``. A micrograph
    that is broken, blank or without Thon rings stays, flagged (``usable`` False, ``reason``) and with NaN defocus.

    Raises
    ------
    SchemaError, ParameterError : before anything is computed.

    Source: Rohou & Grigorieff 2015, J. Struct. Biol. 192:216.

    >>> estimate_ctf(xr.Dataset(), box=511)
    Traceback (most recent call last):
        ...
    cryoflow.errors.ParameterError: estimate_ctf: expected box even and at least 64; found 511...
    """
    from cryoflow.engine import compute, map_rows

    search = {
        "min_resolution": float(min_resolution),
        "max_resolution": float(max_resolution),
        "min_defocus": float(min_defocus),
        "max_defocus": float(max_defocus),
        "astigmatism_limit": float(astigmatism_limit),
        "phase_shift": bool(phase_shift),
    }
    _check_numbers(box, search)
    require(micrographs, "estimate_ctf", ("micrograph", "voltage", "cs", "amplitude_contrast", "pixel_size"))
    _check_optics(micrographs)
    pixels = np.atleast_1d(micrographs["pixel_size"].values).astype(float)
    target = _check_pixels(micrographs, pixels, box, search)
    step = 1.0 / (box * max(target, float(pixels.max())))
    finest = max(search["max_resolution"], NYQUIST_MARGIN * float(pixels.max()))
    reach = min(int(1.0 / (finest * step)) + 1, box // 2 - 1)
    spec: dict[str, Any] = dict.fromkeys((*SCALARS, *CURVES, "usable", "reason"))
    spec["power_spectrum"] = (("ky", "kx"), "float16")  # no more than a picture needs: 0.1 MB a micrograph
    shared = {"search": search, "box": box, "target": target, "step": step, "reach": reach}
    sizes = {"shell": box // 2, "ky": 2 * reach + 1, "kx": reach + 1}
    rows = map_rows(ctf_rows, micrographs, shared, dim="micrograph", outputs=spec, batch=1, sizes=sizes)
    (rows,) = compute(rows, client=client, label="CTF")
    rows = rows.assign(frequency=("shell", (np.arange(box // 2) * step).astype(np.float32)))
    stale = [str(n) for n in rows.data_vars if n in micrographs]
    return micrographs.drop_vars(stale).assign({str(n): rows[n] for n in rows.data_vars})


def _check_numbers(box: int, search: dict[str, Any]) -> None:
    rules = (
        (box % 2 == 0 and box >= 64, "box even and at least 64", box),
        (
            0 < search["max_resolution"] < search["min_resolution"],
            "0 < max_resolution < min_resolution (angstrom)",
            (search["max_resolution"], search["min_resolution"]),
        ),
        (
            0 < search["min_defocus"] < search["max_defocus"] < np.inf,
            "0 < min_defocus < max_defocus (angstrom, underfocus positive)",
            (search["min_defocus"], search["max_defocus"]),
        ),
        (search["astigmatism_limit"] >= 0, "astigmatism_limit of 0 or more angstrom", search["astigmatism_limit"]),
    )
    for holds, expected, found in rules:
        if not holds:
            raise ParameterError(
                "estimate_ctf", expected=expected, found=str(found), remedy="See the parameters of estimate_ctf."
            )


def _check_optics(micrographs: xr.Dataset) -> None:
    voltage, cs, contrast = (
        np.asarray(micrographs[n].values, dtype=float) for n in ("voltage", "cs", "amplitude_contrast")
    )
    rules = (
        ((voltage > 0) & (voltage < 10_000), "voltages above 0 and in kV", voltage),
        (np.isfinite(cs), "finite values of cs (mm)", cs),
        ((contrast >= 0) & (contrast <= 1), "amplitude contrasts from 0 to 1 (a fraction)", contrast),
    )
    for holds, expected, found in rules:
        if not holds.all():
            raise ParameterError(
                "estimate_ctf", expected=expected, found=str(np.unique(found[~holds]).tolist()),
                remedy="Give what the microscope had when opening the micrographs.",
            )  # fmt: skip


def _check_pixels(micrographs: xr.Dataset, pixels: Any, box: int, search: dict[str, Any]) -> float:
    """The finest pixel the spectrum stands for, angstrom, after checks of pixel sizes against band, box and image."""
    if not (np.isfinite(pixels).all() and (pixels > 0).all()):
        raise ParameterError(
            "estimate_ctf",
            expected="pixel sizes above 0 angstrom",
            found=str(pixels.tolist()),
            remedy="Give the pixel size when opening the micrographs.",
        )
    target = min(FINEST_PIXEL, float(search["max_resolution"]) / NYQUIST_MARGIN)
    for pixel in pixels:
        finest, step = max(search["max_resolution"], NYQUIST_MARGIN * pixel), 1.0 / (box * max(pixel, target))
        if (1.0 / finest - 1.0 / search["min_resolution"]) / step < 24:
            raise ParameterError(
                "estimate_ctf",
                expected="at least 24 samples of the spectrum between min_resolution and max_resolution",
                found=f"box {box} at {pixel:g} A a pixel, {search['min_resolution']:g} to {finest:g} A",
                remedy="Use a larger box, or check the pixel size.",
            )
        tile = tile_size(box, float(pixel), target)
        side = min(micrographs.sizes["y"], micrographs.sizes["x"])
        if tile > side:
            raise ParameterError(
                "estimate_ctf",
                expected=f"micrographs of at least {tile} pixels (a tile) either way",
                found=f"{micrographs.sizes['x']} x {micrographs.sizes['y']}",
                remedy="Use a smaller box.",
            )
    return target
