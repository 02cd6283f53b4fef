"""Where data came from: digests of files and arrays, and the record that makes a store complete."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from cryoflow.errors import StoreError
from cryoflow.schema import SCHEMA_VERSION

__all__ = ["digest", "plain", "record"]

_PACKAGES = ("numpy", "scipy", "numba", "xarray", "zarr", "dask", "distributed")


def digest(source: Any) -> str:
    """SHA-256 of a file's bytes, of a folder's names and bytes (of a store, its record alone), or of an array.

    >>> digest(np.zeros(3)) == digest(np.zeros(3)), digest(np.zeros(3)) == digest(np.zeros(3, "f4"))
    (True, False)
    """
    sha = hashlib.sha256()
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir() and (path / "zarr.json").is_file():
            path = path / "zarr.json"
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not path.exists():
            raise StoreError("digest", expected="a file, a folder or an array", found=f"no file {path}")
        for file in files:
            if path.is_dir():
                sha.update(f"{file.relative_to(path)}\0".encode())
            with file.open("rb") as stream:
                sha.update(hashlib.file_digest(stream, "sha256").digest())
        return sha.hexdigest()
    array = np.asarray(source)
    sha.update(f"{array.dtype.str}{array.shape}".encode())
    text = array.dtype.kind in "TUO"
    sha.update("\0".join(map(str, array.ravel())).encode() if text else np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def plain(value: Any, where: str) -> Any:
    """``value`` as what JSON holds: numbers, text, lists, mappings. Not-a-number and infinities become text.

    Raises
    ------
    StoreError : a value of another kind.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist(), where)
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, Iterable):
        return [plain(v, where) for v in value]
    raise StoreError(where, expected="numbers, text, lists or mappings", found=f"a {type(value).__name__}",
                     remedy="Give what JSON can hold.")  # fmt: skip


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def record(function: str, parameters: Mapping[str, Any], inputs: Iterable[Any]) -> dict[str, Any]:
    """Who made what from what, with which versions."""
    from cryoflow import __version__

    sources = []
    for source in inputs:
        name = str(source) if isinstance(source, str | Path) else type(source).__name__
        sources.append({"name": name, "sha256": digest(source)})
    return {
        "schema": SCHEMA_VERSION,
        "cryoflow": __version__,
        "versions": {package: _version(package) for package in _PACKAGES},
        "function": function,
        "parameters": plain(dict(parameters), "parameters"),
        "inputs": sources,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
