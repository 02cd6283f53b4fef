"""What each operation of ``cryoflow table`` does with its words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryoflow.errors import ParameterError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["OPERATIONS", "Manner", "Operation", "open_table"]


@dataclass(frozen=True)
class Manner:
    """The options that hold for all operations of one command."""

    seed: int = 0
    score: str | None = None
    missing: str = "error"
    basename: bool = False
    defocus_hand: int = 0
    images: bool = False
    opening: dict[str, Any] = field(default_factory=dict)


def open_table(address: str, manner: Manner, format: str | None = None) -> xr.Dataset:
    """A table of any known format; with its images only where they are asked for."""
    import inspect

    from cryoflow.io.expression import row_dim
    from cryoflow.io.formats import detect, find_format, open_data
    from cryoflow.io.named import named

    entry = find_format(format) if format else detect(address)
    accepted: set[str] = set()
    if entry.read is not None:
        accepted = set(inspect.signature(named(entry.read)).parameters)
    wanted = {"images": manner.images, **{k: v for k, v in manner.opening.items() if v is not None and v is not False}}
    unfit = sorted(set(wanted) - accepted - {"images"})
    if unfit:
        raise ParameterError(
            f"table {address}", expected=f"options that {entry.title} has", found="--" + unfit[0].replace("_", "-")
        )
    ds = open_data(address, format=entry.name, **{k: v for k, v in wanted.items() if k in accepted})
    if not hasattr(ds, "data_vars"):
        raise ParameterError(f"table {address}", expected="a table of particles or micrographs", found=entry.title)
    row_dim(ds, f"table {address}")
    out: xr.Dataset = ds if manner.images or "image" not in ds else ds.drop_vars("image")
    return out


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ParameterError(what, expected="a number", found=repr(text)) from None


def _whole(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ParameterError(what, expected="a whole number", found=repr(text)) from None


def _vector(text: str, what: str) -> list[float]:
    parts = [_number(p, what) for p in text.split(",")]
    if len(parts) != 3:
        raise ParameterError(what, expected="three numbers such as 0,0,50", found=repr(text))
    return parts


def _words(text: str) -> list[str]:
    """Names with commas between them; commas in brackets belong to a formula."""
    return [w.strip() for w in re.split(r",(?![^(]*\))", text) if w.strip()]


def _tables() -> Any:
    from cryoflow import tables

    return tables


def _sort(ds: Any, _: Manner, keys: str) -> Any:
    return _tables().sort(ds, *_words(keys))


def _slice(ds: Any, _: Manner, text: str) -> Any:
    parts = text.split(":")
    if not 2 <= len(parts) <= 3:
        raise ParameterError("--slice", expected="START:STOP or START:STOP:STEP", found=repr(text))
    return _tables().slice_rows(ds, *(_whole(p, "--slice") if p else None for p in parts))


def _sample(ds: Any, how: Manner, text: str) -> Any:
    if text.endswith("%"):
        return _tables().sample(ds, fraction=_number(text[:-1], "--sample") / 100, seed=how.seed)
    if "." in text:
        return _tables().sample(ds, fraction=_number(text, "--sample"), seed=how.seed)
    return _tables().sample(ds, _whole(text, "--sample"), seed=how.seed)


def _join(ds: Any, how: Manner, address: str, key: str) -> Any:
    on, colon, columns = key.partition(":")
    return _tables().join(
        ds, open_table(address, how), on=on, columns=_words(columns) if colon else None, missing=how.missing,
        basename=how.basename,
    )  # fmt: skip


def _merge(ds: Any, how: Manner, address: str) -> Any:
    mixed = bool(how.opening.get("mixed_pixel_sizes"))
    return _tables().merge(ds, open_table(address, how), missing=how.missing, mixed_pixel_sizes=mixed)


def _renumber(ds: Any, _: Manner, what: str) -> Any:
    if what == "optics":
        return _tables().renumber_optics(ds)
    return _tables().renumber_groups(ds, "micrograph_name" if what == "groups" else what)


def _subparticles(ds: Any, how: Manner, group: str, text: str) -> Any:
    vectors = [_vector(part, "--subparticles") for part in text.split(";")]
    return _tables().subparticles(ds, vectors, group, defocus_hand=how.defocus_hand)


@dataclass(frozen=True)
class Operation:
    """The words that follow the option, its line of help, and what it does: ``run(table, manner, *words)``."""

    words: tuple[str, ...]
    help: str
    run: Callable[..., Any]


OPERATIONS: Mapping[str, Operation] = {
    "--query": Operation(("CONDITION",), "Keep the rows that fulfil a condition",
                         lambda ds, _, text: _tables().select(ds, text)),
    "--sort": Operation(("KEY,...",), "Sort; -KEY from the largest down", _sort),
    "--head": Operation(("N",), "Keep the first rows", lambda ds, _, n: _tables().head(ds, _whole(n, "--head"))),
    "--slice": Operation(("START:STOP[:STEP]",), "Keep rows by number, from 0", _slice),
    "--sample": Operation(("N",), "Draw rows at random: 1000, 0.1 or 10%", _sample),
    "--view": Operation(("X,Y,Z", "DEGREES"), "Keep views within an angle of a direction of the map",
                        lambda ds, _, direction, angle: _tables().select_views(
                            ds, _vector(direction, "--view"), _number(angle, "--view"))),
    "--dedupe": Operation(("DISTANCE",), "Remove rows nearer than this, angstrom, to a better one (--score)",
                          lambda ds, how, d: _tables().remove_duplicates(ds, _number(d, "--dedupe"), score=how.score)),
    "--join": Operation(("FILE", "KEY[:COLUMN,...]"), "Bring columns of another table, by equal keys", _join),
    "--merge": Operation(("FILE",), "Add the rows of another table", _merge),
    "--intersect": Operation(("FILE", "KEY"), "Keep the rows whose key is in another table",
                             lambda ds, how, address, key: _tables().intersect(
                                 ds, open_table(address, how), on=key, basename=how.basename)),
    "--difference": Operation(("FILE", "KEY"), "Keep the rows whose key is not in another table",
                              lambda ds, how, address, key: _tables().difference(
                                  ds, open_table(address, how), on=key, basename=how.basename)),
    "--set": Operation(("'COLUMN = FORMULA'",), "Compute a column", lambda ds, _, t: _tables().set_column(ds, t)),
    "--regex": Operation(("COLUMN", "PATTERN", "NEW"), "Edit a text column by a regular expression",
                         lambda ds, _, column, pattern, new: _tables().replace_text(ds, column, pattern, new)),
    "--rename": Operation(("OLD", "NEW"), "Rename a column", lambda ds, _, old, new: _tables().rename(ds, old, new)),
    "--drop": Operation(("COLUMN,...",), "Drop columns; x_* names several",
                        lambda ds, _, names: _tables().drop(ds, _words(names))),
    "--renumber": Operation(("WHAT",), "Optics groups (optics), or noise groups by micrograph (groups) or a column",
                            _renumber),
    "--halves": Operation(("random|COLUMN",), "New half-sets; rows of one value of COLUMN stay together",
                          lambda ds, how, by: _tables().assign_halves(
                              ds, seed=how.seed, by=None if by == "random" else by)),
    "--reset-poses": Operation((), "Forget poses and classes", lambda ds, _: _tables().reset_poses(ds)),
    "--recentre": Operation((), "Bring the shifts into the coordinates, to extract again",
                            lambda ds, _: _tables().recentre(ds)),
    "--move-centre": Operation(("X,Y,Z",), "Centre the particles on a point of the map, angstrom",
                               lambda ds, how, text: _tables().move_centre(
                                   ds, _vector(text, "--move-centre"), defocus_hand=how.defocus_hand)),
    "--expand": Operation(("GROUP",), "Symmetry expansion", lambda ds, _, group: _tables().expand_symmetry(ds, group)),
    "--subparticles": Operation(("GROUP", "X,Y,Z[;...]"), "A row for each copy of a part, angstrom from the centre",
                                _subparticles),
}  # fmt: skip
