"""The Fourier samples a likelihood runs over: half a plane, sorted by shell, so a lower resolution is a prefix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.backend import array_module

__all__ = ["Samples", "half_plane"]


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Non-redundant samples of the transform of an ``box``-pixel image up to shell ``radius``.

    kx, ky : (K,) float32, integer frequencies in units of 1 / box; Friedel mates are listed once.
    shell : (K,) int32, round(|k|); ascending.
    starts : (radius + 2,) int64; shell s occupies ``starts[s]:starts[s + 1]``.
    """

    box: int
    radius: int
    kx: NDArray[np.float32]
    ky: NDArray[np.float32]
    shell: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kx)

    def count(self, radius: int) -> int:
        """Number of leading samples up to and including shell ``radius``."""
        return int(self.starts[min(radius, self.radius) + 1])

    def take(self, spectra: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """The samples of (..., box, box // 2 + 1) half spectra, shape (..., K)."""
        xp = array_module(spectra)
        flat = spectra.reshape(*spectra.shape[:-2], -1)
        out: NDArray[np.complex64] = xp.take(flat, xp.asarray(self._flat_index()), axis=-1)
        return out

    def shell_sums(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Sums of real (B, K') values of the first K' samples over each shell that these reach, (B, shells)."""
        starts = self.starts[self.starts < values.shape[1]]
        sums: NDArray[np.float64] = np.add.reduceat(values.astype(np.float64), starts, axis=1)
        return sums

    def _flat_index(self) -> NDArray[np.int64]:
        return (self.ky.astype(np.int64) % self.box) * (self.box // 2 + 1) + self.kx.astype(np.int64)


@lru_cache(maxsize=8)
def half_plane(box: int, radius: int) -> Samples:
    """Samples of a ``box``-pixel image up to shell ``radius`` <= (box - 1) // 2, by shell and then by angle.

    The column kx = 0 keeps ky >= 0 only; the Nyquist shell of an even box is left out.

    >>> s = half_plane(8, 2)
    >>> len(s), s.count(0), s.shell.tolist()
    (11, 1, [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2])
    """
    radius = min(radius, (box - 1) // 2)
    kx, ky = np.meshgrid(np.arange(radius + 1), np.arange(-radius, radius + 1))
    shell = np.rint(np.hypot(kx, ky)).astype(np.int32)
    keep = (shell <= radius) & ~((kx == 0) & (ky < 0))
    kx, ky, shell = kx[keep], ky[keep], shell[keep]
    order = np.lexsort((np.arctan2(ky, kx), shell))
    kx, ky, shell = kx[order], ky[order], shell[order]
    starts = np.searchsorted(shell, np.arange(radius + 2)).astype(np.int64)
    return Samples(box, radius, kx.astype(np.float32), ky.astype(np.float32), shell, starts)
