"""Picking: particle centres in micrographs."""

from cryoflow.picking.pick import pick_particles

__all__ = ["pick_particles"]
