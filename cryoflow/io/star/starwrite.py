"""Writing STAR files: blocks, quotes and rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoflow.errors import FormatError
from cryoflow.io.files import atomic

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_text", "star_bytes", "write_star"]

VERSION = 30001  # what RELION 3.1 writes above each block, and all later ones read
# text that must be quoted: empty, with blanks, or starting like something else of the format
_QUOTED = re.compile(r"\s|^[\"'#_;]|^data_|^loop_|^$")
# labels whose values are text even where they look like numbers ("0001" is a name)
_TEXT = re.compile(r"Name|ReferenceImage|CtfImage|Zernike|Reason$")


def is_text(label: str) -> bool:
    """Whether values of ``label`` are text whatever they look like.

    >>> is_text("rlnMicrographName"), is_text("rlnDefocusU")
    (True, False)
    """
    return _TEXT.search(label) is not None


def write_star(path: str | Path, blocks: Mapping[str, pd.DataFrame | Mapping[str, Any]]) -> None:
    """Write ``blocks`` (name to table, or name to label-value mapping for a simple list), whole or not at all.

    Real numbers in tables are written as RELION does: six decimals, or scientific below 1e-3 and beyond 1e9; those of
    lists, and of columns named in a table's ``attrs["exact"]`` (true: all), with as many digits as give the same number
    back. Text of several lines stands between lines with ``;``, which RELION does not read. ``attrs["comments"]`` and
    ``attrs["version"]`` of a table are written above its block.

    Raises
    ------
    FormatError : text that STAR cannot hold, such as a name with a line break; the label is named.
    ResourceError : the disk is full; the old file, if any, is as it was.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> star = pathlib.Path(tempfile.mkdtemp()) / "a.star"
    >>> write_star(star, {"general": {"rlnImageSizeX": 3838, "rlnMicrographMovieName": "a movie.tif"}})
    >>> star.read_text().split()[3:]
    ['data_general', '_rlnImageSizeX', '3838', '_rlnMicrographMovieName', '"a', 'movie.tif"']
    """
    with atomic(path) as partial, partial.open("wb") as file:
        for piece in star_bytes(blocks, str(path)):
            file.write(piece)


def star_bytes(blocks: Mapping[str, pd.DataFrame | Mapping[str, Any]], where: str) -> Iterator[bytes]:
    """The file of ``blocks`` piece by piece, as ``write_star`` writes it."""
    import pandas as pd

    for name, block in blocks.items():
        attrs = block.attrs if isinstance(block, pd.DataFrame) else {}
        version = int(attrs.get("version", VERSION))
        above = [*attrs.get("comments", ()), *([f"# version {version}"] if version else [])]
        head = "".join(f"{line}\n" for line in above) + ("\n" if above else "")
        yield f"\n{head}data_{_name(name, where)}\n\n".encode("utf-8", "surrogateescape")
        if isinstance(block, pd.DataFrame) and not attrs.get("list"):
            yield from _loop(block, where)
        else:
            items = _pairs(block) if isinstance(block, pd.DataFrame) else block.items()
            for label, value in items:
                word = quote(_plain(value), f"{where}, {label}", is_text(str(label)))
                yield f"_{_name(str(label), where):<40} {word}\n".encode("utf-8", "surrogateescape")
        yield b"\n"


def _pairs(table: pd.DataFrame) -> list[tuple[str, Any]]:
    """Label and value of a list; its columns keep their types, and a block may be empty."""
    return [(str(label), table[label].iloc[0]) for label in table if len(table)]


def _name(name: str, where: str) -> str:
    if re.search(r"\s", name):
        raise FormatError(where, expected="block names and labels without blanks", found=repr(name))
    return name


def _plain(value: object) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)


def quote(text: str, where: str, name: bool = False) -> str:
    """``text`` as one word of a STAR file; a ``name`` must fit on one line."""
    if _QUOTED.search(text) is None:
        return text
    if "\n" not in text and "\r" not in text and not ('"' in text and "'" in text):
        return f"'{text}'" if '"' in text else f'"{text}"'
    if name or "\r" in text or "\n;" in text:
        raise FormatError(where, expected="text on one line with one kind of quotes", found=repr(text[:80]))
    return f"\n;{text}\n;"


def _loop(table: pd.DataFrame, where: str) -> Iterator[bytes]:
    from cryoflow.io.star.startext import ROWS

    header = "".join(f"_{_name(label, where)} #{i} \n" for i, label in enumerate(table.columns, start=1))
    yield f"loop_ \n{header}".encode("utf-8", "surrogateescape")
    yield from (format_rows(table, slice(a, a + ROWS), where) for a in range(0, len(table), ROWS))


def format_rows(table: pd.DataFrame, rows: slice, where: str) -> bytes:
    """Text of some rows: columns of equal width side by side."""
    import numpy as np

    from cryoflow.io.star.startext import format_column

    exact = table.attrs.get("exact", ())
    piece = table.iloc[rows]
    columns = []
    for label in table.columns:

        def word(text: str, at: str = label) -> str:
            return quote(text, f"{where}, {at}", is_text(at))

        columns.append(format_column(piece[label], word, exact is True or label in exact))
    blank = np.full((len(piece), 1), ord(" "), np.uint8)
    line = np.full((len(piece), 1), ord("\n"), np.uint8)
    parts = [part for column in columns for part in (column, blank)]
    return np.concatenate([*parts, line], axis=1).tobytes()
