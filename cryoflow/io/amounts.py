"""Amounts as people say them."""

from __future__ import annotations

__all__ = ["human_bytes"]


def human_bytes(count: float) -> str:
    """Bytes in the unit that fits, to a tenth.

    >>> human_bytes(512), human_bytes(2_868_224), human_bytes(3.2e9)
    ('512 B', '2.9 MB', '3.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
