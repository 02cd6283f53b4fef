"""The borders: STAR, MRC, TIFF, atomic models and the Zarr store, with all conversions of convention."""

from cryoflow.io.completion import is_complete, provenance
from cryoflow.io.cryosparc import read_cryosparc, write_cryosparc
from cryoflow.io.grow import append
from cryoflow.io.micrographs import open_micrographs, read_coordinates, write_coordinates, write_micrographs
from cryoflow.io.model import model_centre, model_to_map
from cryoflow.io.mrc import read_header, read_map, write_map, write_stack
from cryoflow.io.particles import read_particles, write_particles
from cryoflow.io.query import select
from cryoflow.io.record import digest
from cryoflow.io.star import read_star, write_star
from cryoflow.io.store import open_store, save

__all__ = [
    "append",
    "digest",
    "is_complete",
    "model_centre",
    "model_to_map",
    "open_micrographs",
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
    "write_map",
    "write_micrographs",
    "write_particles",
    "write_stack",
    "write_star",
]
