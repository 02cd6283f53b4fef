"""Data sets with known truth: proteins, particle stacks, micrographs."""

from cryoflow.simulate.particles import simulate_particles
from cryoflow.simulate.protein import procedural_protein

__all__ = ["procedural_protein", "simulate_particles"]
