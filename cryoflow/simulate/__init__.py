"""Data sets with known truth: proteins, particle stacks, micrographs."""

from cryoflow.simulate.micrographs import save_simulation, simulate_micrographs
from cryoflow.simulate.particles import simulate_particles
from cryoflow.simulate.protein import procedural_protein

__all__ = ["procedural_protein", "save_simulation", "simulate_micrographs", "simulate_particles"]
