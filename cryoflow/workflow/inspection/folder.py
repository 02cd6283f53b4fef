"""What lies in a folder: counts by kind, and which program it belongs to."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cryoflow.errors import CryoflowError
from cryoflow.io.images.image_file import ImageFile, open_image_file
from cryoflow.io.programs.epu import is_epu_folder
from cryoflow.workflow.inspection.pixels import Pixels, picture, spread
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["inspect_folder", "owner_of"]

_ENTRIES = 20_000
_HEADERS = 100
_IMAGES = (".mrc", ".mrcs", ".tif", ".tiff", ".eer")


def owner_of(folder: Path) -> tuple[str, str]:
    """Whose folder it is, and what to inspect or import next; empty where nothing tells."""

    def has(name: str) -> bool:
        return (folder / name).exists()

    if has("workflow.yaml") and (has("stages") or has("stores")):
        return "run of cryoflow", f"cryoflow run {folder}/workflow.yaml -o {folder}"
    if has("default_pipeline.star") or has(".gui_projectdir"):
        return "RELION project", ""
    if has("job_pipeline.star") or (has("job.star") and has("run.out")):
        data = sorted(p.name for p in folder.glob("*.star") if re.fullmatch(r"(run_.*)?(data|particles)\.star", p.name))
        return "job of RELION", f"cryoflow import {folder / data[-1]} -o NAME.zarr" if data else ""
    if has("job.json") and re.fullmatch(r"J\d+", folder.name):
        data = sorted(p.name for p in folder.glob("*particles*.cs") if "passthrough" not in p.name)
        return "job of cryoSPARC", f"cryoflow import {folder / data[-1]} -o NAME.zarr" if data else ""
    if has("project.json") or any(re.fullmatch(r"J\d+", p.name) for p in islice(folder.glob("J*"), 50)):
        return "project of cryoSPARC", ""
    if re.fullmatch(r"(EMPIAR-)?1\d{4}", folder.name) and (has("data") or has(f"{folder.name[-5:]}.xml")):
        return "entry of EMPIAR", f"cryoflow catalog show EMPIAR-{folder.name[-5:]}"
    if is_epu_folder(folder):
        options = "--format-in epu --cs MM --amplitude-contrast FRACTION"
        return "session of EPU", f"cryoflow convert {shlex.quote(str(folder))} micrographs.star {options}"
    return "", ""


def inspect_folder(out: Inspection, *, full: bool) -> None:
    """Facts and findings of a folder; at most 20,000 names and 100 headers are looked at unless ``full``."""
    folder = Path(out.address)
    whose, command = owner_of(folder)
    out.kind, out.format = "folder", "folder"
    out.title = whose or "folder"
    files = list(islice(_walk(folder), None if full else _ENTRIES))
    if len(files) == _ENTRIES and not full:
        out.add("note", out.address, f"only the first {_ENTRIES} files were looked at", "--full looks at all.")
    suffixes = Counter(p.suffix.lower() or "none" for p in files)
    out.facts["files"] = len(files)
    if not files:
        out.add("warning", out.address, "there are no files")
        return
    out.facts["by suffix"] = dict(suffixes.most_common(12))
    out.facts["bytes"] = sum(_size(p) for p in files)
    empty = [p for p in files if _size(p) == 0]
    if empty:
        out.add("warning", str(empty[0].relative_to(folder)), f"{len(empty)} files are empty", "Copy them again.")
    stores = sorted({p.parent for p in files if p.name == "zarr.json" and p.parent.suffix == ".zarr"})
    if stores:
        out.facts["stores"] = ", ".join(str(s.relative_to(folder)) for s in stores[:8])
    images = sorted(p for p in files if p.suffix.lower() in _IMAGES)
    _headers(images, folder, out, full)
    here = [p for p in images if p.parent == folder]
    if not command and here:
        suffix = Counter(p.suffix for p in here).most_common(1)[0][0]
        command = f"cryoflow import '{folder}/*{suffix}' -o NAME.zarr"
        sizes = str(out.facts.get("pixel size", "")).split(" A (")
        command += f" --pixel-size {sizes[0] if len(sizes) == 2 else 'ANGSTROM'}"
        command += " --voltage KV --cs MM --amplitude-contrast FRACTION"
    out.command = command


def _walk(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            yield Path(base, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere
        return 0


def _headers(images: list[Path], folder: Path, out: Inspection, full: bool) -> None:
    chosen = [images[i] for i in (range(len(images)) if full else spread(len(images), _HEADERS))]
    if not chosen:
        return
    opened: dict[Path, ImageFile] = {}
    broken: list[tuple[Path, Exception]] = []
    for path in chosen:
        try:
            opened[path] = open_image_file(path)
        except (CryoflowError, OSError, ValueError) as error:
            broken.append((path, error))
    for path, reason in broken[:5]:
        if isinstance(reason, CryoflowError):
            out.fail(reason)
        else:
            out.add("error", str(path.relative_to(folder)), f"cannot be read ({type(reason).__name__})")
    if len(broken) > 5:
        out.add("error", out.address, f"{len(broken)} of {len(chosen)} image files are damaged; five are listed")
    if len(chosen) < len(images):
        out.add("note", out.address, f"{len(chosen)} of {len(images)} image headers were read", "--full reads all.")
    if not opened:
        return
    shapes = Counter(image.shape[1:] for image in opened.values())
    voxels = Counter(round(image.voxel[0], 4) for image in opened.values() if image.voxel[0] > 0)
    out.facts["images"] = f"{len(images)} files, " + ", ".join(
        f"{columns} x {rows} ({count})" for (rows, columns), count in shapes.most_common(4)
    )
    if voxels:
        out.facts["pixel size"] = ", ".join(f"{size:g} A ({count})" for size, count in voxels.most_common(4))
    beside = Counter(p.parent for p in opened)
    for parent, count in beside.items():
        kinds = Counter(opened[p].shape[1:] for p in opened if p.parent == parent)
        if len(kinds) > 1 and count >= 5 and kinds.most_common(1)[0][1] >= 0.8 * count:
            odd = next(p for p in opened if p.parent == parent and opened[p].shape[1:] != kinds.most_common(1)[0][0])
            out.add("warning", str(odd.relative_to(folder)), f"{opened[odd].shape[1:]} pixels, unlike"
                    f" {kinds.most_common(1)[0][0]} of most beside it", "It will be set aside.")  # fmt: skip
    pixels, shown = Pixels(), []
    for path in [list(opened)[i] for i in spread(len(opened), 9)]:
        with out.catching():
            first = pixels.read(opened[path], spread(opened[path].shape[0], 1), str(path.relative_to(folder)))
            if first is not None:
                shown.append(first)
    pixels.report(out, out.address, sum(image.shape[0] for image in opened.values()))
    out.thumbnail = picture(shown)
