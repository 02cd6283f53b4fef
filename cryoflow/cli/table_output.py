"""The result of ``cryoflow table`` as one file or several."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cryoflow.cli.names import refuse_existing
from cryoflow.errors import ParameterError

__all__ = ["write_parts"]


def write_parts(
    ds: Any, output: Path, *, split: int | None, split_by: str | None, seed: int | None, images: Path | None,
    to: str | None, parameters: dict[str, Any], overwrite: bool = False,
) -> list[tuple[Path, int]]:  # fmt: skip
    """Write ``ds`` whole or in parts; returns the files and their rows."""
    from cryoflow import tables
    from cryoflow.io.expression import row_dim

    if split is not None:
        parts = {str(i): part for i, part in enumerate(tables.split(ds, split, seed=seed), 1)}
    elif split_by is not None:
        parts = {_safe(str(value)): part for value, part in tables.split_by(ds, split_by).items()}
        if len(parts) < len(tables.split_by(ds, split_by)):
            raise ParameterError("--split-by", expected="values that give different file names", found="some alike")
    else:
        parts = {"": ds}
    paths = {name: output.with_name(f"{output.stem}_{name}{output.suffix}") if name else output for name in parts}
    refuse_existing(*paths.values(), images, overwrite=overwrite)
    written = []
    for name, part in parts.items():
        path = paths[name]
        _write(part, path, images, to, parameters, overwrite)
        written.append((path, int(part.sizes[row_dim(part, "table")])))
    return written


def _safe(value: str) -> str:
    """A value as part of a file name."""
    return re.sub(r"[^\w.+-]+", "_", value).strip("_.")[:100] or "none"


def _write(
    ds: Any, path: Path, images: Path | None, to: str | None, parameters: dict[str, Any], overwrite: bool
) -> None:  # fmt: skip
    from cryoflow.io.formats import write_data

    if to is None and path.suffix == ".zarr":
        if images is not None:
            raise ParameterError("--images", expected="a format beside images", found="a store, which holds them")
        from cryoflow.io.stores.store import save

        save(ds, path, function="table", parameters=parameters, overwrite=overwrite)
    elif to is None and path.suffix == ".star" and "particle" in ds.dims and "image_name" not in ds:
        _write_places(ds, path)
    else:
        write_data(ds, path, format=to, **({"images": images} if images is not None else {}))


def _write_places(ds: Any, path: Path) -> None:
    """Particles without images (to be extracted again): a STAR file of RELION 3.1 with coordinates and poses."""
    from cryoflow.io.star.relion import to_tables
    from cryoflow.io.star.star import write_star
    from cryoflow.schema import require, validate

    require(validate(ds, str(path)), str(path), ["coordinate", "micrograph_name"])
    rows, optics = to_tables(ds, dim="particle")
    write_star(path, {"optics": optics, "particles": rows})
