"""Pure array mathematics on one batch, NumPy/Numba on CPU and CuPy/CUDA on GPU; no Dask, files or clusters here."""
