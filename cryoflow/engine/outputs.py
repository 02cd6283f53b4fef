"""What a kernel's rows look like before anything has run: names, dims, dtypes and sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoflow.errors import ParameterError
from cryoflow.schema import VARIABLES

__all__ = ["Output", "describe_outputs"]

# dimensions whose length never varies
FIXED = {"xy": 2, "xyz": 3, "row": 3, "col": 3, "row2": 2, "col2": 2, "half_set": 2}
_DTYPES = {"f": np.float32, "c": np.complex64, "iu": np.int32, "b": np.bool_, "U": np.object_, "fiu": np.float32}

Outputs = Iterable[str] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """One row variable: ``dims`` and ``shape`` without the row dimension."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def describe_outputs(
    outputs: Outputs, dim: str, known: Mapping[str, int], sizes: Mapping[str, int], where: str
) -> tuple[Output, ...]:
    """Resolve ``outputs`` of ``map_reduce``; ``known`` are the sizes of the data, ``sizes`` those the caller gives.

    >>> describe_outputs(["shift"], "particle", {}, {}, "test")[0].shape
    (2,)
    """
    if isinstance(outputs, str):
        outputs = [outputs]
    spec = dict(outputs) if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    lengths = {**FIXED, **{str(k): v for k, v in known.items()}, **sizes}
    return tuple(_one(name, given, dim, lengths, where) for name, given in spec.items())


def _one(name: str, given: Any, dim: str, lengths: Mapping[str, int], where: str) -> Output:
    if given is None:
        if name not in VARIABLES:
            raise ParameterError(
                where,
                expected="outputs registered in cryoflow.schema, or a mapping name -> (dims, dtype)",
                found=repr(name),
                remedy=f"Write outputs={{{name!r}: (({dim!r},), 'float32')}}.",
            )
        variable = VARIABLES[name]
        dims, dtype = variable.dims[1:], np.int64 if name == "particle_id" else _DTYPES[variable.kind]
    else:
        try:
            dims, dtype = given
        except (TypeError, ValueError):
            raise ParameterError(where, expected=f"(dims, dtype) for output {name!r}", found=repr(given)) from None
        dims = (dims,) if isinstance(dims, str) else tuple(dims)
        dims = dims[1:] if dims[:1] == (dim,) else dims
    unknown = [d for d in dims if d not in lengths]
    if unknown:
        raise ParameterError(
            where,
            expected=f"the length of dimension {unknown[0]!r} of output {name!r}",
            found="a dimension the data do not have",
            remedy=f"Pass sizes={{{unknown[0]!r}: n}}.",
        )
    kind = np.dtype(dtype)
    return Output(name, dims, tuple(lengths[d] for d in dims), np.dtype(object) if kind.kind in "UT" else kind)
