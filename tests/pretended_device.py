"""A stand-in for CuPy where there is no device: its arrays refuse, as CuPy's do, to meet host arrays unasked.

Functions are NumPy's, so this says nothing of CuPy's own; what it shows is that a kernel asks the right module for
every array, uploads and fetches where it must, and launches the CUDA kernels with the right arguments.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft

__all__ = ["DeviceArray", "pretended_modules"]

TRANSFERS = {"asarray", "array"}


class DeviceArray(np.ndarray[Any, Any]):
    """An array that pretends to live elsewhere."""

    def get(self) -> np.ndarray:
        """A host copy."""
        return np.array(self.view(np.ndarray))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        _refuse_host((*inputs, *(out or ())), ufunc.__name__)
        if out is not None:
            options["out"] = tuple(_bare(o) for o in out)
        result = getattr(ufunc, method)(*[_bare(i) for i in inputs], **{k: _bare(v) for k, v in options.items()})
        return out[0] if out is not None else _device(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        _refuse_host([*args, *kwargs.values()], function.__name__)
        return _device(function(*_all_bare(args), **{k: _bare(v) for k, v in kwargs.items()}))

    def __getitem__(self, key: Any) -> Any:
        _refuse_host(key if isinstance(key, tuple) else (key,), "indexing")
        return _device(self.view(np.ndarray)[_all_bare(key) if isinstance(key, tuple) else _bare(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        _refuse_host((*(key if isinstance(key, tuple) else (key,)), value), "assignment")
        self.view(np.ndarray)[_all_bare(key) if isinstance(key, tuple) else _bare(key)] = _bare(value)


def _refuse_host(values: Any, where: str) -> None:
    for value in values:
        if isinstance(value, (list, tuple)):
            _refuse_host(value, where)
        elif isinstance(value, np.ndarray) and not isinstance(value, DeviceArray):
            raise TypeError(f"{where}: implicit conversion of a host array of shape {value.shape} to a device array")


def _bare(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return _all_bare(value)
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def _all_bare(values: Any) -> Any:
    return type(values)(_bare(v) for v in values)


def _device(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_device(v) for v in value)
    # what NumPy makes a scalar is a 0-dimensional array on a device
    return np.asarray(value).view(DeviceArray) if isinstance(value, (np.ndarray, np.generic)) else value


def _pretend(name: str, source: Any) -> ModuleType:
    module = ModuleType(name)

    def attribute(key: str) -> Any:
        found = getattr(source, key)
        if isinstance(found, (type, ModuleType)) or not callable(found):
            return _pretend(f"{name}.{key}", found) if isinstance(found, ModuleType) else found

        def call(*args: Any, **kwargs: Any) -> Any:
            if key not in TRANSFERS:
                _refuse_host([*args, *kwargs.values()], key)
            return _device(found(*_all_bare(args), **{k: _bare(v) for k, v in kwargs.items()}))

        return call

    module.__getattr__ = attribute  # type: ignore[method-assign]
    return module


def pretended_modules() -> dict[str, ModuleType]:
    """What to put into ``sys.modules``."""
    cupy = _pretend("cupy", np)
    cupy.ndarray = DeviceArray  # type: ignore[attr-defined]
    fft = _pretend("cupyx.scipy.fft", scipy.fft)
    cupyx, within = ModuleType("cupyx"), ModuleType("cupyx.scipy")
    cupyx.scipy, within.fft = within, fft  # type: ignore[attr-defined]
    return {"cupy": cupy, "cupyx": cupyx, "cupyx.scipy": within, "cupyx.scipy.fft": fft}
