"""Functions named as text, "module:function" below ``cryoflow.io``: imported only when they are called for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["named"]


def named(name: str) -> Any:
    """The function called ``name``.

    >>> named("images.mrc:read_map").__name__
    'read_map'
    """
    module, _, function = name.partition(":")
    return getattr(import_module(f"cryoflow.io.{module}"), function)
