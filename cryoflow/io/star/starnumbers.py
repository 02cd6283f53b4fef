"""Numbers of a STAR file by array operations on the bytes of many words at once.

Eight digits are read at a time by three multiplications (Lemire 2018, "Quickly parsing eight digits"). A mantissa below
2^53 and a power of ten up to 10^22 are exact doubles, so one product or quotient of them is right to the last bit
(Clinger 1990, Proc. PLDI, 92). The few other words are left to Python's own ``float``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAD", "Number", "Numbers", "load", "number_of", "read_numbers", "whole_before"]

_WHOLE = re.compile(rb"[+-]?(0|[1-9][0-9]*)")
_REAL = re.compile(rb"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)
PAD = 16  # bytes before and after a text whose words are loaded

_U = np.uint64
_ONES, _HIGHS = _U(0x0101010101010101), _U(0x8080808080808080)
_ZEROS, _POINT, _ABOVE_9 = _U(0x3030303030303030), _U(0x1E1E1E1E1E1E1E1E), _U(0x7676767676767676)
# keep the last n bytes of eight: those of a word of n letters that ends there
_LAST = np.array([0] + [(1 << 64) - (1 << (64 - 8 * n)) for n in range(1, 9)], np.uint64)
_POWERS = 10.0 ** np.arange(23)
# by the place of the point among the last eight letters (8: none): powers of ten of the decimals after it
_SCALE = np.array([10**7, 10**6, 10**5, 10**4, 1000, 100, 10, 1, 1], np.uint64)
_SCALE_REAL = _SCALE.astype(np.float64)
_MOST = 90_000_000  # times 10^8 and eight digits more: still below 2^53


@dataclass(slots=True)
class Numbers:
    """``value`` of each word; whether it is ``whole`` (no point, no power), then as ``integer``; whether it begins
    with a zero too many (``padded``); where ``odd`` the others mean nothing: read the word by other means."""

    value: NDArray[np.float64]
    integer: NDArray[np.int64]
    whole: NDArray[np.bool_]
    padded: NDArray[np.bool_]
    odd: NDArray[np.bool_]


def load(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Eight bytes from each position on, the first of them the lowest."""
    return np.ndarray((len(data) - 7,), "<u8", data, 0, (1,))


def _before(words: NDArray[np.uint64], end: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The last eight bytes before ``end``, those before the ``size`` last ones zero and digits as their values."""
    found = words[end - 8]
    found ^= _ZEROS
    found &= _LAST.take(size, mode="clip")
    return found


def whole_before(
    words: NDArray[np.uint64], end: NDArray[np.int64], digits: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The whole number of up to eight ``digits`` that ends before ``end``, and where there is none."""
    found = _before(words, end, digits.astype(np.int64))
    wrong = _no_digits(found) != 0
    wrong |= digits == 0
    return _eight(found).view(np.int64), wrong


def _eight(digits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The number that eight bytes of digits say, the first the lowest byte; ``digits`` is used up."""
    for factor, shift, mask in ((2561, 8, 0x00FF00FF00FF00FF), (6553601, 16, 0x0000FFFF0000FFFF)):
        digits *= _U(factor)
        digits >>= _U(shift)
        digits &= _U(mask)
    digits *= _U(42949672960001)
    digits >>= _U(32)
    return digits


def _no_digits(found: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Not zero where a byte is above 9."""
    wrong = found + _ABOVE_9
    wrong |= found
    wrong &= _HIGHS
    return wrong


def read_numbers(data: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]) -> Numbers:
    """Read the words ``data[begin[i]:end[i]]`` (any shape); ``PAD`` bytes lie before the first and after the last.

    >>> text = np.frombuffer(b" " * 16 + b"-1.5 20 6.02e+23 x" + b" " * 16, np.uint8)
    >>> found = read_numbers(text, np.array([16, 21, 24, 33]), np.array([20, 23, 32, 34]))
    >>> found.value[:3].tolist(), found.whole[:3].tolist(), found.odd.tolist()
    ([-1.5, 20.0, 6.02e+23], [False, True, False], [False, False, False, True])
    """
    words, shape = load(data), begin.shape
    begin, end = begin.ravel(), end.ravel()
    first = data.take(begin)
    negative = first == 45
    signed = negative | (first == 43)
    begin = begin + signed
    mantissa, point, odd = _decimal(words, begin, end)
    whole = point == 8
    value = mantissa.astype(np.float64)
    value /= _SCALE_REAL.take(point)
    rest = np.flatnonzero(odd)
    if len(rest):
        _longer(data, words, begin, end, rest, mantissa, value, whole, odd)
    padded = data.take(begin) == 48
    padded &= (end - begin) > 1
    padded &= whole
    value.view(np.uint64)[...] ^= negative.astype(np.uint64) << _U(63)
    integer = mantissa.view(np.int64)
    np.negative(integer, out=integer, where=negative)
    flat = value, integer, whole, padded, odd
    return Numbers(*(np.asarray(found).reshape(shape) for found in flat))


def _decimal(
    words: NDArray[np.uint64], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.bool_]]:
    """Digits as one number, the place of the point among the last eight letters (8: none), and which are odd.

    Eight digits before the point and seven after it are read, the usual case.
    """
    last = _before(words, end, end - begin)
    found = last ^ _POINT  # a zero byte where the point is
    at = found - _ONES
    np.invert(found, out=found)
    at &= found
    at &= _HIGHS
    at &= ~at + _U(1)  # the lowest bit alone: the first point
    point = np.bitwise_count(at - _U(1)) >> np.uint8(3)
    last &= ~((at << _U(1)) - _U(1))  # digits after it
    stop = end + point
    stop -= 8
    none = point == 8
    size = stop - begin
    front = _before(words, stop, size)
    wrong = _no_digits(last)
    wrong |= _no_digits(front)
    odd = wrong != 0
    odd |= size > 8
    odd |= (size <= 0) & (none | (point == 7))
    mantissa = _eight(front)
    mantissa *= _SCALE.take(point)
    mantissa += _eight(last)
    return mantissa, point, odd


def _longer(
    data: NDArray[np.uint8], words: NDArray[np.uint64], begin: NDArray[np.int64], end: NDArray[np.int64],
    rest: NDArray[np.int64], mantissa: NDArray[np.uint64], value: NDArray[np.float64], whole: NDArray[np.bool_],
    odd: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Words of ``rest`` with powers of two digits, or with up to sixteen digits."""
    low, high = begin[rest], end[rest]
    power = np.zeros(len(rest), np.int64)
    letters = [data.take(high - n) for n in (1, 2, 3, 4)]  # the last first
    units, tens = (digit - np.uint8(48) for digit in letters[:2])
    powered = (letters[3] | 32 == 101) & (high - low > 4) & (units < 10) & (tens < 10)
    powered &= (letters[2] == 43) | (letters[2] == 45)
    power[powered] = (units.astype(np.int64) + 10 * tens.astype(np.int64))[powered]
    power[powered & (letters[2] == 45)] *= -1
    high = high - 4 * powered
    number, point, wrong = _decimal(words, low, high)
    decimals = np.where(point == 8, 0, 7 - point.astype(np.int64))
    is_whole = (point == 8) & ~powered
    again = np.flatnonzero(wrong & (high - low > 8))
    if len(again):
        last = _before(words, high[again], np.full(len(again), 8))
        front, point, bad = _decimal(words, low[again], high[again] - 8)
        bad |= (_no_digits(last) != 0) | (front >= _U(_MOST))
        wrong[again] = bad
        number[again] = front * _U(10**8) + _eight(last)
        decimals[again] = np.where(point == 8, 0, 15 - point.astype(np.int64))
        is_whole[again] = (point == 8) & ~powered[again]
    power -= decimals
    wrong |= (np.abs(power) > 22) & (number != 0)
    power = np.clip(power, -22, 22)
    real = number.astype(np.float64)
    real = np.where(power < 0, real / _POWERS.take(np.maximum(-power, 0)), real * _POWERS.take(np.maximum(power, 0)))
    mantissa[rest], value[rest], whole[rest], odd[rest] = number, real, is_whole, wrong


class Number(NamedTuple):
    """One number, whether it is a whole one, and then as integer if it fits 64 bits and has no leading zeros."""

    value: float
    whole: bool
    integer: int | None


def number_of(word: bytes) -> Number | None:
    """The number that one word is; None of other text.

    >>> number_of(b"1e400").value, number_of(b"-12345678901234567").integer, number_of(b"1_0")
    (inf, -12345678901234567, None)
    """
    if _REAL.fullmatch(word) is None:
        return None
    whole = word.lstrip(b"+-").isdigit()
    fits = whole and len(word) < 21 and _WHOLE.fullmatch(word) is not None and -(2**63) <= int(word) < 2**63
    return Number(float(word), whole, int(word) if fits else None)
