"""cryoSPARC's .cs and .csg files."""
