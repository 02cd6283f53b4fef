"""The data and reader types that intake learns from cryoflow (entry point group ``intake.imports``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake import Catalog
from intake.readers.datatypes import BaseData
from intake.readers.readers import BaseReader

from cryoflow.catalog.entries import archive_number, entry_names, read_entry

if TYPE_CHECKING:
    import xarray as xr

    from cryoflow.catalog.model import Entry

__all__ = ["ImageSets", "ImageSetsReader", "build_catalog"]


class ImageSets(BaseData):  # type: ignore[misc]
    """The image sets of one entry, below a root. Every attribute is an init argument, as intake asks."""

    structure = {"array", "image"}  # noqa: RUF012 - intake's own form

    def __init__(self, entry: dict[str, Any], root: str | None = None, metadata: dict[str, Any] | None = None) -> None:
        self.entry, self.root = entry, root
        super().__init__(metadata=metadata)


class ImageSetsReader(BaseReader):  # type: ignore[misc]
    """Opens an image set as a lazy Dataset of the schema."""

    implements = {ImageSets}  # noqa: RUF012
    output_instance = "xarray:Dataset"
    imports = {"cryoflow"}  # noqa: RUF012

    def _read(
        self, data: ImageSets, imageset: str | None = None, root: str | None = None, limit: int | None = None,
        pixel_size: float | None = None, voltage: float | None = None, cs: float | None = None,
        amplitude_contrast: float | None = None, **_: object,
    ) -> xr.Dataset:  # fmt: skip
        from cryoflow.catalog.model import parse_entry
        from cryoflow.catalog.opening import open_image_set

        entry = parse_entry(data.entry, f"catalog entry {data.entry.get('entry')}")
        return open_image_set(
            entry, imageset, root=root if root is not None else data.root, limit=limit,
            pixel_size=pixel_size, voltage=voltage, cs=cs, amplitude_contrast=amplitude_contrast,
        )  # fmt: skip


class EntryCatalog(Catalog):  # type: ignore[misc]
    """A catalog that reads EMPIAR numbers it has no entry of from the archive."""

    cryoflow_root: str | None = None
    cryoflow_folder: Path | str | None = None

    def __getitem__(self, name: str) -> Any:
        number = archive_number(name) if isinstance(name, str) else None
        key = f"EMPIAR-{number}" if number is not None else name
        if number is not None and key not in self.aliases:
            self._add(read_entry(key))
        try:
            return super().__getitem__(key)
        except KeyError:
            read_entry(key, self.cryoflow_folder)  # no such entry: says which there are
            raise

    def _add(self, entry: Entry) -> None:
        known = entry.model_dump(mode="json")
        data = ImageSets(entry=known, root=self.cryoflow_root, metadata=known)
        self.add_entry(ImageSetsReader(data=data, metadata=known), name=entry.entry)
        self.aliases[entry.entry] = entry.entry  # listed by name


def build_catalog(folder: Path | str | None, root: Path | str | None) -> Any:
    """An ``intake.Catalog`` with one reader an entry."""
    catalog = EntryCatalog()
    catalog.cryoflow_root = str(root) if root is not None else None
    catalog.cryoflow_folder = folder
    for name in entry_names(folder):
        catalog._add(read_entry(name, folder))
    return catalog
