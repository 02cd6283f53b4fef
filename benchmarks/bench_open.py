"""Opening particle sets lazily: many stacks on a disk and behind HTTP, in CPU seconds, wall seconds and memory.

    python benchmarks/bench_open.py [stacks] [particles of each] [box]

The stacks are sparse files: they take no disk. The server runs in a process of its own and answers 8 connections.
Memory is told beyond the libraries and for the whole process (its peak, as ``ru_maxrss`` tells it). xarray loads pandas
and Dask, those load SciPy and (pandas) Arrow where they are installed; cryoflow does not need Arrow, so the last rows
tell what a process without it takes.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

FIGURES = "the goal: 1,000 stacks of 500 in under 2 s and 200 MB, over HTTP with 8 connections in under 10 s"

OPTICS = """data_optics
loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
1 one 300 2.7 0.1 1.5

data_particles
loop_
"""


def write_set(folder: Path, stacks: int, particles: int, box: int) -> Path:
    """A STAR file of 12 columns and its sparse stacks."""
    from cryoflow.io.images.mrc import pack_header

    header = pack_header((particles, box, box), mode=2, pixel_size=1.5, stack=True)
    names = [f"Extract/job001/Movies/{i:06d}.mrcs" for i in range(stacks)]
    (folder / "Extract/job001/Movies").mkdir(parents=True)
    for name in names:
        with (folder / name).open("wb") as file:
            file.write(header)
            file.truncate(1024 + 4 * particles * box * box)
    labels = ["ImageName", "MicrographName", "CoordinateX", "CoordinateY", "AngleRot", "AngleTilt", "AnglePsi",
              "OriginXAngst", "OriginYAngst", "DefocusU", "DefocusV", "DefocusAngle", "OpticsGroup"]  # fmt: skip
    star = folder / "Extract/job001/particles.star"
    with star.open("w") as file:
        file.write(OPTICS)
        file.write("".join(f"_rln{label}\n" for label in labels))
        for name in names:
            micrograph = name.replace("mrcs", "mrc")
            file.writelines(
                f"{j + 1:06d}@{name} {micrograph} {j}.5 {2 * j}.25 {j % 360 - 179.5} {j % 180}.5 0.5 1.25 -2.5 "
                f"{15000 + j}.1 {14800 + j}.2 45.0 1\n" for j in range(particles)
            )  # fmt: skip
    return star


def serve(folder: Path, pipe: Connection) -> None:
    """The server's process."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from fault_server import serving

    with serving(folder) as server:
        pipe.send(server.url)
        pipe.recv()
        pipe.send((len(server.requests), server.most_open, server.bytes))


def memory() -> float:
    """Memory of this process now, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak() -> float:
    """Largest memory of this process so far, libraries and all, MB (``ru_maxrss`` would count its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def open_set(address: str, stage: str, arrow: bool, pipe: Connection) -> None:
    """Open the set in this new process, after a small one: libraries are loaded once a process (told by itself)."""
    start, first = memory(), time.process_time()
    if not arrow:
        sys.modules["pyarrow"] = None  # type: ignore[assignment] # as if it were not installed
    import numpy as np
    import xarray as xr

    from cryoflow.io import read_particles, write_stack
    from cryoflow.io.images.attach import attach_images
    from cryoflow.io.particles import image_numbers
    from cryoflow.io.sources.address import folder_of
    from cryoflow.io.sources.transport import _manager

    with tempfile.TemporaryDirectory() as name:
        small = Path(name)
        write_stack(small / "p.mrcs", xr.DataArray(np.ones((1, 8, 8)), dims=("particle", "y", "x")), pixel_size=2)
        text = "_rlnImageName\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n_rlnVoltage\n"
        rows = "1@p.mrcs 1 2 3 300\n" * 30_000  # a large table
        (small / "p.star").write_text(f"data_\nloop_\n{text}{rows}")
        read_particles(small / "p.star", pixel_size=2.0)
    _manager(address)
    loaded = (time.process_time() - first, memory() - start)
    ds = read_particles(address, images=False) if stage == "stacks" else None
    before, wall, cpu = memory(), time.perf_counter(), time.process_time()
    if ds is None:
        ds = read_particles(address, images=stage == "all")
    else:
        names, file, section = image_numbers(ds.image_name, address)
        ds = attach_images(ds, names, file, section, where=address, base=folder_of(address))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    pipe.send((ds.sizes["particle"], cpu, wall, memory() - before, peak() - before, peak(), loaded))


def measured(address: str, stage: str, title: str, arrow: bool = True) -> None:
    """Print what ``open_set`` costs in a process of its own."""
    here, there = context.Pipe()
    child = context.Process(target=open_set, args=(address, stage, arrow, there))
    child.start()
    there.close()
    rows, cpu, wall, kept, most, whole, loaded = here.recv()
    child.join()
    figures = f"{cpu:8.2f}{wall:8.2f}{kept:9.0f}{max(kept, most):9.0f}{whole:9.0f}{loaded[0]:8.2f}{loaded[1]:6.0f}"
    print(f"{title:34}{rows:>10}{figures}", flush=True)


def main(stacks: int, particles: int, box: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        star = write_set(folder, stacks, particles, box)
        size = star.stat().st_size / 1e6
        print(f"{stacks} stacks of {particles} images of {box} x {box}; STAR file of {size:.0f} MB")
        print(f"{FIGURES}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        heads = f"{'particles':>10}{'CPU s':>8}{'wall s':>8}{'kept MB':>9}{'peak MB':>9}{'whole MB':>9}"
        print(f"{'':34}{heads}   libraries: CPU s, MB")
        here, there = context.Pipe()
        server = context.Process(target=serve, args=(folder, there), daemon=True)
        server.start()
        url = f"{here.recv()}/Extract/job001/particles.star"
        for address, where in ((str(star), "from a disk"), (url, "over HTTP")):
            measured(address, "table", f"the STAR table alone, {where}")
            measured(address, "stacks", f"its stacks, {where}")
            measured(address, "all", f"read_particles, {where}")
        for address, where in ((str(star), "from a disk"), (url, "over HTTP")):
            measured(address, "all", f"{where}, without Arrow", arrow=False)
        here.send("end")
        requests, most, sent = here.recv()
        server.join()
        print(f"the server answered {requests} requests, at most {most} at a time, {sent / 1e6:.0f} MB")


context = multiprocessing.get_context("spawn")

if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["1000", "500", "128"][len(sys.argv) - 1 :])))
