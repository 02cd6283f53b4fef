"""Particle stacks with known truth."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import scipy.fft
import xarray as xr

from cryoflow.kernels.ctf import ctf
from cryoflow.kernels.fourier import frequencies, shift_phases
from cryoflow.kernels.rotation import quaternion_to_matrix, random_rotations
from cryoflow.options import takes
from cryoflow.schema import validate
from cryoflow.simulate.imaging import (
    IMAGING,
    Imaging,
    Microscope,
    check_imaging,
    draw_defocus,
    factor_for,
    microscope,
    need,
    optics_variables,
)
from cryoflow.simulate.noise import noise_spectrum, stream
from cryoflow.simulate.projector import Projector, prepare, slice_spectra
from cryoflow.simulate.source import Source, check_grid, load_source

__all__ = ["particle_images", "simulate_particles"]

Array = np.ndarray[Any, np.dtype[Any]]
# streams of (seed, stream, ...): one for each kind of random number
POSES, OPTICS, NOISE, CALIBRATION = 1, 2, 3, 4
CALIBRATION_SET = 64


@takes(Imaging, IMAGING)
def simulate_particles(
    source: Source = None,
    *,
    n: int,
    box: int,
    pixel_size: float,
    shift_sd: float = 5.0,
    scale_sd: float = 0.0,
    particles_per_micrograph: int = 100,
    background_diameter: float | None = None,
    chunk: int | None = None,
    **imaging: Unpack[Imaging],
) -> tuple[xr.Dataset, xr.Dataset]:
    """A particle stack in random poses, and its truth.

    X_i(k) = a c_i CTF_i(k) exp(-B s^2 / 4) V(A_i^T k) exp(2 pi i k.t_i) + N(k): the projection of the map, displaced
    by -t_i (so that adding the shift t_i centres it), seen through the CTF, under noise of unit variance. Each image
    is then brought to mean 0 and standard deviation 1 outside ``background_diameter``, as extraction does.

    SNR is the variance of the clean images (with CTF and B-factor, over the whole box, mean over particles) divided by
    the variance of the noise. The factor ``a`` that gives it is found on 64 poses of their own.

    Parameters
    ----------
    source : model file, map file, map DataArray with ``attrs["pixel_size"]``; None for ``procedural_protein``.
    n, box, pixel_size : number of particles, pixels, angstrom.
    symmetry : point group of the source; poses are uniform over all rotations whatever it is.
    snr : above 0; ``inf`` leaves out noise and normalisation.
    defocus : smallest and largest mean defocus (u + v) / 2 of a micrograph, angstrom; uniform between.
    astigmatism : largest u - v, angstrom; uniform from 0, at a random angle.
    voltage, cs, amplitude_contrast, b_factor : kV, mm, fraction, angstrom^2.
    noise : "coloured" (``noise.coloured_power``: solvent, pixel MTF and white part) or "white".
    shift_sd : angstrom, standard deviation of each component of the shift.
    scale_sd : standard deviation of the contrast c_i about 1.
    particles_per_micrograph : so many consecutive particles share a defocus and a micrograph name.
    background_diameter : angstrom; default 0.75 of the box.
    seed : any integer of at least 0. Particle i depends on (seed, i) alone: neither n nor chunks change its bits.
    chunk : particles of one task; default 16 MiB of images.

    Returns
    -------
    particles : lazy ``image`` and what an experimenter knows (CTF, optics, micrograph names), no poses.
    truth : the same rows with ``rotation``, ``shift`` and ``x_contrast``, no images, and the ``map`` projected.

    Raises
    ------
    ParameterError : before any work.

    Examples
    --------
    >>> particles, truth = simulate_particles(n=5, box=32, pixel_size=6.0, snr=0.5)
    >>> particles.image.shape, truth.rotation.shape
    ((5, 32, 32), (5, 3, 3))
    """
    check_imaging(n, imaging)
    snr, seed = imaging["snr"], imaging["seed"]
    need(0 <= shift_sd < np.inf and 0 <= scale_sd < np.inf, "shift_sd and scale_sd of at least 0", (shift_sd, scale_sd))
    need(background_diameter is None or background_diameter >= 0, "a background_diameter in angstrom",
         background_diameter)  # fmt: skip
    need(particles_per_micrograph >= 1, "at least 1 particle per micrograph", particles_per_micrograph)
    need(chunk is None or chunk >= 1, "a chunk of at least 1 particle", chunk)
    check_grid(box, pixel_size)
    power = noise_spectrum(box, pixel_size, imaging["noise"])
    volume = load_source(source, box=box, pixel_size=pixel_size, symmetry=imaging["symmetry"], seed=seed)
    optics = microscope(imaging, pixel_size)
    projector = prepare(volume.values)
    truth = _truth(n, optics, imaging, shift_sd, scale_sd, particles_per_micrograph)
    truth.attrs |= {"snr": float(snr), "b_factor": float(optics.b_factor), "noise": imaging["noise"], "seed": int(seed)}
    shared = {
        "projector": projector,
        "microscope": optics,
        "amplitude": _calibrate(projector, optics, imaging),
        "power": None if np.isinf(snr) else power,
        "background_radius": 0.5 * (0.75 * box if background_diameter is None else background_diameter / pixel_size),
        "seed": int(seed),
    }
    step = chunk or max(1, (16 << 20) // (4 * box * box))
    from cryoflow.engine import map_rows

    # the rotation decides the chunks, being the one variable that has some
    rows = truth.assign(rotation=truth["rotation"].chunk({"particle": step}))
    images = map_rows(particle_images, rows, shared, outputs={"image": (("y", "x"), "float32")},
                      sizes={"y": box, "x": box})  # fmt: skip
    particles = truth.drop_vars(["rotation", "shift", "x_contrast"]).assign(image=images["image"])
    truth = truth.assign(map=volume)
    return validate(particles, "simulate_particles"), validate(truth, "simulate_particles")


def particle_images(
    particle_id: Array, rotation: Array, shift: Array, defocus_u: Array, defocus_v: Array, defocus_angle: Array,
    x_contrast: Array, *, projector: Projector, microscope: Microscope, amplitude: float, power: Array | None,
    background_radius: float, seed: int,
) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
    """Kernel of ``simulate_particles``: images (B, n, n) float32. One image at a time, so batches change no bit."""
    n = projector.box
    out = np.empty((len(rotation), n, n), dtype=np.float32)
    outside = _outside(n, background_radius)
    for i, image in enumerate(out):
        spectrum = _clean_spectrum(
            projector, microscope, rotation[i], shift[i], defocus_u[i], defocus_v[i], defocus_angle[i]
        ) * np.float32(amplitude * x_contrast[i])  # fmt: skip
        if power is None:
            image[:] = _to_image(spectrum, n)
            continue
        white = stream(seed, NOISE, particle_id[i]).standard_normal((n, n), dtype=np.float32)
        image[:] = _to_image(spectrum + scipy.fft.rfft2(white, norm="ortho") * np.sqrt(power), n)
        background = image[outside]
        image -= background.mean(dtype=np.float64)
        image /= background.std(dtype=np.float64)
    return {"image": out}, {}


def _to_image(spectrum: Array, n: int) -> Array:
    return np.asarray(np.fft.fftshift(scipy.fft.irfft2(spectrum, s=(n, n), norm="ortho")))


def _outside(n: int, radius: float) -> Array:
    axis = (np.arange(n) - n // 2) ** 2
    outside = axis[:, None] + axis > radius**2
    if outside.sum() < n:  # a disc larger than the box leaves no background: take the rim
        outside[[0, -1]] = outside[:, [0, -1]] = True
    return np.asarray(outside)


def _clean_spectrum(
    projector: Projector, m: Microscope, rotation: Array, shift: Array, defocus_u: float, defocus_v: float, angle: float
) -> Array:
    """CTF and envelope on the slice of one pose, moved by minus the shift; centred half spectrum complex64."""
    n = projector.box
    kx, ky = frequencies(n, dtype=np.float64)
    optics: dict[str, float] = {"voltage": m.voltage, "cs": m.cs, "amplitude_contrast": m.amplitude_contrast}
    transfer = ctf(kx / m.pixel_size, ky / m.pixel_size, defocus_u, defocus_v, angle, **optics, b_factor=m.b_factor)
    moved = shift_phases(n, -np.asarray(shift, dtype=np.float64) / m.pixel_size)
    return np.asarray(slice_spectra(projector, rotation[None])[0] * moved * transfer.astype(np.float32))


def _calibrate(projector: Projector, m: Microscope, imaging: Imaging) -> float:
    """The factor that gives clean images the variance ``snr``, mean over 64 poses from a stream of their own."""
    if np.isinf(imaging["snr"]):
        return 1.0
    rng = stream(imaging["seed"], CALIBRATION)
    turns, z = random_rotations(CALIBRATION_SET, rng), rng.uniform(*imaging["defocus"], CALIBRATION_SET)
    half = 0.25 * imaging["astigmatism"]
    images = [
        _to_image(_clean_spectrum(projector, m, a, np.zeros(2), d + half, d - half, 0.0), projector.box)
        for a, d in zip(turns, z)
    ]
    return factor_for(imaging["snr"], float(np.mean([image.var(dtype=np.float64) for image in images])))


def _truth(n: int, m: Microscope, imaging: Imaging, shift_sd: float, scale_sd: float, per: int) -> xr.Dataset:
    poses, optics = stream(imaging["seed"], POSES), stream(imaging["seed"], OPTICS)
    # each row of draws is one particle (micrograph), so more of them do not change the first
    draws = poses.standard_normal((n, 7))
    micrograph = np.arange(n) // per
    u, v, angle = draw_defocus(int(micrograph[-1]) + 1, imaging, optics)
    rows = "particle"
    return xr.Dataset(
        {
            "particle_id": (rows, np.arange(n, dtype=np.int64)),
            "rotation": ((rows, "row", "col"), quaternion_to_matrix(draws[:, :4])),
            "shift": ((rows, "xy"), shift_sd * draws[:, 4:6]),
            "x_contrast": (rows, np.maximum(0.1, 1.0 + scale_sd * draws[:, 6])),
            "defocus_u": (rows, u[micrograph]),
            "defocus_v": (rows, v[micrograph]),
            "defocus_angle": (rows, angle[micrograph]),
            "micrograph_name": (rows, np.array([f"simulated_{i + 1:05d}.mrc" for i in micrograph])),
            "optics_group": (rows, np.zeros(n, dtype=np.int32)),
            **optics_variables(m),
        }
    )
