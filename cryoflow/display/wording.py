"""What a stage found, in words and with units: for the log and the report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["COSTS", "in_words", "with_signs"]

COSTS = ("cpu_seconds", "wall_seconds", "peak_memory_bytes")
_SILENT = {*COSTS, "warnings", "report"}

# figure -> how it is said
_SAID = {
    "snr": "signal to noise {:.3g}",
    "mean_defocus": "mean underfocus {:.0f} A",
    "median_ctf_resolution": "CTF fits hold to {:.2f} A (median)",
    "particles_per_micrograph": "{:.1f} a micrograph",
    "box": "box {} pixels",
    "resolution_refine": "FSC 0.143 at {:.2f} A",
    "resolution": "FSC 0.143 at {:.2f} A",
    "resolution_half": "FSC 0.5 at {:.2f} A",
    "b_factor": "B-factor {:.0f} A^2",
    "truth_resolution": "FSC 0.5 with the truth at {:.2f} A",
}


def in_words(figures: Mapping[str, Any]) -> str:
    """The figures of a stage as one line; what it cost and its warnings are left out.

    >>> in_words({"cpu_seconds": 1.0, "particles": 2703, "mean_defocus": 19988.7, "converged": True})
    'particles 2703, mean underfocus 19989 A, converged yes'
    >>> in_words({"resolution": 5.879, "resolution_range": [6.1, 5.71], "b_factor": -90.4})
    'FSC 0.143 at 5.88 A (6.10 to 5.71 A by chance), B-factor -90 A^2'
    >>> in_words({"resolution": None, "resolution_range": [None, None], "b_factor": 0.0})
    'FSC 0.143 nowhere, B-factor 0 A^2'
    """
    parts: list[str] = []
    for key, value in figures.items():
        if key == "resolution_range":
            reach = [f"{v:.2f}" for v in value or () if _finite(v)]
            if parts and len(set(reach)) == 2:
                parts[-1] += f" ({' to '.join(reach)} A by chance)"
        elif key not in _SILENT:
            parts.append(_one(key, value))
    return ", ".join(parts)


def _one(key: str, value: Any) -> str:
    if key in _SAID:
        said = _SAID[key]
        if _finite(value):
            return said.format(value)
        return f"{said[: said.index('{')].removesuffix('at ')}nowhere" if " at " in said else f"{key} unknown"
    name = key.replace("_", " ")
    if isinstance(value, bool):
        return f"{name} {'yes' if value else 'no'}"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def with_signs(text: str) -> str:
    """Units and minus signs of a line of the log as a page shows them.

    >>> with_signs("B = -909 A^2 at 8.0 A: a B-factor A of (-0.79)")
    'B = −909 Å² at 8.0 Å: a B-factor A of (−0.79)'
    """
    text = re.sub(r"(?<![\w.)])-(?=\d)", "−", text)
    return re.sub(r"(?<=\d) A\b", " Å", text).replace("Å^2", "Å²")
