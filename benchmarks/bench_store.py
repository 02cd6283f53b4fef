"""Reading particles from the store against copying the same bytes from a memory map, in one run.

    python benchmarks/bench_store.py [particles] [box]

The page cache is warm and one thread reads; the two alternate and the medians of CPU seconds are compared. The store
must reach at least half of the copy's speed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from cryoflow.io.images.lazy import chunk_rows
from cryoflow.io.images.mrc import write_stack
from cryoflow.io.particles import read_particles
from cryoflow.io.stores.store import open_store, save

REPEATS = 7


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main(particles: int, box: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((particles, box, box), np.float32)
    rows = chunk_rows(4 * box * box)
    blocks = [slice(i, i + rows) for i in range(0, particles, rows)]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "images.raw"
        images.tofile(raw)
        ds = xr.Dataset({"image": (("particle", "y", "x"), images)})
        write_stack(Path(folder) / "p.mrcs", ds.image, pixel_size=1.0)
        names = "".join(f"{i + 1}@p.mrcs\n" for i in range(particles))
        (Path(folder) / "p.star").write_text(f"data_\nloop_\n_rlnImageName\n{names}")
        for dtype in ("float32", "float16"):
            save(ds, Path(folder) / f"{dtype}.zarr", function="bench_store", parameters={}, image_dtype=dtype)
        full, half = (open_store(Path(folder) / f"{dtype}.zarr") for dtype in ("float32", "float16"))
        stack = read_particles(Path(folder) / "p.star", pixel_size=1.0)

        def copy() -> None:
            mapped = np.memmap(raw, np.float32, "r", shape=images.shape)
            for block in blocks:
                np.array(mapped[block])

        def read(ds: xr.Dataset) -> Callable[[], None]:
            def work() -> None:  # one task a chunk, as for a kernel
                tasks = [dask.delayed(len)(chunk) for chunk in ds.image.data.to_delayed().ravel()]
                assert sum(dask.compute(*tasks, scheduler="synchronous")) == particles

            return work

        works = {
            "copy from a memory map": copy,
            "store, float32": read(full),
            "store, float16 to float32": read(half),
            "stack (.mrcs)": read(stack),
        }
        np.testing.assert_array_equal(full.image[blocks[0]].values, images[blocks[0]])
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        for repeat in range(REPEATS + 1):
            for name, work in works.items():
                spent = seconds(work)
                if repeat:  # the first warms the page cache
                    times[name].append(spent)
    gigabytes = images.nbytes / 1e9
    reference = statistics.median(cpu for cpu, _ in times["copy from a memory map"])
    print(f"{particles} particles of {box} x {box}, {gigabytes:.2f} GB as float32, {len(blocks)} chunks")
    print(f"{'':28}{'CPU s':>8}{'wall s':>8}{'GB/CPU-s':>10}{'of copy':>9}")
    for name, spent in times.items():
        cpu = statistics.median(c for c, _ in spent)
        wall = statistics.median(w for _, w in spent)
        print(f"{name:28}{cpu:8.3f}{wall:8.3f}{gigabytes / cpu:10.2f}{reference / cpu:9.2f}")


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["4000", "128"][len(sys.argv) - 1 :])))
