"""Catalogs: from the name of a data set to lazy Datasets and the defaults of a workflow. A thin layer over intake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryoflow.catalog.entries import entry_names, find_reference, read_entry

__all__ = ["entry_names", "find_reference", "open_catalog", "read_entry"]


def open_catalog(folder: Path | str | None = None, *, root: Path | str | None = None) -> Any:
    """An intake catalog of all entries; ``root`` is the folder the data of its entries lie in.

    Every entry is a reader: ``catalog[name].read()`` gives the lazy micrographs Dataset, ``catalog[name].metadata``
    what is known of the specimen.

    Parameters
    ----------
    folder : a folder of entry files; the catalog that comes with cryoflow if not given.
    root : local folder of the data; may also be given to ``read(root=...)``.

    Examples
    --------
    >>> catalog = open_catalog()
    >>> list(catalog)
    ['EMPIAR-10146', 'demo']
    >>> catalog["EMPIAR-10146"].metadata["specimen"]["diameter"]
    130.0
    """
    from cryoflow.catalog.intake_types import build_catalog

    return build_catalog(folder, root)
