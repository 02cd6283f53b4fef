"""What a stage found, in words and with units: for the log and the report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["COSTS", "in_words", "with_signs"]

COSTS = ("cpu_seconds", "wall_seconds", "peak_memory_bytes")
_SILENT = {*COSTS, "warnings", "report"}

# figure -> what it is called, digits, unit
_FIGURES: dict[str, tuple[str, int, str]] = {
    "snr": ("signal to noise", 3, ""),
    "mean_defocus": ("mean underfocus", 0, "A"),
    "median_ctf_resolution": ("CTF fits hold to", 2, "A (median)"),
    "particles_per_micrograph": ("a micrograph", 1, ""),
    "box": ("box", 0, "pixels"),
    "resolution_refine": ("FSC 0.143 at", 2, "A"),
    "resolution": ("FSC 0.143 at", 2, "A"),
    "resolution_range": ("by chance from", 2, "A"),
    "resolution_half": ("FSC 0.5 at", 2, "A"),
    "b_factor": ("B-factor", 0, "A^2"),
    "truth_resolution": ("against the truth FSC 0.5 at", 2, "A"),
}


def in_words(figures: Mapping[str, Any]) -> str:
    """The figures of a stage as one line; what it cost and its warnings are left out.

    >>> in_words({"cpu_seconds": 1.0, "particles": 2703, "mean_defocus": 19988.7, "converged": True})
    'particles 2703, mean underfocus 19989 A, converged yes'
    >>> in_words({"resolution": None, "b_factor": -90.4, "resolution_range": [6.1, 5.71]})
    'no FSC 0.143, B-factor -90 A^2, by chance from 6.10 to 5.71 A'
    """
    return ", ".join(_one(key, value) for key, value in figures.items() if key not in _SILENT)


def _one(key: str, value: Any) -> str:
    name, digits, unit = _FIGURES.get(key, (key.replace("_", " "), -1, ""))
    if isinstance(value, bool):
        return f"{name} {'yes' if value else 'no'}"
    values = value if isinstance(value, list | tuple) else [value]
    if key in _FIGURES and not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        return f"no {name.removesuffix(' at')}"
    said = " to ".join(f"{v:.{digits}f}" if digits >= 0 else f"{v:.4g}" if isinstance(v, float) else str(v)
                       for v in values)  # fmt: skip
    return f"{name} {said} {unit}".rstrip()


def with_signs(text: str) -> str:
    """Units and minus signs of a line of the log as a page shows them.

    >>> with_signs("B = -909 A^2 at 8.0 A: a B-factor A of (-0.79)")
    'B = −909 Å² at 8.0 Å: a B-factor A of (−0.79)'
    """
    text = re.sub(r"(?<![\w.)])-(?=\d)", "−", text)
    return re.sub(r"(?<=\d) A\b", " Å", text).replace("Å^2", "Å²")
