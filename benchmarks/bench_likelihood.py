"""The likelihood's matrix products against the machine's own peak, and slices and insertions, in one run.

    OMP_NUM_THREADS=1 python benchmarks/bench_likelihood.py [repeats]

Peak: a square float32 matrix product (4096 on a device). Then ``cross_and_norm`` for 32 images and 21 shifts against
R slices of K samples, and the whole coarse level, of which it is the heart. One thread, CPU seconds, best of several;
the products must reach 60 % of the peak. With CuPy and a device the same is timed there by events, in TF32, and must
reach 40 %.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("CUPY_TF32", "1")

import numpy as np

from cryoflow.kernels.expectation import _coarse_scores, cross_and_norm
from cryoflow.kernels.projection import accumulator, insert_slices, prepare_volume, slices
from cryoflow.kernels.rotation import random_rotations
from cryoflow.kernels.samples import half_plane
from cryoflow.kernels.search import local_search

IMAGES, SHIFTS = 32, 21
SHAPES = [(1152, 400), (1152, 1200), (9216, 400), (9216, 1200)]


def on_host(work: Callable[[], object], repeats: int) -> float:
    """Least CPU seconds of one call, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def on_device(work: Callable[[], object], repeats: int) -> float:
    """Least seconds of one call between two events of the device."""
    from cupyx.profiler import benchmark

    return float(benchmark(work, n_repeat=repeats, n_warmup=2).gpu_times.min())


def products(xp: Any, seconds: Callable[..., float], size: int, repeats: int, goal: float) -> None:
    """Peak, and the share of it that ``cross_and_norm`` reaches."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return xp.asarray(rng.standard_normal(shape, np.float32))

    a, out = normal(size, size), xp.empty((size, size), np.float32)
    peak = 2 * size**3 / seconds(lambda: xp.matmul(a, a, out=out), repeats)
    print(f"float32 product {size} x {size}: {peak / 1e9:.1f} GFLOP/s")
    print(f"{'R':>6} {'K':>6} {'GFLOP/s':>9} {'of peak':>8}   (goal {goal:.0%})")
    for r, k in SHAPES:
        moved = normal(IMAGES, SHIFTS, 2 * k).view(np.complex64)
        table, weight = normal(r, 2 * k).view(np.complex64), abs(normal(IMAGES, k))
        took = seconds(lambda m=moved, w=weight, t=table: cross_and_norm(m, w, t), repeats)
        rate = (2 * IMAGES * SHIFTS * 2 * k * r + 2 * IMAGES * k * r) / took
        print(f"{r:6d} {k:6d} {rate / 1e9:9.1f} {rate / peak:8.0%}   {'reached' if rate >= goal * peak else 'MISSED'}")


def coarse_level(repeats: int) -> None:
    """The coarse scores of a batch on the CPU: weights, phases, products and scores together."""
    rng = np.random.default_rng(0)
    for r, k in SHAPES[:3]:
        masked = rng.standard_normal((IMAGES, 2 * k), np.float32).view(np.complex64)
        transfer, inverse = (rng.uniform(0.5, 1, (IMAGES, k)).astype(np.float32) for _ in range(2))
        table = rng.standard_normal((1, r, 2 * k), np.float32).view(np.complex64)
        phases = np.exp(1j * rng.uniform(0, 6, (SHIFTS, k))).astype(np.complex64)
        shell = np.arange(k)
        took = on_host(
            lambda x=(masked, transfer, inverse, shell, table, phases, k, False): _coarse_scores(*x), repeats
        )
        print(f"coarse level R {r} K {k}: {took / IMAGES * 1e3:.2f} ms an image, "
              f"{took / (IMAGES * SHIFTS * r) * 1e9:.1f} ns a hypothesis")  # fmt: skip


def gridding(xp: Any, seconds: Callable[..., float], repeats: int) -> None:
    """Nanoseconds a sample of slices and of their adjoint: around one pose, as local searches do, and everywhere."""
    rng = np.random.default_rng(0)
    near = local_search(1.875, sigma=2.8, shift_range=2.0, shift_step=1.0).rotations @ random_rotations(1, rng)[0]
    for n, radius in ((64, 24), (128, 50)):
        samples = half_plane(n, radius)
        volume = prepare_volume(xp.asarray(rng.standard_normal((n, n, n), np.float32)), radius=radius)
        for where, a in (("near one pose", near), ("everywhere", random_rotations(200, rng))):
            data, total = slices(volume, a, samples), accumulator(radius, xp=xp)
            weight = xp.ones(data.shape, np.float32)
            cut = seconds(lambda v=volume, a=a, s=samples: slices(v, a, s), repeats) / data.size
            add = seconds(lambda x=(total, data, weight, a, samples): insert_slices(*x), repeats) / data.size
            print(f"box {n}, shell {radius}, {where}: slice {cut * 1e9:.1f}, adjoint {add * 1e9:.1f} ns a sample")


def main(repeats: int) -> None:
    products(np, on_host, 1536, repeats, 0.6)
    coarse_level(repeats)
    gridding(np, on_host, repeats)
    try:
        import cupy
    except ImportError:
        print("no CuPy: device not measured")
        return
    if cupy.cuda.runtime.getDeviceCount():
        print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
        products(cupy, on_device, 4096, repeats, 0.4)
        gridding(cupy, on_device, repeats)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
