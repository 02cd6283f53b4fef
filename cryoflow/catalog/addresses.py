"""Where the public archives are; a mirror or another server is named by the environment."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ARCHIVES", "cache_folder", "data_root", "emdb_address", "entry_address", "pdb_address"]

# variable of the environment -> (what is there, its address)
ARCHIVES = {
    "CRYOFLOW_EMPIAR_API": ("EMPIAR's entries, as JSON", "https://www.ebi.ac.uk/empiar/api/entry"),
    "CRYOFLOW_EMPIAR_DATA": ("EMPIAR's files, NUMBER/data/...", "https://ftp.ebi.ac.uk/empiar/world_availability"),
    "CRYOFLOW_EMDB": ("EMDB's maps, EMD-NUMBER/map/emd_NUMBER.map.gz", "https://ftp.ebi.ac.uk/pub/databases/emdb/structures"),
    "CRYOFLOW_PDB": ("the PDB's models, ID.cif", "https://files.rcsb.org/download"),
}  # fmt: skip


def _base(variable: str) -> str:
    return os.environ.get(variable, ARCHIVES[variable][1]).rstrip("/")


def entry_address(number: int) -> str:
    """Address of an EMPIAR entry's record.

    >>> entry_address(10028)
    'https://www.ebi.ac.uk/empiar/api/entry/10028/'
    """
    return f"{_base('CRYOFLOW_EMPIAR_API')}/{number}/"


def data_root() -> str:
    """Address of the folder that has every EMPIAR entry's folder."""
    return _base("CRYOFLOW_EMPIAR_DATA")


def emdb_address(number: int) -> str:
    """Address of the compressed map of an EMDB entry.

    >>> emdb_address(3488).removeprefix(ARCHIVES["CRYOFLOW_EMDB"][1])
    '/EMD-3488/map/emd_3488.map.gz'
    """
    return f"{_base('CRYOFLOW_EMDB')}/EMD-{number:04d}/map/emd_{number:04d}.map.gz"  # four digits at least


def pdb_address(identifier: str) -> str:
    """Address of a PDB entry's model as mmCIF, the only form that large models have."""
    return f"{_base('CRYOFLOW_PDB')}/{identifier.lower()}.cif"


def cache_folder() -> Path:
    """Where small things from the archives are kept: ``CRYOFLOW_CACHE``, else ``cryoflow`` in the user's cache."""
    given = os.environ.get("CRYOFLOW_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cryoflow"
