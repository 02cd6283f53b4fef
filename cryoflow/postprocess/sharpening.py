"""B-factor from the Guinier plot, the detector's MTF, and their application to a spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryoflow.errors import FormatError, ParameterError
from cryoflow.kernels.fourier import shell_index, shell_mean

__all__ = ["GuinierFit", "apply_b_factor", "apply_shells", "fit_guinier", "log_amplitudes", "read_mtf"]


@dataclass(frozen=True, slots=True)
class GuinierFit:
    """Straight line through ln |F| against s^2: slope (angstrom^2), intercept, correlation, range, shells used."""

    slope: float
    intercept: float
    correlation: float
    low: float
    high: float
    shells: int

    @property
    def b_factor(self) -> float:
        """4 x slope, angstrom^2; negative where the map has to be sharpened."""
        return 4.0 * self.slope


def log_amplitudes(spectrum: Any) -> np.ndarray:
    """ln of the mean |F| of every shell of a half spectrum (n, n, n // 2 + 1); -inf where it is 0.

    >>> log_amplitudes(np.ones((4, 4, 3), complex)).tolist()
    [0.0, 0.0, 0.0]
    """
    mean = shell_mean(np.abs(spectrum), spectrum.shape[0], dims=3)
    with np.errstate(divide="ignore"):
        logs: np.ndarray = np.log(mean)
    return logs


def fit_guinier(
    log_amplitude: np.ndarray, *, box: int, pixel_size: float, low: float = 10.0, high: float
) -> GuinierFit | None:
    """Least-squares line through ln |F|(s^2) = intercept + slope s^2 between the resolutions ``low`` and ``high``.

    Mean amplitudes fall as exp(-B s^2 / 4), so ``b_factor`` = 4 slope undoes the fall. Returns None where fewer than
    three shells with signal lie in the range: a line through them would mean nothing.

    Source: Rosenthal & Henderson 2003, J. Mol. Biol. 333:721.

    >>> s2 = (np.arange(65) / (128 * 1.0)) ** 2
    >>> fit = fit_guinier(2.0 - 25.0 * s2, box=128, pixel_size=1.0, high=3.0)
    >>> round(fit.b_factor, 6), round(fit.correlation, 6)
    (-100.0, -1.0)
    """
    shell = np.arange(box // 2 + 1)
    s2 = (shell / (box * pixel_size)) ** 2
    # shells are compared as integers, so that a limit that lies on a shell includes it whatever its last bit
    first, last = box * pixel_size / low, box * pixel_size / high if high > 0 else box // 2
    use = (shell >= first - 1e-6) & (shell <= last + 1e-6) & np.isfinite(log_amplitude)
    if use.sum() < 3:
        return None
    x, y = s2[use], np.asarray(log_amplitude)[use]
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(np.std(x) * np.std(y))
    correlation = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 0.0
    limits = box * pixel_size / shell[use][[0, -1]]
    return GuinierFit(float(slope), float(intercept), correlation, float(limits[0]), float(limits[1]), int(use.sum()))


def apply_b_factor(spectrum: Any, b_factor: float, pixel_size: float) -> Any:
    """``spectrum`` times exp(-B s^2 / 4) at every sample (not shell); negative B sharpens.

    >>> apply_b_factor(np.ones((4, 4, 3)), -16.0, 1.0)[0, 0].round(3).tolist()
    [1.0, 1.284, 2.718]
    """
    n = spectrum.shape[0]
    full, half = np.fft.fftfreq(n, pixel_size) ** 2, np.fft.rfftfreq(n, pixel_size) ** 2
    s2 = full[:, None, None] + full[None, :, None] + half[None, None, :]
    return spectrum * np.exp(-0.25 * b_factor * s2).astype(spectrum.real.dtype)


def apply_shells(spectrum: Any, weights: np.ndarray) -> Any:
    """``spectrum`` times one weight a shell; 0 in the corners beyond the last shell.

    >>> apply_shells(np.ones((4, 4, 3)), np.array([1.0, 0.5, 0.0]))[0, 0].tolist()
    [1.0, 0.5, 0.0]
    """
    padded = np.append(weights, 0.0).astype(spectrum.real.dtype)
    index = np.minimum(shell_index(spectrum.shape[0], dims=3), weights.size)
    return spectrum * padded[index]


def read_mtf(path: str | Path, *, box: int, pixel_size: float, mtf_pixel_size: float | None = None) -> np.ndarray:
    """Modulation transfer function at every shell of a box, from a STAR file of the detector.

    The file's ``rlnResolutionInversePixel`` counts in cycles per detector pixel; ``mtf_pixel_size`` (angstrom, default
    ``pixel_size``) is the size of that pixel on the specimen. Values between are interpolated linearly; beyond the
    file's last frequency its last value holds.

    Raises
    ------
    FormatError : the labels are missing, or values are not finite, above 0 and in order of frequency.
    """
    from cryoflow.io.star.star import read_star

    labels = ("rlnResolutionInversePixel", "rlnMtfValue")
    for table in read_star(path).values():
        if all(label in table.columns for label in labels):
            break
    else:
        raise FormatError(
            str(path), expected=f"a table with {labels[0]} and {labels[1]}", found="none",
            remedy="Give the MTF of the detector as RELION's STAR file.",
        )  # fmt: skip
    x, y = (np.asarray(table[label], dtype=np.float64) for label in labels)
    if x.size < 2 or not np.isfinite([x, y]).all() or (y <= 0).any() or (np.diff(x) <= 0).any():
        raise FormatError(
            str(path), expected="two or more finite MTF values above 0, frequencies rising",
            found=f"{x.size} rows from {x.min() if x.size else 'nothing'}",
        )  # fmt: skip
    detector = pixel_size if mtf_pixel_size is None else mtf_pixel_size
    if not detector > 0:
        raise ParameterError("read_mtf", expected="a pixel size above 0", found=str(detector))
    return np.interp(np.arange(box // 2 + 1) / (box * pixel_size) * detector, x, y)
