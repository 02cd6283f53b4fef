"""Sections of the report about the map: pictures, resolution, orientations, convergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cryoflow.display.blocks import Missing, Table, as_figure
from cryoflow.display.runfolder import RunFiles
from cryoflow.display.style import new_figure
from cryoflow.kernels.resolution import resolution_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["convergence_section", "map_section", "orientation_section", "resolution_section", "resolutions"]

CLASSES = 12  # shown at most
CURVES = {
    "none": "no mask",
    "spherical": "sphere, 0.85 to 1.0 of half the box",
    "loose": "half maximum + 25 Å, soft to 40 Å",
    "tight": "half maximum + 6 Å, soft to 12 Å, or the mask given",
    "randomised": "tight, phases randomised",
    "corrected": "tight, corrected for the mask",
}


def map_section(run: RunFiles) -> list[Any]:
    """Surfaces, slices and projections of the sharpened map, or of the map."""
    from cryoflow.display.maps import AXES, draw_projections, draw_slices, draw_surfaces
    from cryoflow.kernels.masks import auto_threshold

    name = "map_sharpened"
    found = run.volume(name)
    if found is None:
        name = "map"
        found = run.volume(name)
    if found is None:
        raise Missing("There is no map yet: neither map_sharpened.mrc nor map.mrc can be read.")
    volume, pixel = found
    mask = run.volume("mask")
    masked = mask is not None and mask[0].shape == volume.shape
    inside = volume * mask[0] if mask is not None and masked else volume
    blocks: list[Any] = []
    if inside.max() > inside.min():
        level = auto_threshold(inside)

        def surfaces() -> Figure:
            figure = new_figure(9.6, 3.5)
            draw_surfaces(list(figure.subplots(1, 3)), inside, pixel_size=pixel, level=level)
            return figure

        caption = f"Surface of {name}.mrc at {level:.3g}{', inside the mask' * masked}. {AXES}"
        blocks.append(as_figure("surface", surfaces, caption, wide=True))

    def planes() -> Figure:
        figure = new_figure(9.6, 6.7)
        axes = figure.subplots(2, 3)
        draw_slices(list(axes[0]), volume, pixel_size=pixel)
        draw_projections(list(axes[1]), volume, pixel_size=pixel)
        return figure

    n = volume.shape[0]
    blocks.append(as_figure("slices", planes, f"{name}.mrc, {n}³ voxels of {pixel:.5g} Å, not masked.", wide=True))
    return blocks + _class_blocks(run)


def _class_blocks(run: RunFiles) -> list[Any]:
    """The maps of several classes beside each other: surface and central slice."""
    from cryoflow.display.maps import draw_slices, draw_surfaces
    from cryoflow.kernels.masks import auto_threshold

    stems = [path.stem for path in run.folder.glob("class[0-9]*.mrc") if path.stem.removeprefix("class").isdigit()]
    names = sorted(stems, key=lambda name: (len(name), name))[:CLASSES]
    found = [(name, volume) for name in names if (volume := run.volume(name)) is not None]
    found = [(name, volume) for name, volume in found if volume[0].max() > volume[0].min()]
    if not found:
        return []

    def classes() -> Figure:
        figure = new_figure(9.6, 2.4 * len(found))
        rows = figure.subplots(len(found), 4, squeeze=False)
        for (name, (volume, pixel)), row in zip(found, rows, strict=True):
            draw_surfaces(list(row[:3]), volume, pixel_size=pixel, level=auto_threshold(volume), box=200)
            draw_slices([row[3]], volume, pixel_size=pixel)
            row[0].set_title(f"{name}: surface along z")
        return figure

    return [as_figure("classes", classes, "Maps of the classes.", wide=True), *_class_sizes(run, names)]


def _class_sizes(run: RunFiles, names: list[str]) -> list[Table]:
    """How many particles each class has."""
    if run.particles is None or "class_number" not in run.particles:
        return []
    numbers = np.asarray(run.particles["class_number"].values, dtype=int)
    counts = [int(np.count_nonzero(numbers == int(name.removeprefix("class")))) for name in names]
    rows = [(name, f"{count:,}", f"{count / max(numbers.size, 1):.1%}")
            for name, count in zip(names, counts, strict=True)]  # fmt: skip
    return [Table(("class", "particles", "of all"), rows, numeric=(1, 2), wide=False)]


def resolutions(run: RunFiles) -> dict[str, tuple[float, float]]:
    """Resolution at 0.143 and 0.5 of each curve: as recorded by postprocessing, else from ``fsc.csv``."""
    ds = run.store("postprocess")
    if ds is not None and {"resolution_143", "resolution_50", "curve"} <= set(ds.variables):
        return {
            str(c): (float(ds["resolution_143"][i]), float(ds["resolution_50"][i]))
            for i, c in enumerate(ds["curve"].values)
        }
    table = run.fsc
    if not table:
        return {}
    box, pixel = _grid(table)
    return {
        name: (resolution_at(table[name], box, pixel), resolution_at(table[name], box, pixel, 0.5))
        for name in CURVES
        if name in table
    }


def _grid(table: dict[str, np.ndarray]) -> tuple[int, float]:
    """A box and pixel size with the table's shells (of an even box; an odd one has the same frequencies)."""
    box = 2 * (len(table["frequency"]) - 1)
    return box, 1 / (box * float(table["frequency"][1]))


def resolution_section(run: RunFiles) -> list[Any]:
    """FSC curves, their resolutions, and the Guinier plot."""
    from cryoflow.display.fsc import draw_fsc, draw_guinier

    table = run.fsc
    if not table and int(run.parameter("refine", "classes") or 1) > 1:
        raise Missing("Several classes have no half-sets, and so no FSC: refine the particles of one to measure it.")
    if not table:
        raise Missing("There are no FSC curves yet: fsc.csv is not there or cannot be read.")
    at = resolutions(run)
    box, pixel = _grid(table)
    final = at.get("corrected", (np.inf, np.inf))[0]

    def curves() -> Figure:
        figure = new_figure(5.6, 3.9)
        shown = {name: table[name] for name in CURVES if name in table}
        scatter = table.get("deviation")
        draw_fsc(figure.subplots(), shown, box=box, pixel_size=pixel, resolution=final, deviation=scatter)
        return figure

    band = " The band is the standard deviation of the corrected curve by chance." if "deviation" in table else ""
    caption = f"Fourier shell correlation of the two half-maps.{band}"
    blocks: list[Any] = [as_figure("fsc", curves, caption)]
    ds = run.store("postprocess")
    if ds is not None and "log_amplitude" in ds:

        def guinier() -> Figure:
            figure = new_figure(5.6, 3.9)
            draw_guinier(figure.subplots(), ds.load())
            return figure

        blocks.append(as_figure("guinier", guinier, "Guinier plot: the line's slope gives the B-factor."))
    rows = [(name, CURVES.get(name, ""), _angstrom(a), _angstrom(b)) for name, (a, b) in at.items()]
    marked = [i for i, row in enumerate(rows) if row[0] == "corrected"]
    blocks.append(
        Table(("curve", "mask", "at 0.143 (Å)", "at 0.5 (Å)"), rows, numeric=(2, 3), marked=marked,
              caption="Between the last shell above a threshold and the first below, frequency is interpolated.")
    )  # fmt: skip
    return blocks


def _angstrom(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "none"


def orientation_section(run: RunFiles) -> list[Any]:
    """Viewing directions of the particles."""
    from cryoflow.display.angles import direction_counts, draw_orientations, viewing_directions
    from cryoflow.kernels.symmetry import point_group

    ds = run.particles
    if ds is None or "rotation" not in ds:
        raise Missing("There are no refined orientations yet: neither stores/poses.zarr nor particles.star has them.")
    rotations = np.asarray(ds["rotation"].values, dtype=np.float64)
    rotations = rotations[np.isfinite(rotations).all(axis=(1, 2))]
    if len(rotations) == 0:
        raise Missing("No particle has an orientation.")
    name = str(run.parameter("refine", "symmetry", "C1"))
    group = None if name == "C1" else point_group(name)

    def sphere() -> Figure:
        figure = new_figure(6.2, 3.1)
        draw_orientations(figure.add_subplot(projection="mollweide"), rotations, group=group)  # type: ignore[arg-type]
        return figure

    # how even the coverage is, beyond what chance does to as many directions
    directions = viewing_directions(rotations, group)
    level = int(np.clip(np.floor(np.log2(max(len(rotations), 1) / (12 * 4)) / 2), 0, 3))
    counts = direction_counts(np.concatenate([directions, -directions]), level)
    expanded = "" if group is None else f", with all {len(group)} views that {name} makes of each"
    blocks: list[Any] = [
        as_figure("angles", sphere, f"Viewing directions of {len(rotations):,} particles{expanded}; equal-area map.")
    ]
    rows = [
        ("areas of the sphere looked at (opposite views joined)", len(counts)),
        (
            "emptiest / mean / fullest area",
            f"{counts.min() / counts.mean():.2f} / 1 / {counts.max() / counts.mean():.2f}",
        ),
        ("areas never seen", f"{np.mean(counts == 0):.1%}"),
    ]
    for key, label, unit in (
        ("rotation_width", "median posterior width of the orientation", "°"),
        ("shift_width", "median posterior width of the shift", " Å"),
        ("max_probability", "median of the highest pose probability", ""),
    ):
        if key in ds:
            value = float(np.nanmedian(ds[key].values))
            rows.append((label, (f"{value:.3g}" if value >= 0.01 else "under 0.01") + unit))
    blocks.append(Table(("orientations", ""), rows, numeric=(1,), wide=False))
    return blocks


def convergence_section(run: RunFiles) -> list[Any]:
    """How refinement went, iteration by iteration."""
    from cryoflow.display.fsc import draw_convergence

    history = iteration_table(run)
    if not history:
        raise Missing(
            "There are no records of refinement's iterations: neither iterations.json nor stores/refine has any."
        )
    count = len(history)
    columns = min(4, count)
    rows = -(-count // columns)

    def panels() -> Figure:
        figure = new_figure(2.4 * columns, 2.0 * rows)
        axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        draw_convergence(list(axes), history)
        for ax in axes[count:]:
            ax.set_axis_off()
        return figure

    return [as_figure("convergence", panels, "Refinement, one point an iteration.", wide=True)]


_HISTORY = {  # record -> title of its panel
    "resolution_0143": "resolution at 0.143 (Å)",
    "step": "angular step (°)",
    "angle_change": "change of angles (°)",
    "shift_change": "change of shifts (pixels)",
    "accuracy_rotation": "accuracy of angles (°)",
    "max_probability": "mean highest probability",
    "significant": "mean significant poses",
    "cpu_seconds": "CPU seconds",
}


def iteration_table(run: RunFiles) -> dict[str, list[float]]:
    """What refinement recorded of every iteration, by title; empty if there are no records."""
    records = run.iterations
    table = {title: [_number(record.get(key)) for record in records] for key, title in _HISTORY.items()}
    table[_HISTORY["angle_change"]][:1] = [float("nan")] * len(records[:1])  # nothing before it to differ from
    return {title: values for title, values in table.items() if np.isfinite(values).any()}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
