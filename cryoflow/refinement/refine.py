"""Auto-refine: expectation over particles, maximisation over half-sets, until neither resolution nor poses move.

Source: Scheres 2012, J. Mol. Biol. 415:406 and J. Struct. Biol. 180:519; Scheres & Chen 2012, Nat. Methods 9:853.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.engine import iterate
from cryoflow.errors import ParameterError
from cryoflow.kernels.fourier import resample
from cryoflow.kernels.masks import checked_mask
from cryoflow.kernels.resolution import resolution_at
from cryoflow.kernels.symmetry import point_group
from cryoflow.refinement.iteration import ROWS, Context, State, first_state, iterate_once
from cryoflow.refinement.prepare import fill_defaults, noise_spectra, pixel_size_of
from cryoflow.refinement.resume import resumed
from cryoflow.refinement.settings import Settings

__all__ = ["Refinement", "refine"]


@dataclass(frozen=True, slots=True)
class Refinement:
    """What a refinement found.

    particles : the particles that were used, with poses, half-sets, norm and posterior widths.
    half1, half2 : unfiltered, unmasked half-maps; None with several classes, which have no half-sets.
    map : joined, filtered by the FSC.  class_maps : of each class.
    fsc : (n // 2 + 1,) solvent-corrected FSC of the half-maps; fsc_unmasked likewise without a mask.
    resolution : angstrom at FSC 0.143; not better than ``ini_high`` where the half-maps share nothing beyond it, or
        nothing but their spherical average, as particles with senseless poses do.
    history : one record an iteration.  warnings : what the reader must know.  excluded : rows set aside.
    """

    particles: xr.Dataset
    half1: xr.DataArray | None
    half2: xr.DataArray | None
    map: xr.DataArray
    class_maps: list[xr.DataArray]
    fsc: NDArray[np.float64]
    fsc_unmasked: NDArray[np.float64]
    resolution: float
    history: list[dict[str, Any]]
    converged: bool
    warnings: list[str] = field(default_factory=list)
    excluded: list[int] = field(default_factory=list)


def refine(
    particles: xr.Dataset,
    reference: xr.DataArray,
    *,
    symmetry: str = "C1",
    diameter: float,
    ini_high: float = 40.0,
    mask: xr.DataArray | NDArray[np.float32] | None = None,
    classes: int = 1,
    poses: Literal["global", "local", "fixed"] = "global",
    store: str | Path | None = None,
    client: Any = None,
    seed: int = 0,
    order: int = 2,
    local_order: int = 4,
    local_step: float = 3.75,
    shift_range: float = 5.0,
    shift_step: float = 2.0,
    join_halves_to: float = 40.0,
    solvent_fsc: bool = True,
    tau_fudge: float = 4.0,
    limit: int = 40,
    max_significant: int = 500,
    fraction: float = 0.999,
    padding: int = 2,
    scale_correction: bool = True,
    norm_correction: bool = True,
    on_iteration: Callable[[dict[str, Any]], None] | None = None,
) -> Refinement:
    """Refine a map from particles and a low-resolution reference.

    With one class, the particles fall into two half-sets that are refined apart and meet only below ``join_halves_to``
    angstrom; each half-map is regularised by the FSC of both. With several classes there are no half-sets and the
    prior is the power of each reference times ``tau_fudge``.

    Parameters
    ----------
    particles : schema Dataset with image and CTF; pose, half-set, group and norm are used where present.
    reference : map of the same box and pixel size; its grey values need not be absolute.
    symmetry : point group, RELION's settings.  diameter : of the particle, angstrom.
    ini_high : low-pass filter of the reference, angstrom.
    mask : on the reference's grid, 0 to 1; for flattening the solvent and for the FSC. Default: a soft sphere.
    classes : number of classes.  poses : search all orientations, around the present ones, or none.
    store : folder of checkpoints; a second call with the same arguments goes on from the last finished iteration, and
        one with a higher ``limit`` from where the lower one ended, as if it had been given from the start.
    client : a distributed Client; None computes on this machine.  seed : of every random choice.
    order, local_order, local_step : HEALPix order of the first search (2: 15, and 7.5 degrees when oversampled);
        order from which searches are local; coarse step in degrees where ``poses="local"`` starts.
    shift_range, shift_step : pixels, of the first search (coarse).
    limit : iterations at most.  max_significant : coarse orientations a particle takes to the fine level.
    fraction : of the posterior that is kept.  padding : of references.

    Raises
    ------
    ParameterError, SchemaError : before any work, if arguments and particles do not fit.
    StoreError : the store is of other arguments, or has more iterations than ``limit``.

    Examples
    --------
    >>> from cryoflow.simulate import simulate_particles
    >>> particles, truth = simulate_particles(n=24, box=24, pixel_size=9.0, symmetry="D2", snr=1.0, seed=1)
    >>> reference = truth["map"].assign_attrs(pixel_size=9.0)
    >>> found = refine(particles, reference, symmetry="D2", diameter=150, ini_high=60, order=0, limit=1)
    >>> found.map.shape, found.particles["rotation"].shape, len(found.history)
    ((24, 24, 24), (24, 3, 3), 2)
    """
    pixel_size = pixel_size_of(particles) if "pixel_size" in particles else 0.0
    n_half = 2 if classes == 1 else 1
    ds = fill_defaults(particles, poses=poses, seed=seed, halves=n_half == 2)
    box = int(ds.sizes["x"])
    settings = Settings(
        symmetry=symmetry, diameter=diameter, ini_high=ini_high, classes=classes, poses=poses, seed=seed, order=order,
        local_order=local_order, local_step=local_step, shift_range=shift_range, shift_step=shift_step,
        join_halves_to=join_halves_to, solvent_fsc=solvent_fsc, tau_fudge=tau_fudge, limit=limit,
        max_significant=max_significant, fraction=fraction, padding=padding, scale_correction=scale_correction,
        norm_correction=norm_correction,
    )  # fmt: skip
    settings.check(box, pixel_size)
    start = _same_grid(reference, box, pixel_size, "reference")
    solvent_mask = None if mask is None else _mask(mask, box, pixel_size)
    operators = point_group(symmetry)

    sigma2, good = noise_spectra(
        ds, mask_radius=diameter / 2 / pixel_size, n_half=n_half, pixel_size=pixel_size, client=client
    )
    warnings: list[str] = []
    excluded = np.flatnonzero(~good)
    if excluded.size:
        names = ds["image_name"].values[excluded[:5]] if "image_name" in ds else [f"row {i}" for i in excluded[:5]]
        more = f" and {excluded.size - 5} more" if excluded.size > 5 else ""
        warnings.append(f"{excluded.size} particles set aside (NaN or blank image): {', '.join(map(str, names))}{more}")
        if excluded.size == good.size:
            raise ParameterError("refine", expected="particles with finite images", found="none", remedy=warnings[0])
        ds = ds.isel(particle=np.flatnonzero(good))
    context = Context(ds, settings, box, pixel_size, n_half, solvent_mask, operators, client, on_iteration)
    state = iterate(
        lambda s: iterate_once(s, context), first_state(start, sigma2, context),
        until=lambda s: bool(s["done"]), limit=limit + 1, store=store,
        signature=_signature(settings, ds, start, solvent_mask, sigma2), resume=lambda s: resumed(s, limit),
    )  # fmt: skip
    return _result(state, context, warnings, excluded)


def _same_grid(volume: Any, box: int, pixel_size: float, what: str) -> NDArray[np.float32]:
    values = np.asarray(volume, dtype=np.float32)
    if values.shape != (box,) * 3:
        raise ParameterError(
            "refine", expected=f"a {what} of {box} x {box} x {box} voxels, as the particles", found=f"{values.shape}",
            remedy=f"Resample the {what} to the particles' box and pixel size ({pixel_size} A).",
        )  # fmt: skip
    own = getattr(volume, "attrs", {}).get("pixel_size")
    if own and abs(float(own) / pixel_size - 1) > 0.01:
        raise ParameterError(
            "refine", expected=f"a {what} with the particles' pixel size of {pixel_size} A", found=f"{own} A",
            remedy=f"Correct whichever is wrong, or resample the {what}.",
        )  # fmt: skip
    if not np.isfinite(values).all():
        raise ParameterError("refine", expected=f"a finite {what}", found="NaN or infinite voxels")
    if what == "reference" and not np.ptp(values) > 0:
        raise ParameterError("refine", expected=f"a {what} with contrast", found="one grey value everywhere")
    return values


def _mask(volume: Any, box: int, pixel_size: float) -> NDArray[np.float32]:
    out: NDArray[np.float32] = checked_mask(_same_grid(volume, box, pixel_size, "mask"), "refine: mask")
    return out


SIGNED = ("rotation", "shift", "half", "group", "norm", "optics_group", "defocus_u", "defocus_v", "defocus_angle",
          "phase_shift", "voltage", "cs", "amplitude_contrast", "pixel_size")  # fmt: skip


def _signature(settings: Settings, ds: xr.Dataset, start: Any, mask: Any, sigma2: Any) -> dict[str, Any]:
    """What iterations depend on: parameters, and digests of reference, mask, metadata and image power spectra."""

    def digest(*arrays: Any) -> str:
        sha = hashlib.sha256()
        for array in arrays:
            values = np.ascontiguousarray(array)
            sha.update(f"{values.dtype.str}{values.shape}".encode() + values.tobytes())
        return sha.hexdigest()[:16]

    # six digits: the spectra of the images stand for the images, whatever device summed them
    images = [float(f"{v:.6g}") for v in np.asarray(sigma2).mean(axis=-1).ravel()]
    parameters = {name: value for name, value in settings.as_dict().items() if name != "limit"}
    return {
        **parameters, "reference": digest(start), "mask": None if mask is None else digest(mask),
        "metadata": digest(*(ds[name].values for name in SIGNED)), "images": images,
    }  # fmt: skip


def _result(state: State, c: Context, warnings: list[str], excluded: Any) -> Refinement:
    def as_map(values: Any) -> xr.DataArray:
        full = values if values.shape[-1] == c.box else resample(values[None], c.box, dims=3)[0]
        return xr.DataArray(full, dims=("z", "y", "x"), name="map", attrs={"pixel_size": c.pixel_size})

    dims = {"rotation": ("particle", "row", "col"), "shift": ("particle", "xy")}
    particles = c.particles.assign({k: (dims.get(k, ("particle",)), state[k]) for k in ROWS if k in state})
    class_maps = [as_map(v) for v in state["maps"][0]]
    halves: list[xr.DataArray | None] = [None, None]
    if c.n_half == 2:
        halves, joined = [as_map(v) for v in state["half_maps"]], as_map(state["map"])
        curve = state["fsc"]
    else:
        joined = class_maps[int(np.argmax(state["class_weight"][0]))]
        curve = np.full(c.box // 2 + 1, np.nan)
    resolution = resolution_at(np.nan_to_num(curve), c.box, c.pixel_size)
    warnings = list(warnings)
    converged = bool(state["schedule"]["converged"])
    if not converged and c.n_half == 2:
        warnings.append(f"not converged within {c.settings.limit} iteration{'s' * (c.settings.limit != 1)}")
    if c.n_half == 2:
        # what both half-maps owe to the reference's filter reaches about two shells further in a masked curve; within a
        # small mask few samples of a shell are independent, so the unmasked curve must hold beyond the filter as well
        width = c.box * c.pixel_size
        reach = width / (int(width / c.settings.ini_high) + 2)
        least = max(resolution_at(state[name], c.box, c.pixel_size) for name in ("fsc", "fsc_detail", "fsc_unmasked"))
        if least >= reach:
            resolution = max(least, c.settings.ini_high)
            warnings.append(
                f"no resolution better than the reference's filter of {c.settings.ini_high:g} A: beyond it the "
                "half-maps share nothing but what is the same in all directions"
            )
    return Refinement(
        particles, halves[0], halves[1], joined, class_maps, curve, state["fsc_unmasked"], resolution,
        state["history"], converged, warnings, [int(i) for i in excluded],
    )  # fmt: skip
