"""Particles made ready for refinement: what is missing is filled in, what is broken is set aside by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.engine import compute, map_reduce
from cryoflow.errors import ParameterError, SchemaError
from cryoflow.kernels.expectation import prepare_images
from cryoflow.kernels.samples import half_plane
from cryoflow.schema import validate

__all__ = ["fill_defaults", "noise_spectra", "pixel_size_of"]

NEEDED = ("image", "defocus_u", "defocus_v", "defocus_angle", "voltage", "cs", "amplitude_contrast", "pixel_size")
FINITE = ("rotation", "shift", "defocus_u", "defocus_v", "defocus_angle", "phase_shift", "norm", "voltage", "cs",
          "amplitude_contrast")  # fmt: skip
POSITIVE = ("norm", "voltage")


def pixel_size_of(particles: xr.Dataset) -> float:
    """The one pixel size in angstrom of all optics groups."""
    sizes = np.unique(np.round(np.atleast_1d(particles["pixel_size"].values).astype(float), 4))
    if len(sizes) != 1:
        raise SchemaError(
            "refine", expected="one pixel size", found=f"{', '.join(map(str, sizes))} A",
            remedy="Extract all particles with the same pixel size, or refine the optics groups apart.",
        )  # fmt: skip
    if not sizes[0] > 0:
        raise SchemaError("refine", expected="a pixel size above 0", found=f"{sizes[0]} A", remedy="Import again.")
    return float(sizes[0])


def fill_defaults(particles: xr.Dataset, *, poses: str, seed: int, halves: bool) -> xr.Dataset:
    """Validate, and add pose, half-set, norm, group and phase shift where they are missing.

    Half-sets that are given are kept; particles without one are dealt out at random (``seed``), evenly.
    """
    validate(particles, "refine", required=NEEDED)
    n = particles.sizes["particle"]
    if n == 0:
        raise ParameterError("refine", expected="particles", found="an empty selection", remedy="Loosen the selection.")
    if particles.sizes["y"] != particles.sizes["x"]:
        raise SchemaError("refine", expected="square images", found=f"{particles.sizes['y']} x {particles.sizes['x']}")
    ds = particles
    if poses != "global" and "rotation" not in ds:
        raise SchemaError(
            "refine", expected=f"'rotation' for poses={poses!r}", found="particles without poses",
            remedy="Use poses='global', or import a STAR file with rlnAngleRot, rlnAngleTilt and rlnAnglePsi.",
        )  # fmt: skip

    def rows(value: Any, dtype: Any, *dims: str) -> tuple[tuple[str, ...], NDArray[Any]]:
        array = np.broadcast_to(np.asarray(value, dtype), (n, *np.shape(value)))
        return ("particle", *dims), array.copy()

    defaults = {
        "rotation": rows(np.eye(3), "f8", "row", "col"),
        "shift": rows(np.zeros(2), "f8", "xy"),
        "norm": rows(1.0, "f8"),
        "phase_shift": rows(0.0, "f8"),
        "optics_group": rows(0, "i8"),
        "class_number": rows(0, "i4"),
        "particle_id": (("particle",), np.arange(n)),
    }
    ds = ds.assign({k: v for k, v in defaults.items() if k not in ds})
    if "group" not in ds:
        names = ds["micrograph_name"].values if "micrograph_name" in ds else np.zeros(n, int)
        ds = ds.assign(group=("particle", np.unique(names, return_inverse=True)[1].astype("i4") + 1))
    else:  # numbers may have gaps after a selection
        ds = ds.assign(group=("particle", np.unique(ds["group"].values, return_inverse=True)[1].astype("i4") + 1))
    half = np.asarray(ds["half"].values if "half" in ds else np.zeros(n), "i1").copy()
    if halves:
        bad = np.flatnonzero(~np.isin(half, (0, 1, 2)))
        if bad.size:
            raise SchemaError("refine", expected="half-sets 0, 1 or 2", found=f"{half[bad[0]]} in row {bad[0]}")
        free = np.flatnonzero(half == 0)
        order = np.random.default_rng([seed, 1]).permutation(free.size)
        half[free[order]] = 1 + np.arange(free.size) % 2
        if min((half == 1).sum(), (half == 2).sum()) == 0:
            raise ParameterError(
                "refine", expected="particles in both half-sets", found=f"{n} particles, one half-set empty",
                remedy="Set half to 0 to have them dealt out.",
            )  # fmt: skip
    ds = ds.assign(half=("particle", half))
    for name in FINITE:
        values = ds[name].values
        wrong = np.argwhere(~np.isfinite(values) | ((values <= 0) & (name in POSITIVE)))
        if len(wrong):
            place = "optics group" if ds[name].dims == ("optics",) else "row"
            raise SchemaError(
                "refine", expected=f"finite {name!r}{', above 0' if name in POSITIVE else ''}",
                found=f"{values[tuple(wrong[0])]} in {place} {wrong[0][0]}", remedy="Correct or drop it.",
            )  # fmt: skip
    return ds


def _spectra(
    image: Any, shift: Any, norm: Any, half: Any, optics_group: Any,
    *, mask_radius: float, n_half: int, n_groups: int, pixel_size: float,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    n = image.shape[-1]
    samples = half_plane(n, (n - 1) // 2)
    good = np.isfinite(image).all(axis=(1, 2)) & (np.ptp(image, axis=(1, 2)) > 0)
    power = np.zeros((n_half, n_groups, samples.radius + 1))
    count = np.zeros((n_half, n_groups))
    for lo in range(0, len(image), 64):
        i = np.flatnonzero(good[lo : lo + 64]) + lo
        if not len(i):
            continue
        masked, _ = prepare_images(image[i], shift[i] / pixel_size, norm[i], samples, mask_radius)
        spectra = np.add.reduceat(np.abs(masked.astype(np.complex128)) ** 2, samples.starts[:-1], axis=1)
        h = np.asarray(half)[i] - 1 if n_half == 2 else np.zeros(len(i), int)
        np.add.at(power, (h, optics_group[i]), spectra)
        np.add.at(count, (h, optics_group[i]), 1.0)
    return {"x_good": good}, {"power": power, "count": count}


def noise_spectra(
    particles: xr.Dataset, *, mask_radius: float, n_half: int, pixel_size: float, client: Any
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """First noise variance (H, G, S), the power of the masked images, and which particles can be used at all.

    A particle with NaN or infinite pixels, or of one grey value, cannot.
    """
    groups = int(particles["optics_group"].values.max()) + 1
    rows, sums = compute(
        *map_reduce(
            _spectra, particles,
            {"mask_radius": mask_radius, "n_half": n_half, "n_groups": groups, "pixel_size": pixel_size},
            outputs={"x_good": (("particle",), "?")}, lanes=8,
        ),
        client=client, label="noise spectra",
    )  # fmt: skip
    n = particles.sizes["y"]
    number = np.diff(half_plane(n, (n - 1) // 2).starts)
    power, count = sums["power"], sums["count"]
    whole = power.sum(axis=(0, 1)) / max(count.sum(), 1)
    mean = np.where(count[..., None] > 0, power / np.maximum(count, 1)[..., None], whole)
    sigma2 = mean / (2 * number)
    tiny = sigma2.max() * 1e-12 + np.finfo(np.float32).tiny
    return np.maximum(sigma2, tiny), np.asarray(rows["x_good"].values, bool)
