"""Columns of numbers and words as text of equal width, in array operations (a million rows in seconds)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.star.words import Words, decode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ROWS", "format_column"]

ROWS = 65536  # rows formatted at a time: bounds the memory
_TRIPLES = np.array([list(f"{i:03d}".encode()) for i in range(1000)], np.uint8)
_DECIMALS = 6
_SPACE = ord(" ")
_SPECIAL = (*" \t\v\f\r\x1c\x1d\x1e\x1f\"'#;\0", "\n_", "\ndata_", "\nloop_", "\n\n")


def format_column(column: pd.Series[Any], quote: Callable[[str], str], exact: bool = False) -> NDArray[np.uint8]:
    """Text of one column, shape (rows, width) of ASCII or UTF-8 bytes padded with blanks.

    ``exact`` real numbers get as many digits as give the same number back; else six decimals, or seven digits where
    those say more.
    """
    kind = getattr(column.dtype, "kind", "O")
    if kind in "iu":
        return _integers(column.to_numpy())
    if kind == "b":
        return _integers(column.to_numpy().astype(np.int64))
    if kind == "f":
        return _reals(column.to_numpy(), exact)
    return _words(column, quote)


def _needs_no_quotes(texts: list[Any]) -> bool:
    """Whether all are plain ASCII words, by a few searches in all of them at once (the usual case)."""
    try:
        joined = "\n" + "\n".join(texts) + "\n"
    except TypeError:
        return False
    plain = joined.isascii() and joined.count("\n") == len(texts) + 1
    return plain and not any(mark in joined for mark in _SPECIAL)


def _words(column: pd.Series[Any], quote: Callable[[str], str]) -> NDArray[np.uint8]:
    words = getattr(column.array, "words", None)
    if isinstance(words, Words):
        found = _numbered(words.kept())
        if found is not None:
            return found
    codes, unique = column.factorize(use_na_sentinel=False)
    texts = np.asarray(unique, dtype=object).tolist()
    if not _needs_no_quotes(texts):
        texts = ["nan" if word is None or word != word else quote(str(word)) for word in texts]
        texts = [text.encode("utf-8", "surrogateescape") for text in texts]
    return np.asarray(_letters(texts)[codes], np.uint8)


def _letters(texts: list[Any]) -> NDArray[np.uint8]:
    """The words side by side, padded with blanks."""
    words = np.array(texts, dtype=np.bytes_)
    letters = words.view(np.uint8).reshape(len(words), -1)
    return np.where(letters == 0, np.uint8(_SPACE), letters)


def _numbered(words: Words) -> NDArray[np.uint8] | None:
    """Words of a large table without making strings of them; None where some need quotes, or have uneven numbers."""
    texts = [decode(word) for word in words.words()]
    if words.codes is None or not texts or not _needs_no_quotes(texts):
        return None
    letters: NDArray[np.uint8] = _letters(texts)[words.codes]
    if words.number is None or words.digits is None:
        return letters
    digits = int(words.digits[0])
    if digits == 0 or (words.digits != digits).any():
        return None
    number = _digits(words.number.astype(np.uint64), 3)[:, 9 - digits :]
    at = np.full((len(letters), 1), ord("@"), np.uint8)
    return np.concatenate([number, at, letters], axis=1)


def _digits(values: NDArray[np.uint64], groups: int) -> NDArray[np.uint8]:
    """Decimal digits, three to a group, leading zeros kept."""
    out = np.empty((len(values), groups, 3), np.uint8)
    for i in range(groups - 1, -1, -1):
        rest = values // np.uint64(1000)
        out[:, i] = _TRIPLES[(values - rest * np.uint64(1000)).astype(np.int64)]
        values = rest
    return out.reshape(len(out), 3 * groups)


def _signed(whole: NDArray[np.uint8], negative: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Leading zeros become blanks (the last digit stays) and the sign stands before the first digit."""
    n, width = whole.shape
    first = np.minimum(np.argmax(whole != ord("0"), axis=1), width - 1)
    first[(whole == ord("0")).all(axis=1)] = width - 1
    out = np.empty((n, width + 1), np.uint8)
    out[:, 0] = _SPACE
    out[:, 1:] = np.where(np.arange(width) < first[:, None], np.uint8(_SPACE), whole)
    rows = np.flatnonzero(negative)
    out[rows, first[rows]] = ord("-")
    used = int(first.min()) if n else 0
    return out[:, used:]


def _integers(values: NDArray[Any]) -> NDArray[np.uint8]:
    if len(values) == 0:
        return np.empty((0, 1), np.uint8)
    negative = values < 0
    size = values.astype(np.uint64)
    size[negative] = (~size[negative]) + np.uint64(1)
    groups = max(1, -(-len(str(int(size.max()))) // 3))
    return _signed(_digits(size, groups), negative)


def _reals(values: NDArray[Any], exact: bool) -> NDArray[np.uint8]:
    if len(values) == 0:
        return np.empty((0, 1), np.uint8)
    size = np.abs(values.astype(np.float64))
    fixed = (size == 0) | ((size >= 1e-3) & (size < 1e9))
    scaled = np.rint(np.where(fixed, size, 0.0) * 10**_DECIMALS).astype(np.uint64)
    if exact:
        fixed &= (scaled / 10.0**_DECIMALS).astype(values.dtype) == np.abs(values)
        scaled[~fixed] = 0
    whole, part = scaled // np.uint64(10**_DECIMALS), scaled % np.uint64(10**_DECIMALS)
    groups = max(1, -(-len(str(int(whole.max()))) // 3))
    before = _signed(_digits(whole, groups), (values < 0) & fixed)
    point = np.full((len(values), 1), ord("."), np.uint8)
    text = np.concatenate([before, point, _digits(part, _DECIMALS // 3)], axis=1)
    odd = np.flatnonzero(~fixed)
    if len(odd):  # tiny, huge, infinite or missing: one by one
        words = np.array([str(v) if exact else f"{v:.6e}" for v in values[odd]], dtype=np.bytes_)
        letters = words.view(np.uint8).reshape(len(odd), -1)
        width = max(text.shape[1], letters.shape[1])
        padded = np.full((len(text), width), _SPACE, np.uint8)
        padded[:, width - text.shape[1] :] = text
        padded[odd] = _SPACE
        padded[odd, : letters.shape[1]] = np.where(letters == 0, np.uint8(_SPACE), letters)
        text = padded
    return text
