"""Names of cryoSPARC's fields: ours that are too long for it get a number for a name, and the name a field of text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoflow.io.cryosparc.cs_fields import words
from cryoflow.io.cryosparc.cs_file import Columns

__all__ = ["EXTRA", "lengthened", "shortened"]

EXTRA = "cryoflow/"
_LONGEST = 50  # letters of a field's name; cryosparc-tools 5.0.3 loses columns whose names have more than 51
_LONG = re.compile(r"cryoflow/long\d+")
_OURS = re.compile(r"cryoflow/(optics/)?\w{1,200}")


def shortened(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Fields of ours with names that are too long get a number for a name, and their name in a field of text."""
    out: dict[str, NDArray[Any]] = {}
    for field, column in columns.items():
        if len(field) <= _LONGEST or not field.startswith(EXTRA):
            out[field] = column
        else:
            short = f"{EXTRA}long{sum(f.endswith('_name') for f in out if f.startswith(EXTRA + 'long'))}"
            out |= {short: column, f"{short}_name": np.full(len(column), field.encode())}
    return out


def lengthened(cs: Columns, where: str) -> Columns:
    """``cs`` under the names that ``shortened`` took away."""
    names: dict[str, str] = {}
    for field in cs:
        if _LONG.fullmatch(field) and f"{field}_name" in cs:
            said = words(cs, f"{field}_name", where)[0]
            if len(said) == 1 and _OURS.fullmatch(said[0]) and said[0] not in {*cs, *names.values()}:
                names[field] = said[0]
    drop = {f"{field}_name" for field in names}
    return {names.get(f, f): c for f, c in cs.items() if f not in drop} if names else cs
