"""Importing a stack against ``cp`` of the same file, in one run, the page cache warm.

    python benchmarks/bench_import.py [particles] [box]

Both end with the data in the page cache (neither waits for the disk to take it; ``sync`` runs between them, outside
the clock). They alternate; the least and the median of CPU (user and system) and wall seconds are compared. The import
reads every image, looks for NaN, takes a checksum of every chunk and writes the journal. It must reach at least half
the speed of ``cp``.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from cryoflow.io import open_store
from cryoflow.io.images.mrc import write_stack
from cryoflow.workflow.importing import import_data

REPEATS = 5


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one call, with those of its child processes."""

    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    wall, before = time.perf_counter(), cpu()
    work()
    return cpu() - before, time.perf_counter() - wall


def main(particles: int, box: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = xr.DataArray(rng.standard_normal((particles, box, box), np.float32), dims=("particle", "y", "x"))
        write_stack(folder / "p.mrcs", image, pixel_size=1.0)
        rows = "".join(f"{i + 1}@p.mrcs\n" for i in range(particles))
        (folder / "p.star").write_text(f"data_\nloop_\n_rlnImageName\n{rows}")
        size = (folder / "p.mrcs").stat().st_size

        def copy() -> None:
            subprocess.run(["cp", "--reflink=never", str(folder / "p.mrcs"), str(folder / "copy")], check=True)

        def imports() -> None:
            import_data(folder / "p.star", folder / "p.zarr", pixel_size=1.0, progress=False)

        times: dict[str, list[tuple[float, float]]] = {"cp": [], "import": []}
        for repeat in range(REPEATS + 1):
            for label, work in (("cp", copy), ("import", imports)):
                (folder / "copy").unlink(missing_ok=True)
                shutil.rmtree(folder / "p.zarr", ignore_errors=True)
                (folder / "p.mrcs").read_bytes()
                os.sync()
                spent = seconds(work)
                if repeat:  # the first loads code and warms the cache
                    times[label].append(spent)
        np.testing.assert_array_equal(open_store(folder / "p.zarr").image[-3:].values, image[-3:].values)
    print(f"{particles} particles of {box} x {box}, {size / 1e9:.2f} GB")
    print(f"{'':8}{'CPU s (least, median)':>24}{'wall s (least, median)':>26}{'GB/CPU-s':>10}")
    for label, spent in times.items():
        cpu, wall = [c for c, _ in spent], [w for _, w in spent]
        print(f"{label:8}{min(cpu):14.3f}{statistics.median(cpu):10.3f}{min(wall):16.3f}{statistics.median(wall):10.3f}"
              f"{size / 1e9 / min(cpu):10.2f}")  # fmt: skip
    for what, pick in (("CPU", 0), ("wall", 1)):
        least = [min(t[pick] for t in times[label]) for label in ("cp", "import")]
        middle = [statistics.median(t[pick] for t in times[label]) for label in ("cp", "import")]
        print(f"speed of cp by {what}: {least[0] / least[1]:.2f} (least), {middle[0] / middle[1]:.2f} (median)")


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["6000", "128"][len(sys.argv) - 1 :])))
