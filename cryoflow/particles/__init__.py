"""Particles: extraction and normalisation."""

from cryoflow.particles.extract import extract_particles

__all__ = ["extract_particles"]
