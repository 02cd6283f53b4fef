"""Files of any other file system that fsspec knows: S3, Google and Azure storage, SFTP, members of archives, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryoflow.errors import CryoflowError, FormatError, ResourceError
from cryoflow.io.sources.blocks import CachedReads
from cryoflow.io.sources.source import changed

__all__ = ["OtherFile", "open_other"]


@dataclass(frozen=True, slots=True)
class OtherFile(CachedReads):
    """One file behind fsspec; ``version`` is what its file system tells contents apart by ("" if by nothing)."""

    address: str
    size: int
    version: str

    @property
    def lasting(self) -> bool:
        """Whether the version tells contents apart."""
        return self.version != ""

    def fetch_into(self, start: int, out: memoryview) -> None:
        """Fill ``out`` with what begins at ``start``, from the file system, which must still hold the same file."""
        try:
            system, path = _system(self.address)
            data: bytes = system.cat_file(path, start=start, end=start + len(out))
            size, version = _state(system, path)
        except Exception as error:
            raise _refused(self.address, error) from error
        if (size, version) != (self.size, self.version) or len(data) != len(out):
            raise changed(self.address, f"{self.size} bytes, version {self.version or 'unknown'}",
                          f"{size} bytes, version {version or 'unknown'}, {len(data)} read")  # fmt: skip
        out[:] = data

    def token(self) -> str:
        """Address, size and version."""
        return f"{self.address} {self.size} {self.version}"


def open_other(address: str) -> OtherFile:
    """The file at an address of fsspec, as it is now."""
    try:
        system, path = _system(address)
        size, version = _state(system, path)
    except Exception as error:  # every file system has errors of its own
        raise _refused(address, error) from error
    return OtherFile(address, size, version)


def _system(address: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(address)
    return system, path


def _state(system: Any, path: str) -> tuple[int, str]:
    system.invalidate_cache()
    info = system.info(path)
    if info.get("type") == "directory" or info.get("size") is None:
        raise IsADirectoryError(path)
    known = (info.get(key) for key in ("ETag", "etag", "version_id", "generation", "LastModified", "mtime", "created"))
    return int(info["size"]), next((str(value) for value in known if value), "")


def _refused(address: str, error: Exception) -> CryoflowError:
    if isinstance(error, CryoflowError):
        return error
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return FormatError(address, expected="an existing file", found="nothing there", remedy="Check the address.")
    remedy = "Install what fsspec asks for." if isinstance(error, ImportError) else "Try again, or copy the file here."
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return FormatError(address, expected="a path, http(s):// or an address of fsspec", found=str(error))
    return ResourceError(
        address, expected="a file that can be read", found=f"{type(error).__name__}: {error}", remedy=remedy
    )
