"""What a run left in its folder, read as far as it can be read: what is missing or broken is None, with a reason."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.errors import CryoflowError, ParameterError

__all__ = ["RunFiles"]

READING = (CryoflowError, OSError, ValueError, KeyError, TypeError)


class RunFiles:
    """Files and stores of a run's folder. ``problems`` collects, by name, why something could not be read."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise ParameterError("report", expected="the folder of a run", found=str(folder))
        self.problems: dict[str, str] = {}
        self._stores: dict[str, xr.Dataset | None] = {}

    @cached_property
    def figures(self) -> dict[str, Any]:
        """``figures.json``, empty if there is none."""
        return self._text("figures.json", json.loads)

    @cached_property
    def workflow(self) -> dict[str, Any]:
        """``workflow.yaml`` as plain values, empty if there is none."""
        import yaml

        return self._text("workflow.yaml", yaml.safe_load)

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Figures of each stage that ran."""
        stages = self.figures.get("stages", {})
        return {str(k): v for k, v in stages.items() if isinstance(v, dict)} if isinstance(stages, dict) else {}

    def parameter(self, stage: str, name: str, default: Any = None) -> Any:
        """One parameter of the workflow as run."""
        values = self.workflow.get(stage)
        return values.get(name, default) if isinstance(values, dict) else default

    def volume(self, name: str) -> tuple[np.ndarray, float] | None:
        """``name.mrc`` and its pixel size in angstrom."""
        from cryoflow.io.images.mrc import read_map

        path = self.folder / f"{name}.mrc"
        if not path.is_file():
            return None
        try:
            found = read_map(path)
        except READING as error:
            self.problems[path.name] = str(error)
            return None
        values = np.asarray(found.values, dtype=np.float32)
        if values.ndim != 3 or len(set(values.shape)) != 1 or not np.isfinite(values).all():
            self.problems[path.name] = f"not a finite cubic map (shape {values.shape})"
            return None
        return values, float(found.attrs["pixel_size"])

    def store(self, *names: str) -> xr.Dataset | None:
        """The first of these Zarr stores that is there and complete."""
        for name in names:
            if name not in self._stores:
                self._stores[name] = self._open(name)
            if self._stores[name] is not None:
                return self._stores[name]
        return None

    def _open(self, name: str) -> xr.Dataset | None:
        from cryoflow.io.stores.store import open_store

        for path in (self.folder / "stores" / f"{name}.zarr", self.folder / f"{name}.zarr"):
            if path.is_dir():
                try:
                    return open_store(path)
                except READING as error:
                    self.problems[path.name] = str(error)
        return None

    @cached_property
    def particles(self) -> xr.Dataset | None:
        """Particles with their final poses, from the store or from ``particles.star``; images are not read."""
        ds = self.store("poses")
        if ds is None and (self.folder / "particles.star").is_file():
            from cryoflow.io.particles import read_particles

            try:
                ds = read_particles(self.folder / "particles.star")
            except READING as error:
                self.problems["particles.star"] = str(error)
        return ds

    @cached_property
    def fsc(self) -> dict[str, np.ndarray]:
        """Columns of ``fsc.csv``; empty if there is none."""
        path = self.folder / "fsc.csv"
        if not path.is_file():
            return {}
        try:
            if path.stat().st_size == 0:
                raise ValueError("empty")
            table: Any = np.genfromtxt(path, delimiter=",", names=True, dtype=np.float64)
            names = table.dtype.names or ()
            if "frequency" not in names or table.ndim != 1 or len(table) < 3:
                raise ValueError("no table of FSC curves")
            return {name: np.asarray(table[name]) for name in names}
        except READING as error:
            self.problems[path.name] = str(error)
            return {}

    @cached_property
    def iterations(self) -> list[dict[str, Any]]:
        """Records of refinement's iterations: of ``iterations.json``, or of those finished while it still runs."""
        from cryoflow.engine.iterate import read_records

        path = self.folder / "iterations.json"
        try:
            records = (
                json.loads(path.read_text()) if path.is_file() else read_records(self.folder / "stores" / "refine")
            )
        except READING as error:
            self.problems[path.name if path.is_file() else "stores/refine"] = str(error)
            return []
        return [r for r in records if isinstance(r, dict)] if isinstance(records, list) else []

    def _text(self, name: str, parse: Any) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            values = parse(path.read_text(encoding="utf-8"))
        except Exception as error:  # whatever a parser raises on a damaged file
            self.problems[name] = f"cannot be read: {error}".splitlines()[0]
            return {}
        return values if isinstance(values, dict) else {}
