"""The borders: files of all programs, where they lie, and the Zarr store, with all conversions of convention.

Public names are imported when they are first used: heavy libraries load only for the formats that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryoflow.late import late_names

if TYPE_CHECKING:
    from cryoflow.io.cryosparc.cryosparc import read_cryosparc, write_cryosparc
    from cryoflow.io.formats import detect, open_data, write_data
    from cryoflow.io.images.mrc import read_header, read_map, write_map, write_stack
    from cryoflow.io.micrographs import open_micrographs, read_coordinates, write_coordinates, write_micrographs
    from cryoflow.io.model import model_centre, model_to_map
    from cryoflow.io.movies import open_movies
    from cryoflow.io.particles import read_particles, write_particles
    from cryoflow.io.query import select
    from cryoflow.io.star.star import read_star, write_star
    from cryoflow.io.stores.completion import is_complete, provenance
    from cryoflow.io.stores.grow import append
    from cryoflow.io.stores.record import digest
    from cryoflow.io.stores.store import open_store, save

# name -> module that defines it
_PUBLIC = {
    "append": "stores.grow",
    "detect": "formats",
    "digest": "stores.record",
    "is_complete": "stores.completion",
    "model_centre": "model",
    "model_to_map": "model",
    "open_data": "formats",
    "open_micrographs": "micrographs",
    "open_movies": "movies",
    "open_store": "stores.store",
    "provenance": "stores.completion",
    "read_coordinates": "micrographs",
    "read_cryosparc": "cryosparc.cryosparc",
    "read_header": "images.mrc",
    "read_map": "images.mrc",
    "read_particles": "particles",
    "read_star": "star.star",
    "save": "stores.store",
    "select": "query",
    "write_coordinates": "micrographs",
    "write_cryosparc": "cryosparc.cryosparc",
    "write_data": "formats",
    "write_map": "images.mrc",
    "write_micrographs": "micrographs",
    "write_particles": "particles",
    "write_stack": "images.mrc",
    "write_star": "star.star",
}

__all__ = [
    "append",
    "detect",
    "digest",
    "is_complete",
    "model_centre",
    "model_to_map",
    "open_data",
    "open_micrographs",
    "open_movies",
    "open_store",
    "provenance",
    "read_coordinates",
    "read_cryosparc",
    "read_header",
    "read_map",
    "read_particles",
    "read_star",
    "save",
    "select",
    "write_coordinates",
    "write_cryosparc",
    "write_data",
    "write_map",
    "write_micrographs",
    "write_particles",
    "write_stack",
    "write_star",
]

__getattr__, __dir__ = late_names(__name__, _PUBLIC)
