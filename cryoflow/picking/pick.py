"""``pick_particles``: blobs first, then the rotational average of what was found as a template."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError
from cryoflow.picking.chance import noise_floor
from cryoflow.picking.passes import DISC, Settings, log_pass, profile_pass, template_pass
from cryoflow.picking.prepare import SAMPLES_PER_DIAMETER
from cryoflow.picking.threshold import choose_threshold
from cryoflow.schema import require

__all__ = ["pick_particles"]

log = logging.getLogger("cryoflow")
WHERE = "pick_particles"
LOG_SIGMAS = 0.5  # of the map of the Laplacian: where no two populations show
TEMPLATE_SIGMAS = 4.0  # of the map of correlations, likewise
PEOPLED = 1e-5  # chance of noise below which a micrograph holds particles
TEMPLATE_MICROGRAPHS = 64  # as many as the template is made from: thousands of particles
LEARNT_FROM = 60  # particles at least, the better half of which are averaged
ROUNDS = 2
COVERAGE = 0.55  # of the disc that must lie inside the micrograph
_ROWS = {
    "x_picks": (("pick", "xysz"), "f4"), "x_decoys": (("pick",), "f4"), "x_score_mean": ((), "f4"),
    "x_score_sigma": ((), "f4"), "x_positions": ((), "f4"), "x_chance": ((), "f4"), "reason": ((), "U"),
}  # fmt: skip


def pick_particles(
    micrographs: xr.Dataset,
    *,
    diameter: float,
    min_diameter: float | None = None,
    max_diameter: float | None = None,
    threshold: float | None = None,
    upper_threshold: float | None = None,
    method: Literal["template", "log"] = "template",
    min_distance: float | None = None,
    contaminants: float | None = 5.0,
    contrast: Literal["dark", "bright"] | None = None,
    client: Any = None,
) -> xr.Dataset:
    """Find particle centres, knowing the particle's diameter alone.

    The first pass looks for peaks of the scale-normalised Laplacian of Gaussian. The second (``method="template"``)
    averages the best of them rotationally, correlates that ring pattern with every micrograph (Pearson correlation
    within a disc of 1.25 diameters, by what of it lies inside the micrograph), averages the particles found by that,
    and correlates once more. The threshold is where, in the distribution of the scores of all peaks of all
    micrographs, noise and particles are equally likely; where they are not apart, the one of the best F1 by the number
    of peaks of the negated maps (``decoy_threshold``). A micrograph whose peaks are its pits upside down, as those of
    noise are, keeps only those that noise does not reach or not as often (``chance.noise_floor``): none, if empty.

    Parameters
    ----------
    micrographs : Dataset with ``micrograph`` (micrograph, y, x), ``micrograph_name`` and ``pixel_size`` (optics). Rows
        with ``usable`` False are passed by.
    diameter : of the particle, angstrom.
    min_diameter, max_diameter : range of the first pass, angstrom; both are ``diameter`` if not given. Smaller blobs
        than the particle answer to its parts: widen the range only for particles of varying size.
    threshold : peaks below this many robust standard deviations above the median of their micrograph's score map are
        dropped, and no others; None: from the distribution of scores.
    upper_threshold : likewise peaks above it (contaminants); None: no limit.
    method : "log" stops after the first pass.
    min_distance : between centres, angstrom; 0.6 ``diameter`` if not given.
    contaminants : sigmas beyond which a region is a contaminant (``contaminant_mask``); None: no mask.
    contrast : "dark" or "bright" particles. None: what ``micrographs.micrograph.attrs["contrast"]`` or
        ``micrographs.attrs["contrast"]`` says, else "dark", as recorded in a transmission microscope.
    client : Dask client; None for the embedded default.

    Returns
    -------
    Dataset over ``particle``: ``coordinate``, ``pick_score``, ``micrograph_name``, ``optics_group``, ``particle_id``,
    and the optics of the micrographs. A centre lies anywhere in a micrograph: particles cut by its edge are there too.
    ``attrs``: parameters; ``set_aside`` (broken micrographs and why), ``empty`` (those without a particle).

    Raises
    ------
    SchemaError, ParameterError : before anything is computed; or if no particle was found at all.

    Source: Scheres 2015, J. Struct. Biol. 189:114; Zivanov et al. 2018, eLife 7:e42166.

    >>> y, x = np.mgrid[:128, :128]
    >>> disc = 100.0 - 3 * ((x - 40) ** 2 + (y - 70) ** 2 < 100) + np.random.default_rng(0).normal(size=x.shape)
    >>> data = xr.Dataset({"micrograph": (("micrograph", "y", "x"), disc[None]), "pixel_size": ("optics", [4.0]),
    ...                    "micrograph_name": ("micrograph", ["a.mrc"])})
    >>> picks = pick_particles(data, diameter=80.0, method="log", threshold=6.0)
    >>> picks.coordinate.values.round().tolist()
    [[40.0, 70.0]]
    """
    settings = _settings(
        micrographs, diameter, min_diameter, max_diameter, min_distance, contaminants, contrast, method
    )  # fmt: skip
    _check_thresholds(threshold, upper_threshold)
    known = _slim(micrographs)
    usable = known["usable"].values.astype(bool) if "usable" in known else np.ones(known.sizes["micrograph"], bool)
    if not usable.any():
        raise ParameterError(WHERE, expected="a usable micrograph", found=f"none of {len(usable)}",
                             remedy="See the variable 'reason' of the micrographs.")  # fmt: skip
    profile: NDArray[Any] | None = None
    if method == "log":
        found = _run(log_pass, known, {"settings": settings}, client, "picking, LoG")
        kept = _kept(found, threshold, upper_threshold, LOG_SIGMAS)
    else:
        profile = learn_template(known.isel(micrograph=_spread(np.flatnonzero(usable))), settings, client)
        found = _run(template_pass, known, {"settings": settings, "profile": profile}, client, "picking, template")
        kept = _kept(found, threshold, upper_threshold, TEMPLATE_SIGMAS)
    picks = _collect(micrographs, found, kept)
    picks.attrs |= {"function": WHERE, "method": method, "contrast": "dark" if settings["dark"] else "bright",
                    "diameter": float(diameter), "min_distance": float(settings["min_distance"])}  # fmt: skip
    if profile is not None:
        picks.attrs["template_profile"] = [float(v) for v in profile]
        picks.attrs["template_step"] = 0.5 * DISC * diameter / (len(profile) - 1)
    _report(picks, usable, micrographs, found)
    return picks


def learn_template(known: xr.Dataset, settings: Settings, client: Any) -> NDArray[Any]:
    """The radial template from the micrographs alone: blobs, their average, its matches, their average."""
    found = _run(log_pass, known, {"settings": settings}, client, "picking, LoG")
    profile = _profile(known, found, _enough(found, _kept(found, None, None, LOG_SIGMAS)), settings, client)
    for _ in range(ROUNDS - 1):
        found = _run(template_pass, known, {"settings": settings, "profile": profile}, client, "picking, template")
        kept = _enough(found, _kept(found, None, None, TEMPLATE_SIGMAS))
        profile = _profile(known, found, kept, settings, client)
    return profile


def _profile(known: xr.Dataset, found: xr.Dataset, kept: Any, settings: Settings, client: Any) -> NDArray[Any]:
    """The average over the better half of each micrograph's picks."""
    from cryoflow.engine import compute, map_reduce

    picks = found["x_picks"].values.copy()
    rank = np.cumsum(kept, axis=1)
    picks[~kept | (rank > np.ceil(0.5 * rank[:, -1:]))] = np.nan
    bins = int(np.ceil(0.5 * DISC * SAMPLES_PER_DIAMETER)) + 1
    data = known.assign(x_picks=(("micrograph", "pick", "xysz"), picks))
    _, sums = map_reduce(profile_pass, data, {"settings": settings, "bins": bins}, dim="micrograph", batch=1)
    (sums,) = compute(sums, client=client, label="picking, average")
    if sums["count"] == 0:
        raise ParameterError(
            WHERE, expected="some particle in the first pass to make a template from", found="none",
            remedy="Check diameter and contrast, or use method='log' with a threshold.",
        )  # fmt: skip
    return np.asarray(sums["profile"] / sums["count"], dtype=np.float64)


def _run(kernel: Any, data: xr.Dataset, shared: dict[str, Any], client: Any, label: str) -> xr.Dataset:
    from cryoflow.engine import compute, map_rows

    distance = shared["settings"]["min_distance"] / float(np.max(data["pixel_size"].values))
    # discs of half the least distance cannot cover more than the plane; a margin for centres on the border
    most = int(np.ceil(1.2 * (data.sizes["y"] / distance + 1) * (data.sizes["x"] / distance + 1)))
    rows = map_rows(kernel, data, {**shared, "max_picks": most}, dim="micrograph", outputs=_ROWS, batch=1,
                    sizes={"pick": most, "xysz": 4})  # fmt: skip
    done: xr.Dataset = compute(rows, client=client, label=label)[0]
    return done


def _kept(found: xr.Dataset, threshold: float | None, upper: float | None, fallback: float) -> NDArray[np.bool_]:
    """Which peaks are picks, (micrograph, pick); ``fallback`` sigmas where the distribution of scores says nothing."""
    mean, sigma = (found[n].values[:, None] for n in ("x_score_mean", "x_score_sigma"))
    scores = found["x_picks"].values[..., 2]
    kept = np.isfinite(scores)
    if upper is not None:
        kept &= scores <= mean + upper * sigma
    if threshold is not None:
        return np.asarray(kept & (scores >= mean + threshold * sigma))
    decoys = found["x_decoys"].values
    common = choose_threshold(scores[kept], decoys[np.isfinite(decoys)])
    peopled = found["x_chance"].values[:, None] < PEOPLED
    if common is None:
        kept &= (scores >= mean + fallback * sigma) | ~peopled
    else:
        kept &= scores >= common
    z = found["x_picks"].values[..., 3]
    floors = np.array([noise_floor(*row) for row in zip(z, found["x_positions"].values)])
    return np.asarray(kept & (peopled | (z >= floors[:, None])))


def _enough(found: xr.Dataset, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``kept``, or if these are few the highest peaks of all: their average may yet tell particles from noise."""
    if kept.sum() >= LEARNT_FROM:
        return kept
    z = found["x_picks"].values[..., 3]
    highest = np.sort(z[np.isfinite(z)])[-LEARNT_FROM:]
    return kept | (z >= highest[0]) if len(highest) else kept


def _collect(micrographs: xr.Dataset, found: xr.Dataset, kept: NDArray[np.bool_]) -> xr.Dataset:
    picks = found["x_picks"].values
    row = np.nonzero(kept)[0]
    chosen = picks[kept]
    if not len(chosen):
        raise ParameterError(
            WHERE, expected="particles", found=f"none in {len(picks)} micrographs",
            remedy="Lower the threshold, or check diameter and contrast.",
        )  # fmt: skip
    names = micrographs["micrograph_name"].values.astype(object).astype(str)
    group = micrographs["optics_group"].values if "optics_group" in micrographs else np.zeros(len(names), np.int32)
    size = np.array([micrographs.sizes["x"], micrographs.sizes["y"]]) - 1
    ds = xr.Dataset({
        "coordinate": (("particle", "xy"), np.clip(chosen[:, :2], 0, size).astype(np.float32)),
        "pick_score": ("particle", chosen[:, 2].astype(np.float32)),
        "micrograph_name": ("particle", names[row]),
        "optics_group": ("particle", group[row].astype(np.int32)),
        "particle_id": ("particle", np.arange(len(row), dtype=np.int64)),
    })  # fmt: skip
    optics = {n: v.variable for n, v in micrographs.data_vars.items() if v.dims[:1] == ("optics",)}
    return ds.assign(optics)


def _report(picks: xr.Dataset, usable: NDArray[Any], micrographs: xr.Dataset, found: xr.Dataset) -> None:
    names, reasons = micrographs["micrograph_name"].values.astype(object).astype(str), found["reason"].values
    picks.attrs["set_aside"] = [f"{n}: {r}" for n, r in zip(names, reasons) if r]
    has = np.isin(names, picks["micrograph_name"].values)
    picks.attrs["empty"] = [str(n) for n in names[usable & ~has & (reasons == "")]]
    for line in picks.attrs["set_aside"]:
        log.warning("picking: micrograph set aside: %s", line)
    for name in picks.attrs["empty"]:
        log.warning("picking: no particle in %s", name)


def _spread(rows: NDArray[Any]) -> NDArray[Any]:
    """At most ``TEMPLATE_MICROGRAPHS`` of ``rows``, evenly over the session."""
    if len(rows) <= TEMPLATE_MICROGRAPHS:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, TEMPLATE_MICROGRAPHS).round().astype(int)])


def _slim(micrographs: xr.Dataset) -> xr.Dataset:
    """What the kernels read, one micrograph a chunk."""
    names = ["micrograph", "pixel_size", *(n for n in ("usable", "optics_group") if n in micrographs)]
    return micrographs[names].drop_vars([c for c in micrographs.coords if c not in names], errors="ignore")


def _settings(
    micrographs: xr.Dataset, diameter: float, min_diameter: float | None, max_diameter: float | None,
    min_distance: float | None, contaminants: float | None, contrast: str | None, method: str,
) -> Settings:  # fmt: skip
    require(micrographs, WHERE, ("micrograph", "micrograph_name", "pixel_size"))
    pixel = np.atleast_1d(micrographs["pixel_size"].values).astype(float)
    side = min(micrographs.sizes["x"], micrographs.sizes["y"])
    low = diameter if min_diameter is None else min_diameter
    high = max(low, diameter) if max_diameter is None else max_diameter
    distance = 0.6 * diameter if min_distance is None else min_distance
    if contrast is None:
        contrast = micrographs["micrograph"].attrs.get("contrast") or micrographs.attrs.get("contrast", "dark")
    rules = (
        (bool(np.all(np.isfinite(pixel) & (pixel > 0))), "pixel sizes above 0 angstrom", pixel.tolist()),
        (np.isfinite(diameter) and diameter >= 4 * pixel.max(), "a diameter of at least 4 pixels", f"{diameter} A"),
        (diameter <= 0.5 * side * pixel.min(), "a diameter under half the micrograph", f"{diameter} A"),
        (0.125 * diameter <= low <= high <= 0.5 * side * pixel.min(),
         "diameter / 8 <= min_diameter <= max_diameter <= half the micrograph", f"{low} and {high} A"),
        (distance >= pixel.max(), "a min_distance of at least a pixel", f"{distance} A"),
        (contaminants is None or contaminants > 0, "contaminants above 0 sigmas, or None", contaminants),
        (contrast in ("dark", "bright"), "contrast 'dark' or 'bright'", repr(contrast)),
        (method in ("template", "log"), "method 'template' or 'log'", repr(method)),
    )  # fmt: skip
    for holds, expected, wrong in rules:
        if not holds:
            raise ParameterError(WHERE, expected=expected, found=str(wrong),
                                 remedy="Diameters are in angstrom; see the parameters of pick_particles.")  # fmt: skip
    return {"diameter": float(diameter), "min_diameter": float(low), "max_diameter": float(high),
            "min_distance": float(distance), "dark": contrast == "dark", "contaminants": contaminants,
            "coverage": COVERAGE}  # fmt: skip


def _check_thresholds(threshold: float | None, upper: float | None) -> None:
    for name, value in (("threshold", threshold), ("upper_threshold", upper)):
        if value is not None and np.isnan(value):
            raise ParameterError(WHERE, expected=f"{name} in standard deviations, or None", found=str(value))
    if upper is not None and threshold is not None and upper <= threshold:
        raise ParameterError(WHERE, expected="upper_threshold above threshold", found=f"{upper} and {threshold}")
