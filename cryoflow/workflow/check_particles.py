"""Whether a stack made elsewhere holds what its refinement needs."""

from __future__ import annotations

from typing import Any

from cryoflow.errors import ParameterError
from cryoflow.workflow.model import Workflow

__all__ = ["check_particles"]


def check_particles(workflow: Workflow, ds: Any) -> None:
    """Raise ``ParameterError`` where poses, CTF or half-sets are wanting."""
    _check_poses(workflow, ds)
    _check_halves(workflow, ds)


def _check_poses(workflow: Workflow, ds: Any) -> None:
    refine = workflow.refine
    if refine is not None and refine.poses != "global" and "rotation" not in ds:
        raise ParameterError(
            "refine.poses", expected=f"poses in {workflow.particles and workflow.particles.path} for {refine.poses!r}",
            found="none", remedy="Take poses=global.",
        )  # fmt: skip
    if refine is not None and "defocus_u" not in ds:
        raise ParameterError(
            str(workflow.particles and workflow.particles.path), expected="the defocus of each particle (rlnDefocusU)",
            found="none", remedy="Estimate the CTF first, and export particles with it.",
        )  # fmt: skip
    for name, label in (("voltage", "rlnVoltage"), ("cs", "rlnSphericalAberration"),
                        ("amplitude_contrast", "rlnAmplitudeContrast")):  # fmt: skip
        if name not in ds:
            raise ParameterError(
                str(workflow.particles and workflow.particles.path), expected=f"_{label}", found="none",
                remedy=f"Give it with --set particles.{name}=VALUE.",
            )  # fmt: skip


def _check_halves(workflow: Workflow, ds: Any) -> None:
    """A half-set of which all particles are would leave the other map empty."""
    if workflow.refine is None or workflow.refine.classes > 1 or "half" not in ds:
        return
    there = set(ds["half"].values.tolist())
    if len(there) == 1 and there <= {1, 2}:
        star = workflow.particles and workflow.particles.path
        raise ParameterError(
            str(star), expected="particles of both half-sets (rlnRandomSubset)",
            found=f"of half-set {there.pop()} alone",
            remedy=f"Deal them out anew: cryoflow table {star} --halves random -o NEW.star",
        )  # fmt: skip
