"""The engine: kernels over rows, sums in a fixed order, checkpointed loops, clients. The only room that imports Dask."""

from cryoflow.engine.compute import compute
from cryoflow.engine.mapreduce import map_reduce, map_rows

__all__ = ["compute", "map_reduce", "map_rows"]
