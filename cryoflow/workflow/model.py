"""The workflow: one source, then stages in the order of a run; read from YAML, a catalog entry or a particle stack.

.. code-block:: yaml

    entry: EMPIAR-10146        # optional: a catalog entry's values lie below those given here
    refine: {symmetry: O}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from cryoflow.catalog import archive_number, entry_names, read_entry
from cryoflow.catalog.start import split_name, workflow_values
from cryoflow.errors import FormatError, ParameterError, kind_of
from cryoflow.workflow import parameters as p

__all__ = ["Workflow", "checked", "load_workflow", "parse_settings", "to_yaml"]

AnyStage = TypeVar("AnyStage", bound=p.Stage)
SOURCES = ("micrographs", "particles", "simulate")
PICTURES = ("ctf", "pick", "extract")  # stages that need micrographs


class Workflow(p.Stage):
    """A complete, checked workflow: it may stop after any stage, but leave none out in between.

    Examples
    --------
    >>> optics = {"pixel_size": 1.5, "voltage": 300, "cs": 2.7, "amplitude_contrast": 0.1}
    >>> w = Workflow.model_validate({"micrographs": optics, "pick": {"diameter": 130}, "extract": {"box": 128},
    ...                              "refine": {"diameter": 130, "reference": "map.mrc"}})
    >>> w.stages
    ('micrographs', 'ctf', 'pick', 'extract', 'refine', 'postprocess', 'report')
    """

    version: Literal[1] = Field(1, description="Version of this form of file")
    name: str = Field("", description="Name of the run")
    entry: str | None = Field(
        None, description="Catalog entry, or ENTRY:IMAGESET, whose values lie below those given here"
    )
    micrographs: p.Micrographs | None = None
    particles: p.Particles | None = None
    simulate: p.Simulate | None = None
    ctf: p.Ctf | None = None
    pick: p.Pick | None = None
    extract: p.Extract | None = None
    refine: p.Refine | None = None
    postprocess: p.Postprocess = p.Postprocess()
    report: p.Report = p.Report()

    @model_validator(mode="after")
    def _one_source(self) -> Workflow:
        given = [s for s in SOURCES if getattr(self, s) is not None]
        if len(given) != 1:
            raise ValueError(f"one source among {', '.join(SOURCES)} must be given, not {len(given)}: {given}")
        if given == ["particles"]:
            extra = [s for s in PICTURES if getattr(self, s) is not None]
            if self.refine is None:
                raise ValueError(
                    "no stage refine, which particles need: give refine.reference and refine.diameter, for example "
                    "with --set refine.diameter=150"
                )
            if extra:
                raise ValueError(f"a workflow from particles enters at refinement; {', '.join(extra)} cannot run")
        else:
            chain = [s for s in ("pick", "extract", "refine") if getattr(self, s) is not None]
            missing = [s for s in ("pick", "extract", "refine")[: len(chain)] if s not in chain]
            if missing:
                raise ValueError(f"the stage {chain[-1]} needs {', '.join(missing)} before it")
            if self.ctf is None:
                object.__setattr__(self, "ctf", p.Ctf())
        return self

    @model_validator(mode="after")
    def _lengths_agree(self) -> Workflow:
        """The box must hold the particle; the reference must be coarser than the images."""
        source = self.micrographs or self.simulate
        if source is None or self.extract is None or self.refine is None:
            return self
        width = self.extract.box * source.pixel_size
        if width < self.refine.diameter:
            raise ValueError(
                f"extract.box of {self.extract.box} pixels of {source.pixel_size} A is {width:g} A wide, "
                f"narrower than refine.diameter of {self.refine.diameter:g} A"
            )
        pixel = width / (self.extract.rescale or self.extract.box)
        if self.refine.ini_high < 2 * pixel:
            raise ValueError(f"refine.ini_high of {self.refine.ini_high:g} A is beyond Nyquist ({2 * pixel:g} A)")
        if self.pick is not None and self.pick.diameter < 4 * source.pixel_size:
            raise ValueError(f"pick.diameter of {self.pick.diameter:g} A is under 4 pixels of {source.pixel_size:g} A")
        return self

    @property
    def source(self) -> str:
        """The stage the workflow starts from."""
        return next(s for s in SOURCES if getattr(self, s) is not None)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in the order they run."""
        first = {"simulate": ("simulate", "micrographs"), "micrographs": ("micrographs",), "particles": ("particles",)}
        given = tuple(s for s in (*PICTURES, "refine") if getattr(self, s) is not None)
        last = ("postprocess",) if self.refine is not None and self.refine.classes == 1 else ()
        return (*first[self.source], *given, *last, "report")


def load_workflow(
    source: str | Path | Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
    catalog: Path | None = None,
) -> Workflow:
    """A checked workflow from a YAML file, a particles STAR file, a catalog entry's name, or a mapping.

    Parameters
    ----------
    source : what to run.
    settings : values laid over it, as nested mappings (``{"refine": {"symmetry": "O"}}``).
    catalog : folder of entries; cryoflow's own if not given.

    Raises
    ------
    ParameterError : an unknown key or a bad value; where it stands, what was expected and found.

    >>> load_workflow("EMPIAR-10146").refine.symmetry
    'O'
    """
    values, where = _raw(source, catalog)
    entry = (settings or {}).get("entry", values.get("entry"))
    if isinstance(entry, str):
        values = _merge(_entry_values(entry, catalog, _merge(values, settings or {})), values)
    values = _merge(values, settings or {})
    return checked(Workflow, values, where)


def checked(model: type[AnyStage], values: Mapping[str, Any], where: str) -> AnyStage:
    """The values as a model; ``ParameterError`` instead of pydantic's own."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _parameter_error(error, where) from None


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Nested mapping of ``stage.name=value`` settings; values are read as YAML.

    >>> parse_settings(["refine.symmetry=O", "extract.box=128"])
    {'refine': {'symmetry': 'O'}, 'extract': {'box': 128}}
    """
    result: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ParameterError("--set", expected="stage.name=value", found=repr(setting))
        try:
            # a pattern such as *.mrc is text, though YAML would take it for an alias
            inner: Any = value if value.startswith("*") else yaml.safe_load(value) if value.strip() else None
        except yaml.YAMLError:
            raise ParameterError("--set", expected="a value in YAML", found=repr(setting)) from None
        for part in reversed(parts):
            inner = {part: inner}
        result = _merge(result, inner)
    return result


def to_yaml(workflow: Workflow) -> str:
    """The workflow as a YAML file, every value written out but those that were neither given nor have a default."""
    values: dict[str, Any] = {}
    for name, value in workflow:
        if isinstance(value, p.Stage):
            fields = type(value).model_fields
            dumped = value.model_dump(mode="json")
            values[name] = {k: v for k, v in dumped.items() if v is not None or fields[k].default is not None}
        elif value is not None:
            values[name] = value
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))


def _raw(source: str | Path | Mapping[str, Any], catalog: Path | None) -> tuple[dict[str, Any], str]:
    """The values a source gives, and how to name it in errors."""
    if isinstance(source, Mapping):
        return dict(source), "workflow"
    path = Path(source)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ParameterError("workflow", expected="an existing file", found=str(path))
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise FormatError(str(path), expected="a YAML file", found=" ".join(str(error).split())) from None
        if not isinstance(values, dict):
            raise FormatError(str(path), expected="a mapping of stages", found=kind_of(values))
        return values, str(path)
    if path.suffix == ".star":
        return {"name": path.stem, "particles": {"path": str(path)}}, str(path)
    if path.is_file():
        raise ParameterError(
            "workflow", expected="a workflow (.yaml) or particles (.star)", found=str(path),
            remedy=f"If it holds particles of another program: cryoflow convert {path} {path.stem}.star",
        )  # fmt: skip
    names = entry_names(catalog)
    name, imageset = split_name(str(source))
    if name not in names and archive_number(name) is None:
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        raise ParameterError(
            "workflow",
            expected=f"a workflow (.yaml), particles (.star), an EMPIAR number or a catalog entry ({', '.join(names)})",
            found=repr(str(source)),
            remedy=f"Did you mean {near[0]}?" if near else "See `cryoflow catalog list`.",
        )
    known = name if name in names else f"EMPIAR-{archive_number(name)}"
    entry = known if imageset is None else f"{known}:{imageset}"
    return {"name": entry, "entry": entry}, f"catalog entry {entry}"


def _entry_values(name: str, catalog: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a catalog entry says, as values of a workflow."""
    entry, imageset = split_name(name)
    values = workflow_values(read_entry(entry, catalog), imageset, given)
    if isinstance(given.get("particles"), Mapping) and given["particles"].get("path") is not None:
        # the stack is the source; only what concerns refinement stays
        return {k: v for k, v in values.items() if k not in (*SOURCES, *PICTURES)}
    return values


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        mergeable = isinstance(value, Mapping) and isinstance(under, Mapping) and key != "reference"
        result[key] = _merge(under, value) if mergeable else value  # type: ignore[arg-type]
    return result


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """The keys a workflow may have at the place of an unknown one."""
    model: type[BaseModel] = Workflow
    for key in location[:-1]:
        field = model.model_fields.get(str(key))
        stage = getattr(p, str(key).capitalize(), None)
        if field is None or stage is None:
            return []
        model = stage
    return list(model.model_fields)


def _parameter_error(error: ValidationError, where: str) -> ParameterError:
    """Pydantic's first complaint in the form of this project; the number of others is told."""
    complaints = error.errors(include_url=False)
    first = complaints[0]
    location = ".".join(str(part) for part in first["loc"])
    place = f"{where}, {location}" if location else where
    others = f" ({len(complaints) - 1} more)" if len(complaints) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"])
        near = get_close_matches(str(first["loc"][-1]), known, n=1)
        return ParameterError(
            place,
            expected=f"one of {', '.join(known)}" if known else "no such key",
            found=f"the unknown key {str(first['loc'][-1])!r}{others}",
            remedy=f"Did you mean {near[0]}?" if near else "",
        )
    if first["type"] == "missing":
        return ParameterError(
            place, expected="a value", found=f"none{others}", remedy=f"Give it in the file, or --set {location}=VALUE."
        )
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return ParameterError(place, expected="values that agree", found=f"{message}{others}")
    if first["type"] == "string_pattern_mismatch" and "[CD]" in message:
        message = "a point group: Cn, Dn, T, O or I (I1 to I4)"
    message = message[0].lower() + message[1:]
    message = message.replace("a valid number, unable to parse string as a number", "a number")
    return ParameterError(place, expected=message.removeprefix("input should be "), found=f"{first['input']!r}{others}")
