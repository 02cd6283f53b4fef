"""Noise bias: a particle's noise is in its own reference too, and speaks there for the pose that it already has.

A reference holds each of its particles at the pose it had, as one among many. There its noise meets itself: of noise
alone, the score of the rotation R and the shift t is not the same for all poses but has the expectation

    b(R, t) = sum_s E_s g_s(w) j_s(t - t0),        E_s = 2 share_s sum_{|k| = s} C^2 / sigma^2

where w is the rotation vector from the pose (R0, t0) it had, share_s what a weight of one becomes in the reference
(``maximise.own_share``), and g and j tell how far the noise still agrees with itself when it is turned and moved:

    g_s = exp(-x w_z^2) exp(-x w_xy^2 / 2) I0(x w_xy^2 / 2),   x = (2 pi a s / n)^2 / 10
    j_s = J0(2 pi s |t - t0| / n)

The transform of a ball of radius a falls as exp(-q^2 a^2 / 10) (Guinier); a turn about z moves all samples of shell s,
one about an axis in the image those away from the axis alone, hence I0. Posterior widths blur g and j. The bias is
taken off the scores: poses no longer stay because they were there, and posteriors are as wide as they are.

Source: the bias: Grigorieff 2000, J. Mol. Biol. 295:1033; Stewart & Grigorieff 2004, Ultramicroscopy 102:67, who weigh
the correlation against it. Taking off its expectation is ours; it is tested against references without the particle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.special
from numpy.typing import NDArray

from cryoflow.kernels.backend import array_module
from cryoflow.kernels.samples import Samples

__all__ = ["NoiseBias", "noise_bias", "subtract_bias", "subtract_bias_arrays"]

_LEAST = 0.02  # of log p: a smaller bias is none
_REACH = np.geomspace(1e-3, 1.0, 32)  # radians


@dataclass(frozen=True, slots=True, eq=False)
class NoiseBias:
    """The bias of B images, factor by factor; on the host.

    own : (B, G, 3, 3) rotations that they had, with all equivalents.  class_of : (B,) from 0.
    decay : (B, S) x of each shell, blurred.  reach : (B,) angle in radians beyond which there is no bias.
    coarse, fine : (B, S', T) E_s j_s of the shifts; no shells where there is no bias at all.
    """

    own: NDArray[np.float64]
    class_of: NDArray[np.int64]
    decay: NDArray[np.float64]
    reach: NDArray[np.float64]
    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]


def noise_bias(
    weight: Any, samples: Samples, *, share: Any, rotation: Any, operators: Any, class_of: Any, shift: Any,
    rotation_width: Any, shift_width: Any, shifts: tuple[Any, Any], counts: tuple[int, int], radius: float,
) -> NoiseBias:  # fmt: skip
    """The bias of B images at coarse and fine ``shifts`` (T, 2), pixels.

    Parameters
    ----------
    weight : (B, K) C^2 / sigma^2.  share : (C, S) by class and shell; zeros for a reference without the particles.
    rotation, shift : (B, 3, 3), (B, 2) pixels, the poses they had.  operators : (G, 3, 3) of the point group.
    rotation_width, shift_width : (B,) posterior widths of those poses, radians and pixels.
    counts : samples of the coarse and the fine level.  radius : of the particle, pixels.
    """
    share, class_of, shift = (np.asarray(a) for a in (share, class_of, shift))
    own = np.asarray(rotation, np.float64)[:, None] @ np.asarray(operators, np.float64)
    b, top = len(own), int(samples.shell[max(counts[1], 1) - 1])
    s = np.arange(top + 1, dtype=np.float64)
    sharp = (2 * np.pi * radius / samples.box * s) ** 2 / 10
    blur = 1 + 2 * sharp * (np.asarray(rotation_width, np.float64)[:, None] ** 2 / 3)
    decay = sharp / blur
    if not share.any():
        empty = [np.zeros((b, 0, len(t)), np.float32) for t in shifts]
        return NoiseBias(own, class_of, decay, np.zeros(b), empty[0], empty[1])
    q = 2 * np.pi * s / samples.box
    energy = 2 * share[class_of, : top + 1] * samples.shell_sums(weight[:, : counts[1]])
    energy = energy / blur * np.exp(-0.25 * (q * np.asarray(shift_width, np.float64)[:, None]) ** 2)
    energy[:, 0] = 0.0  # scores leave out the mean
    tilt = 0.5 * decay[:, None] * _REACH[:, None] ** 2
    most = (energy[:, None] * scipy.special.i0e(tilt)).sum(axis=2)
    reach = np.append(_REACH, _REACH[-1])[(most > _LEAST).sum(axis=1)]
    agreements = []
    for level, count in zip(shifts, counts, strict=True):
        distance = np.hypot(*np.moveaxis(np.asarray(level) - shift[:, None], -1, 0))
        low = int(samples.shell[max(count, 1) - 1]) + 1
        j = scipy.special.j0(q[:low, None] * distance[:, None])
        agreements.append((energy[:, :low, None] * j).astype(np.float32))
    return NoiseBias(own, class_of, decay, reach, agreements[0], agreements[1])


@numba.njit(nogil=True, cache=True)
def _i0e(x):  # type: ignore[no-untyped-def]
    """exp(-x) I0(x) to 2e-7 (Abramowitz & Stegun 1964, 9.8.1 and 9.8.2)."""
    if x < 3.75:
        t = (x / 3.75) ** 2
        p = 0.2659732 + t * (0.0360768 + t * 0.0045813)
        return np.exp(-x) * (1 + t * (3.5156229 + t * (3.0899424 + t * (1.2067492 + t * p))))
    t = 3.75 / x
    p = 0.00916281 + t * (-0.02057706 + t * (0.02635537 + t * (-0.01647633 + t * 0.00392377)))
    return (0.39894228 + t * (0.01328592 + t * (0.00225319 + t * (-0.00157565 + t * p)))) / np.sqrt(x)


@numba.njit(nogil=True, cache=True)
def subtract_bias(scores, rotations, own, decay, reach, agreement):  # type: ignore[no-untyped-def]
    """scores (R, T) -= sum_s g_s(rotation) agreement[s, t] of one image, for all ``rotations`` (R, 3, 3)."""
    shells = len(agreement)
    near = np.empty(len(rotations), np.int64)
    g = np.empty((len(rotations), shells), np.float32)
    count = 0
    for r in range(len(rotations)):
        a = rotations[r]
        trace, at = -2.0, 0
        for m in range(len(own)):
            here = 0.0
            for i in range(3):
                for k in range(3):
                    here += a[i, k] * own[m, i, k]
            if here > trace:
                trace, at = here, m
        if trace < 1 + 2 * np.cos(reach):
            continue
        o = own[at]
        x = y = z = 0.0  # 2 sin(angle) axis, of A O^T
        for k in range(3):
            x += a[2, k] * o[1, k] - a[1, k] * o[2, k]
            y += a[0, k] * o[2, k] - a[2, k] * o[0, k]
            z += a[1, k] * o[0, k] - a[0, k] * o[1, k]
        sine = 0.5 * np.sqrt(x * x + y * y + z * z)
        ratio = 0.5 * np.arctan2(sine, 0.5 * (trace - 1)) / sine if sine > 1e-9 else 0.5
        xy, z2 = (x * x + y * y) * ratio * ratio, z * z * ratio * ratio
        for s in range(shells):
            g[count, s] = np.exp(-decay[s] * z2) * _i0e(0.5 * decay[s] * xy)
        near[count] = r
        count += 1
    bias = np.dot(g[:count], agreement)
    for i in range(count):
        for t in range(agreement.shape[1]):
            scores[near[i], t] -= bias[i, t]


def subtract_bias_arrays(scores: Any, rotations: Any, class_of: Any, agreement: Any, bias: NoiseBias) -> None:
    """The same for all images at once, in place: (B, P, T) scores of (B, P, 3, 3) rotations and (B, P) classes."""
    if not agreement.shape[1]:
        return
    xp = array_module(scores)
    own, decay, agreement = (xp.asarray(a) for a in (bias.own, bias.decay[:, : agreement.shape[1]], agreement))
    traces = xp.einsum("bpij,bgij->bpg", rotations, own)
    nearest, trace = traces.argmax(axis=2), traces.max(axis=2)
    reach, own_class = xp.asarray(bias.reach)[:, None], xp.asarray(bias.class_of)[:, None]
    b, p = xp.nonzero((trace >= 1 + 2 * xp.cos(reach)) & (class_of == own_class))
    turn = rotations[b, p] @ own[b, nearest[b, p]].swapaxes(-1, -2)
    axis = 0.5 * xp.stack([turn[:, i, j] - turn[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1)
    sine = xp.sqrt((axis**2).sum(axis=1))
    ratio = xp.where(sine > 1e-9, xp.arctan2(sine, 0.5 * (trace[b, p] - 1)) / xp.maximum(sine, 1e-9), 1.0)
    w2 = (axis * ratio[:, None]) ** 2
    tilt = xp.minimum(0.5 * decay[b] * (w2[:, :1] + w2[:, 1:2]), 600.0)  # exp(600) is still a number
    g = (xp.exp(-decay[b] * w2[:, 2:] - tilt) * xp.i0(tilt)).astype(np.float32)
    for image in range(len(scores)):  # matrix products, as many as there are images
        here = b == image
        scores[image, p[here]] -= g[here] @ agreement[image]
