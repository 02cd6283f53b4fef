"""What an entry of the catalog says: every field typed, with its unit; an unknown key is refused with the nearest one.

``null`` means that nobody who wrote the entry could verify the value. It is never filled in by a guess: what a run
needs and the entry does not say is asked for by name (``missing_facts``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cryoflow.errors import FormatError, kind_of

__all__ = ["Entry", "ImageSet", "Kind", "Reference", "Specimen", "parse_entry"]

Kind = Literal["micrographs", "movies", "particles", "tilt-series", "other"]
Positive = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    """Base: unknown keys are errors, nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImageSet(_Part):
    """One set of images of an entry."""

    kind: Kind = Field(description="What its files hold")
    title: str = Field("", description="Its name in the archive")
    directory: str = Field("", description="Folder below the archive's data folder")
    files: str = Field(description="Pattern of file names in the directory; may name folders")
    metadata: str | None = Field(None, description="Particle table (.star, .cs), below the data folder")
    format: str = Field("mrc", description="Format of the files")
    archived: bool = Field(True, description="Whether the archive has it; else it is only ever local")
    count: int | None = Field(None, ge=1, description="Micrographs, movies or particles in the archive")
    frames: int | None = Field(None, ge=1, description="Frames of a movie")
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="Rows and columns of an image, pixels"
    )
    pixel_size: Positive | None = Field(None, description="angstrom")
    voltage: Positive | None = Field(None, description="kV")
    cs: Annotated[float, Field(ge=0)] | None = Field(None, description="Spherical aberration, mm")
    amplitude_contrast: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="a fraction")
    dose: Positive | None = Field(None, description="Whole exposure, electrons per square angstrom")
    note: str = Field("", description="What a reader should know")

    @field_validator("directory", "files", "metadata")
    @classmethod
    def _below(cls, name: str | None) -> str | None:
        """Names stay below the data folder."""
        if name and (name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/")):
            raise ValueError(f"{name!r} is no name below the data folder")
        return name.strip("/") if name else name

    @property
    def pattern(self) -> str:
        """Directory and file pattern, below the data folder."""
        return f"{self.directory}/{self.files}" if self.directory else self.files


class Reference(_Part):
    """The published map and model."""

    emdb: int | None = Field(None, ge=1, description="Number in the EMDB")
    pdb: str | None = Field(None, pattern=r"^[0-9][a-zA-Z0-9]{3}$", description="Identifier in the PDB")


class Specimen(_Part):
    """What was imaged."""

    symmetry: str | None = Field(None, pattern=r"^([CD][1-9]\d*|T|O|I[1-4]?)$", description="Point group")
    diameter: Positive | None = Field(None, description="Largest diameter of the particle, angstrom")
    published_resolution: Positive | None = Field(None, description="angstrom, FSC 0.143 unless noted")
    reference: Reference | None = Field(None, description="The published map and model")


class Entry(_Part):
    """One data set."""

    entry: str = Field(description="Its name; the file is called the same")
    title: str
    licence: str = Field(description="SPDX identifier")
    source: str = Field(description="Where it is described")
    citation: str
    number: int | None = Field(None, ge=10000, le=99999, description="Number in EMPIAR")
    address: str | None = Field(None, description="Data folder, where it is not EMPIAR's")
    imagesets: dict[str, ImageSet]
    specimen: Specimen
    start: str | None = Field(None, description="Image set the workflow starts from; none: from a simulation")
    workflow: dict[str, Any] = Field(description="Defaults of a workflow on this entry")
    verified: dict[str, str] = Field(description="Which fields come from where")

    @field_validator("workflow")
    @classmethod
    def _no_source(cls, workflow: dict[str, Any]) -> dict[str, Any]:
        if twice := {"micrographs", "particles"} & set(workflow):
            raise ValueError(f"{', '.join(twice)} comes from the image set that 'start' names")
        return workflow

    @model_validator(mode="after")
    def _start_exists(self) -> Entry:
        if self.start is not None and self.start not in self.imagesets:
            raise ValueError(f"start {self.start!r} is none of the image sets {', '.join(self.imagesets) or '(none)'}")
        if self.start is None and "simulate" not in self.workflow:
            raise ValueError("start must name an image set where the workflow does not simulate")
        return self


def parse_entry(values: object, where: str) -> Entry:
    """The entry that a mapping says.

    Raises
    ------
    FormatError : an unknown or missing key or a bad value; where it stands, and the nearest key.

    Examples
    --------
    >>> parse_entry({"titel": "x"}, "x.yaml")
    Traceback (most recent call last):
    cryoflow.errors.FormatError: x.yaml, titel: ... found the unknown key 'titel' (8 more). Did you mean title?
    """
    if not isinstance(values, Mapping):
        raise FormatError(where, expected="a mapping", found=kind_of(values))
    try:
        return Entry.model_validate(dict(values))
    except ValidationError as error:
        raise _format_error(error, where) from None


_MODELS: dict[str, type[BaseModel]] = {"imagesets": ImageSet, "specimen": Specimen, "reference": Reference}


def _format_error(error: ValidationError, where: str) -> FormatError:
    """Pydantic's first complaint, unknown keys before missing ones: a typing error is usually both."""
    complaints = sorted(error.errors(include_url=False), key=lambda c: c["type"] != "extra_forbidden")
    first = complaints[0]
    place = f"{where}, {'.'.join(map(str, first['loc']))}" if first["loc"] else where
    others = f" ({len(complaints) - 1} more)" if len(complaints) > 1 else ""
    if first["type"] == "extra_forbidden":
        model = next((_MODELS[str(k)] for k in reversed(first["loc"][:-1]) if str(k) in _MODELS), Entry)
        known, key = list(model.model_fields), str(first["loc"][-1])
        near = get_close_matches(key, known, n=1)
        return FormatError(
            place, expected=f"one of {', '.join(known)}", found=f"the unknown key {key!r}{others}",
            remedy=f"Did you mean {near[0]}?" if near else "",
        )  # fmt: skip
    if first["type"] == "missing":
        return FormatError(place, expected="a value (null if it is not known)", found=f"none{others}")
    message = re.sub(r"^(Value error, |Input should be )", "", first["msg"])
    return FormatError(place, expected=message, found=f"{first['input']!r}{others}"[:200])
