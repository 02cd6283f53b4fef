"""The microscope of a simulation: the options that particles and micrographs share, and what is drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.simulate.noise import NoiseKind

__all__ = [
    "IMAGING", "Imaging", "Microscope", "check_imaging", "draw_defocus", "factor_for", "microscope", "need",
    "optics_variables",
]  # fmt: skip

Array = np.ndarray[Any, np.dtype[Any]]


class Imaging(TypedDict, total=False):
    """Options of ``simulate_particles`` and ``simulate_micrographs``; the first describes each."""

    symmetry: str
    snr: float
    defocus: tuple[float, float]
    astigmatism: float
    voltage: float
    cs: float
    amplitude_contrast: float
    b_factor: float
    noise: NoiseKind
    seed: int


IMAGING: Imaging = {
    "symmetry": "C1", "snr": 0.1, "defocus": (8000.0, 25000.0), "astigmatism": 400.0, "voltage": 300.0, "cs": 2.7,
    "amplitude_contrast": 0.1, "b_factor": 60.0, "noise": "coloured", "seed": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Microscope:
    """Imaging conditions common to all particles; units of ``cryoflow.conventions``."""

    voltage: float
    cs: float
    amplitude_contrast: float
    b_factor: float
    pixel_size: float


def microscope(imaging: Imaging, pixel_size: float) -> Microscope:
    """The microscope of ``imaging``."""
    return Microscope(imaging["voltage"], imaging["cs"], imaging["amplitude_contrast"], imaging["b_factor"], pixel_size)


def check_imaging(n: int, imaging: Imaging) -> None:
    """Raise ``ParameterError`` for values that no microscope has."""
    low_high = imaging["defocus"]
    need(n >= 1, "n of at least 1", n)
    need(imaging["snr"] > 0, "an SNR above 0", imaging["snr"])
    need(len(low_high) == 2 and -np.inf < low_high[0] <= low_high[1] < np.inf,
         "defocus as (smallest, largest) in angstrom", low_high)  # fmt: skip
    need(0 <= imaging["astigmatism"] < np.inf, "an astigmatism of at least 0 angstrom", imaging["astigmatism"])
    need(0 < imaging["voltage"] < np.inf, "a voltage above 0 kV", imaging["voltage"])
    need(bool(np.isfinite(imaging["cs"])), "a finite cs in mm", imaging["cs"])
    contrast = imaging["amplitude_contrast"]
    need(0 <= contrast < 1, "an amplitude contrast from 0 to below 1", contrast)
    need(0 <= imaging["b_factor"] < np.inf, "a B-factor of at least 0 angstrom^2", imaging["b_factor"])
    need(imaging["seed"] >= 0, "a seed of at least 0", imaging["seed"])


def need(fine: bool, expected: str, found: object) -> None:
    """Raise ``ParameterError`` unless ``fine``."""
    if not fine:
        raise ParameterError("simulate", expected=expected, found=repr(found))


def draw_defocus(n: int, imaging: Imaging, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """(u, v, angle) of ``n`` micrographs: angstrom, angstrom, degrees in (-90, 90]."""
    low, high = imaging["defocus"]
    draws = rng.random((n, 3))
    mean = low + (high - low) * draws[:, 0]
    half = 0.5 * imaging["astigmatism"] * draws[:, 1]
    return mean + half, mean - half, 90.0 - 180.0 * draws[:, 2]


def factor_for(snr: float, variance: float) -> float:
    """What clean images of ``variance`` are multiplied by to have the variance ``snr``."""
    if not variance > 0:
        raise ParameterError("simulate", expected="a source with density in the box", found="an empty map")
    return float(np.sqrt(snr / variance))


def optics_variables(m: Microscope) -> dict[str, Any]:
    """The variables of one optics group."""
    named: dict[str, Any] = {
        name: ("optics", np.array([float(getattr(m, name))]))
        for name in ("voltage", "cs", "amplitude_contrast", "pixel_size")
    }
    return {"optics_name": ("optics", np.array(["opticsGroup1"])), **named}
