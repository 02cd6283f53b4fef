"""What the engine costs: CPU time a chunk, and peak memory against the number of particles.

    python benchmarks/bench_engine.py [overhead] [memory]

CPU seconds include those of worker processes, read from the system after they ended.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.engine import compute, connect, map_reduce


def lazy_particles(rows: int, box: int, chunk: int) -> xr.Dataset:
    import dask.array as da

    image = da.random.default_rng(1).normal(size=(rows, box, box), chunks=(chunk, box, box)).astype("f4")
    return xr.Dataset({"image": (("particle", "y", "x"), image)})


def small(image: Any) -> Any:
    return {"norm": image[:, 0, 0]}, {"n": len(image)}


def fold(image: Any, *, model: Any) -> Any:
    """Sums of the size of a model, as those of a reconstruction."""
    f = np.fft.rfft2(image)
    return {"norm": np.abs(f[:, 0, 0])}, {"volume": model * np.float32(f.real.mean()), "n": len(image)}


def cpu_seconds() -> float:
    usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def overhead(address: str, chunks: int) -> float:
    """CPU seconds of a run over so many chunks that do next to nothing."""
    before = cpu_seconds()
    with connect(address) as client:
        compute(*map_reduce(small, lazy_particles(chunks, 8, 1), outputs=["norm"]), client=client)
    return cpu_seconds() - before


def memory(address: str, rows: int) -> None:
    """Print the peak resident MiB of the process that computes."""

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    model = np.ones((192, 192, 97), "f4")
    lazy = map_reduce(fold, lazy_particles(rows, 96, 250), {"model": model}, outputs=["norm"], batch=50, lanes=4)
    with connect(address) as client:
        _, sums = compute(*lazy, client=client)
        assert sums["n"] == rows
        print(peak() if client is None else max(client.run(peak).values()))


def main(parts: list[str]) -> None:
    if not parts or "overhead" in parts:
        for address in ("embedded", "local:2"):
            compute(map_reduce(small, lazy_particles(4, 8, 1))[1])  # imports
            few, many = 100, 1100
            start = time.perf_counter()
            cost = (overhead(address, many) - overhead(address, few)) / (many - few)
            wall = time.perf_counter() - start
            print(f"{address:9s} {1e3 * cost:6.2f} CPU-ms a chunk; {wall:.1f} s wall with the start")
    if not parts or "memory" in parts:
        for address in ("embedded", "local:1"):
            peaks = []
            for rows in (2_000, 20_000):
                command = [sys.executable, __file__, "peak", address, str(rows)]
                env = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_NUM_WORKERS": "1"}
                peaks.append(int(subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout))
            print(f"{address:9s} peak {peaks[0]} MiB at 2,000 particles, {peaks[1]} MiB at 20,000 "
                  f"({100 * (peaks[1] / peaks[0] - 1):+.1f} %)")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        memory(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1:])
