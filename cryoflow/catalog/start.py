"""What an entry gives a workflow: the image set it starts from, its optics, and the entry's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cryoflow.catalog.layout import image_set
from cryoflow.catalog.opening import OPTICS
from cryoflow.errors import ParameterError

if TYPE_CHECKING:
    from cryoflow.catalog.model import Entry, ImageSet

__all__ = ["split_name", "unsaid", "workflow_values"]

_MEANING = {
    "pixel_size": "pixel size, angstrom", "voltage": "acceleration voltage, kV", "cs": "spherical aberration, mm",
    "amplitude_contrast": "amplitude contrast, 0.07 to 0.1 for protein in ice", "dose": "exposure, electrons per A^2",
    "diameter": "diameter of the particle, angstrom", "symmetry": "point group",
}  # fmt: skip


def split_name(name: str) -> tuple[str, str | None]:
    """Entry and image set of ``ENTRY`` or ``ENTRY:IMAGESET``.

    >>> split_name("EMPIAR-10028:micrographs"), split_name("demo")
    (('EMPIAR-10028', 'micrographs'), ('demo', None))
    """
    entry, colon, imageset = name.partition(":")
    return entry, imageset if colon else None


def unsaid(entry: Entry, imageset: str | None = None) -> dict[str, str]:
    """Facts of an image set and the specimen that the entry does not say, with what they mean.

    >>> from cryoflow.catalog import read_entry
    >>> list(unsaid(read_entry("EMPIAR-10288")))
    ['cs', 'amplitude_contrast', 'dose', 'diameter']
    """
    name = imageset or entry.start
    if name is None:
        return {}
    chosen = image_set(entry, name)
    facts = {k: getattr(chosen, k) for k in (*OPTICS, "dose")}
    facts |= {"diameter": entry.specimen.diameter, "symmetry": entry.specimen.symmetry}
    return {k: _MEANING[k] for k, v in facts.items() if v is None}


def workflow_values(entry: Entry, imageset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a workflow that an entry says, below those ``given``; nested mappings.

    An entry without defaults of its own (one read from the archive) gets them from the particle's diameter and
    symmetry: a box of 1.5 diameters, a mask of 1.2, the published map as reference.

    Raises
    ------
    ParameterError : the image set holds movies or tilt series, which no workflow starts from and no micrographs were
        given in their place; or facts that neither the entry nor ``given`` says: each by name with its option.
    """
    values = dict(entry.workflow)
    name = imageset or entry.start
    if name is None or _has_path(given, "particles"):  # simulated, or a stack of the reader's own
        return values
    chosen = image_set(entry, name)
    optics = {k: v for k in OPTICS if (v := getattr(chosen, k)) is not None}
    if _has_path(given, "micrographs"):
        values["micrographs"] = optics
    elif chosen.kind == "micrographs":
        values["micrographs"] = {"path": chosen.pattern, **optics}
    elif chosen.kind == "particles" and chosen.metadata is not None:
        values = {k: v for k, v in values.items() if k not in {"ctf", "pick", "extract"}}
        values["particles"] = {"path": chosen.metadata}
        if chosen.pixel_size is not None:
            values["particles"]["pixel_size"] = chosen.pixel_size
    else:
        raise _unsupported(entry, name, chosen)
    if not entry.workflow:
        _derive(values, entry, chosen, given)
    _ask(entry, values, given)
    return values


def _has_path(given: Mapping[str, Any], source: str) -> bool:
    stage = given.get(source)
    return isinstance(stage, Mapping) and stage.get("path") is not None


def _unsupported(entry: Entry, name: str, chosen: ImageSet) -> ParameterError:
    count = f"{chosen.count} " if chosen.count else ""
    other = [n for n, s in entry.imagesets.items() if s.kind == "micrographs" or (s.kind == "particles" and s.metadata)]
    use = f"Take another of its image sets: {', '.join(f'{entry.entry}:{n}' for n in other)}. " if other else ""
    remedies = {
        "movies": "Motion correction is not part of cryoflow yet: align them elsewhere and give the micrographs with "
        "--set micrographs.path=PATTERN.",
        "tilt-series": "Tomography is not part of cryoflow.",
        "particles": "Give the table that names their stacks with --set particles.path=FILE.",
    }
    return ParameterError(
        f"catalog entry {entry.entry}, image set {name}",
        expected="averaged micrographs, or particles with a table",
        found=f"{count}{chosen.kind}" + ("" if chosen.kind != "particles" else " without a table"),
        remedy=use + remedies.get(chosen.kind, "Give what to start from with --set micrographs.path=PATTERN."),
    )


def _derive(values: dict[str, Any], entry: Entry, chosen: ImageSet, given: Mapping[str, Any]) -> None:
    """Defaults from diameter and symmetry, where the reader has given no other."""
    diameter = _said(given, "pick.diameter") or _said(given, "refine.diameter") or entry.specimen.diameter
    pixel = _said(given, "micrographs.pixel_size") or chosen.pixel_size
    symmetry = _said(given, "refine.symmetry") or entry.specimen.symmetry
    refine: dict[str, Any] = {"ini_high": 40.0}
    if entry.specimen.reference is not None:
        known = entry.specimen.reference
        refine["reference"] = {"emdb": known.emdb} if known.emdb is not None else {"pdb": known.pdb}
    if symmetry is not None:
        refine["symmetry"] = symmetry
    if isinstance(diameter, int | float):
        refine["diameter"] = round(1.2 * diameter, 1)
        if "micrographs" in values:
            values["pick"] = {"diameter": float(diameter)}
            if isinstance(pixel, int | float):
                values["extract"] = {"box": 16 * math.ceil(1.5 * diameter / pixel / 16), "edge": "particle"}
    values["refine"] = refine


def _said(values: Mapping[str, Any], name: str) -> Any:
    """The value at a dotted name, or None."""
    here: Any = values
    for part in name.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    return here


def _ask(entry: Entry, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Name every fact that a run would need and nobody has said, with the option that gives it."""
    needed = {f"micrographs.{k}": _MEANING[k] for k in OPTICS} if "micrographs" in values else {}
    if not entry.workflow:
        needed["pick.diameter" if "micrographs" in values else "refine.diameter"] = _MEANING["diameter"]
        needed["refine.symmetry"] = _MEANING["symmetry"]
        needed["refine.reference"] = "a map (.mrc), a model (.pdb, .cif), pdb:ID or emdb:NUMBER to start from"
    missing = {k: v for k, v in needed.items() if _said(given, k) is None and _said(values, k) is None}
    if missing:
        raise ParameterError(
            f"catalog entry {entry.entry}",
            expected="facts that the entry does not say: " + ", ".join(f"{k} ({v})" for k, v in missing.items()),
            found="none",
            remedy="Give them: " + " ".join(f"--set {k}=VALUE" for k in missing) + ".",
        )
