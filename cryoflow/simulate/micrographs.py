"""Micrographs with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import scipy.fft
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.kernels.ctf import ctf
from cryoflow.kernels.fourier import shift_phases
from cryoflow.kernels.rotation import random_rotations
from cryoflow.options import takes
from cryoflow.schema import validate
from cryoflow.simulate.field import check_room, dirt_image, draw_dirt, draw_places, illumination
from cryoflow.simulate.imaging import (
    IMAGING,
    Imaging,
    Microscope,
    check_imaging,
    draw_defocus,
    factor_for,
    microscope,
    optics_variables,
)
from cryoflow.simulate.noise import NoiseKind, solvent_power, stream
from cryoflow.simulate.projector import Projector, prepare, slice_spectra
from cryoflow.simulate.source import Source, volume_of

__all__ = ["micrograph_images", "save_simulation", "simulate_micrographs"]

Array = np.ndarray[Any, np.dtype[Any]]
OPTICS, NOISE, CALIBRATION, LIGHT = 13, 14, 15, 16  # streams of (seed, stream, micrograph)
CALIBRATION_SET = 32
# shares of the noise variance: solvent under the CTF (its Thon rings), solvent beyond it (inelastic), shot noise
COHERENT, INCOHERENT, SHOT = 0.35, 0.35, 0.3


@takes(Imaging, IMAGING)
def simulate_micrographs(
    source: Source = None,
    *,
    n: int,
    shape: tuple[int, int] = (1024, 1024),
    pixel_size: float,
    particles_per_micrograph: int = 50,
    diameter: float | None = None,
    contaminants: float = 1.0,
    dose: float = 40.0,
    dtype: Literal["float32", "uint16"] = "float32",
    **imaging: Unpack[Imaging],
) -> tuple[xr.Dataset, xr.Dataset]:
    """Micrographs of a structure in random poses and places, dark on bright like recorded ones, and their truth.

    I = e (1 + g) (1 - X / sqrt(e)) - dirt, with e = dose pixel_size^2 electrons a pixel, a smooth illumination g of a
    few per cent and X = a T P + sqrt(N) noise of unit noise variance: P is the sum of all projections at their places,
    T the CTF with astigmatism and the envelope exp(-B s^2 / 4) over the whole micrograph. The noise power is

        N(s) = 0.35 W(s) M^2 T^2 / <.> + 0.35 W(s) M^2 / <.> + 0.3,

    solvent seen through the CTF (the Thon rings), solvent beyond it, and shot noise; W and M as in ``noise``, each
    solvent part with the share of variance written before it. "white" noise has N = 0.35 T^2 / <T^2> + 0.65.

    SNR is the variance of clean particle images (CTF and envelope; in a box of 1.5 diameters, mean over particles)
    divided by that of X's noise, as for ``simulate_particles``.

    Parameters
    ----------
    source : model file, map file, map DataArray, or None for ``procedural_protein``.
    n, shape : number of micrographs and their (rows, columns).
    particles_per_micrograph : placed no nearer to each other than a diameter and 0.75 diameters from every edge; fewer
        where they do not fit beside contaminants.
    diameter : angstrom; of the procedural protein (default 120), or of the source (default: measured).
    contaminants : mean number of dark ice blobs a micrograph (Poisson).
    dose : electrons per square angstrom.
    dtype : "uint16" rounds to whole counts as cameras do.

    Other parameters are those of ``simulate_particles``.

    Returns
    -------
    micrographs : lazy ``micrograph`` and what an experimenter knows (optics, names); no CTF.
    truth : particles with ``coordinate``, ``rotation``, ``shift`` (zero: coordinates are exact), defocus and names, and
        the ``map`` that was projected, in a box of 1.5 diameters.

    Raises
    ------
    ParameterError : before any work.

    Examples
    --------
    >>> micrographs, truth = simulate_micrographs(n=1, shape=(128, 160), pixel_size=6.0, particles_per_micrograph=4)
    >>> micrographs.micrograph.shape, truth.sizes["particle"]
    ((1, 128, 160), 4)
    """
    check_imaging(n, imaging)
    noise, seed, symmetry = imaging["noise"], imaging["seed"], imaging["symmetry"]
    if noise not in ("coloured", "white"):
        raise ParameterError("simulate_micrographs", expected="noise 'coloured' or 'white'", found=repr(noise))
    if dtype not in ("float32", "uint16"):
        raise ParameterError("simulate_micrographs", expected="dtype 'float32' or 'uint16'", found=repr(dtype))
    if not (0 < dose < np.inf and 0 <= contaminants < np.inf and particles_per_micrograph >= 0):
        raise ParameterError("simulate_micrographs", expected="dose above 0, contaminants and particles of at least 0",
                             found=f"{dose}, {contaminants}, {particles_per_micrograph}")  # fmt: skip
    extent, volume = volume_of(source, pixel_size, symmetry, diameter, seed)
    check_room(shape, extent / pixel_size, particles_per_micrograph)
    optics = microscope(imaging, pixel_size)
    projector = prepare(volume.values)
    dirt = [draw_dirt(seed, i, shape, pixel_size, contaminants) for i in range(n)]
    places = [draw_places(seed, i, shape, extent / pixel_size, particles_per_micrograph, dirt[i]) for i in range(n)]
    u, v, angle = draw_defocus(n, imaging, stream(seed, OPTICS))
    truth = _truth(places, u, v, angle, optics)
    names = np.array([f"simulated_{i + 1:05d}.mrc" for i in range(n)])
    truth["micrograph_name"] = ("particle", names[truth.x_micrograph.values])
    attrs = {
        "snr": float(imaging["snr"]), "b_factor": float(optics.b_factor), "noise": noise, "seed": int(seed),
        "dose": float(dose), "diameter": float(extent), "box": projector.box, "symmetry": symmetry,
    }  # fmt: skip
    shared = {
        "projector": projector, "microscope": optics, "shape": shape, "noise": noise, "seed": int(seed),
        "amplitude": _calibrate(projector, optics, imaging), "places": places, "dirt": dirt, "dose": float(dose),
        "noisy": not np.isinf(imaging["snr"]), "dtype": dtype,
    }  # fmt: skip
    rows = xr.Dataset({
        "defocus_u": ("micrograph", u), "defocus_v": ("micrograph", v), "defocus_angle": ("micrograph", angle),
        "x_number": ("micrograph", np.arange(n)),
    })  # fmt: skip
    from cryoflow.engine import map_rows

    images = map_rows(micrograph_images, rows.assign(x_number=rows.x_number.chunk({"micrograph": 1})), shared,
                      dim="micrograph", outputs={"micrograph": (("y", "x"), dtype)},
                      sizes={"y": shape[0], "x": shape[1]})  # fmt: skip
    micrographs = xr.Dataset(
        {
            "micrograph_name": ("micrograph", names),
            "usable": ("micrograph", np.ones(n, dtype=bool)),
            "reason": ("micrograph", np.full(n, "", dtype="<U1")),
            "exposure": ("micrograph", np.full(n, float(dose))),
            "optics_group": ("micrograph", np.zeros(n, dtype=np.int32)),
            **optics_variables(optics),
            "micrograph": images["micrograph"],
        },
        attrs={**attrs, "contrast": "dark"},
    )
    micrographs["micrograph"].attrs["contrast"] = "dark"
    truth = truth.assign(map=volume).assign_attrs(attrs)
    return validate(micrographs, "simulate_micrographs"), validate(truth, "simulate_micrographs")


def save_simulation(micrographs: xr.Dataset, truth: xr.Dataset, folder: str | Path) -> list[Path]:
    """Write ``micrographs/*.mrc`` (one at a time), ``truth.star`` and ``truth.mrc`` into ``folder``.

    Returns the paths of the micrographs. Raises ``ResourceError`` if the disk is full; no half-written file is left.
    """
    from cryoflow.io import write_map, write_particles

    place = Path(folder)
    (place / "micrographs").mkdir(parents=True, exist_ok=True)
    pixel = float(micrographs.pixel_size.values[0])
    paths = [place / "micrographs" / str(name) for name in micrographs.micrograph_name.values]
    for i, path in enumerate(paths):
        write_map(path, micrographs.micrograph[i].values, pixel_size=pixel)
    write_map(place / "truth.mrc", truth["map"])
    stems = [Path(str(name)).stem for name in truth.micrograph_name.values]
    names = np.array([f"{i + 1:06d}@{stem}.mrcs" for i, stem in enumerate(stems)])
    write_particles(truth.drop_vars("map").assign(image_name=("particle", names)), place / "truth.star")
    return paths


def micrograph_images(
    x_number: Array, defocus_u: Array, defocus_v: Array, defocus_angle: Array, *, projector: Projector,
    microscope: Microscope, amplitude: float, shape: tuple[int, int], noise: NoiseKind, places: list[Any],
    dirt: list[Any], dose: float, noisy: bool, dtype: str, seed: int,
) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
    """Kernel of ``simulate_micrographs``: counts (B, ny, nx)."""
    out = np.empty((len(x_number), *shape), dtype=dtype)
    pixel = microscope.pixel_size
    electrons = dose * pixel**2
    for i, number in enumerate(x_number):
        rng = stream(seed, NOISE, number)
        transfer = _transfer(shape, microscope, defocus_u[i], defocus_v[i], defocus_angle[i])
        coordinates, rotations = places[int(number)]
        clean = _superposed(projector, coordinates, rotations, shape)
        spectrum = scipy.fft.rfft2(clean) * (np.float32(amplitude) * transfer)
        if noisy:
            spectrum += _noise(shape, pixel, transfer, noise, rng)
        x = scipy.fft.irfft2(spectrum, s=shape)
        counts = electrons * (1 + illumination(shape, stream(seed, LIGHT, number))) * (1 - x / np.sqrt(electrons))
        counts -= electrons * dirt_image(dirt[int(number)], shape, pixel, rng)
        out[i] = np.clip(np.rint(counts), 0, 65535) if dtype == "uint16" else counts
    return {"micrograph": out}, {}


def _superposed(projector: Projector, coordinates: Array, rotations: Array, shape: tuple[int, int]) -> Array:
    """Sum of projections at their places, (ny, nx) float32, no CTF."""
    n = projector.box
    total = np.zeros((shape[0] + 2 * n, shape[1] + 2 * n), dtype=np.float32)
    for (x, y), rotation in zip(coordinates, rotations):
        column, row = int(np.rint(x)), int(np.rint(y))
        moved = shift_phases(n, np.array([x - column, y - row]))
        spectrum = slice_spectra(projector, rotation[None])[0] * moved
        patch = np.fft.fftshift(scipy.fft.irfft2(spectrum, s=(n, n), norm="ortho"))
        first, left = row - n // 2 + n, column - n // 2 + n
        total[first : first + n, left : left + n] += patch
    return total[n:-n, n:-n]


def _frequencies(shape: tuple[int, int], pixel: float) -> tuple[Array, Array]:
    return np.fft.rfftfreq(shape[1], pixel)[None], np.fft.fftfreq(shape[0], pixel)[:, None]


def _transfer(shape: tuple[int, int], m: Microscope, u: float, v: float, angle: float) -> Array:
    sx, sy = _frequencies(shape, m.pixel_size)
    return np.asarray(
        ctf(sx, sy, u, v, angle, voltage=m.voltage, cs=m.cs, amplitude_contrast=m.amplitude_contrast,
            b_factor=m.b_factor), dtype=np.float32,
    )  # fmt: skip


def _noise(shape: tuple[int, int], pixel: float, transfer: Array, kind: NoiseKind, rng: np.random.Generator) -> Array:
    """Spectrum (plain rfft2) of noise of unit variance; see ``simulate_micrographs``."""
    sx, sy = _frequencies(shape, pixel)
    s = np.sqrt(sx * sx + sy * sy)
    solvent = solvent_power(s) * np.sinc(s * pixel) ** 2 if kind == "coloured" else np.ones_like(s)
    weight = np.full(shape[1] // 2 + 1, 2.0)
    weight[0] = 1.0
    if shape[1] % 2 == 0:
        weight[-1] = 1.0

    def share(power: Array) -> Array:
        return np.asarray(power * (shape[0] * shape[1] / (power * weight).sum()))

    power = COHERENT * share(solvent * transfer**2) + INCOHERENT * share(solvent) + SHOT
    white = rng.standard_normal(shape, dtype=np.float32)
    return np.asarray(scipy.fft.rfft2(white) * np.sqrt(power).astype(np.float32))


def _calibrate(projector: Projector, m: Microscope, imaging: Imaging) -> float:
    """The factor that gives clean particles, each alone in its box, the variance ``snr``."""
    if np.isinf(imaging["snr"]):
        return 1.0
    rng = stream(imaging["seed"], CALIBRATION)
    n, half = projector.box, 0.25 * imaging["astigmatism"]
    variance = 0.0
    for rotation, d in zip(random_rotations(CALIBRATION_SET, rng), rng.uniform(*imaging["defocus"], CALIBRATION_SET)):
        spectrum = slice_spectra(projector, rotation[None])[0] * _transfer((n, n), m, d + half, d - half, 0.0)
        variance += float(scipy.fft.irfft2(spectrum, s=(n, n), norm="ortho").var(dtype=np.float64)) / CALIBRATION_SET
    return factor_for(imaging["snr"], variance)


def _truth(places: list[tuple[Array, Array]], u: Array, v: Array, angle: Array, m: Microscope) -> xr.Dataset:
    counts = [len(coordinates) for coordinates, _ in places]
    micrograph = np.repeat(np.arange(len(places)), counts)
    rows, total = "particle", int(sum(counts))
    optics = optics_variables(m)
    return xr.Dataset(
        {
            "particle_id": (rows, np.arange(total, dtype=np.int64)),
            "coordinate": ((rows, "xy"), np.concatenate([c for c, _ in places]).reshape(-1, 2)),
            "rotation": ((rows, "row", "col"), np.concatenate([r for _, r in places]).reshape(-1, 3, 3)),
            "shift": ((rows, "xy"), np.zeros((total, 2))),
            "defocus_u": (rows, u[micrograph]),
            "defocus_v": (rows, v[micrograph]),
            "defocus_angle": (rows, angle[micrograph]),
            "optics_group": (rows, np.zeros(total, dtype=np.int32)),
            "x_micrograph": (rows, micrograph),
            **optics,
            "micrograph_pixel_size": optics["pixel_size"],
        }
    )
