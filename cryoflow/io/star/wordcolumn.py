"""``Words`` as a column of pandas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.extensions import ExtensionArray, ExtensionDtype

from cryoflow.io.star.words import Words

__all__ = ["WordColumn", "WordsType"]


class WordsType(ExtensionDtype):
    """pandas' name for columns of ``Words``."""

    name = "words"
    type = str
    kind = "O"

    @classmethod
    def construct_array_type(cls) -> Any:
        return WordColumn


class WordColumn(ExtensionArray):
    """A column of text for pandas, without an object a row; ``words`` are its text. No word is missing.

    It is there to be read, compared, sorted and selected; to edit words, make objects of it: ``.astype(object)``.

    >>> column = pd.Series(WordColumn(Words.of(["a", "b", "a"])))
    >>> column.factorize()[0].tolist(), column.iloc[1], (column == "a").tolist(), column.str.upper().tolist()
    ([0, 1, 0], 'b', [True, False, True], ['A', 'B', 'A'])
    """

    def __init__(self, words: Words) -> None:
        self.words = words

    @classmethod
    def _from_sequence(cls, scalars: Any, *, dtype: Any = None, copy: bool = False) -> WordColumn:  # noqa: ARG003
        words = list(scalars)
        if not all(isinstance(word, str) for word in words):
            raise TypeError("a column of words holds nothing else")  # pandas then makes another one
        return cls(Words.of(words))

    @classmethod
    def _from_factorized(cls, values: Any, original: WordColumn) -> WordColumn:  # noqa: ARG003
        return cls._from_sequence(values)

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[WordColumn]) -> WordColumn:
        return cls(Words.of([word for column in to_concat for word in column.words.tolist()]))

    @property
    def dtype(self) -> WordsType:
        return WordsType()

    @property
    def nbytes(self) -> int:
        return self.words.nbytes

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, int | np.integer):
            return self.words[int(item)]
        if not isinstance(item, slice):
            item = pd.api.indexers.check_array_indexer(self, item)
        return WordColumn(self.words.take(item))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_str_"):  # what ``Series.str`` asks for
            return getattr(pd.arrays.NumpyExtensionArray(np.asarray(self, object)), name)
        raise AttributeError(name)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, str):
            return self.words.equal(other)
        return np.asarray(self, object) == (np.asarray(other, object) if isinstance(other, WordColumn) else other)

    def __ne__(self, other: object) -> Any:
        return ~(self == other)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found = np.empty(len(self), object)
        first = 0
        for piece in self.words.pieces():
            found[first : first + len(piece)] = piece
            first += len(piece)
        return found if dtype is None or np.dtype(dtype) == object else found.astype(dtype)

    def isna(self) -> NDArray[np.bool_]:
        return np.zeros(len(self), np.bool_)

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> WordColumn:
        rows = np.asarray(indices, np.intp)
        if allow_fill and (rows < 0).any():
            raise ValueError(f"rows without a word cannot be filled with {fill_value!r}")
        return WordColumn(self.words.take(rows))

    def copy(self) -> WordColumn:
        return WordColumn(self.words)  # its arrays are never written to
