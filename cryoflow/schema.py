"""The registry of variables: what every name in a Dataset means, its dims, units, and its labels elsewhere.

``validate`` raises ``SchemaError`` and never warns. Rotations, shifts and other quantities whose form differs between
programs carry no label here: ``cryoflow.io`` converts them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr

from cryoflow.errors import SchemaError

__all__ = ["SCHEMA_VERSION", "VARIABLES", "Variable", "describe", "require", "validate"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Variable:
    """One named quantity.

    ``kind`` is the set of NumPy dtype kinds it may have ("f" real, "c" complex, "iu" integers, "b" bool, "U" text);
    ``star`` and ``cs`` are its labels in RELION STAR and cryoSPARC files, in the same units.
    """

    name: str
    dims: tuple[str, ...]
    kind: str
    units: str
    doc: str
    star: str | None = None
    cs: str | None = None


P, M, O = ("particle",), ("micrograph",), ("optics",)  # noqa: E741

_ALL = (
    # particles -------------------------------------------------------------------------------------------------------
    Variable("image", ("particle", "y", "x"), "f", "", "Particle image, white on black"),
    Variable("rotation", ("particle", "row", "col"), "f", "", "Rotation matrix A: v_image = A v_volume, (x, y, z)"),
    Variable("shift", ("particle", "xy"), "f", "angstrom", "Shift (x, y) to add to the particle to centre it"),
    Variable("source_angles", ("particle", "angle"), "f", "degree", "The source's (rot, tilt, psi) where unusual; used "
             "on export while they still say the rotation"),
    Variable("half", P, "iu", "", "Half-set 1 or 2; 0 not assigned", "rlnRandomSubset", "alignments3D/split"),
    Variable("class_number", P, "iu", "", "Class from 1; 0 not assigned", "rlnClassNumber", "alignments3D/class"),
    Variable("group", P, "iu", "", "Noise and scale group from 1", "rlnGroupNumber"),
    Variable("optics_group", P, "iu", "", "Row of the optics dimension, from 0"),
    Variable("micrograph_name", P, "U", "", "Micrograph the particle was cut from", "rlnMicrographName"),
    Variable("coordinate", ("particle", "xy"), "f", "pixel", "Centre (x, y) in its micrograph, first pixel centre 0"),
    Variable("image_name", P, "U", "", "Where the image lies: index@file", "rlnImageName"),
    Variable("particle_id", P, "iu", "", "Identifier unique in the project, kept through selections", None, "uid"),
    Variable("norm", P, "f", "", "Norm correction: factor dividing the image", "rlnNormCorrection"),
    Variable("pick_score", P, "f", "", "Picking figure of merit", "rlnAutopickFigureOfMerit"),
    Variable("log_likelihood", P, "f", "", "Log of the summed likelihood", "rlnLogLikeliContribution"),
    Variable("max_probability", P, "f", "", "Highest posterior probability of one pose", "rlnMaxValueProbDistribution"),
    Variable("significant", P, "iu", "", "Poses holding 99.9 % of the posterior", "rlnNrOfSignificantSamples"),
    Variable("rotation_width", P, "f", "degree", "Posterior standard deviation of the orientation"),
    Variable("shift_width", P, "f", "angstrom", "Posterior standard deviation of the shift"),
    # CTF of particles or micrographs (dims are those of the Dataset's rows) -----------------------------------------
    Variable("defocus_u", P, "f", "angstrom", "Larger underfocus", "rlnDefocusU", "ctf/df1_A"),
    Variable("defocus_v", P, "f", "angstrom", "Smaller underfocus", "rlnDefocusV", "ctf/df2_A"),
    Variable("defocus_angle", P, "f", "degree", "Angle of defocus_u from the x axis", "rlnDefocusAngle"),
    Variable("defocus_turns", P, "iu", "", "Quarter turns the source adds to defocus_angle; odd: u and v swapped"),
    Variable("phase_shift", P, "f", "degree", "Phase shift of a phase plate", "rlnPhaseShift"),
    Variable("ctf_b_factor", P, "f", "angstrom^2", "B-factor of the CTF envelope", "rlnCtfBfactor", "ctf/bfactor"),
    Variable("ctf_scale", P, "f", "", "Scale of the CTF", "rlnCtfScalefactor", "ctf/scale"),
    Variable("ctf_resolution", P, "f", "angstrom", "Resolution the CTF fit holds to", "rlnCtfMaxResolution"),
    Variable("ctf_score", P, "f", "", "Correlation of the CTF fit", "rlnCtfFigureOfMerit"),
    # optics groups ---------------------------------------------------------------------------------------------------
    Variable("optics_name", O, "U", "", "Name of the optics group", "rlnOpticsGroupName"),
    Variable("voltage", O, "f", "kilovolt", "Acceleration voltage", "rlnVoltage", "ctf/accel_kv"),
    Variable("cs", O, "f", "millimeter", "Spherical aberration", "rlnSphericalAberration", "ctf/cs_mm"),
    Variable("amplitude_contrast", O, "f", "", "Amplitude contrast", "rlnAmplitudeContrast", "ctf/amp_contrast"),
    Variable("pixel_size", O, "f", "angstrom", "Pixel size of the images", "rlnImagePixelSize", "blob/psize_A"),
    Variable("micrograph_pixel_size", O, "f", "angstrom", "Pixel size of the micrographs", "rlnMicrographPixelSize"),
    Variable("beam_tilt", ("optics", "xy"), "f", "milliradian", "Beam tilt (x, y)"),
    Variable("magnification", ("optics", "row2", "col2"), "f", "", "Anisotropic magnification matrix"),
    Variable("odd_zernike", ("optics", "odd"), "f", "", "Antisymmetric aberrations, RELION's order"),
    Variable("even_zernike", ("optics", "even"), "f", "", "Symmetric aberrations, RELION's order"),
    # micrographs -----------------------------------------------------------------------------------------------------
    Variable("micrograph", ("micrograph", "y", "x"), "fiu", "", "Micrograph as recorded, contrast in attrs"),
    Variable("usable", M, "b", "", "Whether later stages use this micrograph"),
    Variable("reason", M, "U", "", "Why it is not usable; empty where it is"),
    Variable("exposure", M, "f", "electron/angstrom^2", "Total exposure"),
    Variable("power_spectrum", ("micrograph", "ky", "kx"), "f", "", "Background-subtracted amplitude spectrum"),
    Variable("ctf_profile", ("micrograph", "shell"), "f", "", "Astigmatism-corrected 1D amplitude spectrum"),
    Variable("ctf_fit", ("micrograph", "shell"), "f", "", "Fitted |CTF| along the same average"),
    Variable("ctf_quality", ("micrograph", "shell"), "f", "", "Correlation of profile and fit around each frequency"),
    # movies ----------------------------------------------------------------------------------------------------------
    Variable("movie", ("movie", "frame", "y", "x"), "fiu", "", "Frames as recorded"),
    Variable("movie_name", ("movie",), "U", "", "File of the movie", "rlnMicrographMovieName"),
    Variable("frames", ("movie",), "iu", "", "Frames recorded; the frame axis is zeros beyond"),
    Variable("gain", ("y", "x"), "f", "", "Gain reference multiplying the frames"),
    Variable("frame_shift", ("frame", "xy"), "f", "pixel", "Displacement that corrects each frame"),
    Variable("motion_coefficient", ("xy", "term", "power"), "f", "pixel", "Local motion: 1 u uu v vv uv by z zz zzz"),
    Variable("local_frame", ("patch",), "iu", "", "Frame of a locally measured shift, from 1"),
    Variable("local_position", ("patch", "xy"), "f", "pixel", "Where the shift was measured"),
    Variable("local_shift", ("patch", "xy"), "f", "pixel", "Shift measured beside the global one"),
    Variable("hot_pixel", ("hot", "xy"), "f", "pixel", "Positions of hot pixels"),
    Variable("dose_per_frame", ("movie",), "f", "electron/angstrom^2", "Exposure of one frame"),
    # maps and per-shell quantities ------------------------------------------------------------------------------------
    Variable("map", ("z", "y", "x"), "f", "", "Density map"),
    Variable("half_map", ("half_set", "z", "y", "x"), "f", "", "Unfiltered, unmasked half-maps 1 and 2"),
    Variable("class_map", ("class", "z", "y", "x"), "f", "", "Maps of classes"),
    Variable("mask", ("z", "y", "x"), "f", "", "Mask between 0 and 1"),
    Variable("map_sharpened", ("z", "y", "x"), "f", "", "Density map, FSC-weighted and sharpened"),
    Variable("fsc", ("shell",), "f", "", "Fourier shell correlation"),
    Variable("fsc_deviation", ("shell",), "f", "", "standard deviation of the FSC by chance"),
    Variable("fsc_curves", ("curve", "shell"), "f", "", "FSC by the mask of each curve"),
    Variable("resolution_143", ("curve",), "f", "angstrom", "Resolution at FSC 0.143; infinity: none"),
    Variable("resolution_50", ("curve",), "f", "angstrom", "Resolution at FSC 0.5; infinity: none"),
    Variable("log_amplitude", ("shell",), "f", "", "ln of the mean amplitude (orthonormal transform)"),
    Variable("log_amplitude_weighted", ("shell",), "f", "", "The same after MTF and FSC weighting"),
    Variable("log_amplitude_sharpened", ("shell",), "f", "", "The same after sharpening"),
    Variable("frequency", ("shell",), "f", "1/angstrom", "Spatial frequency of a shell"),
    Variable("sigma2", ("group_row", "shell"), "f", "", "Noise variance of one real component, orthonormal transform"),
    Variable("tau2", ("shell",), "f", "", "Prior variance of the reference"),
)  # fmt: skip

VARIABLES: Mapping[str, Variable] = MappingProxyType({v.name: v for v in _ALL})

# quantities a micrograph and its particles share; only the row dimension differs
_ROWS = {"particle", "micrograph", "movie"}


def describe(name: str) -> Variable:
    """The registered variable ``name``; raises ``SchemaError`` if there is none.

    >>> describe("defocus_u").units
    'angstrom'
    """
    try:
        return VARIABLES[name]
    except KeyError:
        raise SchemaError(
            "schema",
            expected="a registered variable",
            found=repr(name),
            remedy="See cryoflow.schema.VARIABLES; prefix private variables with 'x_'.",
        ) from None


def _dims_agree(expected: tuple[str, ...], found: tuple[object, ...]) -> bool:
    if expected == found:
        return True
    rest = len(expected) == len(found) and expected[1:] == found[1:]
    return rest and expected[0] in _ROWS and found[0] in _ROWS


def validate(ds: xr.Dataset, where: str = "dataset", *, required: Iterable[str] = ()) -> xr.Dataset:
    """Check every variable of ``ds`` against the registry and return it.

    Unregistered names are allowed only with the prefix ``x_`` (columns of foreign files are kept under it).
    Nothing is computed: only names, dims and dtypes are looked at.

    Raises
    ------
    SchemaError : a required variable is missing, a name is unknown, or dims or dtype kind differ.
    """
    require(ds, where, required)
    for name, array in ds.variables.items():
        key = str(name)
        if key.startswith("x_") or (key in ds.dims and array.ndim == 1):
            continue
        variable = describe(key)
        if not _dims_agree(variable.dims, array.dims):
            raise SchemaError(
                where,
                expected=f"{key!r} with dims {variable.dims}",
                found=f"dims {array.dims}",
                remedy=f"Re-import the source, or assign {key} as the schema describes: {variable.doc}.",
            )
        kind = np.dtype(array.dtype).kind
        text = kind in "UOT" and "U" in variable.kind
        if kind not in variable.kind and not text:
            raise SchemaError(
                where, expected=f"{key!r} of dtype kind {variable.kind!r}", found=f"dtype {array.dtype}",
                remedy=f"Cast it: ds[{key!r}] = ds[{key!r}].astype(...).",
            )  # fmt: skip
    return ds


def _listed(names: list[str], wanted: str, most: int = 8) -> str:
    """``names``; of many, how many and those like ``wanted``."""
    if len(names) <= most:
        return f"only {', '.join(names)}" if names else "no variables"
    like = difflib.get_close_matches(wanted, names)
    return f"{len(names)} others" + (f", among them {', '.join(like)}" if like else "")


def require(ds: xr.Dataset, where: str, names: Iterable[str]) -> None:
    """Raise ``SchemaError`` unless ``ds`` holds all ``names``."""
    missing = [n for n in names if n not in ds.variables]
    if missing:
        n = VARIABLES.get(missing[0])
        raise SchemaError(
            where,
            expected=f"variables {', '.join(map(repr, missing))}",
            found=_listed(sorted(map(str, ds.variables)), missing[0]),
            remedy=f"{missing[0]}: {n.doc}." if n else "",
        )
