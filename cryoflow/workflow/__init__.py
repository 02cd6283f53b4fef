"""Workflow files: typed stages from micrographs or particles to a map, checked before they start, resumable.

Public names are imported when they are first used: commands that run no workflow do not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryoflow.workflow.check import check_files
    from cryoflow.workflow.execute import run
    from cryoflow.workflow.model import Workflow, checked, load_workflow, parse_settings, to_yaml

__all__ = ["Workflow", "check_files", "checked", "load_workflow", "parse_settings", "run", "to_yaml"]

_MODULES = {"check_files": "check", "run": "execute"}  # the others: model


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'cryoflow.workflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cryoflow.workflow.{_MODULES.get(name, 'model')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
