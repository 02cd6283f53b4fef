"""One look for every figure: ink that follows the page's theme, and colours that everyone can tell apart."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CYCLE", "INK", "SEQUENTIAL", "clean_image", "figure_to_svg", "new_figure", "scale_bar", "style"]

INK = "#1b2a33"  # text, axes and lines; in a page it becomes the colour of the surrounding text
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")  # Okabe & Ito
SEQUENTIAL = "viridis"

_RC: dict[str, Any] = {
    "figure.dpi": 110,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.grid": False,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "font.family": ["sans-serif"],
    "font.size": 9.5,
    "image.interpolation": "nearest",
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in cryoflow's style, whatever the user's own settings are; those come back at the end."""
    import matplotlib as mpl
    from cycler import cycler

    with mpl.rc_context({**_RC, "axes.prop_cycle": cycler(color=CYCLE)}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches that belongs to no window and to no pyplot state; draw within ``style()``.

    >>> with style():
    ...     new_figure(4, 3).get_size_inches().tolist()
    [4.0, 3.0]
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def clean_image(ax: Axes, title: str = "") -> None:
    """Take ticks and frame from an axes that holds an image."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_title(title)


def scale_bar(ax: Axes, width: int, pixel_size: float, *, colour: str = "white") -> None:
    """A bar of a round length (1, 2 or 5 times a power of ten, about a quarter of ``width`` pixels), with its label.

    Lengths of 1000 angstrom and more are given in nanometres.
    """
    import math

    from matplotlib import patheffects

    target = 0.27 * width * pixel_size
    power = 10.0 ** math.floor(math.log10(target))
    length = max(m * power for m in (1, 2, 5) if m * power <= target)
    label = f"{length:g} Å" if length < 1000 else f"{length / 10:g} nm"
    dark = [patheffects.withStroke(linewidth=2.5, foreground="black", alpha=0.55)] if colour == "white" else []
    left = 0.05 * width
    place = ax.get_xaxis_transform()  # x in pixels, y in fractions of the axes
    ax.plot(
        [left, left + length / pixel_size], [0.05, 0.05], transform=place, color=colour, lw=2.4, path_effects=dark,
        solid_capstyle="butt", scaley=False,
    )  # fmt: skip
    ax.annotate(
        label, (left, 0.05), xycoords=place, xytext=(0, 3), textcoords="offset points", color=colour, fontsize=8,
        va="bottom", path_effects=dark,
    )  # fmt: skip


def figure_to_svg(figure: Figure, name: str) -> str:
    """SVG text of a figure for use inside a page: ids of its own, no date.

    Ink becomes ``currentColor`` and the first colour of the cycle ``var(--accent)``, so that both follow the theme.

    ``name`` must differ between the figures of a page, for their ids come from it.
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    prefix = re.sub(r"\W", "-", name)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    return text.replace(INK, "currentColor").replace(CYCLE[0], f"var(--accent, {CYCLE[0]})")
