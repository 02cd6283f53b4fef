"""Maps from particles: one loop for auto-refine, 3D classification and reconstruction from known poses."""

from cryoflow.refinement.refine import Refinement, refine

__all__ = ["Refinement", "refine"]
