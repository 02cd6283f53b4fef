"""Which array library a batch lives in: the one place that knows about NumPy and CuPy.

A kernel takes arrays and works in the library they come from; nothing is chosen at import or kept per process.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["array_module", "fft_module", "is_device", "to_device", "to_host"]


def is_device(array: Any) -> bool:
    """Whether ``array`` is a CuPy array (never imports CuPy)."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def array_module(*arrays: Any) -> ModuleType:
    """``cupy`` if any of ``arrays`` lives on a device, else ``numpy``.

    >>> array_module(np.zeros(2)).__name__
    'numpy'
    """
    if any(is_device(a) for a in arrays):
        return sys.modules["cupy"]
    return np


def fft_module(*arrays: Any) -> ModuleType:
    """``cupyx.scipy.fft`` or ``scipy.fft``; both keep float32."""
    if any(is_device(a) for a in arrays):
        import cupyx.scipy.fft

        return cupyx.scipy.fft  # type: ignore[no-any-return]
    import scipy.fft  # 16 MB that readers of tables, which turn Euler angles, do without

    return scipy.fft


def to_host(array: Any) -> Any:
    """A NumPy array of a device array; anything else as it is."""
    return array.get() if is_device(array) else array


def to_device(array: Any) -> Any:
    """A CuPy array of a NumPy array (object and string arrays stay on the host)."""
    import cupy

    if isinstance(array, np.ndarray) and array.dtype.kind in "biufc":
        return cupy.asarray(array)
    return array
