"""Zarr stores: written whole or not at all, filled chunk by chunk, grown, and read by offset."""
