"""Central slices and their adjoint on a CUDA device: twins of ``slice_into`` and ``insert_from`` of ``projection``.

One thread takes one sample of one slice. The adjoint adds with atomic operations, whose order is not fixed: sums made
on a device agree from run to run to float32 rounding and not to the bit. The source keeps to the C that both nvcc and
a host compiler read, so that its arithmetic can be held against the Numba kernels where there is no device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryoflow.kernels.samples import Samples

__all__ = ["SOURCE", "insert_slices", "slices"]

THREADS = 256

SOURCE = r"""
/* Cell and fractions of the sample A^T (kx, ky, 0) in the half volume x >= 0; returns -1 for a Friedel mate, else 1. */
__device__ static float cell_of(const float *a, float kx, float ky, float padding, int reach, int cell[3], float f[3])
{
    float x = padding * (a[0] * kx + a[3] * ky);
    float y = padding * (a[1] * kx + a[4] * ky);
    float z = padding * (a[2] * kx + a[5] * ky);
    float sign = 1.0f;
    if (x < 0.0f) { x = -x; y = -y; z = -z; sign = -1.0f; }
    y += (float)reach;
    z += (float)reach;
    cell[0] = (int)x; cell[1] = (int)y; cell[2] = (int)z;
    f[0] = x - (float)cell[0]; f[1] = y - (float)cell[1]; f[2] = z - (float)cell[2];
    return sign;
}

/* Four sums of a cell; one 16-byte atomic where the device has it. */
__device__ static void add_to_cell(float *cell, float re, float im, float weight)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    atomicAdd((float4 *)cell, make_float4(re, im, weight, 0.0f));
#else
    atomicAdd(cell, re);
    atomicAdd(cell + 1, im);
    atomicAdd(cell + 2, weight);
#endif
}

/* out[j, i] = V(A_j^T (kx_i, ky_i, 0));  volume (2 reach + 1, 2 reach + 1, reach + 1, 2), blocks of a slice abreast. */
EXTERN __global__ void cut_slices(
    const float *volume, int reach, const float *rotations, long long number, const float *kx, const float *ky,
    int count, int blocks, float padding, float *out)
{
    long long j = blockIdx.x / blocks;
    int i = (int)(blockIdx.x % blocks) * (int)blockDim.x + (int)threadIdx.x;
    int cell[3], dz, dy;
    float f[3], re = 0.0f, im = 0.0f, sign;
    long long nx = reach + 1, ny = 2 * reach + 1;
    if (j >= number || i >= count) return;
    sign = cell_of(rotations + 9 * j, kx[i], ky[i], padding, reach, cell, f);
    for (dz = 0; dz < 2; dz++)
        for (dy = 0; dy < 2; dy++) {
            float w = (dz ? f[2] : 1.0f - f[2]) * (dy ? f[1] : 1.0f - f[1]);
            const float *v = volume + 2 * (((cell[2] + dz) * ny + cell[1] + dy) * nx + cell[0]);
            re += w * ((1.0f - f[0]) * v[0] + f[0] * v[2]);
            im += w * ((1.0f - f[0]) * v[1] + f[0] * v[3]);
        }
    out[2 * (j * count + i)] = re;
    out[2 * (j * count + i) + 1] = sign * im;
}

/* Adjoint: total (2 reach + 1, 2 reach + 1, reach + 1, 4) += data[j, i], weight[j, i], with the same coefficients. */
EXTERN __global__ void insert_slices(
    float *total, int reach, const float *rotations, long long number, const float *kx, const float *ky,
    int count, int blocks, float padding, const float *data, const float *weight)
{
    long long j = blockIdx.x / blocks;
    int i = (int)(blockIdx.x % blocks) * (int)blockDim.x + (int)threadIdx.x;
    int cell[3], dz, dy;
    float f[3], re, im, we, sign;
    long long nx = reach + 1, ny = 2 * reach + 1;
    if (j >= number || i >= count) return;
    sign = cell_of(rotations + 9 * j, kx[i], ky[i], padding, reach, cell, f);
    re = data[2 * (j * count + i)];
    im = sign * data[2 * (j * count + i) + 1];
    we = weight[j * count + i];
    if (re == 0.0f && im == 0.0f && we == 0.0f) return;
    for (dz = 0; dz < 2; dz++)
        for (dy = 0; dy < 2; dy++) {
            float w = (dz ? f[2] : 1.0f - f[2]) * (dy ? f[1] : 1.0f - f[1]);
            float *v = total + 4 * (((cell[2] + dz) * ny + cell[1] + dy) * nx + cell[0]);
            float c = w * (1.0f - f[0]);
            add_to_cell(v, c * re, c * im, c * we);
            c = w * f[0];
            add_to_cell(v + 4, c * re, c * im, c * we);
        }
}
"""
"""The two kernels; ``EXTERN`` is to be defined as the linkage of the compiler at hand (``extern "C"`` in C++)."""


@lru_cache(maxsize=1)
def _module() -> Any:
    """The compiled kernels; CuPy keeps a binary for each device."""
    import cupy

    return cupy.RawModule(code='#define EXTERN extern "C"\n' + SOURCE, options=("--std=c++11",))


def _launch(name: str, volume: Any, rotations: Any, samples: Samples, count: int, padding: int, *arrays: Any) -> None:
    import cupy

    number = len(rotations)
    if number == 0 or count == 0:
        return
    matrices = cupy.ascontiguousarray(cupy.asarray(rotations), dtype=cupy.float32)
    kx, ky = cupy.asarray(samples.kx[:count]), cupy.asarray(samples.ky[:count])
    blocks = -(-count // THREADS)
    _module().get_function(name)(
        (blocks * number,), (THREADS,),
        (volume, cupy.int32(volume.shape[0] // 2), matrices, cupy.int64(number), kx, ky, cupy.int32(count),
         cupy.int32(blocks), cupy.float32(padding), *arrays),
    )  # fmt: skip


def slices(volume: Any, rotations: Any, samples: Samples, count: int, padding: int) -> Any:
    """``projection.slices`` of device arrays: (R, count) complex64."""
    import cupy

    out = cupy.empty((len(rotations), count), dtype=cupy.complex64)
    _launch("cut_slices", cupy.ascontiguousarray(volume), rotations, samples, count, padding, out)
    return out


def insert_slices(total: Any, data: Any, weights: Any, rotations: Any, samples: Samples, padding: int) -> None:
    """``projection.insert_slices`` of device arrays, in place; ``total`` must be contiguous."""
    import cupy

    values = cupy.ascontiguousarray(data, dtype=cupy.complex64)
    weight = cupy.ascontiguousarray(weights, dtype=cupy.float32)
    _launch("insert_slices", total, rotations, samples, data.shape[1], padding, values, weight)
