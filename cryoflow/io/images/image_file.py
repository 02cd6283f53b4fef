"""Image files of any format: one protocol for stacks, micrographs and movies, and the table of who opens what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cryoflow.errors import CryoflowError, FormatError
from cryoflow.io.named import named
from cryoflow.io.sources.source import is_remote, normal, open_source

__all__ = ["OPENERS", "ImageFile", "open_image_file", "open_image_files"]


@runtime_checkable
class ImageFile(Protocol):
    """Sections of one size in one file, picklable; nothing is held open."""

    @property
    def path(self) -> str:
        """Path or URL, as messages name it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(sections, rows, columns)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, in this machine's byte order."""

    @property
    def voxel(self) -> tuple[float, float, float]:
        """(x, y, z) in angstrom; 0 where the file does not say."""

    def token(self) -> str:
        """A name of the content."""

    def read(self, first: int, count: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Sections ``first`` to ``first + count`` as (count, rows, columns), into ``out`` if given (of any type)."""


# (suffixes, "module:function") of what opens them: ``(address, *, check_size=True) -> ImageFile``
OPENERS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({".mrc", ".mrcs", ".map", ".ccp4", ".st", ".rec", ".ali"}), "images.mrc_header:read_header"),
    (frozenset({".tif", ".tiff"}), "images.tiff:open_tiff"),
    (frozenset({".eer"}), "images.eer:open_eer"),
    (frozenset({".hed", ".img"}), "images.imagic:open_imagic"),
    (frozenset({".hdf", ".hdf5", ".h5"}), "images.eman_hdf:open_hdf"),
    (frozenset({".spi"}), "images.spider:open_spider"),
)
# for names of no known suffix: (function of formats' sniffing, opener); what has a magic number before what has none
SNIFFERS: tuple[tuple[str, str], ...] = (
    ("sniff:tiff", "images.tiff:open_tiff"),
    ("sniff:hdf5", "images.eman_hdf:open_hdf"),
    ("sniff:spider", "images.spider:open_spider"),
    ("sniff:mrc", "images.mrc_header:read_header"),
)


def open_image_file(address: str | Path, *, check_size: bool = True) -> ImageFile:
    """Open a file of images by its suffix, or by its first bytes where the suffix says nothing.

    Parameters
    ----------
    address : path or URL.
    check_size : refuse a file shorter or longer than its header says.

    Raises
    ------
    FormatError : no such file, a format that holds no images, or a damaged header.
    ResourceError : a server that does not answer.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from cryoflow.io import write_map
    >>> path = tempfile.mkdtemp() + "/m.mrc"
    >>> write_map(path, np.ones((4, 6, 6)), pixel_size=2.0)
    >>> image = open_image_file(path)
    >>> image.shape, image.voxel, float(image.read(1, 2).sum())
    ((4, 6, 6), (2.0, 2.0, 2.0), 72.0)
    """
    text = normal(address)
    name = text.partition("?")[0].lower() if is_remote(text) else text.lower()
    for suffixes, opener in OPENERS:
        if name.endswith(tuple(suffixes)):
            return _call(opener, text, check_size)
    source = open_source(text)
    head = source.read(0, min(source.size, 4096))
    for sniff, opener in SNIFFERS:
        if named(sniff)(head, name):
            return _call(opener, text, check_size)
    raise FormatError(text, expected="a file of images", found=f"bytes {head[:8]!r}",
                      remedy="Known suffixes: " + " ".join(sorted(s for row in OPENERS for s in row[0])))  # fmt: skip


def open_image_files(addresses: Sequence[str], *, check_size: bool = True) -> list[ImageFile | CryoflowError]:
    """Open many files, remote ones at the same time; one that fails is its error in the list."""
    from cryoflow.io.sources.threads import concurrently

    def attempt(address: str) -> ImageFile | CryoflowError:
        try:
            return open_image_file(address, check_size=check_size)
        except CryoflowError as error:
            return error

    if any(is_remote(address) for address in addresses):
        return concurrently(attempt, addresses)
    return [attempt(address) for address in addresses]  # a local header takes microseconds: threads would cost more


def _call(opener: str, address: str, check_size: bool) -> ImageFile:
    image: ImageFile = named(opener)(address, check_size=check_size)
    return image
