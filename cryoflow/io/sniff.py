"""What tells a format: functions of a file's first bytes and its lower-case name. None of them raises."""

from __future__ import annotations

import re
import struct

__all__ = [
    "cryosparc_micrographs", "cryosparc_particles", "eer", "hdf5", "imagic", "micrograph_folder", "mrc",
    "mrc_stack", "never", "references", "relion_coordinates", "relion_micrographs", "relion_motion", "relion_movies",
    "relion_particles", "spider", "star", "store", "tiff", "xmipp",
]  # fmt: skip


def store(head: bytes, name: str) -> bool:
    """A Zarr store: a folder of that name."""
    return not head and name.rstrip("/").endswith(".zarr")


def star(head: bytes, name: str) -> bool:
    """Any STAR file: a data block."""
    return re.search(rb"^\s*data_", head, re.MULTILINE) is not None and not name.endswith((".cif", ".mmcif"))


def _labels(head: bytes, name: str) -> set[bytes]:
    return set(re.findall(rb"^\s*_(\w+)", head, re.MULTILINE)) if star(head, name) else set()


def xmipp(head: bytes, name: str) -> bool:
    """Xmipp's mark, or its suffix, above a table with image names."""
    return b"image" in _labels(head, name) and (b"XMIPP_STAR" in head[:1024] or name.endswith(".xmd"))


def relion_motion(head: bytes, name: str) -> bool:
    """A STAR file with the shifts of frames."""
    return b"data_global_shift" in head and b"rlnMicrographFrameNumber" in _labels(head, name)


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


def tiff(head: bytes, name: str) -> bool:
    """TIFF or BigTIFF by their first four bytes; not EER."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and not name.partition("?")[0].endswith(".eer")


def eer(head: bytes, name: str) -> bool:
    """A TIFF file of that name."""
    return tiff(head, "") and name.partition("?")[0].endswith(".eer")


def hdf5(head: bytes, _name: str) -> bool:
    """HDF5 by its first eight bytes, whatever its name."""
    return head[:8] == b"\x89HDF\r\n\x1a\n"


def spider(head: bytes, _name: str) -> bool:
    """SPIDER has no magic number: the words of its header agree."""
    from cryoflow.io.images.spider import spider_words

    return spider_words(head) is not None


def imagic(head: bytes, name: str) -> bool:
    """A header of that name with one of the types, or the data beside it."""
    stem = name.partition("?")[0]
    return stem.endswith(".img") or (stem.endswith(".hed") and head[56:60] in (b"REAL", b"LONG", b"INTG", b"PACK"))


def relion_movies(head: bytes, name: str) -> bool:
    """A STAR file with movie names, and no motion of one movie."""
    return b"rlnMicrographMovieName" in _labels(head, name) and not re.search(rb"^data_general\b", head, re.MULTILINE)


def micrograph_folder(head: bytes, name: str) -> bool:
    """A folder (a name with a slash at its end) or a pattern."""
    return not head and (name.endswith("/") or "*" in name)


def references(head: bytes, name: str) -> bool:
    """References of kerchunk, version 1."""
    return name.endswith(".json") and re.match(rb'\s*\{\s*"version"\s*:\s*1\s*,\s*"refs"', head) is not None


def never(head: bytes, name: str) -> bool:  # noqa: ARG001
    """For formats that only a person can tell apart."""
    return False


def mrc_stack(head: bytes, name: str) -> bool:
    """An MRC file of images: by its name, or because its sections are no volume."""
    if not mrc(head, name):
        return False
    if name.endswith((".mrcs", ".stk", ".st", ".ali")):
        return True
    order = next((o for o in "<>" if all(0 < n < 1 << 24 for n in struct.unpack(f"{o}3i", head[:12]))), "<")
    nx, ny, nz = struct.unpack(f"{order}3i", head[:12])
    mx, _, mz = struct.unpack(f"{order}3i", head[28:40])
    across, _, along = struct.unpack(f"{order}3f", head[40:52])
    if nz == 1:
        return True
    if nx == ny == nz or name.endswith((".map", ".ccp4", ".rec")):
        return False
    if mz == 1 or not along > 0:
        return True
    cubic = mx > 0 and mz > 0 and abs(along / mz - across / mx) <= 0.01 * along / mz  # voxels as deep as they are wide
    return not cubic and struct.unpack(f"{order}i", head[88:92])[0] == 0


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
