"""What is simulated: a model file, a map file, a map in memory, or the built-in protein, on the grid asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.kernels.fourier import resample
from cryoflow.kernels.symmetry import point_group, symmetrise_volume

__all__ = ["Source", "as_map", "load_source", "measure_diameter", "regrid", "volume_of"]

Source = xr.DataArray | str | Path | None
MODELS = (".pdb", ".cif", ".ent", ".mmcif", ".pdb.gz", ".cif.gz")
MAPS = (".mrc", ".map", ".ccp4", ".rec", ".mrc.gz", ".map.gz")


def load_source(source: Source, *, box: int, pixel_size: float, symmetry: str = "C1", seed: int = 0) -> xr.DataArray:
    """The map (n, n, n) of ``source`` with ``box`` voxels of ``pixel_size`` angstrom, centred on voxel n // 2.

    ``source`` is the path of a model (PDB, mmCIF) or of a map (MRC, CCP4), a map with ``attrs["pixel_size"]``, or None
    for ``procedural_protein``. A model is put onto the axes of ``symmetry``; a map must lie on them.

    Raises ``ParameterError`` if the source is of an unknown kind, has no pixel size, or lacks the symmetry.

    >>> load_source(None, box=32, pixel_size=6.0, symmetry="D2").sizes["z"]
    32
    """
    check_grid(box, pixel_size)
    point_group(symmetry)
    if source is None:
        from cryoflow.simulate.protein import procedural_protein

        return procedural_protein(symmetry=symmetry, box=box, pixel_size=pixel_size, seed=seed)
    if isinstance(source, xr.DataArray):
        volume = source
    else:
        path = Path(source)
        if not path.is_file():
            raise ParameterError("simulate", expected="a model or map file", found=f"no file {path}")
        if path.name.lower().endswith(MODELS):
            from cryoflow.simulate.model import model_source

            return model_source(path, box=box, pixel_size=pixel_size, symmetry=symmetry)
        if not path.name.lower().endswith(MAPS):
            raise ParameterError(
                "simulate", expected=f"a file of {', '.join(MODELS + MAPS)}", found=path.name,
                remedy="Convert it, or give the map as a DataArray.",
            )  # fmt: skip
        from cryoflow.io import read_map

        volume = read_map(path)
    result = regrid(volume, box=box, pixel_size=pixel_size)
    check_symmetry(result, symmetry)
    return result


def measure_diameter(source: xr.DataArray | str | Path, *, level: float = 0.1) -> float:
    """Largest diameter in angstrom of a map (voxels above ``level`` of its maximum) or a model, about its centre."""
    if not isinstance(source, xr.DataArray):
        path = Path(source)
        if not path.is_file():
            raise ParameterError("simulate", expected="a model or map file", found=f"no file {path}")
        if path.name.lower().endswith(MODELS):
            from cryoflow.simulate.model import model_chains

            atoms = np.concatenate(model_chains(path))
            return float(2 * np.linalg.norm(atoms - atoms.mean(axis=0), axis=1).max()) + 8.0  # side chains
        from cryoflow.io import read_map

        source = read_map(path)
    values = np.asarray(source.values)
    high = np.argwhere(values > level * values.max())
    if "pixel_size" not in source.attrs or not len(high):
        raise ParameterError("simulate", expected="a map with density and attrs['pixel_size']", found="none of it")
    return float(2 * np.linalg.norm(high - np.array(values.shape) // 2, axis=1).max() * source.attrs["pixel_size"])


def check_grid(box: int, pixel_size: float) -> None:
    """Raise ``ParameterError`` unless box and pixel size make a grid."""
    if not (isinstance(box, (int, np.integer)) and box >= 8):
        raise ParameterError("simulate", expected="a box of at least 8 pixels", found=repr(box))
    if not 0 < pixel_size < np.inf:
        raise ParameterError("simulate", expected="a pixel size above 0 angstrom", found=repr(pixel_size))


def regrid(volume: xr.DataArray, *, box: int, pixel_size: float) -> xr.DataArray:
    """``volume`` on another grid: padded, resampled in Fourier space, cropped; origins n // 2 coincide.

    The padding is chosen so that both pixel sizes fit a whole number of voxels within 2 parts in 10,000.
    """
    if "pixel_size" not in volume.attrs:
        raise ParameterError(
            "simulate", expected="a map with attrs['pixel_size'] in angstrom", found="no pixel size",
            remedy="volume.attrs['pixel_size'] = ...",
        )  # fmt: skip
    values = np.asarray(volume.values, dtype=np.float32)
    if values.ndim != 3:
        raise ParameterError("simulate", expected="a map with dims (z, y, x)", found=f"shape {values.shape}")
    if not np.isfinite(values).all():
        raise ParameterError("simulate", expected="a map of finite values", found="NaN or infinity")
    ratio = float(volume.attrs["pixel_size"]) / pixel_size
    largest = max(*values.shape, int(np.ceil(min(box, 2 * max(values.shape)) / ratio)))
    if abs(ratio - 1) > 1e-6:
        sizes = np.arange(largest, largest + max(32, largest // 2))
        misfit = np.abs(sizes * ratio - np.rint(sizes * ratio)) / (sizes * ratio)
        fits = sizes[misfit < 2e-4]
        size = int(fits[0] if len(fits) else sizes[np.argmin(misfit)])
        values = resample(_centre_fit(values, size), int(np.rint(size * ratio)), dims=3)
    return as_map(_centre_fit(values, box), pixel_size)


def as_map(values: Any, pixel_size: float) -> xr.DataArray:
    """A map DataArray as the schema describes it."""
    return xr.DataArray(
        np.asarray(values, dtype=np.float32), dims=("z", "y", "x"), name="map", attrs={"pixel_size": float(pixel_size)}
    )


def _centre_fit(values: Any, box: int) -> Any:
    """Crop or zero-pad every axis to ``box`` with the voxel m // 2 going to box // 2."""
    out = np.zeros((box,) * 3, dtype=np.float32)
    here, there = [], []
    for m in values.shape:
        offset = box // 2 - m // 2
        here.append(slice(max(0, offset), min(box, m + offset)))
        there.append(slice(max(0, -offset), min(m, box - offset)))
    out[tuple(here)] = values[tuple(there)]
    return out


def check_symmetry(volume: xr.DataArray, symmetry: str, *, least: float = 0.93) -> None:
    """Raise ``ParameterError`` unless a map correlates with its symmetrised self, in voxels of 8 A or more."""
    if len(point_group(symmetry)) == 1:
        return
    n, pixel = volume.shape[-1], float(volume.attrs["pixel_size"])
    small = max(8, min(n, int(n * pixel / 8.0), 48))
    coarse = resample(np.asarray(volume.values), small, dims=3)
    same = symmetrise_volume(coarse, symmetry)
    correlation = float(np.corrcoef(coarse.ravel(), same.ravel())[0, 1])
    if not correlation >= least:
        raise ParameterError(
            "simulate", expected=f"a map with the symmetry {symmetry} about its centre",
            found=f"correlation {correlation:.2f} with its symmetrised self",
            remedy="Align the map to the axes of the group, or give another symmetry.",
        )  # fmt: skip


def volume_of(
    source: Source, pixel_size: float, symmetry: str, diameter: float | None, seed: int
) -> tuple[float, xr.DataArray]:
    """Diameter in angstrom, and the map in a box of 1.5 diameters."""
    from cryoflow.simulate.protein import procedural_protein

    if not 0 < pixel_size < np.inf:
        raise ParameterError("simulate", expected="a pixel size above 0 angstrom", found=repr(pixel_size))
    if diameter is not None and not 0 < diameter < np.inf:
        raise ParameterError("simulate", expected="a diameter above 0 angstrom", found=repr(diameter))
    if source is None:
        extent = 120.0 if diameter is None else float(diameter)
        box = _even(1.5 * extent / pixel_size)
        return extent, procedural_protein(
            symmetry=symmetry, box=box, pixel_size=pixel_size, size=extent, seed=seed
        )  # fmt: skip
    extent = measure_diameter(source) if diameter is None else float(diameter)
    box = _even(1.5 * extent / pixel_size)
    return extent, load_source(source, box=box, pixel_size=pixel_size, symmetry=symmetry, seed=seed)


def _even(length: float) -> int:
    """The next even number that transforms quickly."""
    box = max(8, int(np.ceil(length)))
    while box % 2 or scipy.fft.next_fast_len(box, real=True) != box:
        box += 1
    return box
