"""Text of large tables in few bytes: equal words once, and image names as their number and their stack.

A million names like ``000123@Extract/job012/stack_00017.mrcs`` take seven bytes each, where NumPy's strings take sixty
and Python's a hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRINGS", "Words", "decode", "encode", "joined"]

STRINGS = np.dtypes.StringDType()
_ROWS = 1 << 16  # words that are Python objects at a time


@dataclass(frozen=True, eq=False)
class Words:
    """A column of words, as bytes of UTF-8 (or whatever the file held).

    ``letters[offsets[i]:offsets[i + 1]]`` is word i of those kept; row j shows word ``codes[j]`` (without codes: j).
    Where ``digits`` of a row are not zero, that many digits of ``number`` and an ``@`` stand before it.

    >>> names = Words.of(["1@a.mrcs", "2@a.mrcs", "b"])
    >>> len(names), names[1], names.take(np.array([2, 0])).tolist()
    (3, '2@a.mrcs', ['b', '1@a.mrcs'])
    """

    letters: NDArray[np.uint8]
    offsets: NDArray[Any]
    codes: NDArray[Any] | None = None
    number: NDArray[np.int32] | None = None
    digits: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, words: Sequence[Any]) -> Words:
        """The words as they are, equal ones once."""
        index: dict[bytes, int] = {}
        number_of = index.setdefault
        codes = np.fromiter((number_of(encode(str(w)), len(index)) for w in words), np.int64, len(words))
        return cls(*joined(list(index)), codes.astype(np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.codes is None else len(self.codes)

    def __getitem__(self, row: int) -> str:
        row = range(len(self))[row]
        return self.take(np.array([row])).tolist()[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.letters, self.offsets, self.codes, self.number, self.digits)
        return sum(int(array.nbytes) for array in arrays if array is not None)

    def take(self, rows: NDArray[Any] | slice) -> Words:
        """Some rows; the words kept are shared."""
        codes = np.arange(len(self), dtype=np.int32)[rows] if self.codes is None else self.codes[rows]
        number = None if self.number is None else self.number[rows]
        digits = None if self.digits is None else self.digits[rows]
        return Words(self.letters, self.offsets, codes, number, digits)

    def kept(self) -> Words:
        """The same rows without the words that none of them shows; the others then in the order of their first rows."""
        if self.codes is None or np.bincount(self.codes, minlength=len(self.offsets) - 1).all():
            return self
        used, first, inverse = np.unique(self.codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        words = self.words()
        codes = place[inverse].astype(np.min_scalar_type(max(0, len(used) - 1)))
        return Words(*joined([words[i] for i in used[order]]), codes, self.number, self.digits)

    def numbered(self) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]] | None:
        """The words kept, and for each row which it shows and its number, from 0; None where there are other forms.

        >>> Words(*joined([b"a"]), np.array([0, 0]), np.array([3, 0]), np.array([6, 0], np.uint8)).numbered()[1:]
        (array([0, 0], dtype=int32), array([2, 0]))
        """
        words = self.words() if self.codes is not None else [b"@"]
        if self.codes is None or any(b"@" in word for word in words):
            return None
        section = np.zeros(len(self), np.int64)
        if self.number is not None and self.digits is not None:
            np.subtract(self.number, 1, out=section, where=self.digits > 0)
        return [decode(word) for word in words], self.codes.astype(np.int32), section

    def words(self) -> list[bytes]:
        """The words kept, each once where there are codes; what stands before an ``@`` is not of them."""
        text, ends = self.letters.tobytes(), self.offsets.tolist()
        return [text[i:j] for i, j in pairwise(ends)]

    def pieces(self) -> Iterator[list[str]]:
        """The words as Python's strings, some rows at a time; undecodable bytes as Python names files (PEP 383)."""
        shared = None if self.codes is None or len(self.offsets) > _ROWS else [decode(word) for word in self.words()]
        for first in range(0, len(self), _ROWS):
            rows = slice(first, min(first + _ROWS, len(self)))
            found = self._texts(rows) if shared is None else [shared[i] for i in self.codes[rows].tolist()]  # type: ignore[index]
            if self.number is not None and self.digits is not None:
                before = zip(self.number[rows].tolist(), self.digits[rows].tolist(), found, strict=True)
                found = [f"{number:0{digits}d}@{word}" if digits else word for number, digits, word in before]
            yield found

    def _texts(self, rows: slice) -> list[str]:
        if self.codes is None:
            offsets = self.offsets[rows.start : rows.stop + 1]
            first = int(offsets[0])
            part = Words(self.letters[first : int(offsets[-1])], offsets - first)
            return [decode(word) for word in part.words()]
        codes, inverse = np.unique(self.codes[rows], return_inverse=True)
        limits = zip(self.offsets[codes].tolist(), self.offsets[codes.astype(np.int64) + 1].tolist(), strict=True)
        found = [decode(self.letters[i:j].tobytes()) for i, j in limits]
        return [found[i] for i in inverse.tolist()]

    def tolist(self) -> list[str]:
        """All words as Python's strings."""
        return [word for piece in self.pieces() for word in piece]

    def strings(self) -> NDArray[Any]:
        """All words as NumPy's variable-width strings.

        Raises
        ------
        UnicodeEncodeError : a word is not UTF-8.
        """
        if self.codes is not None and self.number is None:
            kept = np.array([decode(word) for word in self.words()], STRINGS)
            found: NDArray[Any] = kept[self.codes] if len(kept) else np.empty(len(self), STRINGS)
            return found
        out, first = np.empty(len(self), STRINGS), 0
        for piece in self.pieces():
            out[first : first + len(piece)] = piece
            first += len(piece)
        return out

    def check(self) -> None:
        """Raise UnicodeEncodeError if a word is not UTF-8."""
        if not self.letters.size or int(self.letters.max()) < 128:
            return
        for word in self.words():
            decode(word).encode()

    def equal(self, word: str) -> NDArray[np.bool_]:
        """Which rows are ``word``."""
        number, _, rest = word.partition("@")
        bare = self._shows(encode(word))
        if self.number is None or self.digits is None:
            return bare
        bare &= self.digits == 0
        if not number.isascii() or not number.isdigit() or len(number) > 9:
            return bare
        named = (self.digits == len(number)) & (self.number == int(number))
        named &= self._shows(encode(rest))
        return np.asarray(bare | named)

    def _shows(self, word: bytes) -> NDArray[np.bool_]:
        like = np.flatnonzero(np.diff(self.offsets) == len(word))
        for place in range(len(word) - 1, -1, -1):  # names differ at their ends
            like = like[self.letters[self.offsets[like] + place] == word[place]]
        same = np.zeros(len(self.offsets) - 1, np.bool_)
        same[like] = True
        return same if self.codes is None else same[self.codes]


def encode(word: str) -> bytes:
    """``word`` as the bytes of a file."""
    return word.encode("utf-8", "surrogateescape")


def decode(word: bytes) -> str:
    """The bytes of a file as text."""
    return word.decode("utf-8", "surrogateescape")


def joined(words: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Words one after another, and where each ends (after a zero)."""
    letters = np.frombuffer(b"".join(words), np.uint8)
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=offsets[1:])
    return letters, offsets
