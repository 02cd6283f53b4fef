"""From two half-maps to a validated, sharpened map."""

from cryoflow.postprocess.curves import FSC_CURVES, FiveCurves, five_curves
from cryoflow.postprocess.postprocess import postprocess
from cryoflow.postprocess.sharpening import GuinierFit, apply_b_factor, fit_guinier, log_amplitudes, read_mtf

__all__ = [
    "FSC_CURVES",
    "FiveCurves",
    "GuinierFit",
    "apply_b_factor",
    "fit_guinier",
    "five_curves",
    "log_amplitudes",
    "postprocess",
    "read_mtf",
]
