"""What a section of the report is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryoflow.display.style import figure_to_svg, style
from cryoflow.io.amounts import human_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Figure_", "Missing", "Section", "Table", "Text", "as_figure", "human_bytes", "human_seconds"]


class Missing(Exception):
    """A section's inputs are not there; the message says which."""


@dataclass(slots=True)
class Text:
    """A paragraph, or lines of code or data (``code``); ``fold`` gives it a title to unfold it by."""

    text: str
    code: bool = False
    fold: str = ""
    wide: bool = True
    kind: str = "text"


@dataclass(slots=True)
class Table:
    """Rows of text under a header; numbers are aligned right where ``numeric`` names their column."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    fold: str = ""
    numeric: Sequence[int] = ()
    marked: Sequence[int] = ()
    wide: bool = True
    kind: str = "table"


@dataclass(slots=True)
class Figure_:
    """An SVG picture and what it shows."""

    svg: str
    caption: str = ""
    wide: bool = False
    kind: str = "figure"


@dataclass(slots=True)
class Section:
    """A titled part of the page; ``missing`` is the one line it holds where there is nothing to show."""

    key: str
    title: str
    blocks: list[Text | Table | Figure_] = field(default_factory=list)
    missing: str = ""


def as_figure(name: str, draw: Callable[[], Figure], caption: str = "", *, wide: bool = False) -> Figure_:
    """Draw in cryoflow's style and keep the result as SVG; ``name`` must be unique on the page."""
    with style():
        return Figure_(figure_to_svg(draw(), name), caption, wide)


def human_seconds(seconds: float) -> str:
    """
    >>> human_seconds(4.25), human_seconds(250), human_seconds(8000)
    ('4.2 s', '4 min 10 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
