"""What a kernel asks for: positional parameters are variables of the data, keyword-only ones shared model data."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError, SchemaError
from cryoflow.schema import VARIABLES

__all__ = ["Binding", "bind", "kernel_name"]

ROWS, PER_OPTICS, INDEX, DEFAULT = "rows", "optics", "index", "default"


@dataclass(frozen=True, slots=True)
class Binding:
    """The positional parameters of a kernel and where each comes from.

    ``sources[i]`` is ``"rows"`` (a variable with the row dimension), ``"optics"`` (one value an optics group, looked up
    for each row), ``"index"`` (row numbers) or ``"default"`` (an optional variable the data lack).
    """

    kernel: str
    names: tuple[str, ...]
    sources: tuple[str, ...]
    defaults: tuple[Any, ...]

    def variables(self, source: str) -> tuple[str, ...]:
        return tuple(n for n, s in zip(self.names, self.sources) if s == source)


def kernel_name(kernel: Callable[..., Any]) -> str:
    """A name a person recognises, of a function, a partial or a callable object.

    >>> kernel_name(functools.partial(kernel_name))
    'kernel_name'
    """
    while isinstance(kernel, functools.partial):
        kernel = kernel.func
    return getattr(kernel, "__name__", None) or type(kernel).__name__


def bind(kernel: Callable[..., Any], data: xr.Dataset, shared: Mapping[str, Any], dim: str) -> Binding:
    """Match the signature of ``kernel`` against ``data`` and ``shared``.

    Raises
    ------
    SchemaError : a positional parameter names no variable of ``data``, or one without rows.
    ParameterError : keyword-only parameters and ``shared`` disagree, or the signature is of no use here.
    """
    name = kernel_name(kernel)
    try:
        parameters = inspect.signature(kernel).parameters.values()
    except (TypeError, ValueError) as error:
        raise ParameterError(
            name, expected="a callable with a signature", found=repr(kernel), remedy="Wrap it in a function."
        ) from error
    names: list[str] = []
    sources: list[str] = []
    defaults: list[Any] = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            raise ParameterError(
                name,
                expected="positional parameters named after variables",
                found=f"*{p.name}",
                remedy="Write the variables out.",
            )
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
            sources.append(_source(name, p, data, dim))
            defaults.append(None if p.default is p.empty else p.default)
    _check_shared(name, list(parameters), shared)
    return Binding(name, tuple(names), tuple(sources), tuple(defaults))


def _source(kernel: str, p: inspect.Parameter, data: xr.Dataset, dim: str) -> str:
    if p.name not in data.variables:
        if p.name == dim:
            return INDEX
        if p.default is not p.empty:
            return DEFAULT
        doc = f"{p.name}: {VARIABLES[p.name].doc}. " if p.name in VARIABLES else ""
        raise SchemaError(
            f"map_reduce of {kernel}",
            expected=f"a variable {p.name!r} in the data (a positional parameter of the kernel)",
            found=", ".join(sorted(map(str, data.variables))) or "no variables",
            remedy=f"{doc}Add it to the data, or make it a keyword-only parameter if it is shared.",
        )
    dims = data[p.name].dims
    if dims[:1] == (dim,):
        return ROWS
    if dims[:1] == ("optics",):
        _check_optics(kernel, p.name, data, dim)
        return PER_OPTICS
    raise SchemaError(
        f"map_reduce of {kernel}",
        expected=f"{p.name!r} with {dim!r} (or 'optics') as its first dimension",
        found=f"dims {dims}",
        remedy="Transpose it, or pass it as shared data through a keyword-only parameter.",
    )


def _check_optics(kernel: str, name: str, data: xr.Dataset, dim: str) -> None:
    groups = data.sizes["optics"]
    if groups == 1:
        return
    where = f"map_reduce of {kernel}"
    if "optics_group" not in data.variables or data["optics_group"].dims != (dim,):
        raise SchemaError(
            where,
            expected=f"'optics_group' over {dim!r}, since {name!r} has {groups} optics groups",
            found="none",
            remedy="Assign optics_group, the row of the optics dimension of each row, from 0.",
        )
    index = data["optics_group"].variable
    if index.chunks is None and index.size:
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= groups:
            raise SchemaError(where, expected=f"optics_group from 0 to {groups - 1}", found=f"{low} to {high}")


def _check_shared(kernel: str, parameters: list[inspect.Parameter], shared: Mapping[str, Any]) -> None:
    only = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    missing = [p.name for p in only if p.default is p.empty and p.name not in shared]
    if missing:
        raise ParameterError(
            f"map_reduce of {kernel}",
            expected=f"shared data {', '.join(missing)}",
            found=f"only {', '.join(shared) or 'none'}",
            remedy="Pass them in the mapping `shared`.",
        )
    unknown = sorted(set(shared) - {p.name for p in only})
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ParameterError(
            f"map_reduce of {kernel}",
            expected=f"shared data among the keyword-only parameters {', '.join(p.name for p in only) or '(none)'}",
            found=", ".join(unknown),
            remedy="Shared data are keyword-only parameters: put them after a bare * in the kernel's signature.",
        )


def expand_optics(values: NDArray[Any], groups: NDArray[Any] | None, rows: int) -> NDArray[Any]:
    """One value an optics group to one value a row."""
    if groups is None:
        return np.broadcast_to(values[:1], (rows, *values.shape[1:]))
    return np.take(values, groups, axis=0)
