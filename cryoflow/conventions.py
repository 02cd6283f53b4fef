"""The one convention of each quantity. Conversions to those of other programs happen in ``cryoflow.io`` alone.

===================  =================================================================================================
quantity             convention
===================  =================================================================================================
array axes           (z, y, x), (y, x); stacks (particle, y, x). C order, float32 unless said otherwise.
vectors              components in the order (x, y) or (x, y, z), whatever the order of array axes.
real-space origin    index n // 2 of every axis, odd and even boxes alike.
half spectra         ``rfftn`` layout: last axis 0 .. n//2, zero frequency at index 0. A *centred* transform first
                     moves the origin n // 2 to index 0 (``fourier.rfft2c``), so its phases refer to the origin.
spatial frequency    cycles per pixel (``k``) inside kernels, 1/angstrom (``s``) where stated; s = k / pixel_size.
shell                integer s = round(|k| n); shell s of box n means the frequency s / (n * pixel_size).
rotation             matrix A, shape (..., 3, 3): v_image = A @ v_volume, vectors (x, y, z). A projection sums the
                     volume along the image z axis, so the image sample (kx, ky) is the volume at A.T @ (kx, ky, 0).
Euler angles         borders only: ZYZ (rot, tilt, psi) in degrees as in RELION, A = Rz(psi) Ry(tilt) Rz(rot) with
                     passive axis rotations (``rotation.euler_to_matrix``).
shift                (x, y) in angstrom, what must be ADDED to the particle to centre it (rlnOriginX/YAngst).
coordinate           (x, y) of a particle centre in its micrograph, pixels of that micrograph, first pixel centre 0.
defocus              angstrom, underfocus positive; u is the larger; angle of u from the x axis, degrees, in (-90, 90].
CTF                  sin(pi lambda z s^2 - pi/2 Cs lambda^3 s^4 + phase + asin(Q)): positive at zero frequency.
contrast             particles are white on black (positive density is bright); the source's is kept as metadata.
units of metadata    kV, mm (Cs), degrees (angles, phase shift), angstrom (lengths), A^2 (B-factors), e/A^2 (dose).
noise variance       sigma2 of shell s: variance of ONE real component (real or imaginary part) of the orthonormal
                     transform (``norm="ortho"``), so log p = -sum |X - C P|^2 / (2 sigma2) over the half plane.
transform norm       images: ``norm="ortho"`` (noise power does not depend on the box). Volumes: a slice of the centred
                     volume transform equals the centred image transform of the projection under the same norm.
half-sets            ``half`` is 1 or 2; 0 means not assigned. Kept from import to export.
===================  =================================================================================================
"""

from __future__ import annotations

import math

__all__ = ["electron_wavelength", "shells"]


def electron_wavelength(voltage: float) -> float:
    """Relativistic electron wavelength in angstrom for an acceleration ``voltage`` in kV.

    lambda = h / sqrt(2 m e V (1 + e V / (2 m c^2)))  (CODATA 2018).

    >>> round(electron_wavelength(300.0), 7)
    0.0196875
    """
    volts = 1e3 * voltage
    return 12.2642596 / math.sqrt(volts * (1.0 + 0.978475598e-6 * volts))


def shells(box: int) -> int:
    """Number of Fourier shells 0 .. box // 2 of a box.

    >>> shells(128), shells(127)
    (65, 64)
    """
    return box // 2 + 1
