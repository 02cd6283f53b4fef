"""Distributed single-particle cryo-EM on Dask, Zarr and GPUs.

Public names are imported when they are first used, so that ``import cryoflow`` stays instant.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from cryoflow.late import late_names

__version__ = "0.1.0.dev0"

# name -> module that defines it
_PUBLIC = {
    # reading and writing
    "append": "io",
    "is_complete": "io",
    "model_to_map": "io",
    "open_micrographs": "io",
    "open_store": "io",
    "provenance": "io",
    "read_coordinates": "io",
    "read_map": "io",
    "read_particles": "io",
    "read_star": "io",
    "save": "io",
    "select": "io",
    "write_coordinates": "io",
    "write_map": "io",
    "write_micrographs": "io",
    "write_particles": "io",
    "write_star": "io",
    # the engine
    "compute": "engine",
    "connect": "engine",
    "iterate": "engine",
    "map_reduce": "engine",
    # algorithms
    "estimate_ctf": "ctf",
    "extract_particles": "particles",
    "pick_particles": "picking",
    "postprocess": "postprocess",
    "procedural_protein": "simulate",
    "refine": "refinement",
    "simulate_micrographs": "simulate",
    "simulate_particles": "simulate",
    # above
    "Workflow": "workflow",
    "open_catalog": "catalog",
    "report": "display.report",
    "run": "workflow",
    "validate": "schema",
}

__all__ = [  # noqa: RUF022 - in the order of a run
    "__version__",
    "append", "is_complete", "model_to_map", "open_micrographs", "open_store", "provenance", "read_coordinates",
    "read_map", "read_particles", "read_star", "save", "select", "write_coordinates", "write_map", "write_micrographs",
    "write_particles", "write_star",
    "compute", "connect", "iterate", "map_reduce",
    "estimate_ctf", "extract_particles", "pick_particles", "postprocess", "procedural_protein", "refine",
    "simulate_micrographs", "simulate_particles",
    "Workflow", "open_catalog", "report", "run", "validate",
]  # fmt: skip


__getattr__, __dir__ = late_names(__name__, _PUBLIC)


class _Package(ModuleType):
    """``cryoflow.postprocess`` is the function, though a package of that name exists beside it.

    The import system binds a submodule to its parent when it is first imported; which of the two a user got would
    otherwise depend on what was imported before.
    """

    @property
    def postprocess(self) -> Any:
        return __getattr__("postprocess")

    @postprocess.setter
    def postprocess(self, value: object) -> None:
        """Ignore the import system's binding."""


sys.modules[__name__].__class__ = _Package
