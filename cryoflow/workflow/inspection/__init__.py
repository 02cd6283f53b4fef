"""``inspect_data``: what a file or folder is, what is wrong with it, and the command that imports it."""

from cryoflow.workflow.inspection.data import inspect_data
from cryoflow.workflow.inspection.report import Finding, Inspection

__all__ = ["Finding", "Inspection", "inspect_data"]
