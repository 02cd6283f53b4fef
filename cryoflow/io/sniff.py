"""What tells a format: functions of a file's first bytes and its lower-case name. None of them raises."""

from __future__ import annotations

import re
import struct

__all__ = ["mrc", "relion_coordinates", "relion_micrographs", "relion_particles", "star", "store"]


def store(head: bytes, name: str) -> bool:
    """A Zarr store: a folder of that name."""
    return not head and name.rstrip("/").endswith(".zarr")


def star(head: bytes, name: str) -> bool:
    """Any STAR file: a data block."""
    return re.search(rb"^\s*data_", head, re.MULTILINE) is not None and not name.endswith((".cif", ".mmcif"))


def _labels(head: bytes, name: str) -> set[bytes]:
    return set(re.findall(rb"^\s*_(\w+)", head, re.MULTILINE)) if star(head, name) else set()


def relion_particles(head: bytes, name: str) -> bool:
    """A STAR file with image names."""
    return b"rlnImageName" in _labels(head, name)


def relion_micrographs(head: bytes, name: str) -> bool:
    """A STAR file with micrograph names and no coordinates or images."""
    labels = _labels(head, name)
    return b"rlnMicrographName" in labels and not labels & {b"rlnImageName", b"rlnCoordinateX"}


def relion_coordinates(head: bytes, name: str) -> bool:
    """A STAR file with coordinates and no images."""
    labels = _labels(head, name)
    return b"rlnCoordinateX" in labels and b"rlnImageName" not in labels


def mrc(head: bytes, name: str) -> bool:
    """The letters MAP at byte 208, or sizes and a mode that fit in a file of that name."""
    if len(head) < 1024:
        return False
    if head[208:211] == b"MAP":
        return True
    named = name.endswith((".mrc", ".mrcs", ".map", ".ccp4", ".st", ".rec", ".ali", ".stk"))
    return named and any(
        all(0 < n < 1 << 24 for n in words[:3]) and 0 <= words[3] <= 128
        for words in (struct.unpack(f"{order}4i", head[:16]) for order in "<>")
    )
