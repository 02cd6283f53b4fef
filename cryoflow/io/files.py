"""Files written whole or not at all, and file names that stay inside their project."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryoflow.errors import FormatError, ResourceError

__all__ = ["atomic", "disk_errors", "inside"]

# no space left, over quota, file larger than allowed
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn the operating system's "no space" and "not allowed" into a ``ResourceError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in _DENIED:
            raise ResourceError(
                str(path), expected="a place that can be written to", found=os.strerror(error.errno or 0),
                remedy="Choose another output folder.",
            ) from error  # fmt: skip
        if error.errno not in _FULL:
            raise
        raise ResourceError(
            str(path), expected="space to write to", found=os.strerror(error.errno or 0),
            remedy="Free some space or choose another output folder; nothing half-written was kept.",
        ) from error  # fmt: skip


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends and removed when the block fails."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(target)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def inside(name: str, root: Path, *, where: str, allow_outside: bool = False) -> Path:
    """The path of ``name`` below ``root``, refused if it leads outside (by ``..``, a root, a link or a scheme).

    Raises
    ------
    FormatError : the name leads outside of ``root`` and ``allow_outside`` is false, or it is a URL.
    """
    if "://" in name or "\0" in name or not name:
        raise FormatError(where, expected="the name of a local file", found=repr(name), remedy="Correct the file name.")
    path = root / name
    if not allow_outside and not path.resolve().is_relative_to(root.resolve()):
        raise FormatError(
            where, expected=f"a file below {root}", found=repr(name),
            remedy="Pass allow_outside=True if you trust this file, or give the root that holds it.",
        )  # fmt: skip
    return path
