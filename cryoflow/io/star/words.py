"""Text columns of large tables as NumPy's variable-width strings: a third of the memory of Python's objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas.api.extensions import ExtensionArray, ExtensionDtype

__all__ = ["Words", "WordsType"]

_STRINGS = np.dtypes.StringDType()


class WordsType(ExtensionDtype):
    """pandas' name for columns of ``Words``."""

    name = "words"
    type = str
    kind = "O"

    @classmethod
    def construct_array_type(cls) -> Any:
        return Words


class Words(ExtensionArray):
    """A column of text for pandas, without an object a row; ``strings`` are its words. No word is missing.

    >>> import pandas as pd
    >>> column = pd.Series(Words(np.array(["a", "b", "a"], np.dtypes.StringDType())))
    >>> column.factorize()[0].tolist(), column.iloc[1], (column == "a").tolist()
    ([0, 1, 0], 'b', [True, False, True])
    """

    def __init__(self, strings: NDArray[Any]) -> None:
        self.strings = strings

    @classmethod
    def _from_sequence(cls, scalars: Any, *, dtype: Any = None, copy: bool = False) -> Words:  # noqa: ARG003
        return cls(np.array([str(word) for word in scalars], _STRINGS))

    @classmethod
    def _from_factorized(cls, values: Any, original: Words) -> Words:  # noqa: ARG003
        return cls._from_sequence(values)

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[Words]) -> Words:
        return cls(np.concatenate([words.strings for words in to_concat]))

    @property
    def dtype(self) -> WordsType:
        return WordsType()

    @property
    def nbytes(self) -> int:
        return int(self.strings.nbytes)

    def __len__(self) -> int:
        return len(self.strings)

    def __getitem__(self, item: Any) -> Any:
        found = self.strings[item]
        return Words(found) if isinstance(found, np.ndarray) else str(found)

    def __eq__(self, other: object) -> Any:
        return self.strings == (other.strings if isinstance(other, Words) else other)

    def __ne__(self, other: object) -> Any:
        return ~(self == other)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.strings.astype(object if dtype is None else dtype)

    def isna(self) -> NDArray[np.bool_]:
        return np.zeros(len(self), np.bool_)

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> Words:
        rows = np.asarray(indices, np.intp)
        if allow_fill and (rows < 0).any():
            raise ValueError(f"rows without a word cannot be filled with {fill_value!r}")
        return Words(self.strings[rows])

    def copy(self) -> Words:
        return Words(self.strings.copy())
