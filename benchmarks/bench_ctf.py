# ruff: noqa: E402  (threads are limited before NumPy is imported)
"""Measure CTF estimation: CPU time and consistency on real micrographs, errors on simulated ones.

    python benchmarks/bench_ctf.py [folder of micrographs] [--pixel-size 1.5] [--simulated 40]

Times are CPU seconds of this process (one thread), reading included, the first call (compilation) excluded.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from test_ctf_estimation import SEARCH, TITAN, astigmatism, classical_fit, simulated

import cryoflow
from cryoflow.ctf.fit import fit_micrograph
from cryoflow.ctf.rings import Optics

SHARED = Path(__file__).parents[2] / "shared" / "data"


def report(name: str, values: list[float], unit: str = "A") -> None:
    x = np.array(values)
    rms, largest = np.sqrt((x**2).mean()), np.abs(x).max()
    print(f"  {name:<58} mean {x.mean():7.1f}   rms {rms:6.1f}   largest {largest:6.1f} {unit}")


def real(folder: Path, pixel_size: float) -> None:
    ds = cryoflow.open_micrographs(folder, pixel_size=pixel_size, voltage=300.0, cs=2.7, amplitude_contrast=0.07)
    cryoflow.estimate_ctf(ds.isel(micrograph=slice(0, 1)))
    start = time.process_time()
    out = cryoflow.estimate_ctf(ds)
    seconds = (time.process_time() - start) / ds.sizes["micrograph"]
    print(f"{folder.name}: {ds.sizes['micrograph']} micrographs, {seconds:.3f} CPU-s each, reading included")
    for name, row in zip(ds["micrograph_name"].values, range(ds.sizes["micrograph"])):
        if not out["usable"].values[row]:
            print(f"  flagged: {name}: {out['reason'].values[row]}")
    good = np.flatnonzero(out["usable"].values)
    optics = Optics(300.0, 2.7, 0.07, pixel_size)
    mean = 0.5 * (out["defocus_u"] + out["defocus_v"]).values
    difference = (out["defocus_u"] - out["defocus_v"]).values
    defocus, astig, halves, halves_astig = [], [], [], []
    for i in good:
        image = np.asarray(ds["micrograph"][i].values)
        u, v, angle = (float(out[n][i]) for n in ("defocus_u", "defocus_v", "defocus_angle"))
        other = classical_fit(image, optics, (u, v, angle))
        defocus.append(other[0] - mean[i])
        astig.append(other[1] - difference[i])
        width = image.shape[1] // 2
        a, b = (fit_micrograph(part, optics, SEARCH).defocus for part in (image[:, :width], image[:, width:]))
        halves.append(a.mean - b.mean)
        halves_astig.append(abs(astigmatism(a.u, a.v, a.angle) - astigmatism(b.u, b.v, b.angle)))
    report("defocus, score of the classical method refined from here", defocus)
    report("astigmatism, likewise", astig)
    report("defocus, left half of the micrograph - right half", halves)
    report("astigmatism as a vector, left - right", halves_astig)
    for options in ({"box": 400}, {"box": 640}, {"min_resolution": 20.0}, {"max_resolution": 6.0}):
        again = cryoflow.estimate_ctf(ds.isel(micrograph=good), **options)
        moved = 0.5 * (again["defocus_u"] + again["defocus_v"]).values - mean[good]
        report(f"defocus, {options} - default", moved.tolist())


def truth(count: int) -> None:
    print(f"simulated, {count} each: 1240 x 1200 pixels of 1.5 A, rings weak (SNR 0.3, B 80 A^2), astigmatism 0-2000 A")
    for low, high, phase in ((5500, 12000, False), (12000, 28000, False), (28000, 45000, False), (8000, 28000, True)):
        rng = np.random.default_rng(low)
        mean, astig, shift = [], [], []
        for seed in range(count):
            z, a, angle = rng.uniform(low, high), rng.uniform(0, 2000), rng.uniform(-90, 90)
            plate = rng.uniform(10, 170) if phase else 0.0
            image = simulated(seed, z + a / 2, z - a / 2, angle, plate)
            search = type(SEARCH)(30.0, 5.0, 5000.0, 50000.0, 3000.0, phase)
            d = fit_micrograph(image, TITAN, search).defocus
            mean.append(d.mean - z)
            astig.append(abs(astigmatism(d.u, d.v, d.angle) - astigmatism(z + a / 2, z - a / 2, angle)))
            shift.append((d.phase_shift - plate + 90) % 180 - 90)
        label = f"{low}-{high} A" + (", phase plate" if phase else "")
        report(f"defocus error, {label}", mean)
        report(f"astigmatism error as a vector, {label}", astig)
        if phase:
            report("phase shift error", shift, "degrees")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("CRYOFLOW_DATA", SHARED)) / "empiar-10146" / "micrographs"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--pixel-size", type=float, default=1.5)
    parser.add_argument("--simulated", type=int, default=40)
    options = parser.parse_args()
    if options.folder.is_dir():
        real(options.folder, options.pixel_size)
    truth(options.simulated)
