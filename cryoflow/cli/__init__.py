"""The ``cryoflow`` command."""

from cryoflow.cli.app import app, main

__all__ = ["app", "main"]
