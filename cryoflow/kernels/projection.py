"""Central slices of a Fourier volume, and their exact adjoint.

A volume of box n is divided by the transform of the interpolation kernel, zero-padded ``padding`` times, transformed
and kept as the half x >= 0. A slice reads it by trilinear interpolation on the plane A.T (kx, ky, 0);
the adjoint adds a slice, and its weights, onto the same grid with the same coefficients.

Source: Scheres 2012, J. Struct. Biol. 180:519 (padding, interpolation); Penczek et al. 2004, Ultramicroscopy 100:1.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.kernels.backend import array_module, fft_module, is_device
from cryoflow.kernels.samples import Samples, half_plane

__all__ = [
    "accumulator",
    "gridding_correction",
    "insert_slices",
    "prepare_volume",
    "project",
    "project_adjoint",
    "reach_of",
    "real_of_grid",
    "slices",
    "trilinear_coordinates",
]

#: contraction and reassociation only: neither changes which values are NaN, and both are fixed for a given binary
FAST = {"contract", "reassoc", "nsz"}


def gridding_correction(n: int, padding: int, *, xp: Any = np) -> Any:
    """sinc^2(|x|/(padding n)) per axis: the real-space image of trilinear interpolation on a padded grid, (n, n, n)."""
    x = (xp.arange(n) - n // 2) / (padding * n)
    one = xp.sinc(x) ** 2
    return (one[:, None, None] * one[:, None] * one).astype(np.float32)


def reach_of(radius: int, padding: int) -> int:
    """Half width, in grid units, of a grid on which every cell touched by samples up to shell ``radius`` exists.

    A sample of shell s lies within s + 1/2, that is within padding (s + 1/2) grid units.

    >>> [reach_of(10, p) for p in (1, 2, 3)]
    [11, 21, 32]
    """
    return padding * radius + (padding + 1) // 2


def prepare_volume(volume: Any, *, box: int | None = None, radius: int | None = None, padding: int = 2) -> Any:
    """Padded half transform of ``volume`` ready for ``slices``.

    Parameters
    ----------
    volume : (m, m, m) real map, origin m // 2. Its box may be smaller than ``box`` (a map resampled to a coarser
        pixel, same field of view, grey values kept).
    box : image box n in pixels whose orthonormal transforms the slices are compared with; default m.
    radius : highest shell kept, default (m - 1) // 2; beyond what ``volume`` holds the transform is zero.

    Returns
    -------
    (2 R + 1, 2 R + 1, R + 1) complex64 with R = ``reach_of(radius, padding)``; index (z + R, y + R, x), x >= 0.
    """
    m = volume.shape[-1]
    if volume.shape != (m, m, m):
        raise ParameterError("prepare_volume", expected="a cubic map", found=f"shape {volume.shape}")
    n = m if box is None else box
    r = (m - 1) // 2 if radius is None else radius
    xp, fft = array_module(volume), fft_module(volume)
    size = padding * m
    first = size // 2 - m // 2
    padded = xp.zeros((size, size, size), dtype=np.float32)
    inside = slice(first, first + m)
    padded[inside, inside, inside] = volume / gridding_correction(m, padding, xp=xp)
    spectrum = fft.rfftn(xp.fft.ifftshift(padded))
    reach = reach_of(r, padding)
    out = xp.zeros((2 * reach + 1, 2 * reach + 1, reach + 1), dtype=np.complex64)
    k = xp.arange(-reach, reach + 1)
    usable = xp.abs(k) <= (size - 1) // 2
    index = k[usable] % size
    width = min(reach + 1, (size + 1) // 2)  # no Nyquist plane on any axis
    block = spectrum[index][:, index][:, :, :width]
    where = xp.flatnonzero(usable)
    lo, hi = int(where[0]), int(where[-1]) + 1
    # orthonormal 2D transform of a projection: divide the plain sum by n; a coarser grid has (n / m)^3 fewer voxels
    out[lo:hi, lo:hi, :width] = block * ((n / m) ** 3 / n)
    return out


# unsigned, for Numba tests signed indices for being negative: a third of the time of a slice
_ONE, _TWO, _THREE, _FOUR = (np.uint64(i) for i in (1, 2, 3, 4))


@numba.njit(nogil=True, cache=True, fastmath=FAST, inline="always")
def trilinear_coordinates(a, kx, ky, padding, reach):  # type: ignore[no-untyped-def]
    """Cell (x0, y0, z0), fractions and conjugation flag of the sample A.T (kx, ky, 0) in a half volume."""
    x = padding * (a[0, 0] * kx + a[1, 0] * ky)
    y = padding * (a[0, 1] * kx + a[1, 1] * ky)
    z = padding * (a[0, 2] * kx + a[1, 2] * ky)
    flip = x < 0
    if flip:
        x, y, z = -x, -y, -z
    y += reach
    z += reach
    x0, y0, z0 = np.int32(x), np.int32(y), np.int32(z)
    return x0, y0, z0, x - np.float32(x0), y - np.float32(y0), z - np.float32(z0), flip


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def slice_into(volume, a, kx, ky, count, padding, out):  # type: ignore[no-untyped-def]
    """One slice of ``count`` samples into ``out`` (>= count,) complex64; ``volume`` is a float32 (Z, Y, X, 2) view."""
    reach, row = volume.shape[0] // 2, np.uint64(2 * volume.shape[2])
    plane = row * np.uint64(volume.shape[1])
    flat = volume.ravel()
    pad = np.float32(padding)
    b = a.astype(np.float32)
    one = np.float32(1.0)
    for i in range(count):
        x0, y0, z0, fx, fy, fz, flip = trilinear_coordinates(b, kx[i], ky[i], pad, np.float32(reach))
        gx, gy, gz = one - fx, one - fy, one - fz
        p = np.uint64(z0) * plane + np.uint64(y0) * row + _TWO * np.uint64(x0)
        re = np.float32(0.0)
        im = np.float32(0.0)
        for q, w in ((p, gz * gy), (p + row, gz * fy), (p + plane, fz * gy), (p + plane + row, fz * fy)):
            re += w * (gx * flat[q] + fx * flat[q + _TWO])
            im += w * (gx * flat[q + _ONE] + fx * flat[q + _THREE])
        out[2 * i] = re
        out[2 * i + 1] = -im if flip else im


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def insert_from(total, a, kx, ky, count, padding, data, weight):  # type: ignore[no-untyped-def]
    """Adjoint of ``slice_into``: add one slice (2 count,) float32 and its weights (count,) onto (Z, Y, X, 4) sums."""
    reach, row = total.shape[0] // 2, np.uint64(4 * total.shape[2])
    plane = row * np.uint64(total.shape[1])
    flat = total.ravel()
    pad = np.float32(padding)
    b = a.astype(np.float32)
    one = np.float32(1.0)
    for i in range(count):
        x0, y0, z0, fx, fy, fz, flip = trilinear_coordinates(b, kx[i], ky[i], pad, np.float32(reach))
        re, w = data[2 * i], weight[i]
        im = -data[2 * i + 1] if flip else data[2 * i + 1]
        gx, gy, gz = one - fx, one - fy, one - fz
        p = np.uint64(z0) * plane + np.uint64(y0) * row + _FOUR * np.uint64(x0)
        for q, c in ((p, gz * gy), (p + row, gz * fy), (p + plane, fz * gy), (p + plane + row, fz * fy)):
            for r, share in ((q, c * gx), (q + _FOUR, c * fx)):
                flat[r] += share * re
                flat[r + _ONE] += share * im
                flat[r + _TWO] += share * w


@numba.njit(nogil=True, cache=True)
def _slices(volume, rotations, kx, ky, padding, out):  # type: ignore[no-untyped-def]
    for j in range(len(rotations)):
        slice_into(volume, rotations[j], kx, ky, len(kx), padding, out[j])


@numba.njit(nogil=True, cache=True)
def _insert(total, rotations, kx, ky, padding, data, weights):  # type: ignore[no-untyped-def]
    for j in range(len(rotations)):
        insert_from(total, rotations[j], kx, ky, len(kx), padding, data[j], weights[j])


def slices(volume: Any, rotations: Any, samples: Samples, *, count: int | None = None, padding: int = 2) -> Any:
    """Central slices of a prepared volume.

    P_j(k) = V(A_j^T (kx, ky, 0)), trilinear.

    Parameters
    ----------
    volume : result of ``prepare_volume``; its radius must reach that of the samples used.
    rotations : (R, 3, 3).
    samples : where; the first ``count`` of them (default all).

    Returns
    -------
    (R, count) complex64.
    """
    count = len(samples) if count is None else count
    _check_reach(volume.shape, samples, count, padding)
    if is_device(volume):
        from cryoflow.kernels import projection_cuda

        return projection_cuda.slices(volume, rotations, samples, count, padding)
    out = np.empty((len(rotations), count), dtype=np.complex64)
    flat = np.ascontiguousarray(volume).view(np.float32).reshape(*volume.shape, 2)
    kx, ky = samples.kx[:count], samples.ky[:count]
    _slices(flat, np.asarray(rotations, np.float64), kx, ky, padding, out.view(np.float32))
    return out


def accumulator(radius: int, padding: int = 2, *, xp: Any = np) -> Any:
    """Zeroed sums (Z, Y, X, 4) float32 for slices up to shell ``radius``: real, imaginary, weight, unused."""
    reach = reach_of(radius, padding)
    return xp.zeros((2 * reach + 1, 2 * reach + 1, reach + 1, 4), dtype=np.float32)


def insert_slices(
    total: Any, data: Any, weights: Any, rotations: Any, samples: Samples, *, padding: int = 2
) -> None:  # fmt: skip
    """Adjoint of ``slices``, in place: add (R, K) complex64 ``data`` and (R, K) float32 ``weights`` onto ``total``."""
    count = data.shape[1]
    _check_reach(total.shape, samples, count, padding)
    if not total.flags.c_contiguous:
        raise ParameterError("insert_slices", expected="contiguous sums", found=f"strides {total.strides}")
    if is_device(total):
        from cryoflow.kernels import projection_cuda

        projection_cuda.insert_slices(total, data, weights, rotations, samples, padding)
        return
    pairs = np.ascontiguousarray(data, np.complex64).view(np.float32)
    kx, ky = samples.kx[:count], samples.ky[:count]
    _insert(total, np.asarray(rotations, np.float64), kx, ky, padding, pairs, np.asarray(weights, np.float32))


def _check_reach(shape: tuple[int, ...], samples: Samples, count: int, padding: int) -> None:
    needed = reach_of(int(samples.shell[count - 1]) if 0 < count <= len(samples) else 0, padding)
    if shape[0] // 2 < needed or shape[2] < needed + 1 or len(samples) < count:
        raise ParameterError(
            "slices",
            expected=f"a volume prepared to the shell of sample {count} of {len(samples)} with padding {padding}",
            found=f"shape {shape[:3]}",
            remedy="Prepare the volume with a larger radius or use fewer samples.",
        )


def project(volume: Any, rotations: Any, *, padding: int = 2) -> Any:
    """Real-space projections of a map along the image z axes, (R, n, n) float32, band-limited to shell (n - 1) // 2.

    Source: the projection-slice theorem.

    >>> v = np.zeros((8, 8, 8), np.float32); v[4, 4, 4] = 1
    >>> p = project(v, np.eye(3)[None])
    >>> p.shape, bool(p[0].argmax() == 4 * 8 + 4)
    ((1, 8, 8), True)
    """
    n = volume.shape[-1]
    xp, fft = array_module(volume), fft_module(volume)
    samples = half_plane(n, (n - 1) // 2)
    values = slices(prepare_volume(volume, padding=padding), rotations, samples, padding=padding)
    spectra = _place(values, samples, xp)
    return xp.fft.fftshift(fft.irfft2(spectra, s=(n, n), norm="ortho"), axes=(-2, -1)).astype(np.float32)


def _place(values: Any, samples: Samples, xp: Any) -> Any:
    """Half spectra (R, n, n // 2 + 1) of sample values, with the mates of the column kx = 0."""
    n = samples.box
    out = xp.zeros((len(values), n * (n // 2 + 1)), dtype=np.complex64)
    out[:, xp.asarray(samples._flat_index())] = values
    out = out.reshape(-1, n, n // 2 + 1)
    rows = xp.arange(1, (n + 1) // 2)
    out[:, -rows % n, 0] = xp.conj(out[:, rows, 0])
    return out


def project_adjoint(images: Any, rotations: Any, *, padding: int = 2) -> Any:
    """Exact adjoint of ``project``: (R, n, n) images to an (n, n, n) map, <project(v), y> = <v, project_adjoint(y)>.

    >>> rng = np.random.default_rng(0)
    >>> v, y = rng.normal(size=(8, 8, 8)).astype("f4"), rng.normal(size=(1, 8, 8)).astype("f4")
    >>> a = np.linalg.qr(rng.normal(size=(3, 3)))[0][None]
    >>> left, right = float((project(v, a) * y).sum()), float((v * project_adjoint(y, a)).sum())
    >>> abs(left - right) < 1e-4 * abs(left) + 1e-4
    True
    """
    n = images.shape[-1]
    xp, fft = array_module(images), fft_module(images)
    samples = half_plane(n, (n - 1) // 2)
    spectra = fft.rfft2(xp.fft.ifftshift(images, axes=(-2, -1)), norm="ortho")
    values = samples.take(spectra).astype(np.complex64)
    # every sample but the origin stands for itself and its Friedel mate
    twice = xp.where(xp.asarray(samples.shell) == 0, 1.0, 2.0).astype(np.float32)
    total = accumulator(samples.radius, padding, xp=xp)
    insert_slices(total, values * twice, xp.zeros(values.shape, np.float32), rotations, samples, padding=padding)
    return _adjoint_of_prepare(total[..., 0] + 1j * total[..., 1], n, padding)


def _adjoint_of_prepare(half: Any, n: int, padding: int) -> Any:
    """Real (n, n, n) map from sums on the padded half grid: the adjoint of ``prepare_volume``."""
    xp = array_module(half)
    # the inverse transform counts columns x > 0 twice (once as mates) and the column x = 0 once
    weighted = half * xp.float32(0.5)
    plane = half[:, :, 0]
    weighted[:, :, 0] = 0.5 * (plane + xp.conj(plane[::-1, ::-1]))
    return (real_of_grid(weighted, n, padding) * ((padding * n) ** 3 / n)).astype(np.float32)


def real_of_grid(values: Any, m: int, padding: int) -> Any:
    """Inverse transform of Fourier values on a padded half grid, cropped to (m, m, m), interpolation divided out."""
    xp, fft = array_module(values), fft_module(values)
    size, reach = padding * m, values.shape[0] // 2
    full = xp.zeros((size, size, size // 2 + 1), dtype=np.complex64)
    k = xp.arange(-reach, reach + 1)
    usable = xp.flatnonzero(xp.abs(k) <= (size - 1) // 2)
    index = k[usable] % size
    width = min(reach + 1, (size + 1) // 2)
    lo, hi = int(usable[0]), int(usable[-1]) + 1
    full[index[:, None], index[None, :], :width] = values[lo:hi, lo:hi, :width]
    real = xp.fft.fftshift(fft.irfftn(full, s=(size, size, size)))
    first = size // 2 - m // 2
    inside = slice(first, first + m)
    return real[inside, inside, inside] / gridding_correction(m, padding, xp=xp)
