"""What all stages share: their parameters as arguments, and the stores of the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.workflow.runner import Context

__all__ = ["log", "opened", "options", "save", "text"]

log = logging.getLogger("cryoflow")


def options(stage: Any, *skip: str) -> dict[str, Any]:
    """A stage's parameters as keyword arguments of its function.

    A None that is a field's default is left to the function; one that was given in its stead is handed on.
    """
    fields = {n: f for n, f in type(stage).model_fields.items() if n not in skip}
    return {n: v for n, f in fields.items() if (v := getattr(stage, n)) is not None or f.default is not None}


def save(
    context: Context, ds: xr.Dataset, name: str, function: str, stage: Any, inputs: tuple[str | Path, ...] = ()
) -> None:
    """Leave a store of the run; lazy parts are computed where the run computes.

    ``inputs`` are the files and stores it was made from (relative to the run's folder); their digests are kept.
    """
    from cryoflow.engine import compute
    from cryoflow.io import save as save_store

    parameters = stage.model_dump(mode="json") if stage is not None else {}
    save_store(
        ds, context.folder.path / name, function=function, parameters=parameters, overwrite=True,
        inputs=[context.folder.path / source for source in inputs],
        compute=lambda lazy: compute(lazy, client=context.client, progress=context.progress, label=function),
    )  # fmt: skip


def opened(context: Context, name: str) -> xr.Dataset:
    """A store of the run, lazily; what all rows share (optics groups) is read at once."""
    from cryoflow.io import open_store

    ds = open_store(context.folder.path / name)
    return ds.assign({n: v.load() for n, v in ds.data_vars.items() if v.dims[:1] == ("optics",)})


def text(names: xr.DataArray) -> np.ndarray[Any, np.dtype[np.str_]]:
    """Names as an array of fixed width; stores give strings of any length, which not everything compares."""
    return np.array([str(name) for name in names.values], dtype=np.str_)
