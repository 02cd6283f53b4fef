"""Digests: whether a stage's parameters, inputs or code are those of the last run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from cryoflow import __version__

__all__ = ["code_digest", "digest", "fingerprint"]

WHOLE = 64 << 20  # files up to this size are read whole
SAMPLES, SAMPLE = 32, 1 << 20  # larger ones are read at this many places, this many bytes each


def digest(content: Mapping[str, Any]) -> str:
    """Digest of anything JSON can say, whatever the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fingerprint(paths: Iterable[Path]) -> str:
    """Digest of files: their names and contents.

    Files of up to 64 MiB are read whole. Of larger ones the size and 32 evenly spread mebibytes are read, so that a
    facility's movies are not read twice; a change of fewer bytes elsewhere in them goes unseen.
    """
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        size = path.stat().st_size
        total.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as stream:
            if size <= WHOLE:
                total.update(hashlib.file_digest(stream, "blake2b").digest())
                continue
            for i in range(SAMPLES):
                stream.seek((size - SAMPLE) * i // (SAMPLES - 1))
                total.update(stream.read(SAMPLE))
    return total.hexdigest()


@lru_cache(maxsize=32)
def code_digest(*rooms: str) -> str:
    """Digest of the source files of some rooms of this package, and its version.

    A changed kernel redoes the stages that use it; a changed report does not redo a refinement.
    """
    total = hashlib.blake2b(__version__.encode(), digest_size=16)
    package = Path(str(files("cryoflow")))
    for room in sorted(rooms):
        place = package / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            total.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
