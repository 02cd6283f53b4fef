"""Workflow files: typed stages from micrographs or particles to a map, checked before they start, resumable.

Public names are imported when they are first used: commands that run no workflow do not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryoflow.late import late_names

if TYPE_CHECKING:
    from cryoflow.workflow.check import check_files
    from cryoflow.workflow.execute import run
    from cryoflow.workflow.model import Workflow, checked, load_workflow, parse_settings, to_yaml

__all__ = ["Workflow", "check_files", "checked", "load_workflow", "parse_settings", "run", "to_yaml"]

# name -> module that defines it
_MODULES = dict.fromkeys(__all__, "model") | {"check_files": "check", "run": "execute"}

__getattr__, __dir__ = late_names(__name__, _MODULES)
