"""Electrons of a frame of Thermo Fisher's EER format, added up on a grid of pixels or parts of pixels.

A frame is a stream of codes, least significant bit first: how many pixels hold no electron (the largest: that many,
and no electron after them), then where in its pixel the electron fell. The frame ends when all its pixels are passed.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["add_frame"]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def add_frame(
    data: NDArray[np.uint8], skip_bits: int, x_bits: int, y_bits: int, finer: int, shape: tuple[int, int],
    out: NDArray[np.uint16],
) -> int:  # fmt: skip
    """Add the electrons of one frame to ``out`` and return how many pixels its codes pass: less than all if cut off.

    ``finer`` is log2 of the grid's samples a pixel and axis, at most ``x_bits`` and ``y_bits``; ``out`` has the shape
    (rows << finer, columns << finer).
    """
    rows, columns = shape
    pixels, last = rows * columns, len(data) * 8
    most, sub_bits = (1 << skip_bits) - 1, x_bits + y_bits
    half_x, half_y = (1 << x_bits) >> 1, (1 << y_bits) >> 1
    at, position = 0, 0
    while position < pixels:
        if at + skip_bits > last:
            return position
        skip: int = _bits(data, at, skip_bits)
        at += skip_bits
        position += skip
        if skip == most:
            continue
        if position >= pixels:
            break
        if at + sub_bits > last:
            return position
        sub = _bits(data, at, sub_bits)
        at += sub_bits
        y, x = position // columns, position % columns
        # the middle of the pixel is zero: the highest bit is reversed
        sub_x, sub_y = (sub & ((1 << x_bits) - 1)) ^ half_x, (sub >> x_bits) ^ half_y
        out[(y << finer) + (sub_y >> (y_bits - finer)), (x << finer) + (sub_x >> (x_bits - finer))] += 1
        position += 1
    return pixels


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _bits(data: NDArray[np.uint8], at: int, count: int) -> int:
    """``count`` (at most 16) bits from bit ``at``."""
    byte, value = at >> 3, 0
    for i in range(3):
        if byte + i < len(data):
            value |= int(data[byte + i]) << (8 * i)
    return int((value >> (at & 7)) & ((1 << count) - 1))
