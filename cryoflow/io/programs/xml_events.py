"""XML as a stream of elements: no document type, no entities, bounded depth, and only what is asked for is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryoflow.errors import FormatError

__all__ = ["Item", "read_xml"]

LARGEST = 256 << 20  # bytes
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Item:
    """One element: the names from the root to it (no namespaces), its attributes, and the text right inside it."""

    path: tuple[str, ...]
    attributes: dict[str, str]
    text: str


def read_xml(raw: bytes, where: str, keep: Callable[[tuple[str, ...]], bool]) -> list[Item]:
    """The elements whose path ``keep`` accepts, in the order in which they end.

    Raises
    ------
    FormatError : not well-formed (line and column are named), a document type, or deeper or larger than any metadata.

    >>> [i.text for i in read_xml(b"<a><b>1</b><c>2</c></a>", "x", lambda path: path[-1] == "b")]
    ['1']
    """
    from xml.parsers import expat

    if len(raw) > LARGEST:
        raise FormatError(where, expected=f"XML of less than {LARGEST >> 20} MB", found=f"{len(raw) >> 20} MB")
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")  # UTF-16 by its first bytes, whatever its first line declares
    if wide:
        raw = raw.decode("utf-16", "replace").encode("utf-8", "replace")
    parser = expat.ParserCreate("utf-8" if wide else None)
    path: list[str] = []
    open_items: list[tuple[dict[str, str], list[str]] | None] = []
    items: list[Item] = []

    def at() -> str:
        return f"{where}, line {parser.CurrentLineNumber}"

    def refuse(*_: Any) -> None:
        raise FormatError(at(), expected="XML without a document type", found="<!DOCTYPE",
                          remedy="Entities are never expanded: take it out if you trust the file.")  # fmt: skip

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name.rpartition(":")[2])
        if len(path) > _DEEPEST:
            raise FormatError(at(), expected=f"at most {_DEEPEST} levels", found="more")
        open_items.append((attributes, []) if keep(tuple(path)) else None)

    def end(_: str) -> None:
        item = open_items.pop()
        if item is not None:
            items.append(Item(tuple(path), item[0], "".join(item[1])))
        path.pop()

    def data(words: str) -> None:
        if open_items and open_items[-1] is not None:
            open_items[-1][1].append(words)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, data
    parser.buffer_text = True
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as error:
        raise FormatError(f"{where}, line {error.lineno}, column {error.offset}", expected="well-formed XML",
                          found=expat.ErrorString(error.code)) from None  # fmt: skip
    except (ValueError, LookupError) as error:  # an encoding Python does not know
        raise FormatError(where, expected="XML", found=str(error)[:120]) from None
    return items
