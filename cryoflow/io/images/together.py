"""Many image files that become one array: those that fit together, and why each of the others is set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError
from cryoflow.io.images.image_file import ImageFile
from cryoflow.io.images.mrc import check_pixel_size, contradicts

__all__ = ["Together"]


@dataclass(slots=True)
class Together:
    """One file a row; ``files`` has None and ``problems`` the reason where a row's file is of no use."""

    files: list[ImageFile | None] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, file: ImageFile | None, problem: str) -> None:
        """The next row."""
        self.files.append(file)
        self.problems.append(problem)

    def used(self) -> list[tuple[int, ImageFile]]:
        """Rows and files that are not set aside."""
        return [(row, file) for row, file in enumerate(self.files) if file is not None]

    def require(self, where: str, what: str) -> None:
        """Raise ``FormatError`` where no file is of use."""
        if not self.used():
            raise FormatError(where, expected=f"at least one {what}", found=f"{len(self.files)} broken ones",
                              remedy=f"The first: {self.problems[0]}")  # fmt: skip

    def check_pixel_sizes(self, ds: xr.Dataset, where: str) -> None:
        """Set aside files whose header contradicts the pixel size of their optics group.

        Raises
        ------
        ParameterError : most files of a group do.
        """
        group = ds["optics_group"].values
        for number in np.unique(group):
            own = [file for row, file in self.used() if group[row] == number]
            check_pixel_size(own, float(ds["pixel_size"][number]), where)
        given = ds["pixel_size"].values[group]
        self._set_aside(
            (row, f"pixel size {file.voxel[0]:g} A in its header, not {given[row]:g} A")
            for row, file in self.used() if contradicts(file, float(given[row]))
        )  # fmt: skip

    def one_frame(self) -> tuple[int, int]:
        """The commonest (rows, columns); files of others are set aside."""
        frame = Counter(file.shape[1:] for _, file in self.used()).most_common(1)[0][0]
        self._set_aside(
            (row, f"shape {file.shape[1:]} differs from {frame} of the others")
            for row, file in self.used() if file.shape[1:] != frame
        )  # fmt: skip
        return frame

    def _set_aside(self, rows: Iterable[tuple[int, str]]) -> None:
        for row, problem in list(rows):
            self.files[row], self.problems[row] = None, problem

    def packed(self) -> tuple[tuple[ImageFile, ...], NDArray[np.int32], np.dtype[Any]]:
        """The files in use, each row's index among them (-1: none), and their type (float32 if they differ)."""
        used = self.used()
        types = {file.dtype for _, file in used}
        index = np.full(len(self.files), -1, np.int32)
        index[[row for row, _ in used]] = np.arange(len(used))
        dtype = types.pop() if len(types) == 1 else np.dtype(np.float32)
        return tuple(file for _, file in used), index, dtype
