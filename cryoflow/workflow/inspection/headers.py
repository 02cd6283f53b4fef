"""The headers of many files of images: sizes, pixel sizes, what differs from its neighbours, and a look at some."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.errors import CryoflowError
from cryoflow.io.formats import detect
from cryoflow.io.images.image_file import ImageFile, open_image_file
from cryoflow.workflow.inspection.pixels import Pixels, picture, spread
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["Images", "inspect_headers"]

_HEADERS = 100
_LARGE = 1024  # pixels across an image that is a frame of a movie sooner than a particle


@dataclass
class Images:
    """Files by what they hold (micrographs, movies, stacks, maps), and how many have which pixel size."""

    of: dict[str, list[Path]] = field(
        default_factory=lambda: {k: [] for k in ("micrographs", "movies", "stacks", "maps")}
    )
    pixels: Counter[float] = field(default_factory=Counter)


def inspect_headers(images: list[Path], folder: Path, out: Inspection, *, full: bool) -> Images:
    """Facts and findings of files of images, of 100 of them unless ``full``."""
    chosen = [images[i] for i in (range(len(images)) if full else spread(len(images), _HEADERS))]
    opened = _open(chosen, folder, out)
    if len(chosen) < len(images):
        out.add("note", out.address, f"{len(chosen)} of {len(images)} image headers were read", "--full reads all.")
    found = Images()
    for path, image in opened.items():
        found.of[_kind(path, image)].append(path)
        if image.voxel[0] > 0:
            found.pixels[round(image.voxel[0], 4)] += 1
    flat = {path: image for path, image in opened.items() if path not in found.of["maps"]}
    if flat:
        shapes = Counter(f"{i.shape[2]} x {i.shape[1]}" for i in flat.values())
        count = len(images) - len(found.of["maps"]) if len(chosen) == len(images) else len(images)
        out.facts["images"] = f"{count} files, " + _counted(shapes)
    if found.of["maps"]:
        shapes = Counter(" x ".join(map(str, opened[p].shape[::-1])) for p in found.of["maps"])
        out.facts["maps"] = f"{len(found.of['maps'])} files, " + _counted(shapes)
    if found.pixels:
        out.facts["pixel size"] = _counted(Counter({f"{p:g} A": n for p, n in found.pixels.items()}))
    unsaid = len(opened) - found.pixels.total()
    if unsaid and found.pixels:
        out.facts["pixel size"] += f", not said ({unsaid})"
        found.pixels[0.0] = unsaid
    _odd(flat, folder, out)
    _look(flat, folder, out)
    return found


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{what} ({count})" for what, count in counts.most_common(4))


def _open(chosen: list[Path], folder: Path, out: Inspection) -> dict[Path, ImageFile]:
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
    return opened


def _kind(path: Path, image: ImageFile) -> str:
    if image.shape[0] == 1:
        return "micrographs"
    if getattr(image, "volume", False) or (path.suffix.lower() not in (".tif", ".tiff") and detect(path).kind == "map"):
        return "maps"
    frames = path.suffix.lower() in (".tif", ".tiff", ".eer") or max(image.shape[1:]) >= _LARGE
    return "movies" if frames else "stacks"


def _odd(opened: dict[Path, ImageFile], folder: Path, out: Inspection) -> None:
    """Images of another size than most beside them."""
    beside = Counter(p.parent for p in opened)
    for parent, count in beside.items():
        kinds = Counter(opened[p].shape[1:] for p in opened if p.parent == parent)
        if len(kinds) > 1 and count >= 5 and kinds.most_common(1)[0][1] >= 0.8 * count:
            odd = next(p for p in opened if p.parent == parent and opened[p].shape[1:] != kinds.most_common(1)[0][0])
            out.add("warning", str(odd.relative_to(folder)), f"{opened[odd].shape[1:]} pixels, unlike"
                    f" {kinds.most_common(1)[0][0]} of most beside it", "It will be set aside.")  # fmt: skip


def _look(opened: dict[Path, ImageFile], folder: Path, out: Inspection) -> None:
    """Values of one image of nine files, and a picture of them."""
    pixels, shown = Pixels(), []
    for path in [list(opened)[i] for i in spread(len(opened), 9)]:
        with out.catching():
            first = pixels.read(opened[path], spread(opened[path].shape[0], 1), str(path.relative_to(folder)))
            if first is not None:
                shown.append(first)
    pixels.report(out, out.address, sum(image.shape[0] for image in opened.values()))
    out.thumbnail = picture(shown)
