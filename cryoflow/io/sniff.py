"""What tells a format: functions of a file's first bytes and its lower-case name. None of them raises."""

from __future__ import annotations

import re
import struct

__all__ = [
    "cryosparc_micrographs", "cryosparc_particles", "mrc", "relion_coordinates", "relion_micrographs",
    "relion_particles", "star", "store",
]  # fmt: skip


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


def cryosparc_micrographs(head: bytes, name: str) -> bool:
    """A .cs table with micrographs and no particles, or a group of exposures."""
    if _is_csg(head, name):
        return re.search(rb"^\s+type:\s*['\"]?(exposure|micrograph)\b", head, re.MULTILINE) is not None
    groups = set(re.findall(rb"['\"](\w+)/", head)) if _is_cs(head) else set()
    exposures = {b"micrograph_blob", b"movie_blob", b"mscope_params"}
    return bool(groups & exposures) and not groups & {b"blob", b"location", b"alignments2D", b"alignments3D"}


def cryosparc_particles(head: bytes, name: str) -> bool:
    """A .cs table or a .csg group that is not of micrographs."""
    return (_is_cs(head) or _is_csg(head, name)) and not cryosparc_micrographs(head, name)


def _is_cs(head: bytes) -> bool:
    return head.startswith((b"\x93NUMPY", b"\x95CSDAT")) and re.search(rb"['\"]uid['\"]", head[:4096]) is not None


def _is_csg(head: bytes, name: str) -> bool:
    return name.endswith(".csg") or (head.startswith(b"created:") and b"metafile:" in head)


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
