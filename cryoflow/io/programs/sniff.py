"""What tells the metadata of other programs: functions of a file's first bytes and its lower-case name."""

from __future__ import annotations

import re
import struct

from cryoflow.io.sniff import star

__all__ = [
    "cbox", "cistem", "eman_box", "eman_info", "eman_list", "epu", "frealign", "spider_align", "spider_doc", "topaz",
    "warp",
]  # fmt: skip

_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?"


def _first_rows(head: bytes, comment: bytes) -> list[bytes]:
    """The first lines that are no comments (without the last of the head, which may be cut)."""
    lines = head.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    lines = lines[:-1] if len(head) >= 65536 else lines
    return [line for line in lines if line.strip() and not line.lstrip().startswith(comment)][:5]


def _numbers(line: bytes) -> int:
    """How many words a line has if all are numbers, else 0."""
    words = line.split()
    return len(words) if all(re.fullmatch(_NUMBER, word) for word in words) else 0


def frealign(head: bytes, name: str) -> bool:
    """Rows of 11 numbers and more, called ``.par`` or below a comment with PSI and DF1."""
    if b"\0" in head:
        return False
    titled = re.search(rb"^C.*PSI.*DF1", head, re.MULTILINE) is not None
    rows = [_numbers(line) for line in _first_rows(head, b"C")]
    return (titled or name.endswith(".par")) and bool(rows) and all(11 <= count <= 17 for count in rows)


def cistem(head: bytes, name: str) -> bool:
    """A STAR file with labels of cisTEM, or a binary file of that name with a count of columns."""
    if star(head, name):
        return re.search(rb"^\s*_cisTEM\w+", head, re.MULTILINE) is not None
    return name.endswith(".cistem") and len(head) >= 8 and 0 < struct.unpack("<i", head[:4])[0] <= 256


def eman_list(head: bytes, name: str) -> bool:  # noqa: ARG001
    """The mark of EMAN's lists."""
    return head.startswith((b"#LST", b"#LSX"))


def eman_info(head: bytes, name: str) -> bool:
    """A JSON object with boxes."""
    return name.endswith(".json") and head.lstrip()[:1] == b"{" and re.search(rb'"boxes(_3d)?"\s*:', head) is not None


def eman_box(head: bytes, name: str) -> bool:
    """Rows of four numbers and more, or nothing, in a file of that name."""
    rows = _first_rows(head, b"#")
    return name.endswith(".box") and b"\0" not in head and all(_numbers(line) >= 4 for line in rows)


def cbox(head: bytes, name: str) -> bool:
    """A STAR file with corners and widths of boxes, or rows of seven numbers in a file of that name."""
    if star(head, name):
        labels = set(re.findall(rb"^\s*_(\w+)", head, re.MULTILINE))
        return {b"CoordinateX", b"CoordinateY", b"Width", b"Height"} <= labels
    return name.endswith(".cbox") and b"\0" not in head and all(_numbers(r) >= 7 for r in _first_rows(head, b"#"))


def topaz(head: bytes, name: str) -> bool:  # noqa: ARG001
    """The header of a table of Topaz."""
    labels = head.partition(b"\n")[0].strip(b"# \r").split(b"\t")
    return {b"image_name", b"x_coord", b"y_coord"} <= set(labels)


def spider_doc(head: bytes, name: str) -> bool:  # noqa: ARG001
    """A comment that starts with ``;`` in one of the first columns, then rows of a key, a count and as many values."""
    if b"\0" in head or re.match(rb" {0,3};", head) is None:
        return False
    rows = [line.split() for line in _first_rows(head, b";")]
    return all(
        len(row) > 2 and row[0].lstrip(b"-").isdigit() and row[1].isdigit() and len(row) == 2 + int(row[1][:6])
        for row in rows
    )


def spider_align(head: bytes, name: str) -> bool:
    """A document with the columns of an alignment: by its comment, or by 15 values in each row."""
    if not spider_doc(head, name):
        return False
    titled = re.search(rb"^ *;.*PSI.*THE.*PHI.*REF.*EXP", head, re.MULTILINE) is not None
    counts = {int(line.split()[1]) for line in _first_rows(head, b";")}
    return bool(counts) and (counts == {15} or (titled and min(counts) >= 8))


def warp(head: bytes, name: str) -> bool:  # noqa: ARG001
    """XML whose root is a movie or tilt series, with a CTF or a selection; UTF-8 or UTF-16."""
    return _root(head) in (b"Movie", b"TiltSeries")


def epu(head: bytes, name: str) -> bool:  # noqa: ARG001
    """XML whose root is an image of a microscope."""
    return _root(head) == b"MicroscopeImage"


def _root(head: bytes) -> bytes:
    plain = head.replace(b"\0", b"") if head[:2] in (b"\xff\xfe", b"\xfe\xff") else head
    found = re.match(rb"(?:[^<]{0,3})(?:<\?xml[^>]*\?>)?\s*(?:<!--.*?-->\s*)*<(?:\w+:)?(\w+)", plain, re.DOTALL)
    return found[1] if found else b""
