"""The folder of a project: what the names of files in a table are relative to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryoflow.errors import FormatError, ResourceError
from cryoflow.io.sources.address import folders_above, resolve
from cryoflow.io.sources.source import is_remote, normal, open_source

__all__ = ["project_folder"]

_PARENTS = 4  # RELION's names are relative to the project, some folders above a job's files


def project_folder(base: str | Path, names: Sequence[str]) -> str:
    """The first of ``base`` (a folder or URL) and the four above it that holds one of the first ``names``, else it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()).resolve()
    >>> (folder / "Extract/job1").mkdir(parents=True)
    >>> _ = (folder / "Extract/job1/p.mrcs").write_bytes(b"")
    >>> project_folder(folder / "Extract", ["Extract/job1/p.mrcs"]) == str(folder)
    True
    """
    folders = folders_above(normal(base), _PARENTS)
    tried = names[:2] if is_remote(base) else names[:20]  # each try may be a request
    return next((f for f in folders if any(_exists(name, f) for name in tried)), folders[0])


def _exists(name: str, folder: str) -> bool:
    if not is_remote(folder):
        return "\0" not in name and (Path(folder) / name).is_file()
    try:
        open_source(resolve(name, folder, where=folder))
    except FormatError:
        return False
    except ResourceError as error:
        if "403" in error.found or "401" in error.found:  # how some servers say that nothing is there
            return False
        raise
    return True
