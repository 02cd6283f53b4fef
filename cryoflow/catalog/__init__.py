"""Catalogs: from the name of a data set to lazy Datasets and the defaults of a workflow. A thin layer over intake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryoflow.catalog.entries import archive_number, entry_names, is_entry_file, read_entry, search_entries
from cryoflow.catalog.references import fetch_emdb, fetch_pdb, fetch_reference, find_reference

__all__ = [
    "archive_number", "entry_names", "fetch_emdb", "fetch_pdb", "fetch_reference", "find_reference", "is_entry_file",
    "open_catalog", "read_entry", "search_entries",
]  # fmt: skip


def open_catalog(folder: Path | str | None = None, *, root: Path | str | None = None) -> Any:
    """An intake catalog of all entries; ``root`` is where the data of its entries lie.

    Every entry is a reader: ``catalog[name].read()`` gives a lazy Dataset of the image set that its workflow starts
    from, ``read(imageset=...)`` of another one; ``catalog[name].metadata`` is what is known of the data set. Other
    EMPIAR numbers (``catalog["EMPIAR-10999"]``) are read from the archive.

    Parameters
    ----------
    folder : a folder of entry files; the catalog that comes with cryoflow if not given.
    root : where the data are: a local folder or the address of a mirror, in the archive's layout or flat; the archive
        itself if not given. May also be given to ``read(root=...)``.

    Examples
    --------
    >>> catalog = open_catalog()
    >>> list(catalog)[:3]
    ['EMPIAR-10017', 'EMPIAR-10025', 'EMPIAR-10028']
    >>> catalog["EMPIAR-10146"].metadata["specimen"]["diameter"]
    130.0
    """
    from cryoflow.catalog.intake_types import build_catalog

    return build_catalog(folder, root)
