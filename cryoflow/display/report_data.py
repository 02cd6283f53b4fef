"""Sections of the report about the data: micrographs and picks, CTF fits, particles, what was set aside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cryoflow.display.blocks import Missing, Table, Text, as_figure
from cryoflow.display.runfolder import READING, RunFiles
from cryoflow.display.style import CYCLE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ctf_section", "flagged_section", "micrograph_section", "particle_section"]

EXAMPLES = 3  # micrographs shown
STACK = ("root", "pixel_size", "trust_given", "allow_outside")  # of the workflow, needed to open a stack again
MONTAGE = (5, 12)  # rows and columns of particle examples


def _micrographs(run: RunFiles) -> xr.Dataset:
    ds = run.store("ctf", "micrographs_ctf", "micrographs")
    if ds is None:
        raise Missing("This run has no micrographs (stores/ctf.zarr and stores/micrographs.zarr are not there).")
    return ds


def _column(ds: xr.Dataset, name: str, default: Any) -> np.ndarray:
    """A variable's values, or ``default`` in every row."""
    return np.asarray(ds[name].values) if name in ds else np.full(_rows(ds), default)


def _names(ds: xr.Dataset, name: str) -> np.ndarray:
    """A text variable as an array of str, whatever string type the store gave it; empty text if it is not there."""
    return np.array([str(v) for v in _column(ds, name, "")], dtype=str)


def _rows(ds: xr.Dataset) -> int:
    return int(ds.sizes.get("micrograph", ds.sizes.get("particle", 0)))


def _examples(ds: xr.Dataset) -> list[int]:
    """Rows of usable micrographs spread over the range of fit resolutions: the best, the median, the worst."""
    rows = np.flatnonzero(_column(ds, "usable", True).astype(bool))
    order = rows[np.argsort(_column(ds, "ctf_resolution", 0.0)[rows], kind="stable")]
    if order.size <= EXAMPLES:
        return [int(i) for i in order]
    return [int(order[i]) for i in np.linspace(0, order.size - 1, EXAMPLES).astype(int)]


def _picture_files(run: RunFiles) -> list[Path]:
    """Micrograph files: those of the workflow's own pattern, and simulated ones in the folder."""
    patterns = run.parameter("micrographs", "path", ())
    found = sorted((run.folder / "simulated" / "micrographs").glob("*.mrc"))
    for pattern in (patterns,) if isinstance(patterns, str) else patterns or ():
        whole = Path(str(pattern))
        if whole.is_absolute():
            found += (
                [whole] if whole.is_file() else sorted(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))
            )
    return found


def _picture(files: list[Path], name: str) -> np.ndarray | None:
    """The micrograph of that name among the files, None if it is not there."""
    from cryoflow.io import open_micrographs

    path = next((p for p in files if p.as_posix().endswith(f"/{name}") and p.is_file()), None)
    if path is None:
        return None
    ds = open_micrographs([path], pixel_size=1.0, voltage=300.0, cs=0.0, amplitude_contrast=0.0, trust_given=True)
    return np.asarray(ds["micrograph"].values[0], dtype=np.float32)


def micrograph_section(run: RunFiles) -> list[Any]:
    """Micrographs with their picks, and how many picks each has."""
    ds = _micrographs(run)
    names = _names(ds, "micrograph_name")
    picks = run.store("picks")
    of = _names(picks, "micrograph_name") if picks is not None else np.array([], dtype=str)
    where = np.asarray(picks["coordinate"].values) if picks is not None else np.empty((0, 2))
    files = [Path(str(ds.attrs.get("root", ""))) / name for name in names] + _picture_files(run)
    diameter = run.parameter("pick", "diameter") or run.parameter("refine", "diameter") or 150.0
    pixel = float(np.atleast_1d(ds["pixel_size"].values)[0]) if "pixel_size" in ds else 1.0
    blocks: list[Any] = []
    images = []
    for row in _examples(ds):
        try:
            image = _picture(files, names[row])
        except READING as error:
            run.problems[names[row]] = str(error)
            continue
        if image is not None:
            images.append((row, image))
    if images:
        from cryoflow.display.maps import draw_micrograph

        def panels() -> Figure:
            figure = new_figure(3.4 * len(images), 3.6)
            for ax, (row, image) in zip(np.atleast_1d(figure.subplots(1, len(images))), images, strict=True):
                mine = where[of == names[row]]
                draw_micrograph(ax, image, mine, float(diameter) / pixel, pixel_size=pixel)
                ax.set_title(f"{Path(names[row]).name}: {len(mine)} picks", fontsize=8.5)
            return figure

        caption = "Micrographs of the best, the median and the worst CTF fit, with their picks."
        blocks.append(as_figure("picks", panels, caption, wide=True))
    else:
        blocks.append(Text("The micrograph files cannot be found where the workflow names them: no pictures."))
    usable = _column(ds, "usable", True).astype(bool)
    counts = np.array([np.count_nonzero(of == name) for name in names])
    rows = [("micrographs", f"{names.size}"), ("used", f"{usable.sum()}")]
    if picks is not None and usable.any():
        used = counts[usable]
        rows.append(("picks", f"{counts.sum():,}"))
        rows.append(("picks a micrograph: least / median / most", f"{used.min()} / {np.median(used):g} / {used.max()}"))
    blocks.append(Table(("micrographs and picks", ""), rows, numeric=(1,)))
    return blocks


def ctf_section(run: RunFiles) -> list[Any]:
    """CTF fits of example micrographs and of one set aside, their spread, and every value."""
    ds = _micrographs(run)
    if "defocus_u" not in ds:
        raise Missing("No CTF has been fitted in this run.")
    from cryoflow.display.ctf import draw_ctf

    names = _names(ds, "micrograph_name")
    usable = _column(ds, "usable", True).astype(bool)
    blocks: list[Any] = []
    for row in [*_examples(ds), *np.flatnonzero(~usable)[:1]]:
        one = ds.isel(micrograph=row)
        try:
            blocks.append(as_figure(f"ctf{row}", lambda one=one: _ctf_figure(draw_ctf, one), Path(names[row]).name))  # type: ignore[misc]
        except READING as error:
            run.problems[f"CTF picture of {names[row]}"] = str(error)
    u, v = _column(ds, "defocus_u", np.nan).astype(float), _column(ds, "defocus_v", np.nan).astype(float)
    fit = _column(ds, "ctf_resolution", np.nan).astype(float)
    good = np.isfinite(u) & np.isfinite(fit)
    if good.any():

        def spread() -> Figure:
            figure = new_figure(8.6, 2.6)
            left, right = figure.subplots(1, 2)
            for keep, colour, label in ((usable, CYCLE[0], "used"), (~usable, CYCLE[1], "set aside")):
                rows = good & keep
                if rows.any():
                    left.plot(0.5e-4 * (u + v)[rows], fit[rows], "o", ms=4, color=colour, alpha=0.8, label=label)
            left.set(xlabel="mean underfocus (µm)", ylabel="fit holds to (Å)")
            left.legend()
            right.hist((u - v)[good & usable], bins=min(20, max(5, int(good.sum()) // 3)), color=CYCLE[0], alpha=0.85)
            right.set(xlabel="astigmatism (Å)", ylabel="micrographs")
            right.yaxis.get_major_locator().set_params(integer=True)
            return figure

        blocks.append(as_figure("ctf-spread", spread, "Defocus, fit resolution and astigmatism.", wide=True))
    angle, score = _column(ds, "defocus_angle", np.nan), _column(ds, "ctf_score", np.nan)
    rows = [
        (Path(names[i]).name, _n(u[i], 0), _n(v[i], 0), _n(angle[i], 1), _n(score[i], 3), _n(fit[i], 2))
        for i in range(names.size)
    ]
    header = ("micrograph", "defocus u (Å)", "v (Å)", "angle (°)", "score", "fit to (Å)")
    blocks.append(
        Table(header, rows, fold=f"All {names.size} micrographs", numeric=range(1, 6), marked=np.flatnonzero(~usable))  # type: ignore[arg-type]
    )
    return blocks


def _ctf_figure(draw_ctf: Any, one: xr.Dataset) -> Figure:
    figure = new_figure(5.6, 2.7)
    draw_ctf(figure, one)
    return figure


def _n(value: Any, digits: int) -> str:
    return f"{float(value):.{digits}f}" if np.isfinite(float(value)) else "–"


def particle_section(run: RunFiles) -> list[Any]:
    """Particle examples spread over the whole set, low-passed so that they can be seen."""
    from scipy.ndimage import gaussian_filter

    from cryoflow.display.maps import draw_montage

    ds = run.store("particles")
    if ds is None or "image" not in ds:
        ds = _imported(run)
    total = int(ds.sizes["particle"])
    if total == 0:
        raise Missing("The particle set is empty.")
    rows, columns = MONTAGE
    chosen = np.unique(np.linspace(0, total - 1, min(total, rows * columns)).astype(int))
    images = np.asarray(ds["image"].isel(particle=chosen).values, dtype=np.float32)
    whole = np.isfinite(images).all(axis=(1, 2))
    pixel = float(np.atleast_1d(ds["pixel_size"].values)[0]) if "pixel_size" in ds else 1.0
    smooth = np.stack([gaussian_filter(image, 0.19 * 20.0 / pixel) for image in images[whole]]) if whole.any() else None
    if smooth is None:
        raise Missing("None of the particle examples has finite values.")

    def montage() -> Figure:
        figure = new_figure(9.6, 0.8 * -(-len(smooth) // columns) + 0.1)
        draw_montage(figure.subplots(), smooth, columns=columns, pixel_size=pixel)
        return figure

    n = images.shape[-1]
    text = f"{len(smooth)} of {total:,} particles, {n}² pixels of {pixel:g} Å, smoothed to about 20 Å for the eye."
    return [as_figure("particles", montage, text, wide=True)]


def _imported(run: RunFiles) -> xr.Dataset:
    """The stack a run from particles was given by its user."""
    from cryoflow.io.particles import read_particles

    path = run.parameter("particles", "path")
    if not path or not Path(str(path)).is_file():
        raise Missing("There are no particle images: neither stores/particles.zarr nor a stack the workflow names.")
    try:
        given = {name: run.parameter("particles", name) for name in STACK}
        return read_particles(str(path), **{name: value for name, value in given.items() if value is not None})
    except READING as error:
        raise Missing(f"The particle stack cannot be read: {error}") from error


def flagged_section(run: RunFiles) -> list[Any]:
    """Everything set aside, by name and reason."""
    rows: list[tuple[str, str, str]] = []
    ds = run.store("ctf", "micrographs_ctf", "micrographs")
    if ds is not None and "usable" in ds:
        names = _names(ds, "micrograph_name")
        reasons = _names(ds, "reason")
        rows += [("micrograph", names[i], reasons[i] or "–") for i in np.flatnonzero(~ds["usable"].values.astype(bool))]
    for stage, figures in run.stages.items():
        count = figures.get("set_aside")
        if isinstance(count, int) and count > 0:
            rows.append((stage, f"{count:,} particles", "; ".join(_about_set_aside(figures)) or "–"))
    rows += [("unreadable", name, why) for name, why in run.problems.items()]
    if not rows:
        return [Text("Nothing was set aside.")]
    return [Table(("what", "name", "reason"), rows)]


def _about_set_aside(figures: dict[str, Any]) -> list[str]:
    """Those of a stage's warnings that say what it set aside."""
    given = figures.get("warnings", ())
    return [str(w) for w in given if "set aside" in str(w)] if isinstance(given, list) else []
