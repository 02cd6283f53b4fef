"""The contrast transfer function."""

from __future__ import annotations

from typing import Any

from cryoflow.conventions import electron_wavelength
from cryoflow.kernels.backend import array_module

__all__ = ["ctf", "ctf_phase"]


def ctf_phase(
    sx: Any,
    sy: Any,
    defocus_u: Any,
    defocus_v: Any,
    defocus_angle: Any,
    *,
    voltage: float,
    cs: float,
    amplitude_contrast: float,
    phase_shift: Any = 0.0,
) -> Any:
    """Phase aberration in radians whose sine is the CTF.

    chi(s) = pi lambda z(theta) s^2 - pi/2 Cs lambda^3 s^4 + phase_shift + asin(Q), with
    z(theta) = (u + v)/2 + (u - v)/2 cos 2(theta - angle).

    Parameters
    ----------
    sx, sy : spatial frequencies, 1/angstrom, broadcast against the defocus arrays.
    defocus_u, defocus_v : angstrom, underfocus positive.
    defocus_angle : degrees from the x axis.
    voltage : kV.  cs : mm.  amplitude_contrast : fraction Q in [0, 1).  phase_shift : degrees.

    Source: Mindell & Grigorieff 2003, J. Struct. Biol. 142:334; Rohou & Grigorieff 2015, J. Struct. Biol. 192:216.

    >>> import numpy as np
    >>> float(ctf_phase(np.array(0.1), np.array(0.), 1e4, 1e4, 0., voltage=300., cs=2.7, amplitude_contrast=0.0)) > 6
    True
    """
    xp = array_module(sx, sy, defocus_u)
    lam = electron_wavelength(voltage)
    s2 = sx * sx + sy * sy
    angle = xp.deg2rad(xp.asarray(defocus_angle))
    # cos 2(theta - a) s^2 without an arctangent: (sx^2 - sy^2) cos 2a + 2 sx sy sin 2a
    mean = 0.5 * (xp.asarray(defocus_u) + defocus_v)
    half = 0.5 * (xp.asarray(defocus_u) - defocus_v)
    zs2 = mean * s2 + half * ((sx * sx - sy * sy) * xp.cos(2 * angle) + 2 * sx * sy * xp.sin(2 * angle))
    constant = xp.deg2rad(xp.asarray(phase_shift)) + xp.arcsin(xp.asarray(amplitude_contrast))
    return xp.pi * lam * zs2 - 0.5 * xp.pi * (cs * 1e7) * lam**3 * s2 * s2 + constant


def ctf(
    sx: Any,
    sy: Any,
    defocus_u: Any,
    defocus_v: Any,
    defocus_angle: Any,
    *,
    voltage: float,
    cs: float,
    amplitude_contrast: float,
    phase_shift: Any = 0.0,
    b_factor: float = 0.0,
) -> Any:
    """Contrast transfer function sin(chi) exp(-B s^2 / 4); see ``ctf_phase`` for parameters and units.

    Positive at zero frequency (white particles).

    >>> import numpy as np
    >>> float(ctf(np.array(0.), np.array(0.), 1e4, 1e4, 0., voltage=300., cs=2.7, amplitude_contrast=0.1).round(6))
    0.1
    """
    xp = array_module(sx, sy, defocus_u)
    value = xp.sin(
        ctf_phase(
            sx, sy, defocus_u, defocus_v, defocus_angle,
            voltage=voltage, cs=cs, amplitude_contrast=amplitude_contrast, phase_shift=phase_shift,
        )
    )  # fmt: skip
    if b_factor:
        value = value * xp.exp(-0.25 * b_factor * (sx * sx + sy * sy))
    return value
