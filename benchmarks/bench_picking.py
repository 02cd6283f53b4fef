"""Picking against hand marks: precision, recall and CPU time of both passes.

    python benchmarks/bench_picking.py [diameter in angstrom]

Data: CRYOFLOW_DATA or ../shared/data (empiar-10146, its 19 usable micrographs; 6 have marks).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cryoflow.io import open_micrographs, read_coordinates
from cryoflow.picking import pick_particles

UNUSABLE = "May08_06.09.02"
WITHIN = 20.0  # pixels


def matches(found: np.ndarray, truth: np.ndarray) -> int:
    distance = cdist(found, truth)
    rows, columns = linear_sum_assignment(np.where(distance <= WITHIN, distance - 1e4, 0.0))
    return int((distance[rows, columns] <= WITHIN).sum())


def main() -> None:
    data = Path(os.environ.get("CRYOFLOW_DATA", Path(__file__).parents[2] / "shared" / "data")) / "empiar-10146"
    diameter = float(sys.argv[1]) if len(sys.argv) > 1 else 130.0
    paths = [p for p in sorted((data / "micrographs").glob("*.mrc")) if p.stem != UNUSABLE]
    marks = {p.stem: read_coordinates(p) for p in sorted((data / "picks").glob("*.star"))}
    micrographs = open_micrographs(paths, pixel_size=1.5, voltage=300, cs=2.7, amplitude_contrast=0.07)
    for method in ("log", "template"):
        start = time.process_time()
        picks = pick_particles(micrographs, diameter=diameter, method=method)
        cpu = (time.process_time() - start) / len(paths)
        names = np.array([Path(str(n)).stem for n in picks.micrograph_name.values])
        marked = np.isin(names, list(marks))
        true = sum(matches(picks.coordinate.values[names == stem], xy) for stem, xy in marks.items())
        print(f"{method:9s} precision {true / marked.sum():.3f}  recall {true / sum(map(len, marks.values())):.3f}  "
              f"{len(names) / len(paths):.0f} picks and {cpu:.2f} CPU-s a micrograph")  # fmt: skip


if __name__ == "__main__":
    main()
