"""Files of images: maps, stacks, micrographs and movies, by themselves."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import CryoflowError
from cryoflow.io.images.image_file import ImageFile, open_image_file
from cryoflow.io.sources.source import open_source
from cryoflow.workflow.inspection.pixels import SAMPLE, Pixels, picture, spread
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["inspect_images"]

_LARGE = 1024  # pixels of a square image that is a micrograph sooner than a particle


def inspect_images(out: Inspection, *, full: bool) -> None:
    """Facts and findings of one file of images; a truncated one is read as far as it is whole."""
    try:
        image = open_image_file(out.address)
    except CryoflowError as error:
        out.fail(error)
        out.refused = True
        try:
            image = open_image_file(out.address, check_size=False)
        except CryoflowError:  # the first error is the one to show
            return
    sections, rows, columns = image.shape
    is_map = out.kind == "map" and sections > 1
    out.facts["size"] = f"{columns} x {rows}" + (
        f" x {sections}" if is_map else f", {sections} images" * (sections > 1)
    )
    out.facts["stored as"] = str(image.dtype)
    if out.title == "MRC stack of images" and sections == 1:
        out.title = "MRC image"
    if not is_map and sections == 1 and (rows != columns or rows >= _LARGE):
        out.options["format"] = "micrographs"
    _voxel(image, out, is_map)
    _header(image, out)
    chosen = np.arange(sections) if full or is_map else spread(sections, SAMPLE)
    if is_map and not full and sections * rows * columns > 1 << 28:
        chosen = spread(sections, SAMPLE)
    pixels = Pixels()
    first: NDArray[Any] | None = None
    with out.catching():
        first = pixels.read(image, chosen, out.address.rsplit("/", 1)[-1])
    if is_map:
        pixels.flat.clear()  # empty sections are the rule at the ends of a map
    pixels.report(out, out.address, sections)
    if is_map and rows == columns and 3 * sections < rows:
        out.add("note", out.address, "flat for a map: a stack of images whose header says volume",
                "If so, name it .mrcs or give --format mrc-stack.")  # fmt: skip
    if is_map and pixels.high == pixels.low:
        out.add("error", out.address, "the map is one single value")
    with out.catching():
        shown = [image.read(int(i), 1)[0] for i in spread(sections, 9)] if sections > 1 and not is_map else [first]
        if is_map:
            shown = [image.read(sections // 2, 1)[0]]
        out.thumbnail = picture([s for s in shown if s is not None])


def _voxel(image: ImageFile, out: Inspection, is_map: bool) -> None:
    voxel = image.voxel
    said = [v for v in (voxel if is_map else voxel[:2]) if v > 0]
    out.facts["pixel size"] = " x ".join(f"{v:g}" for v in voxel[: 3 if is_map else 2]) + " A" if said else "not said"
    if not said:
        out.add("warning", out.address, "the header does not say a pixel size", "Give --pixel-size, in angstrom.")
    elif max(said) - min(said) > 0.01 * max(said) or len(said) < (3 if is_map else 2):
        out.add("error", out.address, f"pixels that are not square or cubic: {out.facts['pixel size']}",
                "Give --pixel-size if the header is wrong; if it is right, resample it first.")  # fmt: skip
        out.options["pixel_size"] = "ANGSTROM"
    elif abs(said[0] - 1) < 1e-6:
        out.add("note", out.address, "a pixel size of exactly 1 A is often one that nobody set", "Check it.")
    if out.options.get("format") == "micrographs" and said and "pixel_size" not in out.options:
        out.options["pixel_size"] = f"{said[0]:g}"


def _header(image: ImageFile, out: Inspection) -> None:
    """What only some formats say: origins, axes, labels, who told about signs."""
    if getattr(image, "bytes_told", "") == "MRC2014" and image.dtype == np.int8:
        out.add("note", out.address, "bytes are read as signed, as MRC2014 has it; the file does not say who wrote it")
    for name in ("origin", "start"):
        value = getattr(image, name, None)
        if value is not None and any(value):
            out.facts[name] = " ".join(f"{v:g}" for v in value)
    if getattr(image, "axes", (1, 2, 3)) != (1, 2, 3):
        out.facts["order of axes"] = " ".join("?xyz"[a] for a in image.axes)  # type: ignore[attr-defined]
    if getattr(image, "extended_type", "").strip("\0 "):
        out.facts["extended header"] = image.extended_type  # type: ignore[attr-defined]
    if getattr(image, "mode", None) is not None:
        out.facts["mode"] = image.mode  # type: ignore[attr-defined]
        with out.catching():
            labels = _labels(out.address)
            if labels:
                out.facts["labels"] = "; ".join(labels)


def _labels(address: str) -> list[str]:
    raw = open_source(address).read(0, 1024)
    count = int.from_bytes(raw[220:224], "little")
    texts = [raw[224 + 80 * i : 304 + 80 * i] for i in range(min(count, 10) if 0 <= count <= 10 else 10)]
    clean = [re.sub(r"\s+", " ", t.partition(b"\0")[0].decode("latin-1")).strip() for t in texts]
    return [c for c in clean if c and c.isprintable()]
