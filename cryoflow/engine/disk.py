"""Whether an error means a full disk."""

from __future__ import annotations

import errno
import re

__all__ = ["disk_is_full"]


def disk_is_full(error: BaseException) -> bool:
    """Also NumPy's own error of a short write, which carries no number.

    >>> disk_is_full(OSError(28, "No space left on device"))
    True
    >>> disk_is_full(OSError("32768 requested and 18928 written"))
    True
    """
    if not isinstance(error, OSError):
        return False
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or bool(re.search(r"\d+ requested and \d+ written", str(error)))
