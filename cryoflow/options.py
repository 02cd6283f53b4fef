"""Options that several functions share: written once, and shown in the signature of each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["takes"]

Function = TypeVar("Function", bound=Callable[..., Any])


def takes(options: type, defaults: Mapping[str, object]) -> Callable[[Function], Function]:
    """Spell out ``**options`` (``Unpack`` of a TypedDict): each becomes a keyword of its own, with its default.

    ``help``, completion and ``inspect.signature`` show every option, a name that is none is refused, and the function
    receives all of them.

    Examples
    --------
    >>> from typing import TypedDict, Unpack
    >>> class Optics(TypedDict, total=False):
    ...     voltage: float | None
    >>> @takes(Optics, {"voltage": None})
    ... def read(path, *, strict=True, **options: Unpack[Optics]):
    ...     return options
    >>> list(inspect.signature(read).parameters), read("p.star"), read("p.star", voltage=300.0)
    (['path', 'strict', 'voltage'], {'voltage': None}, {'voltage': 300.0})
    """

    def decorate(function: Function) -> Function:
        own = inspect.signature(function)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name],
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in options.__annotations__.items()
        ]  # fmt: skip
        signature = own.replace(parameters=[*named, *shared])

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            bound = signature.bind(*args, **keywords)
            bound.apply_defaults()
            return function(*bound.args, **bound.kwargs)

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate
