"""The typed parameters of every stage: what a workflow file may say, and what the command line takes.

A field has the name, meaning and default of the parameter of the Python function it is handed to
(``tests/test_workflow.py`` compares them); the few that exist for files alone say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "Ctf", "Extract", "Micrographs", "Particles", "Pick", "Postprocess", "Refine", "Report", "Simulate",
    "Stage",
]  # fmt: skip

Positive = Annotated[float, Field(gt=0)]
Even = Annotated[int, Field(ge=16, multiple_of=2)]
PixelSize = Annotated[float, Field(ge=0.1, le=50, description="Pixel size, angstrom")]
Voltage = Annotated[float, Field(ge=40, le=1300, description="Acceleration voltage, kV")]
Cs = Annotated[float, Field(ge=0, le=20, description="Spherical aberration, mm")]
AmplitudeContrast = Annotated[float, Field(ge=0, lt=1, description="Amplitude contrast")]
Symmetry = Annotated[
    str,
    BeforeValidator(lambda given: given.upper() if isinstance(given, str) else given),
    Field(pattern=r"^([CD][1-9]\d*|T|O|I[1-4]?)$", description="Point group: Cn, Dn, T, O, I"),
]


class Stage(BaseModel):
    """Base of all parameters: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Micrographs(Stage):
    """Motion-corrected micrographs to start from."""

    path: str | tuple[str, ...] = Field(
        "micrographs/*.mrc", description="Files or a pattern of files, relative to the root"
    )
    pixel_size: PixelSize
    voltage: Voltage
    cs: Cs
    amplitude_contrast: AmplitudeContrast
    root: Path | None = Field(None, description="Folder the names of a STAR file are relative to; found if not given")
    trust_given: bool = Field(False, description="Take pixel_size even where the files' headers say otherwise")
    allow_outside: bool = Field(False, description="Accept names in a STAR file that lead out of its project")


class Particles(Stage):
    """A particle stack made elsewhere (particles.star and its .mrcs) to start from, at refinement."""

    path: Path = Field(description="STAR file of the particles")
    root: Path | None = Field(None, description="Folder the image names are relative to; found if not given")
    pixel_size: PixelSize | None = Field(None, description="Pixel size, angstrom; replaces the file's")
    voltage: Voltage | None = Field(None, description="Acceleration voltage, kV; replaces the file's")
    cs: Cs | None = Field(None, description="Spherical aberration, mm; replaces the file's")
    amplitude_contrast: AmplitudeContrast | None = Field(None, description="Amplitude contrast; replaces the file's")
    trust_given: bool = Field(False, description="Take pixel_size even where the stacks' headers say otherwise")
    allow_outside: bool = Field(False, description="Accept image names that lead out of the root")


class Simulate(Stage):
    """Micrographs of a known structure to start from; the truth is kept beside them."""

    source: Path | None = Field(None, description="Model (.pdb, .cif) or map (.mrc); a procedural protein if not given")
    n: int = Field(8, ge=1, description="Number of micrographs")
    shape: tuple[Annotated[int, Field(ge=64)], Annotated[int, Field(ge=64)]] = Field(
        (1024, 1024), description="Rows and columns of a micrograph"
    )
    pixel_size: PixelSize = 3.0
    particles_per_micrograph: int = Field(50, ge=1, description="Particles in each micrograph")
    symmetry: Symmetry = "C1"
    diameter: Positive | None = Field(None, description="Diameter, angstrom; 120 for the procedural protein")
    snr: Positive = Field(0.1, description="Variance of clean particle images over that of the noise")
    defocus: tuple[Positive, Positive] = Field((8000.0, 25000.0), description="Range of the mean defocus, angstrom")
    astigmatism: float = Field(400.0, ge=0, description="Largest difference of the two defoci, angstrom")
    voltage: Voltage = 300.0
    cs: Cs = 2.7
    amplitude_contrast: AmplitudeContrast = 0.1
    b_factor: float = Field(60.0, ge=0, description="B-factor of the envelope, angstrom^2")
    noise: Literal["coloured", "white"] = Field("coloured", description="Solvent noise")
    contaminants: float = Field(1.0, ge=0, description="Mean number of ice blobs in a micrograph")
    dose: Positive = Field(40.0, description="Electrons per square angstrom")
    dtype: Literal["float32", "uint16"] = Field("float32", description="Type of the pixels")
    seed: int = Field(0, ge=0, description="Seed of every random number")


class Ctf(Stage):
    """Defocus and astigmatism of each micrograph."""

    box: Even = Field(512, description="Box of the power spectrum, pixels")
    min_resolution: Positive = Field(30.0, description="Lowest resolution fitted, angstrom")
    max_resolution: Positive = Field(5.0, description="Highest resolution fitted, angstrom")
    min_defocus: Positive = Field(5000.0, description="Least underfocus searched, angstrom")
    max_defocus: Positive = Field(50000.0, description="Largest underfocus searched, angstrom")
    astigmatism_limit: Positive = Field(3000.0, description="Largest difference of the two defoci, angstrom")
    phase_shift: bool = Field(False, description="Fit the phase shift of a phase plate")

    @model_validator(mode="after")
    def _ordered(self) -> Ctf:
        if self.max_resolution >= self.min_resolution:
            raise ValueError("max_resolution must be finer (a smaller number) than min_resolution")
        if self.max_defocus <= self.min_defocus:
            raise ValueError("max_defocus must be above min_defocus")
        return self


class Pick(Stage):
    """Particle centres in each micrograph."""

    diameter: Positive = Field(description="Particle diameter, angstrom")
    min_diameter: Positive | None = Field(None, description="Smallest diameter of the LoG pass, angstrom")
    max_diameter: Positive | None = Field(None, description="Largest diameter of the LoG pass, angstrom")
    threshold: float | None = Field(None, description="Peaks below this many sigmas are dropped; found if not given")
    upper_threshold: float | None = Field(None, description="Peaks above this many sigmas are dropped")
    method: Literal["template", "log"] = Field(
        "template", description="log: Laplacian of Gaussian; template: a second pass with the average of the first"
    )
    min_distance: Positive | None = Field(None, description="Between centres, angstrom; 0.6 diameters if not given")
    contaminants: Positive | None = Field(5.0, description="Sigmas beyond which a region is a contaminant; null: none")
    contrast: Literal["dark", "bright"] | None = Field(
        None, description="Particles in the micrographs; dark if unknown"
    )


class Extract(Stage):
    """Particle images cut from the micrographs, normalised."""

    box: Even = Field(description="Box, pixels of the micrograph")
    rescale: Even | None = Field(None, description="Box after Fourier cropping, pixels")
    background_diameter: Positive | None = Field(None, description="Diameter outside which is background, angstrom")
    invert: bool | None = Field(None, description="Invert the contrast; decided from the micrographs if not given")
    normalise: bool = Field(True, description="Background to mean 0 and standard deviation 1")
    ramp: bool = Field(True, description="Fit a plane to the background, else the mean")
    white_dust: float = Field(-1.0, description="Remove pixels so many sigmas above the mean; negative: off")
    black_dust: float = Field(-1.0, description="Remove pixels so many sigmas below the mean; negative: off")
    edge: Literal["box", "particle", "keep"] = Field(
        "box", description="Drop particles whose box, or whose background circle, leaves the micrograph; or keep all"
    )

    @model_validator(mode="after")
    def _shrinks(self) -> Extract:
        if self.rescale is not None and self.rescale > self.box:
            raise ValueError("rescale must not exceed box")
        return self


class Refine(Stage):
    """Poses and the map, by gold-standard regularised likelihood."""

    reference: str | None = Field(
        None, description="Map (.mrc, .map) or model (.pdb, .cif) to start from, or pdb:ID or emdb:NUMBER near the data"
    )
    symmetry: Symmetry = "C1"
    diameter: Positive = Field(description="Diameter of the circular mask, angstrom")
    ini_high: Positive = Field(40.0, description="Low-pass filter of the reference, angstrom")
    mask: Path | None = Field(None, description="Mask of the solvent (.mrc), 0 to 1")
    classes: int = Field(1, ge=1, description="Number of classes")
    poses: Literal["global", "local", "fixed"] = Field(
        "global", description="Search all poses, near those given, or keep those given"
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice")
    order: int = Field(2, ge=0, le=6, description="HEALPix order of the first search; 2: 15 degrees, oversampled 7.5")
    local_order: int = Field(4, ge=1, le=8, description="HEALPix order from which searches are local")
    local_step: Positive = Field(3.75, description="Coarse step where poses=local starts, degrees")
    shift_range: Positive = Field(5.0, description="Range of shifts of the first search, pixels")
    shift_step: Positive = Field(2.0, description="Coarse step of shifts of the first search, pixels")
    join_halves_to: Positive = Field(40.0, description="Resolution to which the half-sets share a map, angstrom")
    solvent_fsc: bool = Field(True, description="Weigh by the solvent-corrected FSC")
    tau_fudge: Positive = Field(4.0, description="Strength of the prior where there are several classes")
    limit: int = Field(40, ge=1, description="Most iterations")
    max_significant: int = Field(500, ge=1, description="Coarse orientations a particle takes to the fine level")
    fraction: float = Field(0.999, gt=0.5, lt=1, description="Part of the posterior that is kept")
    padding: int = Field(2, ge=1, le=3, description="Padding of references")
    scale_correction: bool = Field(True, description="Correct the intensity of each group")
    norm_correction: bool = Field(True, description="Correct the intensity of each particle")

    @field_validator("reference", mode="before")
    @classmethod
    def _by_number(cls, value: object) -> object:
        """``{pdb: 6z6u}`` of a file is ``pdb:6z6u``, ``{emdb: 2660}`` is ``emdb:2660``."""
        if isinstance(value, Mapping) and len(value) == 1 and set(value) <= {"pdb", "emdb"}:
            ((archive, identifier),) = value.items()
            value = f"{archive}:{identifier}"
        if isinstance(value, str) and value.startswith("pdb:") and not re.fullmatch(r"pdb:[0-9][a-zA-Z0-9]{3}", value):
            raise ValueError(f"{value.removeprefix('pdb:')!r} is no PDB identifier")
        if isinstance(value, str) and value.startswith("emdb:") and not re.fullmatch(r"emdb:[1-9]\d{0,6}", value):
            raise ValueError(f"{value.removeprefix('emdb:')!r} is no EMDB number")
        return value


class Postprocess(Stage):
    """Mask, FSC curves, resolution and sharpening."""

    mask: Path | None = Field(None, description="Mask (.mrc), 0 to 1; made from the map if not given")
    mtf: Path | None = Field(None, description="STAR file of the detector's MTF")
    mtf_pixel_size: PixelSize | None = Field(None, description="The detector's pixel size, angstrom")
    b_factor: float | None = Field(None, description="Sharpening B-factor, angstrom^2; Guinier's fit if not given")
    fit_range: tuple[Positive, Positive | None] = Field(
        (10.0, None), description="Range of Guinier's fit, angstrom; none: to the resolution"
    )
    low_pass_to: float | None = Field(
        None, ge=0, description="Low-pass, angstrom; the resolution if not given; 0: none"
    )
    symmetry: Symmetry | None = Field(
        None, description="Point group of the halves, for the scatter of the FSC; that of the refinement if not given"
    )
    mask_low_pass: Positive = Field(15.0, description="Low-pass before the map is thresholded into a mask, angstrom")
    seed: int = Field(0, ge=0, description="Seed of the random phases")


class Report(Stage):
    """One self-contained HTML page about the run."""

    title: str = Field("", description="Title of the page")
