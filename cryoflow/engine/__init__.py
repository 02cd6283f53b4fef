"""The engine: kernels over rows, sums in a fixed order, checkpointed loops, clients. Only this room imports Dask."""

from cryoflow.engine.cluster import connect
from cryoflow.engine.compute import compute
from cryoflow.engine.iterate import iterate, read_records
from cryoflow.engine.mapreduce import map_reduce, map_rows

__all__ = ["compute", "connect", "iterate", "map_reduce", "map_rows", "read_records"]
