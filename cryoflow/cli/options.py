"""Command-line options made from the typed parameters of a stage: Python, files and CLI share one set of names."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union

import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cryoflow.errors import ParameterError

__all__ = ["with_options"]


def _plain(annotation: Any) -> Any:
    """The type a command line can carry: constraints are left to the model; a choice becomes text."""
    if annotation in (int, float, bool, str, Path):
        return annotation
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        options = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _plain(options[0])
    if hasattr(annotation, "__metadata__"):
        return _plain(annotation.__origin__)
    return str


def _options(model: type[BaseModel], skip: tuple[str, ...], goes_on: bool) -> dict[str, inspect.Parameter]:
    """One keyword option for each field of ``model``; none is required where a command goes on with a run's values."""
    result = {}
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        kind = _plain(field.annotation)
        required = field.default is PydanticUndefined
        text = field.description or ""
        default = field.default
        if required and goes_on:
            required, default, text = False, None, f"{text}  [default: the run's]"
        if isinstance(default, tuple):  # lists are written as YAML: --fit-range '[10, 5]'
            said = ", ".join("null" if v is None else f"{v:g}" for v in default)
            kind, default, text = str, None, f"{text}  [default: '[{said}]']"
        elif default is not None and not required and type(None) in typing.get_args(field.annotation):
            kind, default = str, str(default)  # null is a value of its own: --contaminants null
        choices = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else ()
        text += f" ({', '.join(map(str, choices))})" if choices else ""
        flag = "--" + name.replace("_", "-")
        if kind is bool and not required:
            flag = f"{flag}/--no-{name.replace('_', '-')}"
        option = typer.Option(... if required else default, flag, help=text)
        annotation = kind if required or default is not None else kind | None
        result[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)
    return result


def _value(value: Any) -> Any:
    if not isinstance(value, str) or not (value.startswith("[") or value == "null"):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ParameterError("command line", expected="a list like [10, 5]", found=repr(value)) from None


def _was_given(context: typer.Context, name: str) -> bool:
    return getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"


def with_options(
    *, skip: tuple[str, ...] = (), goes_on: bool = False, **models: type[BaseModel]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate ``f(inputs, *, name=mapping, ...)``: each ``name`` becomes the options of its model's fields.

    The function receives, for each model, the plain mapping of the options that were given; a field that is already
    a parameter of the function is left out, as are those of ``skip``. Values are checked by the model itself; where
    a command ``goes_on`` with a run, that may have those that the model needs.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters
        inputs = {n: q for n, q in own.items() if n not in models}
        fields: dict[str, list[str]] = {}
        extra: dict[str, inspect.Parameter] = {}
        for name, model in models.items():
            options = _options(model, (*inputs, *extra, *skip), goes_on)
            fields[name] = [f for f in model.model_fields if f in options or f in extra]
            extra.update(options)

        def command(context: typer.Context | None = None, **values: Any) -> None:
            # defaults are left to the model: a run that goes on keeps what it had where nothing is given
            given = {n for n in values if context is None or _was_given(context, n)}
            chosen: dict[str, Mapping[str, Any]] = {
                name: {f: _value(values[f]) for f in names if f in given and values[f] is not None}
                for name, names in fields.items()
            }
            function(**{n: v for n, v in values.items() if n in inputs}, **chosen)

        ordered = sorted([*inputs.values(), *extra.values()], key=lambda q: q.kind)
        first = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        keyword = [first, *(q.replace(kind=inspect.Parameter.KEYWORD_ONLY) for q in ordered)]
        command.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        command.__annotations__ = {q.name: q.annotation for q in keyword}
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return command

    return decorate
