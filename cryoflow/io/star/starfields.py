"""Text of several lines in STAR files, between lines that begin with ``;``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cryoflow.errors import FormatError
from cryoflow.io.star.startokens import MARK
from cryoflow.io.star.wordcolumn import WordColumn, as_objects
from cryoflow.io.star.words import Words, decode, encode, joined

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["put_fields", "take_fields"]

_FIELDS, _APART = 10_000, 128  # texts in a file: as many, and one more for so many bytes


def take_fields(data: bytes, where: str) -> tuple[bytes, dict[str, str]]:
    """``data`` with a mark in the place of each such text, and the texts by their marks; lines keep their numbers.

    Raises
    ------
    FormatError : a text that does not end, or more of them than any file has.
    """
    parts: list[bytes] = []
    fields: dict[str, str] = {}
    position, owed = 0, 0
    while True:
        begin = data.find(b"\n;", position)
        piece = data[position : begin if begin >= 0 else len(data)]
        if owed and (b"\n" in piece or begin >= 0):
            piece, owed = (piece.replace(b"\n", b"\n" * (owed + 1), 1) if b"\n" in piece else piece + b"\n" * owed), 0
        parts.append(piece)
        if begin < 0:
            return b"".join(parts), fields
        end = data.find(b"\n;", begin + 2)
        if end < 0:
            line = data.count(b"\n", 0, begin + 1) + 1
            raise FormatError(f"{where}, line {line}", expected="a line with ; to end the text",
                              found="the end of the file")  # fmt: skip
        if len(fields) > _FIELDS + len(data) // _APART:
            raise FormatError(where, expected="fewer texts of several lines", found=f"more than {len(fields)}")
        mark = MARK + str(len(fields)).encode() + MARK
        fields[decode(mark)] = decode(data[begin + 2 : end])
        parts.append(b"\n" + mark + b" ")
        owed = data.count(b"\n", begin + 1, end + 1)
        position = end + 2


def put_fields(table: pd.DataFrame, fields: Mapping[str, str]) -> None:
    """Put the texts in the places of their marks."""
    for label in table:
        if table[label].dtype.kind == "O":
            table[label] = _with_fields(table[label], fields)


def _with_fields(column: pd.Series[Any], fields: Mapping[str, str]) -> Any:
    if isinstance(column.array, WordColumn):
        words = column.array.words
        kept = [encode(fields.get(decode(word), decode(word))) for word in words.words()]
        return WordColumn(Words(*joined(kept), words.codes, words.number, words.digits))
    return as_objects([fields.get(word, word) for word in column])
