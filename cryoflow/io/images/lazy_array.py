"""What lazy arrays of images have in common: a name for their content, and indexing that reads what is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

__all__ = ["LazyImages"]


class LazyImages(BackendArray):
    """Frames (..., y, x) that are read by their numbers along the first ``counted`` dimensions, then cut.

    A subclass has a ``shape``, says what its content is (``content``) and reads whole frames (``read``).
    """

    counted: ClassVar[int] = 1
    read: Callable[..., NDArray[Any]]  # (numbers along each counted dimension) -> whole frames

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def content(self) -> Iterable[bytes | memoryview]:
        """What tells this array from others, piece by piece."""
        raise NotImplementedError

    def token(self) -> str:
        """Name of the content: another one when the content may be another."""
        digest = hashlib.sha256()
        for piece in self.content():
            digest.update(piece)
        return digest.hexdigest()[:32]

    def __dask_tokenize__(self) -> str:
        return self.token()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._cut)

    def _cut(self, key: tuple[Any, ...]) -> NDArray[Any]:
        numbers = [np.arange(n)[k] for n, k in zip(self.shape, key[: self.counted])]
        frames = self.read(*(np.atleast_1d(n) for n in numbers))
        lead = tuple(0 if np.ndim(n) == 0 else slice(None) for n in numbers)
        return np.asarray(frames[lead][(..., *key[self.counted :])])
