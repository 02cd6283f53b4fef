"""Workflow files: typed stages from micrographs or particles to a map, checked before they start, resumable."""

from cryoflow.workflow.check import check_files
from cryoflow.workflow.execute import run
from cryoflow.workflow.model import Workflow, checked, load_workflow, parse_settings, to_yaml

__all__ = ["Workflow", "check_files", "checked", "load_workflow", "parse_settings", "run", "to_yaml"]
