"""The journal of a store in the making: one small file for each finished chunk (checksum, size, bad rows)."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.stores.chunks import chunk_file

__all__ = ["Target", "bad_rows", "checksum", "crc32c", "enter", "verify_chunk"]


@dataclass(frozen=True, slots=True)
class Target:
    """One array that is being filled. ``dtype`` is that of chunks that are plain files, None where a codec works."""

    array: str
    journal: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str | None

    @property
    def leading(self) -> int:
        """How many dimensions are divided: rows, or movies and frames."""
        return 2 if len(self.shape) > 3 else 1

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along the divided dimensions."""
        return tuple(-(-n // c) for n, c in zip(self.shape[: self.leading], self.chunk, strict=False))

    def index(self, chunk: int) -> tuple[int, ...]:
        """Place in the grid of the chunk number ``chunk``, in the order of the rows."""
        at = [int(i) for i in np.unravel_index(chunk, self.counts)]
        return (*at, *(0,) * (len(self.shape) - self.leading))

    def chunk_at(self, row: int) -> int:
        """Number of the chunk that begins with ``row`` (of a movie: frames counted through all movies)."""
        if self.leading == 1:
            return row // self.chunk[0]
        movie, frame = divmod(row, self.shape[1])
        return movie * self.counts[1] + frame // self.chunk[1]

    def file(self, chunk: int) -> Path:
        return chunk_file(Path(self.array), *self.index(chunk))

    def entry(self, chunk: int) -> Path:
        return Path(self.journal, str(chunk))


def enter(target: Target, chunk: int, crc: int, bad: NDArray[np.int64]) -> None:
    """Tell the journal that a chunk is whole."""
    entry = {"crc32c": crc, "bytes": target.file(chunk).stat().st_size, "bad": bad.tolist()}
    scratch = Path(target.journal, f".{uuid.uuid4().hex}")
    scratch.write_text(json.dumps(entry))
    scratch.replace(target.entry(chunk))


def bad_rows(target: Target) -> list[int]:
    """Rows (of the store) whose images hold NaN or infinities, from the entries of all chunks."""
    per = target.shape[1] if target.leading == 2 else 1
    rows: set[int] = set()
    for chunk in range(math.prod(target.counts)):
        rows.update(row // per for row in json.loads(target.entry(chunk).read_text())["bad"])
    return sorted(rows)


def verify_chunk(chunk: NDArray[np.int64], *, target: Target) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which chunks of the numbers ``chunk`` are there as the journal says; the entries of others are removed.

    A kernel of the engine, so that a cluster shares the reading.
    """
    return {"whole": np.array([_is_whole(int(i), target) for i in chunk], bool)}, {}


def _is_whole(chunk: int, target: Target) -> bool:
    try:
        entry = json.loads(target.entry(chunk).read_text())
        file = target.file(chunk)
        whole = bool(entry["bytes"] == file.stat().st_size and entry["crc32c"] == checksum(file))
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        target.entry(chunk).unlink(missing_ok=True)
    return whole


def crc32c(data: NDArray[Any], crc: int = 0) -> int:
    """CRC-32C of the bytes of ``data`` that follow bytes of checksum ``crc``."""
    from google_crc32c import extend

    raw = data.reshape(-1).view(np.uint8)
    raw.flags.writeable = False  # the library takes nothing else
    return int(extend(crc, raw)) if raw.size else crc


def checksum(file: Path) -> int:
    """CRC-32C of a whole file."""
    return crc32c(np.fromfile(file, np.uint8))
