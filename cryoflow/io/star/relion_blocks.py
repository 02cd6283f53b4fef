"""The blocks of RELION's files of rows: optics in every row (RELION 2 and 3.0) or in a table of their own (3.1 to 5).

What a file holds beside its rows and optics (other blocks, comments, RELION's version, the name of the block, the order
of the columns) goes with the tables as ``attrs["star_file"]`` and returns on export.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.star.star import parse_star
from cryoflow.io.star.starwrite import star_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMS", "block_text", "join_blocks", "split_optics"]

FORMS = ("3.1", "3.0", "source")
# what RELION 3.0 wrote in every row and 3.1 in the table of optics groups
_OPTICS_30 = (
    "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize",
    "rlnPixelSize", "rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike", "rlnMagMat00", "rlnMagMat01",
    "rlnMagMat10", "rlnMagMat11", "rlnImagePixelSize", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize",
    "rlnOpticsGroupName", "rlnMtfFileName",
)  # fmt: skip
# of the optics table alone: RELION 3.0 does not know them
_OPTICS_31 = (
    "rlnOpticsGroup", "rlnOpticsGroupName", "rlnImageSize", "rlnImageDimensionality", "rlnImagePixelSize",
    "rlnPixelSize", "rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize", "rlnMtfFileName",
    "rlnCtfDataAreCtfPremultiplied",
)  # fmt: skip
_ROWS = ("rlnImageName", "rlnMicrographName", "rlnMicrographMovieName")


def split_optics(blocks: Mapping[str, pd.DataFrame], block: str, where: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and optics groups of a file of RELION 3.0 (groups are made from equal optics) or 3.1 and later.

    Raises
    ------
    FormatError : no table of rows, no rows, an optics group twice, or rows of an optics group that is not there.
    """
    name = block if block in blocks and "optics" in blocks else _block_of_rows(blocks, where, block)
    source = {
        "form": "3.1" if "optics" in blocks else "3.0",
        "block": name,
        "version": int(blocks[name].attrs.get("version", 0)),
        "comments": list(next(iter(blocks.values())).attrs.get("comments", ())),
        "columns": [str(label) for label in blocks[name].columns],
        "blocks": [[n, "" if n in (name, "optics") else block_text(n, b)] for n, b in blocks.items()],
    }
    rows = blocks[name].copy(deep=False)
    if "optics" in blocks:
        optics = blocks["optics"].copy()
        _check_groups(rows, optics, name, where)
    else:
        rows, optics = _optics_of_rows(rows)
    if len(rows) == 0:
        raise FormatError(where, expected="at least one row", found="none", remedy="The selection is empty.")
    rows, optics = rows.reset_index(drop=True), optics.reset_index(drop=True)
    rows.attrs, optics.attrs = {"star_file": source}, {}
    return rows, optics


def _block_of_rows(blocks: Mapping[str, pd.DataFrame], where: str, block: str) -> str:
    for label in _ROWS:
        for name, table in blocks.items():
            if label in table and name != "optics" and not table.attrs.get("list"):
                return name
    wanted = f"a block data_{block}" if "optics" in blocks else "a table with _rlnImageName or _rlnMicrographName"
    raise FormatError(where, expected=wanted, found=f"blocks {', '.join(map(repr, list(blocks)[:20]))}")


def block_text(name: str, table: pd.DataFrame) -> str:
    """A block as STAR text that gives back the same values (``parse_star``), to be kept in attributes."""
    exact = table.copy(deep=False)
    exact.attrs = {**table.attrs, "exact": True}
    return b"".join(star_bytes({name: exact}, name)).decode("utf-8", "surrogateescape")


def _check_groups(rows: pd.DataFrame, optics: pd.DataFrame, block: str, where: str) -> None:
    if "rlnOpticsGroup" not in optics:
        raise FormatError(f"{where}, block data_optics", expected="_rlnOpticsGroup", found="no such label")
    twice = np.flatnonzero(optics.rlnOpticsGroup.duplicated().to_numpy())
    if len(twice) or len(optics) == 0:
        raise FormatError(
            f"{where}, block data_optics" + (f", row {twice[0] + 1}" if len(twice) else ""),
            expected="distinct optics groups",
            found=f"group {optics.rlnOpticsGroup.iloc[twice[0]]} twice" if len(twice) else "none",
        )  # fmt: skip
    if "rlnOpticsGroup" not in rows:
        if len(optics) > 1:
            raise FormatError(f"{where}, block data_{block}", expected="_rlnOpticsGroup", found="no such label")
        rows["rlnOpticsGroup"] = optics.rlnOpticsGroup.iloc[0]
    unknown = np.flatnonzero(~rows.rlnOpticsGroup.isin(optics.rlnOpticsGroup).to_numpy())
    if len(unknown):
        raise FormatError(
            f"{where}, row {unknown[0] + 1}", expected=f"an optics group of {optics.rlnOpticsGroup.tolist()[:50]}",
            found=f"{rows.rlnOpticsGroup.iloc[unknown[0]]}", remedy="Add the group to data_optics.",
        )  # fmt: skip


def _optics_of_rows(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Optics groups of rows with equal optics; groups that the rows name stay apart and keep their numbers."""
    import pandas as pd

    labels = [label for label in _OPTICS_30 if label in rows]
    keys = labels + ["rlnOpticsGroup"] * ("rlnOpticsGroup" in rows)
    varying = [label for label in keys if len(rows) and (rows[label] != rows[label].iloc[0]).any()]
    number = np.zeros(len(rows), np.int64)
    for label in varying:  # in the order of their first rows
        code, distinct = pd.factorize(rows[label].to_numpy(), use_na_sentinel=False)
        number = pd.factorize(number * len(distinct) + code)[0].astype(np.int64)
    first = np.sort(np.unique(number, return_index=True)[1])
    groups = len(first)
    optics = rows.iloc[first][labels].reset_index(drop=True) if labels else pd.DataFrame(index=range(groups))
    named = rows.rlnOpticsGroup.iloc[first].to_numpy() if "rlnOpticsGroup" in rows else None
    if named is not None and named.dtype.kind in "iu" and len(np.unique(named)) == groups:
        optics["rlnOpticsGroup"] = named
    else:
        rows["rlnOpticsGroup"] = number + 1
        optics["rlnOpticsGroup"] = np.arange(1, groups + 1)
    if "rlnOpticsGroupName" not in optics:
        optics["rlnOpticsGroupName"] = [f"opticsGroup{i}" for i in optics.rlnOpticsGroup]
    return rows.drop(columns=labels), optics


def join_blocks(
    rows: pd.DataFrame, optics: pd.DataFrame, source: Mapping[str, Any], *, block: str, form: str, where: str
) -> dict[str, pd.DataFrame]:
    """The blocks to write: the tables in ``form`` "3.1" or "3.0" (or that of the source), foreign blocks in place.

    Raises
    ------
    ParameterError : another form.
    """
    if form not in FORMS:
        raise ParameterError(where, expected=f"version of {', '.join(FORMS)}", found=repr(form))
    form = str(source.get("form", "3.1")) if form == "source" else form
    same = form == source.get("form")
    name = str(source.get("block", block)) if same else block if form == "3.1" else "images"
    ours: dict[str, pd.DataFrame]
    if form == "3.1":
        version = max(30001, int(source.get("version", 0))) if same else 30001
        optics.attrs["version"] = rows.attrs["version"] = version
        ours = {"optics": optics, name: rows}
    else:
        ours = {name: _rows_30(rows, optics, [str(c) for c in source.get("columns", ())])}
    out: dict[str, pd.DataFrame] = {}
    for other, content in source.get("blocks", ()):
        if not content and other == source.get("block") and not same:
            out |= ours  # the same rows in another form
        elif not content and other in ours:
            out[other] = ours[other]
        elif content and other not in ours:
            foreign = parse_star(content.encode("utf-8", "surrogateescape"), where)
            for table in foreign.values():
                table.attrs["exact"] = True
            out |= foreign
    out |= {n: table for n, table in ours.items() if n not in out}
    next(iter(out.values())).attrs["comments"] = list(source.get("comments", ()))
    return out


def _rows_30(rows: pd.DataFrame, optics: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """One table for RELION 3.0: origins in pixels, optics in every row, pixel size by magnification and detector."""
    table = rows.copy(deep=False)
    number = optics.rlnOpticsGroup.to_numpy()
    place = np.argsort(number)
    row = place[np.searchsorted(number, rows.rlnOpticsGroup.to_numpy(), sorter=place)]
    if "rlnImagePixelSize" in optics:
        pixel = optics.rlnImagePixelSize.to_numpy()[row]
        renamed = {f"rlnOrigin{axis}Angst": f"rlnOrigin{axis}" for axis in "XY"}
        for origin in renamed.keys() & set(table.columns):
            table[origin] = table[origin].to_numpy() / pixel
        table = table.rename(columns=renamed)
        if "rlnPixelSize" in order:
            table["rlnPixelSize"] = pixel
        elif "rlnDetectorPixelSize" not in optics and "rlnImagePixelSize" not in order:
            table["rlnMagnification"], table["rlnDetectorPixelSize"] = 1e4, pixel
    for label in optics:
        if (label not in _OPTICS_31 or label in order) and label not in table:
            table[label] = optics[label].to_numpy()[row]
    if "rlnOpticsGroup" not in order:
        table = table.drop(columns="rlnOpticsGroup")
    first = [label for label in order if label in table]
    table = table[[*first, *(label for label in table if label not in set(first))]]
    table.attrs = {**rows.attrs, "version": 0}
    table.attrs["exact"] = [*rows.attrs.get("exact", ()), *(str(label) for label in optics), "rlnOriginX", "rlnOriginY"]
    return table
