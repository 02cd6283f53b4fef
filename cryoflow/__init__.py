"""Distributed single-particle cryo-EM on Dask, Zarr and GPUs."""

__version__ = "0.1.0.dev0"
