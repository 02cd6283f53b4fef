"""The diagnostic picture of a CTF fit: spectrum against fitted rings, profile against |CTF|, quality of fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cryoflow.display.style import CYCLE, INK, clean_image, new_figure, style
from cryoflow.kernels.ctf import ctf
from cryoflow.schema import require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_ctf", "plot_ctf", "ring_picture"]

HIGHEST = 0.28  # 1/angstrom, of the profiles
CLEAREST = 0.2  # 1/angstrom, of the picture: the eye sees no rings beyond
NEEDS = ("power_spectrum", "ctf_profile", "ctf_fit", "ctf_quality", "frequency", "defocus_u", "ctf_resolution")


def _scalar(row: xr.Dataset, name: str, default: float = np.nan) -> float:
    """A value of one micrograph; optics are looked up by its group."""
    if name not in row:
        return default
    value = row[name]
    if "optics" in value.dims:
        value = value.isel(optics=int(row["optics_group"]) if "optics_group" in row else 0)
    return float(value)


def ring_picture(row: xr.Dataset, *, highest: float = CLEAREST) -> npt.NDArray[np.float32]:
    """Square picture (n, n), grey values 0 to 1, origin in its middle: spectrum on the left, fitted CTF^2 on the right.

    ``row`` is one micrograph of ``estimate_ctf``; without a fit the spectrum fills both halves.
    """
    from scipy.ndimage import gaussian_filter

    spectrum = np.asarray(row["power_spectrum"].values, np.float32)
    step = float(row["frequency"][1])
    origin = spectrum.shape[0] // 2
    reach = min(int(highest / step), origin)
    half = gaussian_filter(spectrum, 1.2)[origin - reach : origin + reach + 1, : reach + 1]
    k = np.arange(-reach, reach + 1) * step
    kx, ky = np.meshgrid(k, k)
    radius = np.hypot(kx, ky)
    left = half[::-1, :0:-1]  # Friedel: F(-kx, ky) has the amplitude of F(kx, -ky)
    data = np.concatenate([left, half], axis=1)
    band = (radius > 0.25 * k[-1]) & (radius < k[-1]) & np.isfinite(data)
    spread = float(data[band].std()) if band.any() else 1.0
    picture = np.clip(0.5 + data / (4 * spread + 1e-12), 0, 1)
    if np.isfinite(_scalar(row, "defocus_u")):
        rings = ctf(
            kx, ky, *(_scalar(row, n) for n in ("defocus_u", "defocus_v", "defocus_angle")),
            voltage=_scalar(row, "voltage"), cs=_scalar(row, "cs"), phase_shift=_scalar(row, "phase_shift", 0.0),
            amplitude_contrast=_scalar(row, "amplitude_contrast"),
        )  # fmt: skip
        picture = np.where(kx > 0, rings**2, picture)
    return np.where(radius <= k[-1], np.nan_to_num(picture, nan=0.5), np.nan).astype(np.float32)


def draw_ctf(figure: Figure, row: xr.Dataset, *, highest: float = HIGHEST) -> None:
    """Draw the fit of one micrograph (``estimate_ctf(...).isel(micrograph=i)``) into ``figure``.

    Left: spectrum and fitted rings. Right: equiphase profile, |CTF| and local correlation over frequency (1/angstrom),
    with the fit resolution marked.

    Raises
    ------
    SchemaError : ``row`` has no CTF variables.
    """
    require(row, "draw_ctf", NEEDS)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    left.imshow(ring_picture(row, highest=min(highest, CLEAREST)), cmap="gray", vmin=0, vmax=1, origin="lower")
    fitted = bool(np.isfinite(_scalar(row, "defocus_u")))
    clean_image(left, "data | fit" if fitted else "not fitted")
    _draw_profile(right, row, highest, fitted)
    if fitted:
        u, v, angle = (_scalar(row, n) for n in ("defocus_u", "defocus_v", "defocus_angle"))
        phase = _scalar(row, "phase_shift", 0.0)
        label = f"{u / 1e4:.3f}, {v / 1e4:.3f} µm at {angle:.0f}°".replace("-", "−")
        right.set_title(label + (f", phase {phase:.0f}°" if phase else ""), fontsize=9)
    else:
        right.set_title(str(row["reason"].values) if "reason" in row else "", fontsize=8, wrap=True)


def _draw_profile(ax: Axes, row: xr.Dataset, highest: float, fitted: bool) -> None:
    s = row["frequency"].values
    profile = np.asarray(row["ctf_profile"].values, float)
    shown = (s <= highest) & np.isfinite(profile)
    if shown.any():
        highest = min(highest, 1.04 * float(s[shown].max()))  # coarse pixels end before
        low, high = np.percentile(profile[shown], [2, 98])
        scaled = np.clip((profile - low) / max(high - low, 1e-12), -0.15, 1.15)
        ax.plot(s[shown], scaled[shown], color=INK, lw=1.0, alpha=0.8, label="spectrum")
    if fitted:
        ax.plot(s[shown], row["ctf_fit"].values[shown], color=CYCLE[1], lw=1.0, label="|CTF|")
        ax.plot(s[shown], row["ctf_quality"].values[shown], color=CYCLE[0], lw=1.6, label="quality of fit")
        resolution = _scalar(row, "ctf_resolution")
        if np.isfinite(resolution) and 1 / resolution <= highest:
            ax.axvline(1 / resolution, color=CYCLE[0], lw=0.9, ls=(0, (4, 3)))
            ax.annotate(f"{resolution:.1f} Å ", (1 / resolution, -0.13), fontsize=8, ha="right", color=CYCLE[0])
        ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(-0.08, 1.08), ncols=3, borderpad=0, handlelength=1.0,
                  columnspacing=1.2, handletextpad=0.5)  # fmt: skip
    ax.set(xlabel="spatial frequency (1/Å)", ylabel="amplitude, correlation")
    ax.set(xlim=(0, highest), ylim=(-0.2, 1.2), yticks=(0, 0.5, 1))


def plot_ctf(micrographs: xr.Dataset, index: int = 0, *, highest: float = HIGHEST) -> Any:
    """A matplotlib figure of the fit of micrograph ``index`` of ``estimate_ctf``'s result; see ``draw_ctf``."""
    require(micrographs, "plot_ctf", NEEDS)
    row = micrographs.drop_vars("micrograph", errors="ignore").isel(micrograph=index)
    with style():
        figure = new_figure(7.2, 3.3)
        figure.set_facecolor("white")  # a notebook may be dark, and the ink is
        draw_ctf(figure, row, highest=highest)
    return figure
