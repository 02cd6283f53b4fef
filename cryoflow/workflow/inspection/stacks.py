"""The image files that a table names: there or not, whole or not, of one box, and of the pixel size that is claimed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import CryoflowError
from cryoflow.io.images.image_file import ImageFile, open_image_files
from cryoflow.io.images.mrc import contradicts
from cryoflow.io.sources.address import folder_of, folders_above, resolve
from cryoflow.workflow.inspection.pixels import SAMPLE, Pixels, picture, spread
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["check_stacks"]

_FILES = 1000  # looked at unless all are asked for
_PARENTS = 4
_SHOWN = 16  # images of the thumbnail


def check_stacks(ds: xr.Dataset, out: Inspection, *, root: str | None = None, full: bool = False) -> None:
    """Look at the files of ``image_name``: headers of all (or a sample), pixels of a sample (or all)."""
    names, file, section = _named(ds, out)
    if not names:
        return
    chosen = np.arange(len(names)) if full else spread(len(names), _FILES)
    if len(chosen) < len(names):
        out.add("note", out.address, f"{len(chosen)} of {len(names)} stacks were looked at", "--full looks at all.")
    top = root or _root(out.address, [names[i] for i in chosen[:20]])
    opened = _open(names, chosen, top, file, out)
    out.facts["stacks"] = f"{len(names)} named, {len(opened)} of {len(chosen)} found" if len(opened) < len(
        chosen) else f"{len(names)}"  # fmt: skip
    if not opened:
        return
    if top != folder_of(out.address) and top != folders_above(folder_of(out.address), 0)[0]:
        out.facts["root of names"] = out.options["root"] = top
    _boxes(ds, opened, names, out)
    _pixel_sizes(ds, opened, names, file, out)
    _sections(opened, names, file, section, out)
    _look(opened, names, file, section, out, full)


def _named(ds: xr.Dataset, out: Inspection) -> tuple[list[str], NDArray[Any], NDArray[Any]]:
    import pandas as pd

    if "image_name" not in ds:
        return [], np.zeros(0, int), np.zeros(0, int)
    parts = pd.Series(ds["image_name"].values.astype(object), dtype="str").str.partition("@")
    numbered = (parts[1] == "@").to_numpy()
    section = pd.to_numeric(parts[0].where(numbered, "1"), errors="coerce").to_numpy(dtype=float)
    bad = np.flatnonzero(~(section >= 1))
    if len(bad):
        what = f"{ds['image_name'].values[bad[0]]!r} is no image name like 000001@stack.mrcs"
        out.add("error", f"row {bad[0] + 1}", what, "Correct the name.")
    file, names = parts[2].where(numbered, parts[0]).factorize()
    return [str(n) for n in names], file, np.nan_to_num(section, nan=1.0).astype(np.int64) - 1


def _root(address: str, names: list[str]) -> str:
    """The first of the table's folder and those above it in which a stack is found."""
    from cryoflow.io.sources.source import is_remote, open_source

    folders = folders_above(folder_of(address), _PARENTS)
    names = [name for name in names if not name.startswith("/")]
    for folder in folders:
        for name in names[: 2 if is_remote(address) else 20]:
            try:
                open_source(resolve(name, folder, where=folder))
            except (CryoflowError, OSError, ValueError):
                continue
            return folder
    return folders[0]


def _open(
    names: list[str], chosen: NDArray[Any], root: str, file: NDArray[Any], out: Inspection
) -> dict[int, ImageFile]:
    addresses: dict[int, str] = {}
    outside: list[tuple[int, CryoflowError]] = []
    for i in map(int, chosen):
        try:
            addresses[i] = resolve(names[i], root, where=f"row {int(np.argmax(file == i)) + 1}")
        except CryoflowError as error:
            outside.append((i, error))
    if outside:
        i, refused = outside[0]
        out.options["allow_outside"] = ""
        what = f"file names that lead outside of {root} ({len(outside)}), the first {names[i]!r}"
        out.add("error", refused.where, what,
                "Give --root with the folder that holds them, or --allow-outside if you trust this file.")  # fmt: skip
    found = open_image_files(list(addresses.values()))
    opened, missing, broken = {}, [], []
    for i, image in zip(addresses, found):
        if not isinstance(image, CryoflowError):
            opened[i] = image
        elif image.found == "nothing there":
            missing.append(i)
        else:
            broken.append(image)
    if missing:
        row = int(np.argmax(file == missing[0])) + 1
        what = f"{len(missing)} of {len(chosen)} stacks are not there, the first {names[missing[0]]} below {root}"
        out.options["root"] = "FOLDER"
        out.add(
            "error", f"row {row}", what, "Give --root with the project's folder; --no-images takes the table alone."
        )
    out.refused = bool(broken)
    for damage in broken[:5]:
        out.fail(damage)
    if len(broken) > 5:
        out.add("error", out.address, f"{len(broken)} stacks are damaged; the first five are listed")
    return opened


def _boxes(ds: xr.Dataset, opened: dict[int, ImageFile], names: list[str], out: Inspection) -> None:
    boxes = Counter(image.shape[1:] for image in opened.values())
    common = boxes.most_common(1)[0][0]
    out.facts["box"] = f"{common[1]} x {common[0]}"
    out.facts["stored as"] = ", ".join(sorted({str(image.dtype) for image in opened.values()}))
    if len(boxes) > 1:
        out.refused = True
        odd = next(i for i, image in opened.items() if image.shape[1:] != common)
        out.add("error", names[odd], f"images of {opened[odd].shape[1:]}, not {common} as in most stacks ({len(boxes)}"
                " different boxes)", "Extract or rescale all particles to one box.")  # fmt: skip
    if "x_optics_rlnImageSize" in ds:
        said = np.unique(ds["x_optics_rlnImageSize"].values)
        if np.any(said != common[0]):
            out.add("error", "data_optics", f"_rlnImageSize {said.tolist()}, but the stacks hold {common[0]}",
                    "Correct it: cryoflow table --set 'x_optics_rlnImageSize = ...'.")  # fmt: skip


def _pixel_sizes(
    ds: xr.Dataset, opened: dict[int, ImageFile], names: list[str], file: NDArray[Any], out: Inspection
) -> None:
    if "pixel_size" not in ds or "optics_group" not in ds:
        return
    sizes = ds["pixel_size"].values[ds["optics_group"].values]
    wrong = []
    for i, image in opened.items():
        given = float(sizes[int(np.argmax(file == i))])
        if np.isfinite(given) and given > 0 and contradicts(image, given):
            wrong.append((i, image.voxel[0], given))
    if wrong:
        i, header, given = wrong[0]
        out.options["trust_given"] = ""
        out.add("error", names[i], f"the header says {header:g} A a pixel, the table {given:g} ({len(wrong)} of "
                f"{len(opened)} stacks)", f"If the headers are right, give --pixel-size {header:g}; if the table is,"
                " --trust-given.")  # fmt: skip


def _sections(
    opened: dict[int, ImageFile], names: list[str], file: NDArray[Any], section: NDArray[Any], out: Inspection
) -> None:
    depth = np.full(len(names), np.iinfo(np.int64).max)
    for i, image in opened.items():
        depth[i] = image.shape[0]
    beyond = np.flatnonzero(section >= depth[file])
    if len(beyond):
        out.refused = True
        row = int(beyond[0])
        what = f"image {section[row] + 1} of {names[file[row]]}, which has {depth[file[row]]} ({len(beyond)} such rows)"
        out.add("error", f"row {row + 1}", what, "The table and the stack do not belong together.")


def _look(
    opened: dict[int, ImageFile], names: list[str], file: NDArray[Any], section: NDArray[Any], out: Inspection,
    full: bool,
) -> None:  # fmt: skip
    there = np.isin(file, list(opened))
    depth = np.array([opened[i].shape[0] if i in opened else 0 for i in range(len(names))])
    rows = np.flatnonzero(there & (section < depth[file]))
    rows = rows if full else rows[spread(len(rows), SAMPLE)]
    pixels, shown = Pixels(), list[NDArray[Any]]()
    for i in np.unique(file[rows]):
        with out.catching():
            pixels.read(opened[int(i)], np.unique(section[rows[file[rows] == i]]), names[int(i)], discs=True)
    for row in rows[spread(len(rows), _SHOWN)]:
        with out.catching():
            shown.append(opened[int(file[row])].read(int(section[row]), 1)[0])
    pixels.report(out, out.address, int(there.sum()))
    out.thumbnail = picture(shown)
