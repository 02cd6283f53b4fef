"""Names of files that commands write: none is replaced unasked, and names in a table still find their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["far_from_images", "refuse_existing"]


def refuse_existing(*paths: Path | None, overwrite: bool) -> None:
    """Refuse to replace files that are there, unless told to."""
    from cryoflow.errors import ParameterError

    for path in paths:
        if path is not None and path.exists() and not overwrite:
            raise ParameterError(str(path), expected="a new file", found="one that exists", remedy="Pass --overwrite.")


def far_from_images(
    names: Sequence[str], source: str, output: Path, *, root: str | None = None, rooted: bool = True
) -> str | None:
    """What to tell the user of a table at ``output`` whose names lead to images only from where ``source`` lies.

    ``names`` are some of its image files, as the table has them; ``rooted``: its readers can be told a root. They stay
    as they are, relative to their project, as RELION has them, and find their images from ``output`` if one of its
    folders (four above it at most) is that project. ``None`` where they do, or where nothing was found at all.
    """
    from cryoflow.io.sources.address import folder_of, folders_above
    from cryoflow.io.sources.source import is_remote, normal

    def holds(folder: str) -> bool:
        return any(name and (Path(folder) / name).is_file() for name in names)

    if any(holds(folder) for folder in folders_above(str(output.resolve().parent), 4)):
        return None
    start = root or (source if Path(source).is_dir() else folder_of(source))
    if is_remote(normal(start)):
        lies = start
    else:
        above = [start] if root else folders_above(start, 4)
        lies = next((folder for folder in above if holds(folder)), "")
        if not lies:
            return None
    return (
        f"note: image names in {output} are relative to {lies}, which is not above it: write it there"
        + f", or read it with --root {lies}" * rooted + " (RELION: work from there)"
    )  # fmt: skip
