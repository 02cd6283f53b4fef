"""``Words`` as a variable of a Dataset: strings are made of them where they are asked for."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from cryoflow.io.star.words import STRINGS, Words

__all__ = ["LazyWords", "words_behind"]


class LazyWords(BackendArray):
    """Words as xarray's lazy array of NumPy's variable-width strings.

    >>> name = xr.Variable("particle", LazyWords.of(Words.of(["1@a", "2@a"])))
    >>> name.values.tolist(), name[1].item(), words_behind(name[::-1]).tolist()
    (['1@a', '2@a'], '2@a', ['2@a', '1@a'])
    """

    def __init__(self, words: Words) -> None:
        self.words = words
        self.shape = (len(words),)
        self.dtype = STRINGS

    @classmethod
    def of(cls, words: Words) -> indexing.LazilyIndexedArray:
        """What a variable is made of."""
        return indexing.LazilyIndexedArray(cls(words))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._cut)

    def _cut(self, key: tuple[Any, ...]) -> NDArray[Any]:
        if isinstance(key[0], int | np.integer):
            return np.array(self.words[int(key[0])], STRINGS)
        return self.words.take(key[0]).strings()

    def __dask_tokenize__(self) -> str:
        digest = hashlib.sha256()
        for array in (self.words.letters, self.words.offsets, self.words.codes, self.words.number, self.words.digits):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).data)
        return digest.hexdigest()


def words_behind(variable: xr.Variable) -> Words | None:
    """The words that a lazy variable shows, with any selection of rows; None for other variables."""
    array = variable._data
    if not isinstance(array, indexing.LazilyIndexedArray) or not isinstance(array.array, LazyWords):
        return None
    rows = array.key.tuple[0]
    return None if isinstance(rows, int | np.integer) else array.array.words.take(rows)
