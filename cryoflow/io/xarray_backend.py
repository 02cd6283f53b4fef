"""``xarray.open_dataset(path, engine="cryoflow")``: any format of the table, lazily."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint
from xarray.core import indexing

__all__ = ["CryoflowBackend"]

# suffixes that no other engine of xarray takes; .hdf, .tif and .zarr need engine="cryoflow" spelled out
OURS = (".star", ".mrc", ".mrcs", ".cs", ".csg", ".par", ".lst", ".xmd", ".cistem", ".hed", ".spi", ".eer", ".ccp4")


class CryoflowBackend(BackendEntrypoint):
    """xarray's way into the table of formats.

    Images are lazy: without ``chunks`` they are read when they are indexed, with ``chunks`` they are Dask arrays
    (``chunks={}`` takes the reader's own). Tables without a schema (a RELION model or optimiser) open with
    ``xarray.open_datatree``, one node a block.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from cryoflow.io import write_map
    >>> path = tempfile.mkdtemp() + "/m.mrc"
    >>> write_map(path, np.ones((8, 8, 8)), pixel_size=2.0)
    >>> xr.open_dataset(path, engine=CryoflowBackend)["map"].shape
    (8, 8, 8)
    """

    description: ClassVar[str] = "Files of single-particle cryo-EM (STAR, MRC, cryoSPARC, ...)"
    url: ClassVar[str] = ""
    open_dataset_parameters: ClassVar[tuple[str, ...] | None] = ("filename_or_obj", "drop_variables", "format")
    supports_groups: ClassVar[bool] = True

    def open_dataset(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None, format: str | None = None,
        **options: Any,
    ) -> xr.Dataset:  # fmt: skip
        """The Dataset of ``cryoflow.io.formats.open_data``; ``options`` (``backend_kwargs``) go to the reader.

        Raises
        ------
        FormatError : an unknown or damaged file, or tables that are no Dataset.
        """
        from cryoflow.errors import FormatError
        from cryoflow.io.formats import open_data

        opened = open_data(filename_or_obj, format=format, **options)
        if isinstance(opened, xr.DataArray):
            opened = opened.to_dataset(name=opened.name or "map")
        if not isinstance(opened, xr.Dataset):
            raise FormatError(
                str(filename_or_obj), expected="particles, micrographs, images or a map",
                found="tables: " + ", ".join(opened), remedy="Use xarray.open_datatree(path, engine='cryoflow').",
            )  # fmt: skip
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        ds = opened.drop_vars([n for n in dropped if n in opened.variables])
        ds = ds.assign({name: _unchunked(v.variable) for name, v in ds.data_vars.items() if v.chunks is not None})
        ds.encoding["source"] = str(filename_or_obj)
        return ds

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xr.DataTree:
        """One node a table of a STAR file; of other files the root alone."""
        return xr.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **options))

    def open_groups_as_dict(self, filename_or_obj: Any, **options: Any) -> dict[str, xr.Dataset]:
        """The nodes of ``open_datatree`` by their paths."""
        from cryoflow.io.formats import detect
        from cryoflow.io.star.star import read_star

        if detect(filename_or_obj).name != "star":
            return {"/": self.open_dataset(filename_or_obj, **options)}
        nodes = {"/": xr.Dataset()}
        for name, table in read_star(filename_or_obj).items():
            columns = {str(label): ("row", _plain(column)) for label, column in table.items()}
            nodes[f"/{name or 'data'}"] = xr.Dataset(columns)
        return nodes

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether the name ends as files of this field alone do."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        return os.fspath(filename_or_obj).partition("?")[0].lower().endswith(OURS)


def _plain(column: Any) -> Any:
    from cryoflow.io.star.relion import text

    return column.to_numpy() if column.dtype.kind in "iufb" else text(column)


def _unchunked(variable: xr.Variable) -> xr.Variable:
    """The lazy array behind a reader's chunks; xarray divides it as its caller asks."""
    from cryoflow.io.images.gather import source_of

    array = source_of(variable)
    if array is None or variable.chunks is None:
        return variable
    chunks = {str(d): int(c[0]) for d, c in zip(variable.dims, variable.chunks, strict=True)}
    return xr.Variable(variable.dims, indexing.LazilyIndexedArray(array), variable.attrs, {"preferred_chunks": chunks})
