"""A grey picture as a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.files import atomic

__all__ = ["write_png"]


def write_png(path: str | Path, grey: NDArray[np.uint8]) -> None:
    """Write (rows, columns) uint8, the first row at the bottom as in the field's programs; whole or not at all.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "p.png"
    >>> write_png(path, np.zeros((4, 6), np.uint8))
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    import imagecodecs

    data: Any = imagecodecs.png_encode(np.ascontiguousarray(grey[::-1]))
    with atomic(path) as partial:
        partial.write_bytes(data)
