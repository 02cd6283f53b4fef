"""One iteration of a refinement: expectation over all particles, maximisation, statistics, the next schedule.

Source: Scheres 2012, J. Mol. Biol. 415:406 and J. Struct. Biol. 180:519; Scheres & Chen 2012, Nat. Methods 9:853.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.engine import compute, map_reduce
from cryoflow.kernels.expectation import OUTPUTS, expectation, make_tables, transfer_of
from cryoflow.kernels.fourier import irfft3c, resample, rfft3c, shell_index
from cryoflow.kernels.masks import raised_cosine
from cryoflow.kernels.projection import prepare_volume
from cryoflow.kernels.resolution import resolution_at
from cryoflow.kernels.rotation import angular_distance
from cryoflow.kernels.samples import half_plane
from cryoflow.kernels.search import Search
from cryoflow.refinement import maximise as mx
from cryoflow.refinement.accuracy import expected_accuracy
from cryoflow.refinement.schedule import Schedule, advance, first_schedule, next_radius, search_of
from cryoflow.refinement.settings import Settings

__all__ = ["ROWS", "Context", "State", "first_state", "iterate_once"]

State = dict[str, Any]
ROWS = ("rotation", "shift", "class_number", "max_probability", "log_likelihood", "significant", "rotation_width",
        "shift_width", "norm")  # fmt: skip
LANES = 8
FIRST_FRACTION, FIRST_LIMIT = 0.2, 24


@dataclass(frozen=True, slots=True)
class Context:
    """What stays the same through all iterations."""

    particles: xr.Dataset
    settings: Settings
    box: int
    pixel_size: float
    n_half: int
    mask: NDArray[np.float32] | None
    operators: NDArray[np.float64]
    client: Any
    on_iteration: Callable[[dict[str, Any]], None] | None

    @property
    def diameter_px(self) -> float:
        return self.settings.diameter / self.pixel_size

    def rng(self, iteration: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, iteration, purpose])


def low_pass(volume: NDArray[np.float32], shell: float, width: float = 2.0) -> NDArray[np.float32]:
    """Raised-cosine low-pass of a real map that ends at ``shell``: what two half-sets may owe to their common start."""
    n = volume.shape[0]
    keep = raised_cosine(shell_index(n, dims=3).astype(np.float64), max(shell - width, 0.0), width)
    out: NDArray[np.float32] = irfft3c(rfft3c(volume) * keep, n).astype(np.float32)
    return out


def first_state(start: NDArray[np.float32], sigma2: Any, c: Context) -> State:
    """Filtered reference on the first iteration's grid, poses as given, first schedule."""
    schedule = first_schedule(c.settings, c.box, c.pixel_size)
    m = mx.coarse_box(c.box, schedule.radius)
    grid = mx.Grid(c.box, m, schedule.radius, c.settings.padding)
    filtered = resample(low_pass(start, c.box * c.pixel_size / c.settings.ini_high)[None], m, dims=3)[0]
    one = mx.flatten(filtered, mx.solvent(c.mask, c.diameter_px, grid))
    n = c.particles.sizes["particle"]
    k = c.settings.classes
    number = np.random.default_rng([c.settings.seed, 2]).permutation(n) % k + 1 if k > 1 else np.ones(n, int)
    rows = {name: np.asarray(c.particles[name].values, "f8") for name in ("rotation", "shift", "norm")}
    return {
        "iteration": 0, "done": False, "maps": np.broadcast_to(one, (c.n_half, k, m, m, m)).copy(),
        "sigma2": sigma2, "scale": np.ones((c.n_half, int(c.particles["group"].values.max()))),
        "class_weight": np.full((c.n_half, k), 1.0 / k), "class_number": number, **rows,
        "rotation_width": np.zeros(n), "shift_width": np.zeros(n),
        # the first reference comes from elsewhere: it holds no particle's noise
        "own_share": np.zeros((c.n_half, k, (c.box + 1) // 2)),
        "schedule": schedule.as_dict(), "history": [],
    }  # fmt: skip


def iterate_once(state: State, c: Context) -> tuple[State, dict[str, Any]]:
    """One expectation and maximisation, and its record; the last one joins all data up to Nyquist."""
    wall, cpu = time.perf_counter(), time.process_time()
    iteration = state["iteration"] + 1
    schedule = Schedule(**state["schedule"])
    first, final = iteration == 1, schedule.final
    s = c.settings
    samples = half_plane(c.box, (c.box - 1) // 2)
    search = search_of(schedule, s.symmetry, c.rng(iteration, 0))
    model_radius = samples.radius if final else schedule.radius
    volumes = np.stack([
        [prepare_volume(v, box=c.box, radius=schedule.radius, padding=s.padding) for v in half]
        for half in state["maps"]
    ])  # fmt: skip
    radii = (_coarse_radius(schedule, c), schedule.radius, model_radius)
    rows, sums = _expect(state, schedule, search, volumes, radii, first, c)

    grid = mx.Grid(c.box, c.box if final else mx.coarse_box(c.box, model_radius), model_radius, s.padding)
    new: State = {**state, "iteration": iteration}
    maximised = _maximise(sums, state, grid, final, c.rng(iteration, 1), c)
    new |= maximised
    new |= _statistics(sums, rows, state, first, c)

    changed = angular_distance(rows["rotation"], state["rotation"], c.operators)
    angle_change = float(np.sqrt(np.mean(np.square(changed)))) if not first else 180.0
    moved = rows["shift"] - state["shift"]
    shift_change = float(np.sqrt(np.mean((moved**2).sum(axis=-1)) / 2)) / c.pixel_size
    accuracy = _accuracy(volumes, state, rows, samples, schedule.radius, c.rng(iteration, 2), c)
    resolution, radius = next_radius(maximised["ssnr"].max(axis=0), c.box)
    variance = float(sums["shift2"].sum() / max(2 * sums["particles"].sum(), 1))
    following = advance(
        schedule, s, resolution=resolution, radius=radius, angle_change=angle_change, shift_change=shift_change,
        accuracy=accuracy, shift_sigma=float(np.clip(np.sqrt(variance), 0.5, 10.0 / c.pixel_size)),
    )  # fmt: skip
    if s.poses == "fixed" and iteration >= 3 and following.stalled:
        following = replace(following, converged=True)
    if not final and (following.converged or iteration >= s.limit):
        following = replace(following, final=c.n_half == 2)
        new["done"] = c.n_half != 2
    if final:
        new["done"] = True
    record = {
        "iteration": iteration, "resolution": _angstrom(resolution, c), "step": search.fine_step,
        "shift_step": schedule.shift_step / 2, "local": schedule.local, "radius": schedule.radius,
        "rotations": len(search.rotations), "shifts": len(search.shifts), "angle_change": angle_change,
        "shift_change": shift_change, "accuracy_rotation": accuracy[0], "accuracy_shift": accuracy[1] * c.pixel_size,
        "max_probability": float(rows["max_probability"].mean()), "significant": float(rows["significant"].mean()),
        "log_likelihood": float(rows["log_likelihood"].sum()), "converged": following.converged, "final": final,
        "resolution_0143": resolution_at(maximised["fsc"], c.box, c.pixel_size),
        "wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu,
    }  # fmt: skip
    new["schedule"], new["history"] = following.as_dict(), [*state["history"], record]
    if c.on_iteration is not None:
        c.on_iteration(record)
    return new, record


def _angstrom(shell: int, c: Context) -> float:
    return c.box * c.pixel_size / shell if shell > 0 else float("inf")


def _coarse_radius(schedule: Schedule, c: Context) -> int:
    """Shell at which a coarse step moves the rim of the particle by 1.2 times the resolution: finer says no more."""
    if schedule.fixed:
        return schedule.radius
    arc = np.deg2rad(schedule.step) * c.settings.diameter / 2
    return max(4, min(schedule.radius, int(np.ceil(c.box * c.pixel_size / (arc / 1.2)))))


def _expect(
    state: State, schedule: Schedule, search: Search, volumes: Any, radii: tuple[int, int, int], first: bool, c: Context
) -> tuple[dict[str, Any], dict[str, Any]]:
    samples = half_plane(c.box, (c.box - 1) // 2)
    free = first and not schedule.fixed
    empty = np.zeros((*volumes.shape[:2], 0, 0), np.complex64)
    tables = (empty, empty)
    if search.absolute:
        tables = make_tables(volumes, search, samples, (samples.count(radii[0]), samples.count(radii[1])))
    data = c.particles.assign(
        rotation=(("particle", "row", "col"), state["rotation"]), shift=(("particle", "xy"), state["shift"]),
        norm=("particle", state["norm"]), class_number=("particle", state["class_number"]),
        rotation_width=("particle", state["rotation_width"]), shift_width=("particle", state["shift_width"]),
    )  # fmt: skip
    shared = {
        "volumes": volumes, "coarse_table": tables[0], "fine_table": tables[1], "search": search,
        "sigma2": state["sigma2"], "scale": state["scale"], "radii": radii, "pixel_size": c.pixel_size,
        "mask_radius": c.diameter_px / 2, "shift_sigma": schedule.shift_sigma,
        # a profile likelihood is too flat to average over: the first iteration takes the best poses alone
        "fraction": FIRST_FRACTION if free else c.settings.fraction,
        "limit": FIRST_LIMIT if free else c.settings.max_significant, "free_scale": free,
        "lock_classes": first and c.settings.classes > 1, "class_weight": state["class_weight"],
        "padding": c.settings.padding, "share": state["own_share"],
        "operators": c.operators if search.absolute else np.eye(3)[None],  # a local search stays with one
    }  # fmt: skip
    lazy = map_reduce(expectation, data, shared, outputs=OUTPUTS, lanes=LANES)
    rows, sums = compute(*lazy, client=c.client, label=f"refine {state['iteration'] + 1}")
    return {name: rows[name].values for name in OUTPUTS}, sums


def _maximise(sums: Mapping[str, Any], state: State, grid: mx.Grid, final: bool, rng: Any, c: Context) -> State:
    """References of the next iteration, their FSC and SSNR; at the end the half-maps and the joined map."""
    s = c.settings
    shells = grid.shells()
    total = mx.finish_sums(sums["model"], c.operators)
    mask = mx.solvent(c.mask, c.diameter_px, grid)
    if c.n_half == 1:
        ratios = [
            mx.ssnr_of_spectrum(_at(state["maps"][0][k], grid), total[0, k], grid, shells, s.tau_fudge)
            for k in range(s.classes)
        ]
        maps = [mx.flatten(mx.reconstruct(total[0, k], r, grid, shells), mask) for k, r in enumerate(ratios)]
        curve = np.zeros(c.box // 2 + 1)
        share = [
            mx.own_share(total[0, k], r, mask, grid, shells, diameter_px=c.diameter_px) for k, r in enumerate(ratios)
        ]
        return {
            "maps": np.stack(maps)[None], "fsc": curve, "fsc_unmasked": curve, "ssnr": np.stack(ratios),
            "own_share": np.stack(share)[None],
        }  # fmt: skip
    halves = [mx.reconstruct(total[h, 0], None, grid, shells) for h in range(2)]
    plain, corrected = mx.fsc_of_halves(halves[0], halves[1], mask if s.solvent_fsc else None, grid, rng)
    out: State = {"fsc": corrected, "fsc_unmasked": plain}
    low = int(c.box * c.pixel_size / s.join_halves_to)
    ratio = mx.ssnr_of_fsc(corrected, grid)
    if final:
        whole = mx.ssnr_of_fsc(corrected, grid, whole=True)
        joined = mx.reconstruct(total[0, 0] + total[1, 0], whole, grid, shells)
        _, detail = mx.fsc_of_halves(
            mx.without_spherical_average(halves[0]), mx.without_spherical_average(halves[1]), mask, grid, rng
        )
        return {**out, "ssnr": ratio[None], "half_maps": np.stack(halves), "map": joined, "fsc_detail": detail}
    joint = mx.join_low(total, shells, low)
    ratio[: low + 1] = np.maximum(ratio[: low + 1], 0.999 / 0.001 if low else 0)
    maps = [mx.flatten(mx.reconstruct(joint[h, 0], ratio, grid, shells), mask) for h in range(2)]
    share = [
        mx.own_share(joint[h, 0], ratio, mask, grid, shells, diameter_px=c.diameter_px, joined=low) for h in range(2)
    ]
    return {**out, "ssnr": ratio[None], "maps": np.stack(maps)[:, None], "own_share": np.stack(share)[:, None]}


def _at(volume: Any, grid: mx.Grid) -> Any:
    return resample(volume[None], grid.m, dims=3)[0]


def _statistics(sums: Mapping[str, Any], rows: Mapping[str, Any], state: State, first: bool, c: Context) -> State:
    """Noise spectra, scales, norms and class weights of the next iteration, and the new poses."""
    new: State = {k: rows[k] for k in ROWS if k in rows}
    weight = sums["classes"] / np.maximum(sums["classes"].sum(axis=1, keepdims=True), 1)
    new["class_weight"] = weight
    if first and c.settings.poses != "fixed":  # nothing is on an absolute scale yet
        return new
    counted = sums["count"] > 0
    sigma2 = np.where(counted, sums["residual"] / np.maximum(sums["count"], 1), state["sigma2"])
    floor = 0.05 * state["sigma2"]  # a spectrum does not fall twentyfold in one iteration but by an accident
    new["sigma2"] = np.maximum(sigma2, floor)
    if c.settings.scale_correction and sums["aa"].shape[1] > 1:
        # shrunk towards 1 by what the scale's own error is, 1 / AA
        scale = state["scale"] * (sums["xa"] + 25.0) / (sums["aa"] + 25.0)
        scale = np.clip(scale, 0.2, 5.0)
        new["scale"] = scale / np.mean(scale, axis=1, keepdims=True)
    if c.settings.norm_correction:
        norm = state["norm"] * np.sqrt(np.clip(rows["x_residual"], 0.25, 4.0))
        new["norm"] = norm / norm.mean()
    return new


def _accuracy(
    volumes: Any, state: State, rows: Mapping[str, Any], samples: Any, radius: int, rng: np.random.Generator, c: Context
) -> tuple[float, float]:
    n = len(rows["rotation"])
    pick = np.sort(rng.choice(n, size=min(n, 100), replace=False))
    ds = c.particles.isel(particle=pick).drop_vars("image")
    groups = ds["optics_group"].values
    settings = (ds[k].values[groups] for k in ("voltage", "cs", "amplitude_contrast"))
    ctf = (ds[k].values for k in ("defocus_u", "defocus_v", "defocus_angle", "phase_shift"))
    transfer = transfer_of(samples, c.pixel_size, *ctf, *settings)
    best = int(np.argmax(state["class_weight"][0]))
    return expected_accuracy(
        volumes[0, best], rows["rotation"][pick], transfer, state["sigma2"][0][groups], samples, radius,
        padding=c.settings.padding, rng=rng,
    )  # fmt: skip
