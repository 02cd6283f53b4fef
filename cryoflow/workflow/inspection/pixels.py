"""What images hold: statistics, values that are no numbers, signs read wrong, contrast, and a thumbnail."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.images.image_file import ImageFile
from cryoflow.workflow.inspection.report import Inspection

__all__ = ["Pixels", "looks_wrapped", "picture", "spread"]

_BYTES = 32_000_000  # read at most so much at once
SAMPLE = 64


def spread(total: int, count: int) -> NDArray[np.int64]:
    """``count`` numbers over 0 .. total - 1, evenly; all where there are fewer.

    >>> spread(10, 3).tolist(), spread(2, 3).tolist()
    ([0, 4, 9], [0, 1])
    """
    if total <= count:
        return np.arange(total)
    return np.unique(np.round(np.linspace(0, total - 1, count)).astype(np.int64))


def looks_wrapped(values: NDArray[Any]) -> bool:
    """Whether integers look as if their sign was read wrong: the other reading is far narrower, and has a middle.

    >>> rng = np.random.default_rng(0)
    >>> counts = rng.normal(128, 20, 10_000).clip(0, 255).astype(np.uint8)
    >>> looks_wrapped(counts.view(np.int8)), looks_wrapped(counts)
    (True, False)
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2 or values.size < 64:
        return False
    other = values.view(("u" if values.dtype.kind == "i" else "i") + str(values.dtype.itemsize))
    return bool(np.std(other.astype(np.float64)) < 0.5 * np.std(values.astype(np.float64)))


class Pixels:
    """Statistics of some images of one data set, gathered file by file."""

    def __init__(self) -> None:
        self.images = self.values = self.finite = 0
        self.total = self.squares = 0.0
        self.low, self.high = np.inf, -np.inf
        self.bad: list[str] = []
        self.flat: list[str] = []
        self.centre: list[float] = []
        self.wrapped = 0

    def read(self, file: ImageFile, sections: NDArray[Any], name: str, *, discs: bool = False) -> NDArray[Any] | None:
        """Take in sections of a file, in portions; returns the first of them."""
        first: NDArray[Any] | None = None
        step = max(1, _BYTES // max(1, file.shape[1] * file.shape[2] * 8))
        runs = np.split(sections, np.flatnonzero(np.diff(sections) != 1) + 1) if len(sections) else []
        for run in runs:
            for start in range(0, len(run), step):
                part = run[start : start + step]
                block = file.read(int(part[0]), len(part))
                first = block[0] if first is None else first
                for section, image in zip(part, block):
                    self._one(image, f"{int(section) + 1}@{name}", discs)
        return first

    def _one(self, image: NDArray[Any], name: str, discs: bool) -> None:
        self.images += 1
        self.values += image.size
        self.wrapped += looks_wrapped(image)
        values = image.astype(np.float64, copy=False).ravel()
        good = np.isfinite(values)
        if not good.all():
            self.bad.append(name)
            values = values[good]
        self.finite += values.size
        if not values.size:
            return
        self.total += float(values.sum())
        self.squares += float(np.square(values).sum())
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low == high:
            self.flat.append(name)
        elif discs and good.all():
            self.centre.append(_contrast(image.astype(np.float64)))

    def report(self, out: Inspection, where: str, total: int) -> None:
        """Facts and findings of what was read; ``total`` images are there."""
        if not self.images:
            return
        mean = self.total / self.finite if self.finite else np.nan
        deviation = np.sqrt(max(0.0, self.squares / self.finite - mean**2)) if self.finite else np.nan
        seen = "all" if self.images == total else f"{self.images} of {total}"
        out.facts["values"] = (
            f"{self.low:.5g} .. {self.high:.5g}, mean {mean:.5g}, deviation {deviation:.5g} ({seen} images read)"
        )
        remedy = "" if self.images == total else "--full reads all images."
        if self.bad:
            what = f"{len(self.bad)} of {self.images} images hold NaN or infinity, the first {self.bad[0]}"
            out.add("error", where, what, f"Leave them out. {remedy}".strip())
        if self.flat:
            severity: Any = "warning" if len(self.flat) < self.images else "error"
            out.add(severity, where, f"{len(self.flat)} of {self.images} images are one single value, the first "
                    f"{self.flat[0]}", f"Leave them out. {remedy}".strip())  # fmt: skip
        if self.wrapped > 0.5 * self.images:
            out.add("error", where, "values look as if their sign was read wrong (both ends of the range, no middle)",
                    "Read it with signed= the other way, or convert it with the program that wrote it.")  # fmt: skip
        if len(self.centre) >= 16:
            score = float(np.mean(self.centre)) / (float(np.std(self.centre)) / np.sqrt(len(self.centre)) + 1e-12)
            if abs(score) > 5:
                seen_as = "bright" if score > 0 else "dark"
                out.facts["contrast"] = f"particles look {seen_as} ({score:+.0f} standard errors)"
                if score < 0:
                    out.add("warning", where, "particles look dark on bright; here they are expected bright on dark",
                            "Invert the images, or extract them again with contrast inverted.")  # fmt: skip


def _contrast(image: NDArray[np.float64]) -> float:
    """Mean of the centre less that of the corners, in deviations of the corners."""
    rows, columns = image.shape
    y = (np.arange(rows) - rows // 2)[:, None] / (0.5 * rows)
    x = (np.arange(columns) - columns // 2) / (0.5 * columns)
    r2 = x * x + y * y
    inside, outside = image[r2 < 0.16], image[r2 > 1]
    width = float(outside.std()) if outside.size else 0.0
    return float((inside.mean() - outside.mean()) / width) if width > 0 and inside.size else 0.0


def picture(images: list[NDArray[Any]], *, size: int = 256) -> NDArray[np.uint8] | None:
    """Some images side by side, each binned to a tile, grey values stretched to 1 .. 99 %; (rows, columns) uint8."""
    if not images:
        return None
    across = int(np.ceil(np.sqrt(len(images))))
    tiles = [_binned(image.astype(np.float64), max(16, size // across)) for image in images]
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    sheet = np.zeros((height * -(-len(images) // across), width * across), np.uint8)
    for i, tile in enumerate(tiles):
        values = np.nan_to_num(tile, posinf=0, neginf=0)
        low, high = np.percentile(values, (1, 99))
        grey = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1) * 255
        y, x = (i // across) * height, (i % across) * width
        sheet[y : y + grey.shape[0], x : x + grey.shape[1]] = grey.astype(np.uint8)
    return sheet


def _binned(image: NDArray[np.float64], tile: int) -> NDArray[np.float64]:
    factor = max(1, -(-max(image.shape) // tile))
    rows, columns = (n // factor * factor for n in image.shape)
    if factor == 1 or not rows or not columns:
        return image[:tile, :tile]
    tiles = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    return np.asarray(tiles.mean(axis=(1, 3)))
