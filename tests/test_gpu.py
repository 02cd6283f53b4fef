"""The CUDA path: on a device against the CPU path.

Without a device its source goes through nvcc and, as plain C, through a host compiler; and the whole path runs on
arrays that refuse what CuPy's refuse, with the kernels as the host compiler read them.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pretended_device import DeviceArray, pretended_modules
from test_expectation import CASES, arguments

from cryoflow.kernels import projection_cuda
from cryoflow.kernels.backend import is_device, to_host
from cryoflow.kernels.expectation import expectation
from cryoflow.kernels.projection import accumulator, insert_slices, prepare_volume, project, project_adjoint, slices
from cryoflow.kernels.projection_cuda import SOURCE, THREADS
from cryoflow.kernels.reconstruction import enforce_friedel, grid_shells, grid_to_map, symmetrise_sums, wiener
from cryoflow.kernels.rotation import random_rotations
from cryoflow.kernels.samples import half_plane
from cryoflow.kernels.symmetry import point_group

# what CUDA's C has and a host's has not: one thread after another stands for the grid
SHIM = """
#include <string.h>
#define __global__
#define __device__
#define EXTERN
typedef struct { unsigned x, y, z; } index3;
static index3 blockIdx, threadIdx, blockDim;
static void atomicAdd(float *where, float value) { *where += value; }
"""

DRIVER = """
#define EVERY_THREAD(call) \\
    blockDim.x = THREADS; \\
    for (blockIdx.x = 0; blockIdx.x < (unsigned)(blocks * number); blockIdx.x++) \\
        for (threadIdx.x = 0; threadIdx.x < THREADS; threadIdx.x++) call

void run_cut_slices(const float *volume, int reach, const float *rotations, long long number, const float *kx,
    const float *ky, int count, int blocks, float padding, float *out)
{ EVERY_THREAD(cut_slices(volume, reach, rotations, number, kx, ky, count, blocks, padding, out)); }

void run_insert_slices(float *total, int reach, const float *rotations, long long number, const float *kx,
    const float *ky, int count, int blocks, float padding, const float *data, const float *weight)
{ EVERY_THREAD(insert_slices(total, reach, rotations, number, kx, ky, count, blocks, padding, data, weight)); }
"""


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture(scope="module")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CUDA source compiled as plain C, with array bounds and undefined behaviour checked."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "kernels.c").write_text(SHIM + f"#define THREADS {THREADS}\n" + SOURCE + DRIVER)
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "kernels.c", "-o", "kernels.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "kernels.so"))


def call(function: Any, volume: np.ndarray, rotations: np.ndarray, k: tuple[np.ndarray, np.ndarray], padding: int,
         *arrays: np.ndarray) -> None:  # fmt: skip
    """Launch as ``projection_cuda`` does."""
    matrices = np.ascontiguousarray(rotations, np.float32)
    count = len(k[0])
    pointers = [np.ascontiguousarray(a) for a in (volume, matrices, *k, *arrays)]
    at = [p.ctypes.data_as(ctypes.c_void_p) for p in pointers]
    assert all(p is a for p, a in zip(pointers[4:], arrays))
    assert pointers[0] is volume
    function(at[0], ctypes.c_int(volume.shape[0] // 2), at[1], ctypes.c_longlong(len(rotations)), at[2], at[3],
             ctypes.c_int(count), ctypes.c_int(-(-count // THREADS)), ctypes.c_float(padding), *at[4:])  # fmt: skip


@pytest.mark.parametrize("n", [20, 33])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_cuda_source_cuts_the_same_slices(n: int, padding: int, on_host: ctypes.CDLL, rng: np.random.Generator) -> None:
    s, a = half_plane(n, (n - 1) // 2), random_rotations(7, rng)
    volume = prepare_volume(rng.normal(size=(n, n, n)).astype(np.float32), padding=padding)
    expected = slices(volume, a, s, padding=padding)
    got = np.full((7, len(s)), np.nan, np.complex64)
    call(on_host.run_cut_slices, volume, a, (s.kx, s.ky), padding, got)
    assert np.abs(got - expected).max() < 3e-6 * np.abs(volume).max()


@pytest.mark.parametrize("n", [20, 33])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_cuda_source_inserts_the_same(n: int, padding: int, on_host: ctypes.CDLL, rng: np.random.Generator) -> None:
    s, a = half_plane(n, (n - 1) // 2), random_rotations(7, rng)
    data = (rng.normal(size=(7, len(s))) + 1j * rng.normal(size=(7, len(s)))).astype(np.complex64)
    weight = rng.uniform(size=data.shape).astype(np.float32)
    data[3, 5], weight[3, 5] = 0, 0
    expected, got = accumulator(s.radius, padding), accumulator(s.radius, padding)
    insert_slices(expected, data, weight, a, s, padding=padding)
    call(on_host.run_insert_slices, got, a, (s.kx, s.ky), padding, data, weight)
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_cuda_source_compiles(architecture: str, tmp_path: Path) -> None:
    """A binary of both kernels for Ampere and Hopper; the latter adds a cell with one 16-byte atomic."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    (tmp_path / "kernels.cu").write_text('#define EXTERN extern "C"\n' + SOURCE)
    for kind in ("-cubin", "-ptx"):
        command = [nvcc, f"-arch={architecture}", kind, "-Werror", "all-warnings", "kernels.cu", "-o", f"out{kind}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    code = (tmp_path / "out-ptx").read_text()
    assert ".entry cut_slices" in code
    assert ".entry insert_slices" in code
    assert ("add.v4.f32" in code) == (architecture == "sm_90")


# the whole path, the device pretended ---------------------------------------------------------------------------------


@pytest.fixture
def pretended(on_host: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """CuPy's place taken by arrays that refuse to meet host arrays; the CUDA kernels run as compiled for the host."""

    class Kernels:
        def get_function(self, name: str) -> Any:
            run = getattr(on_host, f"run_{name}")

            def launch(grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
                assert block == (THREADS,)
                _, _, _, number, _, _, _, blocks, *_ = arguments
                assert grid == (int(number) * int(blocks),)
                kinds = {np.int32: ctypes.c_int, np.int64: ctypes.c_longlong, np.float32: ctypes.c_float}
                assert all((isinstance(a, DeviceArray) and a.flags.c_contiguous) or type(a) in kinds for a in arguments)
                run(*[
                    a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, DeviceArray) else kinds[type(a)](a)
                    for a in arguments
                ])  # fmt: skip

            return launch

    modules = pretended_modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(projection_cuda, "_module", Kernels)
    return modules["cupy"]


def test_the_pretence_refuses_what_cupy_refuses(pretended: ModuleType) -> None:
    there, here = pretended.zeros(3), np.zeros(3)
    for mix in (lambda: there + here, lambda: here * there, lambda: pretended.exp(here), lambda: there[np.arange(2)]):
        with pytest.raises(TypeError, match="host array"):
            mix()
    assert is_device(there + 1)
    assert type(there.get()) is np.ndarray


@pytest.mark.parametrize("case", CASES)
def test_expectation_keeps_to_the_device(case: str, pretended: ModuleType) -> None:
    """Rows of images and models on the device: the rows and sums of the CPU path, the model's sums left there."""
    given = arguments(**CASES[case])
    rows, sums = expectation(**given)
    there = {k: pretended.asarray(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    got_rows, got_sums = expectation(**there)
    assert is_device(got_sums["model"])
    for name, value in rows.items():
        np.testing.assert_allclose(to_host(got_rows[name]), value, rtol=2e-4, atol=2e-3, err_msg=name)
    for name, value in sums.items():
        assert np.abs(to_host(got_sums[name]) - value).max() <= 3e-5 * np.abs(value).max(), name


def test_projection_keeps_to_the_device(pretended: ModuleType, rng: np.random.Generator) -> None:
    v, y = rng.normal(size=(16, 16, 16)).astype(np.float32), rng.normal(size=(3, 16, 16)).astype(np.float32)
    a = random_rotations(3, rng)
    for kernel, x in ((project, v), (project_adjoint, y)):
        here, there = kernel(x, a), kernel(pretended.asarray(x), a)
        assert is_device(there)
        assert np.abs(there.get() - here).max() < 1e-5 * np.abs(here).max()


def test_reconstruction_keeps_to_the_device(pretended: ModuleType, rng: np.random.Generator) -> None:
    s, a = half_plane(16, 7), random_rotations(60, rng)
    data = (rng.normal(size=(60, len(s))) + 1j * rng.normal(size=(60, len(s)))).astype(np.complex64)
    maps = []
    for place in (np.asarray, pretended.asarray):
        total = place(accumulator(7))
        insert_slices(total, place(data), place(np.ones(data.shape, np.float32)), a, s)
        total = symmetrise_sums(enforce_friedel(total), point_group("D2"), 99.0)
        shells = place(grid_shells(total.shape[:3], 2))
        maps += [grid_to_map(wiener(total, shells, x), 16, box=16) for x in (None, np.full(8, 3.0))]
    for here, there in zip(maps[:2], maps[2:]):
        assert is_device(there)
        assert np.abs(there.get() - here).max() < 1e-5 * np.abs(here).max()


# on a device ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cupy() -> Any:
    """CuPy with a device to work on."""
    module = pytest.importorskip("cupy", reason="CuPy is not installed (extras cuda12, cuda13)")
    try:
        count = module.cuda.runtime.getDeviceCount()
    except module.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device: {error}")
    if count == 0:
        pytest.skip("no CUDA device")
    return module


@pytest.mark.gpu
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_slices_on_a_device(padding: int, cupy: Any, rng: np.random.Generator) -> None:
    n = 33
    s, a = half_plane(n, 16), random_rotations(50, rng)
    map_ = rng.normal(size=(n, n, n)).astype(np.float32)
    volume = prepare_volume(map_, padding=padding)
    theirs = prepare_volume(cupy.asarray(map_), padding=padding)
    assert np.abs(theirs.get() - volume).max() < 1e-5 * np.abs(volume).max()
    got = slices(theirs, a, s, padding=padding).get()
    assert np.abs(got - slices(volume, a, s, padding=padding)).max() < 1e-5 * np.abs(volume).max()


@pytest.mark.gpu
def test_insertion_on_a_device(cupy: Any, rng: np.random.Generator) -> None:
    n = 32
    s, a = half_plane(n, 15), random_rotations(200, rng)
    data = (rng.normal(size=(200, len(s))) + 1j * rng.normal(size=(200, len(s)))).astype(np.complex64)
    weight = rng.uniform(size=data.shape).astype(np.float32)
    expected, got = accumulator(15), accumulator(15, xp=cupy)
    insert_slices(expected, data, weight, a, s)
    insert_slices(got, cupy.asarray(data), cupy.asarray(weight), a, s)
    assert np.abs(got.get() - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.gpu
def test_projection_and_its_adjoint_on_a_device(cupy: Any, rng: np.random.Generator) -> None:
    v, y = rng.normal(size=(16, 16, 16)).astype(np.float32), rng.normal(size=(3, 16, 16)).astype(np.float32)
    a = random_rotations(3, rng)
    for kernel, x in ((project, v), (project_adjoint, y)):
        here, there = kernel(x, a), kernel(cupy.asarray(x), a).get()
        assert np.abs(there - here).max() < 1e-5 * np.abs(here).max()


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_expectation_on_a_device(case: str, cupy: Any) -> None:
    """Atomic additions come in any order: the same to float32 rounding."""
    given = arguments(**CASES[case])
    rows, sums = expectation(**given)
    there = {k: cupy.asarray(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    got_rows, got_sums = expectation(**there)
    for name, value in rows.items():
        np.testing.assert_allclose(to_host(got_rows[name]), value, rtol=1e-3, atol=5e-3, err_msg=name)
    for name, value in sums.items():
        assert np.abs(to_host(got_sums[name]) - value).max() <= 1e-4 * np.abs(value).max(), name
