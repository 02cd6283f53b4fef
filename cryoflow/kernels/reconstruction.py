"""From sums on the padded half grid to a map: Friedel and point-group symmetry, Wiener filter, inverse transform.

Source: Scheres 2012, J. Mol. Biol. 415:406 and J. Struct. Biol. 180:519 (regularised likelihood).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from cryoflow.kernels.backend import array_module, is_device, to_host
from cryoflow.kernels.projection import FAST, real_of_grid

__all__ = [
    "enforce_friedel", "grid_shells", "grid_to_map", "shell_average", "smooth_weights", "symmetrise_sums", "wiener",
]  # fmt: skip

_BLOCK = 16  # cells


def enforce_friedel(total: Any) -> Any:
    """Add the mates of the plane x = 0, in place: every sum there misses the half that fell on its own mirror."""
    plane = total[:, :, 0, :].copy()
    mirror = plane[::-1, ::-1]
    total[:, :, 0, 0] += mirror[..., 0]
    total[:, :, 0, 1] -= mirror[..., 1]
    total[:, :, 0, 2] += mirror[..., 2]
    return total


@numba.njit(nogil=True, cache=True, fastmath=FAST, inline="always")
def _cell(total, g, kx, ky, kz):  # type: ignore[no-untyped-def]
    """T(g k), trilinear."""
    one, reach = np.float32(1.0), total.shape[0] // 2
    re = im = we = np.float32(0.0)
    x = g[0, 0] * kx + g[0, 1] * ky + g[0, 2] * kz
    y = g[1, 0] * kx + g[1, 1] * ky + g[1, 2] * kz
    z = g[2, 0] * kx + g[2, 1] * ky + g[2, 2] * kz
    mirrored = x < 0
    if mirrored:
        x, y, z = -x, -y, -z
    y += reach
    z += reach
    # an operator can land a hair outside its cell; the sphere keeps the cell inside the array
    x0, y0, z0 = int(x), int(y), int(z)
    fx, fy, fz = np.float32(x - x0), np.float32(y - y0), np.float32(z - z0)
    for dz in range(2):
        wz = fz if dz else one - fz
        for dy in range(2):
            wy = wz * (fy if dy else one - fy)
            row = total[z0 + dz, y0 + dy]
            c = wy * (one - fx)
            re += c * row[x0, 0]
            im += c * row[x0, 1]
            we += c * row[x0, 2]
            c = wy * fx
            re += c * row[x0 + 1, 0]
            im += c * row[x0 + 1, 1]
            we += c * row[x0 + 1, 2]
    return re, -im if mirrored else im, we


@numba.njit(nogil=True, cache=True, fastmath=FAST, inline="always")
def _exact_cell(total, g, kx, ky, kz):  # type: ignore[no-untyped-def]
    """T(g k) of an operator that only exchanges and mirrors the axes: cells come from cells."""
    reach = total.shape[0] // 2
    x = g[0, 0] * kx + g[0, 1] * ky + g[0, 2] * kz
    y = g[1, 0] * kx + g[1, 1] * ky + g[1, 2] * kz
    z = g[2, 0] * kx + g[2, 1] * ky + g[2, 2] * kz
    if x < 0:
        cell = total[reach - z, reach - y, -x]
        return cell[0], -cell[1], cell[2]
    cell = total[reach + z, reach + y, x]
    return cell[0], cell[1], cell[2]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _symmetrise(total, operators, exact, radius2):  # type: ignore[no-untyped-def]
    out = np.zeros_like(total)
    reach, width = total.shape[0] // 2, total.shape[2] - 1
    whole = np.rint(operators).astype(np.int64)
    # block by block: the images of a block under all operators stay in cache
    for bz in range(-reach + 1, reach, _BLOCK):
        for by in range(-reach + 1, reach, _BLOCK):
            for bx in range(0, width, _BLOCK):
                for kz in range(bz, min(bz + _BLOCK, reach)):
                    for ky in range(by, min(by + _BLOCK, reach)):
                        for kx in range(bx, min(bx + _BLOCK, width)):
                            if kx * kx + ky * ky + kz * kz > radius2:
                                continue
                            re = im = we = np.float32(0.0)
                            for j in range(len(operators)):
                                if exact[j]:
                                    a, b, c = _exact_cell(total, whole[j], kx, ky, kz)
                                else:
                                    a, b, c = _cell(total, operators[j], kx, ky, kz)
                                re += a
                                im += b
                                we += c
                            cell = out[kz + reach, ky + reach, kx]
                            cell[0], cell[1], cell[2] = re, im, we
    return out


def symmetrise_sums(total: Any, operators: NDArray[np.float64], radius: float) -> Any:
    """Sum of ``total`` over a point group: S(k) = sum_g T(g k), trilinear, inside ``radius`` grid units.

    total : (Z, Y, X, 4) with Friedel symmetry enforced.  operators : (order, 3, 3), see ``symmetry.point_group``.
    """
    if len(operators) == 1:
        return total
    if is_device(total):
        xp = array_module(total)
        return xp.asarray(symmetrise_sums(to_host(total), operators, radius))
    limit = min(radius, total.shape[0] // 2 - 1.0)
    operators = np.ascontiguousarray(operators, np.float64)
    exact = (np.abs(operators - np.rint(operators)) < 1e-9).all(axis=(1, 2))
    result: NDArray[np.float32] = _symmetrise(total, operators, exact, limit * limit)
    return result


def grid_shells(shape: tuple[int, ...], padding: int, *, xp: Any = np) -> Any:
    """Image shell round(|k| / padding) of every cell of a half grid, int32 (Z, Y, X)."""
    reach = shape[0] // 2
    k2 = xp.arange(-reach, reach + 1, dtype=np.float32) ** 2
    x2 = xp.arange(shape[2], dtype=np.float32) ** 2
    return xp.rint(xp.sqrt(k2[:, None, None] + k2[:, None] + x2) / padding).astype(np.int32)


def shell_average(values: Any, shells: Any, count: int) -> Any:
    """Mean of real ``values`` (Z, Y, X) over each of the first ``count`` shells, float64."""
    xp = array_module(values)
    index = xp.minimum(shells, count).ravel()
    total = xp.bincount(index, weights=values.ravel(), minlength=count + 1)[:count]
    number = xp.bincount(index, minlength=count + 1)[:count]
    return total / xp.maximum(number, 1)


def smooth_weights(total: Any, passes: int = 2) -> Any:
    """Replace the weights of sums (Z, Y, X, 4) by their local average, in place: [1 2 1] / 4 an axis, ``passes`` times.

    The map is cropped out of a padded box, which averages its Fourier values over neighbouring cells: data D are
    averaged so, whatever they are divided by. The weights W they are divided by have to be averaged alike. D / W cell
    by cell gives the cells that few slices touched the voice of those that many did: noise, not signal. It is the ratio
    of W to its mean at |k| that is averaged: what CTFs and the density of slices do to W along |k| is no accident.
    """
    xp = array_module(total)
    radius = grid_shells(total.shape[:3], 1)
    mean = shell_average(total[..., 2], radius, int(radius.max()) + 1)
    mean = xp.where(mean > 0, mean, 1.0).astype(np.float32)[radius]
    weight = total[..., 2] / mean
    for _ in range(passes):
        mates = weight[::-1, ::-1, 1:2]  # W(-k) = W(k), for the neighbours of the plane x = 0
        weight = xp.concatenate([mates, weight, weight[:, :, -1:]], axis=2)
        weight = 0.5 * weight[:, :, 1:-1] + 0.25 * (weight[:, :, :-2] + weight[:, :, 2:])
        for axis in (0, 1):
            along = xp.moveaxis(weight, axis, 0)
            smooth = 0.5 * along
            smooth[1:] += 0.25 * along[:-1]
            smooth[:-1] += 0.25 * along[1:]
            weight = xp.moveaxis(smooth, 0, axis)
    total[..., 2] = weight * mean
    return total


def wiener(total: Any, shells: Any, ssnr: Any | None) -> Any:
    """Fourier values D / (W + W_mean / SSNR) of sums (Z, Y, X, 4), complex64 (Z, Y, X).

    With the prior variance tau2 = SSNR sigma2_data of a shell, and sigma2_data = 1 / W_mean, this is the
    regularised-likelihood update D / (W + 1 / tau2). ``ssnr=None`` gives the unregularised D / W, with W kept above a
    thousandth of its shell's mean. Shells beyond ``ssnr`` are zero.
    """
    xp = array_module(total)
    weight = total[..., 2]
    count = int(shells.max()) + 1 if ssnr is None else len(ssnr)
    mean = shell_average(weight, shells, count)
    index = xp.minimum(shells, count - 1)
    if ssnr is None:
        floor = xp.maximum(mean * 1e-3, np.finfo(np.float32).tiny)
        divisor = xp.maximum(weight, floor.astype(np.float32)[index])
    else:
        prior = mean / xp.maximum(xp.asarray(ssnr, dtype=np.float64), 1e-6)
        prior = xp.maximum(prior, np.finfo(np.float32).tiny)
        divisor = weight + prior.astype(np.float32)[index]
    out = (total[..., 0] + 1j * total[..., 1]) / divisor
    return xp.where(shells < count, out, 0).astype(np.complex64)


def grid_to_map(values: Any, m: int, *, box: int, padding: int = 2) -> Any:
    """Real (m, m, m) map of Fourier values on the padded half grid; the inverse of ``prepare_volume``.

    ``box`` is the image box n the slices came from; a map of m < n voxels has the coarser pixel n / m.
    """
    scale = box * (m / box) ** 3
    return (real_of_grid(values, m, padding) * scale).astype(np.float32)
