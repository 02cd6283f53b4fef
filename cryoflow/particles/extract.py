"""``extract_particles``: from micrographs and coordinates to normalised particle images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import ParameterError, SchemaError
from cryoflow.kernels.backend import array_module
from cryoflow.kernels.fourier import resample
from cryoflow.particles.normalise import background, normalise
from cryoflow.particles.window import box_inside, nearest_pixel, windows
from cryoflow.schema import require

__all__ = ["extract_particles"]

log = logging.getLogger("cryoflow")
WHERE = "extract_particles"
CHUNK_BYTES = 16_000_000
_CARRIED = ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "ctf_b_factor", "ctf_scale",
            "ctf_resolution", "ctf_score")  # fmt: skip
_KEPT = ("pick_score", "particle_id", "half", "class_number", "rotation")


def extract_particles(
    micrographs: xr.Dataset,
    picks: xr.Dataset,
    *,
    box: int,
    rescale: int | None = None,
    background_diameter: float | None = None,
    invert: bool | None = None,
    normalise: bool = True,
    ramp: bool = True,
    white_dust: float = -1.0,
    black_dust: float = -1.0,
    edge: Literal["box", "particle", "keep"] = "box",
    client: Any = None,
) -> xr.Dataset:
    """Cut particles from micrographs: contrast, Fourier rescaling, ramp, background normalisation.

    Parameters
    ----------
    micrographs : Dataset with ``micrograph``, ``micrograph_name``, ``pixel_size``, and the CTF variables to carry over.
        Particles of rows with ``usable`` False are dropped.
    picks : Dataset over ``particle`` with ``coordinate`` (x, y) and ``micrograph_name``.
    box : pixels of the micrograph, even.
    rescale : box after Fourier cropping (or padding), even; the pixel size changes by box / rescale.
    background_diameter : angstrom; what lies outside this circle is background. 0.75 of each box if not given.
    invert : True for dark particles. None: what ``attrs["contrast"]`` of ``micrograph`` or of either Dataset says,
        else dark.
    normalise, ramp : background to mean 0 and standard deviation 1; fit a plane (else the mean alone).
    white_dust, black_dust : remove pixels more than so many standard deviations above or below; negative: off.
    edge : "box" drops particles whose box leaves the micrograph; "particle" those whose background circle does; "keep"
        none whose centre is inside. What is missing of a box repeats the nearest pixel, as in RELION, which keeps all.

    Returns
    -------
    Dataset over ``particle``, in the order of micrographs and, within one, of picks. ``image`` (float32, white on
    black) is lazy: nothing is cut until it is computed, one micrograph a task, chunks of at most 16 MB. ``coordinate``
    is the pixel at the box's centre (box // 2) and ``shift`` what centres the particle: nothing is lost by rounding.
    ``group`` numbers micrographs from 1. ``attrs``: parameters, counts of ``dropped`` particles, and ``set_aside``.

    Raises
    ------
    SchemaError : missing variables, micrographs that picks name but are not there.
    ParameterError : before anything is read; or if no particle is left.

    >>> field = np.random.default_rng(0).normal(size=(1, 64, 64)).astype("f4")
    >>> data = xr.Dataset({"micrograph": (("micrograph", "y", "x"), field), "pixel_size": ("optics", [2.0]),
    ...                    "micrograph_name": ("micrograph", ["a.mrc"])})
    >>> picks = xr.Dataset({"coordinate": (("particle", "xy"), [[30.25, 32.0], [2.0, 5.0]]),
    ...                     "micrograph_name": ("particle", ["a.mrc", "a.mrc"])})
    >>> particles = extract_particles(data, picks, box=16)
    >>> particles.image.shape, particles.coordinate.values.tolist(), particles["shift"].values.tolist()
    ((1, 16, 16), [[30.0, 32.0]], [[-0.5, 0.0]])
    """
    size = box if rescale is None else rescale
    parent = _parents(micrographs, picks)
    pixels = _pixel_sizes(micrographs)
    diameter = 0.75 * box * pixels if background_diameter is None else np.full(len(pixels), background_diameter)
    _check(micrographs, box, size, diameter, pixels, edge)
    dark = _is_dark(micrographs, picks) if invert is None else invert

    rows, dropped = _select(micrographs, picks, parent, box, edge, 0.5 * diameter / pixels)
    work = {"box": box, "size": size, "invert": dark, "scale": normalise, "ramp": ramp,
            "white_dust": white_dust, "black_dust": black_dust}  # fmt: skip
    bad = _unusable_boxes(micrographs, parent[rows], picks["coordinate"].values[rows], box, normalise, client)
    names = picks["micrograph_name"].values.astype(object).astype(str)
    set_aside = [f"{names[r]} at {_where(picks, r)}: {why}" for r, why in zip(rows, bad) if why]
    rows = rows[bad == ""]
    if not len(rows):
        why = "; ".join([*(f"{n} {how}" for how, n in dropped.items() if n), *set_aside[:3]])
        raise ParameterError(
            WHERE, expected="particles to extract", found=f"none of {len(parent)} picks ({why or 'no picks'})",
            remedy="Where they lie at the edge take a smaller box, or edge='keep'.",
        )  # fmt: skip

    ds = _table(micrographs, picks, rows, parent[rows], box, size)
    ds["image"] = (("particle", "y", "x"), _images(micrographs, ds, parent[rows], pixels, diameter, work))
    ds["image"].attrs |= {"contrast": "bright", "long_name": "particle image"}
    dropped["set aside"] = len(set_aside)
    ds.attrs |= {"function": WHERE, "box": box, "background_diameter": float(diameter.max()), "inverted": bool(dark),
                 "normalised": bool(normalise), "edge": edge, "set_aside": set_aside,
                 "dropped": [f"{n} {why}" for why, n in dropped.items() if n]}  # fmt: skip
    for line in ds.attrs["dropped"]:
        log.info("extraction: %s of %d", line, len(parent))
    for line in set_aside:
        log.warning("extraction: set aside: %s", line)
    return ds


def cut(
    micrograph: Any, *, centre: NDArray[Any], seed: NDArray[Any], radius: NDArray[Any], box: int, size: int,
    invert: bool, scale: bool, ramp: bool, white_dust: float, black_dust: float,
) -> Any:  # fmt: skip
    """The kernel: particles (n, size, size) of one micrograph, around the pixels ``centre`` (n, 2)."""
    xp = array_module(micrograph)
    images = windows(micrograph, centre, box).astype(xp.float32)
    if size != box:
        images = resample(images, size)
    if scale:
        images = normalise(images, radius=float(radius[0]), ramp=ramp, white_dust=white_dust, black_dust=black_dust,
                           seeds=seed)  # fmt: skip
    return -images if invert else images


def look(micrograph: Any, x_centre: Any, *, box: int, scale: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The kernel that looks for boxes that cannot be used: 1 not finite, 2 blank."""
    xp = array_module(micrograph)
    flags = np.zeros(x_centre.shape[:2], np.int8)
    outside = xp.asarray(background(box, 0.375 * box))
    for i in range(len(micrograph)):
        centre = np.asarray(x_centre[i].tolist() if hasattr(x_centre, "get") else x_centre[i])
        used = np.flatnonzero(centre[:, 0] >= 0)
        for r in np.array_split(used, -(-len(used) * 4 * box * box // CHUNK_BYTES) or 1):
            images = windows(micrograph[i], centre[r], box)
            finite = xp.isfinite(images).all(axis=(1, 2))
            ring = images[:, outside]
            blank = (ring.max(axis=1) == ring.min(axis=1)) if scale else xp.zeros(len(r), bool)
            flags[i, r] = np.where(np.asarray(finite.tolist(), bool), np.asarray(blank.tolist(), bool) * 2, 1)
    return {"x_flag": flags}, {}


def _images(
    micrographs: xr.Dataset, ds: xr.Dataset, parent: NDArray[Any], pixels: NDArray[Any],
    diameter: NDArray[Any], work: Any,
) -> Any:  # fmt: skip
    from cryoflow.engine.ragged import map_children

    size = work["size"]
    radius = 0.5 * (diameter / pixels)[parent] * size / work["box"]
    table = {"centre": ds["coordinate"].values.astype(np.int64), "seed": ds["particle_id"].values, "radius": radius}
    return map_children(cut, micrographs["micrograph"], parent, table, work, shape=(size, size),
                        rows=max(1, CHUNK_BYTES // (4 * size * size)))  # fmt: skip


def _select(
    micrographs: xr.Dataset, picks: xr.Dataset, parent: NDArray[Any], box: int, edge: str, radius: NDArray[Any]
) -> tuple[NDArray[Any], dict[str, int]]:
    """Rows of picks to extract, sorted by micrograph, and how many were dropped for what."""
    shape = (micrographs.sizes["y"], micrographs.sizes["x"])
    finite = np.isfinite(picks["coordinate"].values).all(axis=1)
    centre = nearest_pixel(np.where(finite[:, None], picks["coordinate"].values, -1.0))
    usable = micrographs["usable"].values.astype(bool) if "usable" in micrographs else np.ones(len(radius), bool)
    if edge == "box":
        inside = box_inside(centre, box // 2, box - box // 2 - 1, shape)
    elif edge == "particle":
        reach = np.ceil(radius[parent])[:, None]
        inside = ((centre >= reach) & (centre + reach < np.array(shape[::-1]))).all(axis=1)
    else:
        inside = box_inside(centre, 0, 0, shape)
    good = usable[parent] & finite
    dropped = {"in unusable micrographs": int((~usable[parent]).sum()), "without coordinates": int((~finite).sum()),
               f"at the edge (rule {edge!r})": int((good & ~inside).sum())}  # fmt: skip
    rows = np.flatnonzero(good & inside)
    return rows[np.argsort(parent[rows], kind="stable")], dropped


def _unusable_boxes(
    micrographs: xr.Dataset, parent: NDArray[Any], coordinate: NDArray[Any], box: int, scale: bool, client: Any
) -> NDArray[Any]:
    """Why each particle (sorted by micrograph) cannot be used; empty where it can."""
    from cryoflow.engine import compute, map_rows

    why = np.full(len(parent), "", object)
    if not len(parent):
        return why
    used, start, counts = np.unique(parent, return_index=True, return_counts=True)
    column = np.arange(len(parent)) - np.repeat(start, counts)
    centre = np.full((len(used), counts.max(), 2), -1, np.int64)
    row = np.repeat(np.arange(len(used)), counts)
    centre[row, column] = nearest_pixel(coordinate)
    data = micrographs[["micrograph"]].isel(micrograph=used).assign(x_centre=(("micrograph", "pick", "xy"), centre))
    flags = map_rows(look, data, {"box": box, "scale": scale}, dim="micrograph", batch=1,
                     outputs={"x_flag": (("pick",), "i1")})  # fmt: skip
    (flags,) = compute(flags, client=client, label="extraction, checks")
    found = flags["x_flag"].values[row, column]
    why[found == 1], why[found == 2] = "NaN or infinite pixels", "blank background"
    return why


def _table(
    micrographs: xr.Dataset, picks: xr.Dataset, rows: NDArray[Any], parent: NDArray[Any], box: int, size: int
) -> xr.Dataset:
    coordinate = picks["coordinate"].values[rows].astype(np.float64)
    centre = nearest_pixel(coordinate)
    pixels = _pixel_sizes(micrographs)[parent]
    shift = (centre - coordinate) * pixels[:, None]
    if "shift" in picks:  # already known offsets refer to the same point
        shift = shift + picks["shift"].values[rows]
    ds = xr.Dataset({
        "coordinate": (("particle", "xy"), centre.astype(np.float32)),
        "shift": (("particle", "xy"), shift.astype(np.float32)),
        "micrograph_name": ("particle", picks["micrograph_name"].values.astype(object).astype(str)[rows]),
        "optics_group": ("particle", _groups(micrographs)[parent].astype(np.int32)),
        "group": ("particle", (np.unique(parent, return_inverse=True)[1] + 1).astype(np.int32)),
    })  # fmt: skip
    for name in _KEPT:
        if name in picks:
            ds[name] = (("particle", *picks[name].dims[1:]), picks[name].values[rows])
    if "particle_id" not in ds:
        ds["particle_id"] = ("particle", np.arange(len(rows), dtype=np.int64))
    for name in _CARRIED:
        if name in picks:  # per particle beats per micrograph
            ds[name] = ("particle", picks[name].values[rows])
        elif name in micrographs:
            ds[name] = ("particle", micrographs[name].values[parent])
    for key, array in micrographs.data_vars.items():
        if array.dims[:1] == ("optics",):
            ds[key] = array.variable
    ds["micrograph_pixel_size"] = ds["pixel_size"].variable.copy()
    ds["pixel_size"] = ds["pixel_size"] * (box / size)
    return ds


def _parents(micrographs: xr.Dataset, picks: xr.Dataset) -> NDArray[Any]:
    """Row of the micrograph of each pick."""
    require(micrographs, f"{WHERE}, micrographs", ("micrograph", "micrograph_name", "pixel_size"))
    require(picks, f"{WHERE}, picks", ("coordinate", "micrograph_name"))
    names = micrographs["micrograph_name"].values.astype(object).astype(str)
    order = np.argsort(names, kind="stable")
    if len(np.unique(names)) < len(names):
        raise SchemaError(WHERE, expected="micrographs of different names", found="a name twice")
    wanted = picks["micrograph_name"].values.astype(object).astype(str)
    place = np.clip(np.searchsorted(names[order], wanted), 0, len(names) - 1)
    parent = order[place]
    missing = np.flatnonzero(names[parent] != wanted)
    if len(missing):
        raise SchemaError(
            f"{WHERE}, row {missing[0]} of picks", expected="a micrograph of the Dataset given",
            found=f"{wanted[missing[0]]!r} (so in {len(missing)} of {len(names[parent])} rows)",
            remedy="Names must agree, folders included.",
        )  # fmt: skip
    return parent


def _groups(micrographs: xr.Dataset) -> NDArray[Any]:
    if "optics_group" in micrographs:
        return np.asarray(micrographs["optics_group"].values)
    return np.zeros(micrographs.sizes["micrograph"], np.int32)


def _pixel_sizes(micrographs: xr.Dataset) -> NDArray[Any]:
    return np.asarray(np.atleast_1d(micrographs["pixel_size"].values).astype(float)[_groups(micrographs)])


def _is_dark(micrographs: xr.Dataset, picks: xr.Dataset) -> bool:
    said = (micrographs["micrograph"].attrs.get("contrast") or micrographs.attrs.get("contrast")
            or picks.attrs.get("contrast") or "dark")  # fmt: skip
    if said not in ("dark", "bright"):
        raise ParameterError(WHERE, expected="contrast 'dark' or 'bright' in attrs", found=repr(said),
                             remedy="Give invert=True for dark particles, invert=False for bright ones.")  # fmt: skip
    return bool(said == "dark")


def _where(picks: xr.Dataset, row: int) -> str:
    x, y = picks["coordinate"].values[row]
    return f"({x:.0f}, {y:.0f})"


def _check(
    micrographs: xr.Dataset, box: int, size: int, diameter: NDArray[Any], pixels: NDArray[Any], edge: str
) -> None:
    shape = (micrographs.sizes["y"], micrographs.sizes["x"])
    rules: tuple[tuple[Callable[[], Any], str, object], ...] = (
        (lambda: isinstance(box, (int, np.integer)) and box >= 16 and box % 2 == 0,
         "box even and at least 16 pixels", box),
        (lambda: isinstance(size, (int, np.integer)) and size >= 8 and size % 2 == 0,
         "rescale even and at least 8 pixels", size),
        (lambda: box <= min(shape), f"a box within the micrograph of {shape[1]} x {shape[0]}", box),
        (lambda: np.all(np.isfinite(pixels) & (pixels > 0)), "pixel sizes above 0 angstrom", pixels.tolist()),
        (lambda: np.all(diameter > 0) and background(size, 0.5 * size / box * (diameter / pixels).max()).sum() >= 8,
         "background_diameter (angstrom) that leaves background in the box",
         f"{diameter.max():g} A in {box * pixels.min():g} A"),
        (lambda: edge in ("box", "particle", "keep"), "edge 'box', 'particle' or 'keep'", repr(edge)),
    )  # fmt: skip
    for holds, expected, found in rules:
        if not holds():
            raise ParameterError(WHERE, expected=expected, found=str(found),
                                 remedy="See the parameters of extract_particles.")  # fmt: skip
