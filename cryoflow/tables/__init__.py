"""Tables as tables: what can be done with the rows and columns of particles, micrographs and movies.

Every function takes a Dataset and returns a new one; images stay lazy, and nothing is changed in place.
"""

from cryoflow.io.query import select, take
from cryoflow.tables.columns import drop, rename, replace_text, set_column
from cryoflow.tables.duplicates import remove_duplicates
from cryoflow.tables.join import join
from cryoflow.tables.merge import merge
from cryoflow.tables.optics import renumber_groups, renumber_optics
from cryoflow.tables.order import head, sample, slice_rows, sort
from cryoflow.tables.recentre import move_centre, recentre, reset_poses
from cryoflow.tables.sets import difference, intersect
from cryoflow.tables.split import assign_halves, split, split_by
from cryoflow.tables.symmetry import expand_symmetry, select_views, subparticles

__all__ = [
    "assign_halves",
    "difference",
    "drop",
    "expand_symmetry",
    "head",
    "intersect",
    "join",
    "merge",
    "move_centre",
    "recentre",
    "remove_duplicates",
    "rename",
    "renumber_groups",
    "renumber_optics",
    "replace_text",
    "reset_poses",
    "sample",
    "select",
    "select_views",
    "set_column",
    "slice_rows",
    "sort",
    "split",
    "split_by",
    "subparticles",
    "take",
]
