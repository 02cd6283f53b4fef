"""The data and reader types that intake learns from cryoflow (entry point group ``intake.imports``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake.readers.datatypes import BaseData
from intake.readers.readers import BaseReader

from cryoflow.catalog.entries import entry_names, read_entry
from cryoflow.errors import ParameterError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ImageSets", "ImageSetsReader", "build_catalog"]


class ImageSets(BaseData):  # type: ignore[misc]
    """The image sets of one entry, below a local folder. Every attribute is an init argument, as intake asks."""

    structure = {"array", "image"}  # noqa: RUF012 - intake's own form

    def __init__(
        self,
        entry: str,
        imagesets: dict[str, dict[str, Any]],
        root: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.entry, self.imagesets, self.root = entry, imagesets, root
        super().__init__(metadata=metadata)


class ImageSetsReader(BaseReader):  # type: ignore[misc]
    """Opens an image set as a lazy Dataset of the schema."""

    implements = {ImageSets}  # noqa: RUF012
    output_instance = "xarray:Dataset"
    imports = {"cryoflow"}  # noqa: RUF012

    def _read(self, data: ImageSets, imageset: str = "micrographs", root: str | None = None, **_: object) -> xr.Dataset:
        from cryoflow.io import open_micrographs

        where = f"catalog entry {data.entry}"
        if imageset not in data.imagesets:
            raise ParameterError(
                where,
                expected=f"an image set among {', '.join(data.imagesets) or '(the entry has none)'}",
                found=repr(imageset),
                remedy="The entry 'demo' has no files: run it with `cryoflow run demo`." if not data.imagesets else "",
            )
        base = root if root is not None else data.root
        if base is None:
            raise ParameterError(
                where,
                expected="the local folder of its data",
                found="none",
                remedy="open_catalog(root=...) or catalog[name].read(root=...).",
            )
        facts = data.imagesets[imageset]
        paths = sorted(Path(base).glob(facts["files"]))
        if not paths:
            raise ParameterError(
                where,
                expected=f"files {facts['files']} below {base}",
                found="none",
                remedy="Give the folder that the entry's data were downloaded to.",
            )
        optics = {key: facts[key] for key in ("pixel_size", "voltage", "cs", "amplitude_contrast")}
        return open_micrographs(paths, **optics)


def build_catalog(folder: Path | str | None, root: Path | str | None) -> Any:
    """An ``intake.Catalog`` with one reader an entry."""
    from intake import Catalog

    catalog = Catalog()
    for name in entry_names(folder):
        entry = read_entry(name, folder)
        known = {key: entry[key] for key in ("title", "licence", "source", "citation", "specimen", "workflow")}
        base = str(root) if root is not None else None
        data = ImageSets(entry=name, imagesets=entry["imagesets"], root=base, metadata=known)
        catalog.add_entry(ImageSetsReader(data=data, metadata=known), name=name)
        catalog.aliases[name] = name  # listed by name
    return catalog
