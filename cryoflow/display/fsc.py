"""Curves over frequency and over iterations: FSC, Guinier plot, convergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cryoflow.display.style import CYCLE, INK

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["draw_convergence", "draw_fsc", "draw_guinier"]

_LOOK: dict[str, tuple[str, str, float]] = {  # curve -> colour, dashes, width; names as in the data
    "none": (CYCLE[6], "-", 1.3),
    "spherical": (CYCLE[3], "-", 1.3),
    "loose": (CYCLE[2], "-", 1.3),
    "tight": (CYCLE[1], "-", 1.5),
    "randomised": (CYCLE[4], (0, (2, 1.5)), 1.2),  # type: ignore[dict-item]
    "corrected": (CYCLE[0], "-", 2.4),
}
_AMPLITUDES = {
    "log_amplitude": ("as reconstructed", CYCLE[6]),
    "log_amplitude_weighted": ("FSC-weighted", CYCLE[1]),
    "log_amplitude_sharpened": ("sharpened", CYCLE[0]),
}


def draw_fsc(
    ax: Axes,
    curves: Mapping[str, np.ndarray],
    *,
    box: int,
    pixel_size: float,
    resolution: float | None = None,
    deviation: np.ndarray | None = None,
    thresholds: Sequence[float] = (0.143, 0.5),
) -> None:
    """FSC curves over spatial frequency, with thresholds and the resolution marked.

    ``curves`` maps names (those of ``postprocess``, or any) to (box // 2 + 1) arrays; ``resolution`` in angstrom;
    ``deviation`` of the corrected curve by chance is drawn as a band about it.
    """
    s = np.arange(box // 2 + 1) / (box * pixel_size)
    for level in thresholds:
        ax.axhline(level, color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.55, zorder=1)
        ax.annotate(
            f"{level:g}", (0, level), xycoords=("axes fraction", "data"), xytext=(3, 2), textcoords="offset points",
            fontsize=7.5, alpha=0.8,
        )  # fmt: skip
    ax.axhline(0, color=INK, lw=0.6, alpha=0.4, zorder=1)
    for i, (name, curve) in enumerate(curves.items()):
        colour, dashes, width = _LOOK.get(name, (CYCLE[i % len(CYCLE)], "-", 1.5))
        ax.plot(s[1:], np.asarray(curve)[1:], color=colour, ls=dashes, lw=width, label=name, zorder=2 + (width > 2))
    if deviation is not None and "corrected" in curves:
        middle = np.asarray(curves["corrected"])
        low, high = (np.clip(middle + sign * np.asarray(deviation), -1, 1)[1:] for sign in (-1, 1))
        ax.fill_between(s[1:], low, high, color=CYCLE[0], alpha=0.18, lw=0, zorder=1.2)
    if resolution is not None and np.isfinite(resolution):
        final = float(np.asarray(curves.get("corrected", [0.0]))[-1])
        nyquist = 1 / resolution >= 0.999 * s[-1]
        level = max(final, 0.143) if nyquist else 0.143  # a curve that never falls ends above the threshold
        ax.plot([1 / resolution] * 2, [-0.1, level], color=CYCLE[0], lw=1, zorder=1.5)
        ax.plot([1 / resolution], [level], "o", color=CYCLE[0], ms=5, zorder=5, clip_on=False)
        right = 1 / resolution < 0.7 * s[-1]
        x = 1 / resolution + (0.015 if right else -0.015) * s[-1]
        reach = (x, x + 0.3 * s[-1]) if right else (x - 0.3 * s[-1], x)
        height = _free_height(s, curves, reach, thresholds)
        ax.plot([1 / resolution] * 2, [level, height], color=CYCLE[0], lw=0.8, ls=(0, (1, 2)), zorder=1.5)  # its label
        ax.annotate(
            f"{resolution:.2f} Å" + (" (Nyquist)" if nyquist else ""), (x, height),
            ha="left" if right else "right", va="center", fontsize=10, fontweight="bold", color=CYCLE[0],
        )  # fmt: skip
    ax.set(xlim=(0, s[-1]), ylim=(-0.1, 1.04), ylabel="Fourier shell correlation")
    _angstrom_axis(ax, s[-1])
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(3, len(curves)), handlelength=1.6, borderpad=0.2)


def _free_height(
    s: np.ndarray, curves: Mapping[str, np.ndarray], reach: tuple[float, float], thresholds: Sequence[float]
) -> float:
    """Where between two frequencies a line of text is farthest from every curve; low rather than high if it is even."""
    near = (s >= reach[0] - 2 * s[1]) & (s <= reach[1] + 2 * s[1])
    drawn = np.concatenate([np.asarray(c)[near] for c in curves.values()] + [np.asarray(thresholds), [0.0]])
    heights = np.arange(0.05, 0.97, 0.01)
    gaps: np.ndarray = np.minimum(np.abs(heights[:, None] - drawn).min(axis=1), 0.06)
    return float(heights[gaps.argmax()])


def _angstrom_axis(ax: Axes, last: float) -> None:
    """Ticks at round resolutions along a frequency axis."""
    wanted = (100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.7, 2.5, 2.2, 2, 1.8, 1.6, 1.4, 1.2, 1)
    ticks: list[float] = []
    for r in wanted:
        if 1 / r <= last * 1.0001 and (not ticks or 1 / r - 1 / ticks[-1] > 0.055 * last):
            ticks.append(r)
    ax.set_xticks([1 / r for r in ticks], [f"{r:g}" for r in ticks])
    ax.set_xlabel("Resolution (Å)")


def draw_guinier(ax: Axes, ds: xr.Dataset) -> None:
    """Guinier plot of a ``postprocess`` Dataset: ln amplitudes over s^2, and the line fitted."""
    s2 = ds["frequency"].values ** 2
    for name, (label, colour) in _AMPLITUDES.items():
        values = np.where(np.isfinite(ds[name].values), ds[name].values, np.nan)
        ax.plot(s2[1:], values[1:], color=colour, label=label)
    low, high = ds.attrs.get("guinier_low"), ds.attrs.get("guinier_high")
    if low and high:
        x = np.array([1 / low**2, 1 / high**2])
        ax.plot(x, ds.attrs["guinier_intercept"] + ds.attrs["guinier_slope"] * x, color=INK, lw=1, ls=(0, (4, 2)))
        ax.axvspan(*x, color=INK, alpha=0.05, lw=0)
        ax.set_title(
            f"B = {ds.attrs['b_factor']:.0f} Å²  (fit from {low:.1f} to {high:.1f} Å, r = "
            f"{ds.attrs['guinier_correlation']:.3f})".replace("-", "−")
        )
        ax.set_xlim(0, min(s2[-1], 2.5 * x[1]))
    shown = s2 <= ax.get_xlim()[1]
    values = np.concatenate([ds[n].values[2:][shown[2:]] for n in _AMPLITUDES])
    values = values[np.isfinite(values)]
    if values.size:
        ax.set_ylim(np.percentile(values, 2) - 0.7, values.max() + 0.7)
    ax.set(xlabel="1 / resolution² (Å⁻²)", ylabel="ln mean amplitude")
    ax.legend(loc="upper right")


def draw_convergence(axes: Sequence[Axes], table: Mapping[str, Sequence[float]]) -> None:
    """One small panel for each column of a per-iteration table (name -> values), over iterations.

    ``axes`` and columns are taken in order; columns with no finite value leave their panel empty.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    for ax, (name, values) in zip(axes, table.items(), strict=False):
        y = np.asarray(values, dtype=float)
        x = np.arange(1, len(y) + 1)
        good = np.isfinite(y)
        ax.plot(x[good], y[good], "o-", ms=3, color=CYCLE[0], lw=1.4)
        ax.set_title(name.replace("_", " "))
        ax.set_xlabel("iteration")
        ax.set_xlim(0.5, len(y) + 0.5)
        ax.grid(visible=True, axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        if good.any() and y[good].min() > 0 and y[good].max() / y[good].min() > 30:
            ax.set_yscale("log")
            steps = (1.0, 3.0) if y[good].max() / y[good].min() < 3000 else (1.0,)
            ax.yaxis.set_major_locator(LogLocator(subs=steps))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
