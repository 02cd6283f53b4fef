"""Figures and the report of a run. Nothing here imports matplotlib before it draws."""
