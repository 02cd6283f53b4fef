"""Workflow files: typed stages from micrographs or particles to a map, checked before they start, resumable."""

from cryoflow.workflow.model import Workflow, load_workflow, parse_settings, to_yaml

__all__ = ["Workflow", "load_workflow", "parse_settings", "to_yaml"]
