"""What a run survives, and what it reports by name: killed workers, a chunk that kills, full disks; memory in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoflow.engine import compute, map_reduce, map_rows
from cryoflow.errors import ResourceError

ROWS, CHUNK = 240, 10
BIG = np.random.default_rng(1).normal(size=(64, 5000)).astype("f4")  # 1.3 MB: sent to the workers beside the graph


def particles() -> xr.Dataset:
    import dask.array as da

    image = da.random.default_rng(2).normal(size=(ROWS, 8, 8), chunks=(CHUNK, 8, 8)).astype("f4")
    return xr.Dataset({"image": (("particle", "y", "x"), image * np.float32(1e4))})


class Deadly:
    """A kernel that kills its own process at some rows: the first ``times`` it comes to them."""

    def __init__(self, folder: Path, rows: tuple[int, ...], times: int = 1) -> None:
        self.folder, self.rows, self.times = folder, rows, times

    def __call__(self, image, particle, *, model):
        for row in set(self.rows) & set(particle.tolist()):
            for attempt in range(self.times):
                mark = self.folder / f"{row}-{attempt}"
                if not mark.exists():
                    mark.write_text(str(os.getpid()))
                    time.sleep(0.5)  # a nanny gives up a worker that dies while it starts
                    os.kill(os.getpid(), signal.SIGKILL)
        cross = image.reshape(len(image), -1) @ model
        return {"norm": cross[:, 0]}, {"cross": cross.sum(0), "n": len(image)}


def lazy(deadly: Deadly) -> Any:
    return map_reduce(deadly, particles(), {"model": BIG}, outputs=["norm"], lanes=3, batch=4)


@pytest.fixture(scope="module")
def clusters() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with (
        LocalCluster(n_workers=2, **options, scheduler_kwargs={"allowed_failures": 1}) as two,
        Client(two, set_as_default=False) as client,
    ):
        yield two, client


def test_a_worker_killed_in_mid_compute_changes_nothing(clusters: Any, tmp_path: Path) -> None:
    _, client = clusters
    expected_rows, expected = compute(*lazy(Deadly(tmp_path, ())))
    rows, sums = compute(*lazy(Deadly(tmp_path, (57,))), client=client)
    killed = {int(p.read_text()) for p in tmp_path.iterdir()}
    assert len(killed) == 1  # it did happen
    assert os.getpid() not in killed
    assert expected_rows.identical(rows)
    np.testing.assert_array_equal(expected["cross"], sums["cross"])
    assert sums["n"] == ROWS


def test_a_chunk_that_kills_every_worker_is_named(clusters: Any, tmp_path: Path) -> None:
    _, client = clusters
    with pytest.raises(ResourceError, match=r"Deadly, rows 120 to 129: .*ended its workers"):
        compute(*lazy(Deadly(tmp_path, (123,), times=99)), client=client)
    client.wait_for_workers(1, timeout=60)
    assert compute(*lazy(Deadly(tmp_path, ())), client=client)[1]["n"] == ROWS  # the client goes on working


def test_the_only_holder_of_the_model_dies(clusters: Any, tmp_path: Path) -> None:
    """Scattered data would be gone with their last holder."""
    cluster, client = clusters
    cluster.scale(1)
    while len(client.scheduler_info()["workers"]) != 1:
        pass
    expected = compute(lazy(Deadly(tmp_path, ()))[1])[0]
    (sums,) = compute(lazy(Deadly(tmp_path, (77,)))[1], client=client)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(expected["cross"], sums["cross"])
    cluster.scale(2)


def writes(image, particle, *, folder):
    """Like a step that keeps its rows in files."""
    with open(f"{folder}/{particle[0]}.npy", "wb") as file:  # noqa: PTH123
        np.save(file, image)
    return {"x_written": particle}, {}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tiny disk")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(ResourceError, match=r"writes, rows \d+ to \d+: expected space on the disk"):
            compute(map_rows(writes, particles(), {"folder": str(tmp_path)}, outputs={"x_written": ("particle", "i8")}))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


PEAK = """
import resource, sys
import dask.array as da, numpy as np, xarray as xr
from cryoflow.engine import compute, map_reduce
def kernel(image, *, model):
    f = np.fft.rfft2(image)
    return {"norm": np.abs(f[:, 0, 0])}, {"volume": model * np.float32(f.real.mean()), "n": len(image)}
rows = int(sys.argv[1])
image = da.random.default_rng(1).normal(size=(rows, 96, 96), chunks=(250, 96, 96)).astype("f4")
ds = xr.Dataset({"image": (("particle", "y", "x"), image)})
model = np.ones((192, 192, 97), "f4")
r, s = compute(*map_reduce(kernel, ds, {"model": model}, outputs=["norm"], batch=50, lanes=4))
assert s["n"] == rows and r.norm.shape == (rows,)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(rows: int) -> int:
    """Peak resident memory in KiB of a process that folds so many rows on one thread."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_NUM_WORKERS": "1"}
    out = subprocess.run([sys.executable, "-c", PEAK, str(rows)], capture_output=True, text=True, env=env, check=True)
    return int(out.stdout)


@pytest.mark.slow
def test_memory_follows_from_chunk_and_batch() -> None:
    few, many = peak(2_000), peak(20_000)
    assert many < 1.1 * few, (few, many)
