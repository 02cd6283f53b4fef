"""Auto-refine against RELION's on the same particles, in one run: CPU seconds, half-map FSC, FSC against truth.

    python benchmarks/bench_refine.py betagal --out bench/betagal     # 5a1a.cif, D2, from 40 A
    python benchmarks/bench_refine.py stack --star particles.star --reference ref.mrc --symmetry O --diameter 150 \
        --ini-high 20 --out bench/apo               # any stack; --truth names a map to compare with

RELION (``relion_refine_mpi``, two followers) is run where it is installed; its CPU time is that of the two followers,
since its leader only waits. Both get the same reference, filter, symmetry, mask diameter and first sampling.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from cryoflow.io import read_map, read_particles, write_map, write_particles
from cryoflow.kernels.masks import soft_sphere
from cryoflow.kernels.resolution import fsc, resolution_at

FOLLOWERS = 2


def simulate_betagal(folder: Path, n: int) -> dict[str, object]:
    """2,000 particles of 128 px at 1.77 A, SNR 0.05, 0.8-2.5 um, coloured noise, B 80; truth and a 40 A reference."""
    from cryoflow.simulate import simulate_particles

    data = Path(os.environ.get("CRYOFLOW_DATA", Path(__file__).parents[2] / "shared" / "data"))
    particles, truth = simulate_particles(
        data / "models" / "5a1a.cif", n=n, box=128, pixel_size=1.77, symmetry="D2", snr=0.05,
        defocus=(8000.0, 25000.0), noise="coloured", b_factor=80.0, seed=1,
    )  # fmt: skip
    star, reference = folder / "particles.star", folder / "truth.mrc"
    write_particles(particles, star, images=folder / "particles.mrcs")
    names = np.array([f"{i + 1:06d}@particles.mrcs" for i in range(n)])
    write_particles(truth.drop_vars("map").assign(image_name=("particle", names)), folder / "truth.star")
    write_map(reference, truth["map"], pixel_size=1.77)
    return {"star": star, "reference": reference, "truth": reference, "truth_star": folder / "truth.star",
            "symmetry": "D2", "diameter": 200.0, "ini_high": 40.0}  # fmt: skip


CRYOFLOW = """
import json, sys
from cryoflow.io import read_map, read_particles, write_map, write_particles
from cryoflow.refinement import refine
a = json.loads(sys.argv[1])
found = refine(read_particles(a["star"]), read_map(a["reference"]), symmetry=a["symmetry"], diameter=a["diameter"],
               ini_high=a["ini_high"])
for name, volume in (("half1", found.half1), ("half2", found.half2), ("map", found.map)):
    write_map(a["out"] + "/cryoflow_" + name + ".mrc", volume, pixel_size=volume.attrs["pixel_size"])
write_particles(found.particles, a["out"] + "/cryoflow.star")
json.dump({"history": found.history, "converged": found.converged, "warnings": found.warnings,
           "resolution": found.resolution}, open(a["out"] + "/cryoflow.json", "w"))
"""


def run_cryoflow(case: dict[str, object], out: Path) -> float:
    """CPU seconds of a whole process: import, compilation where no cache is warm, reading, refinement, writing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argument = json.dumps({**{k: str(v) if isinstance(v, Path) else v for k, v in case.items()}, "out": str(out)})
    subprocess.run([sys.executable, "-c", CRYOFLOW, argument], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_relion(case: dict[str, object], out: Path) -> float | None:
    """CPU seconds of RELION's followers, or None where it is not installed. A finished run in ``out`` is kept."""
    folder = out.resolve() / "relion"
    if (folder / "run_class001.mrc").is_file():
        return _seconds(folder)
    if shutil.which("relion_refine_mpi") is None:
        return None
    folder.mkdir(exist_ok=True)
    rank = folder / "rank.sh"
    rank.write_text(f"""#!/bin/bash
TIMEFORMAT="%U %S"
exec 2>>{folder}/log.$OMPI_COMM_WORLD_RANK
time "$@"
""")
    rank.chmod(0o755)
    star = Path(str(case["star"])).resolve()
    command = [
        "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1",
        "-n", str(FOLLOWERS + 1), str(rank), "relion_refine_mpi", "--o", str(folder / "run"), "--i", star.name,
        "--auto_refine", "--split_random_halves", "--ref", str(Path(str(case["reference"])).resolve()),
        "--ini_high", str(case["ini_high"]), "--firstiter_cc", "--ctf", "--particle_diameter", str(case["diameter"]),
        "--flatten_solvent", "--zero_mask", "--sym", str(case["symmetry"]), "--oversampling", "1",
        "--healpix_order", "2", "--auto_local_healpix_order", "4", "--offset_range", "5", "--offset_step", "2",
        "--low_resol_join_halves", "40", "--norm", "--scale", "--pad", "2", "--j", "1", "--pool", "3",
        "--dont_combine_weights_via_disc", "--random_seed", "1",
    ]  # fmt: skip
    with (folder / "stdout").open("w") as log:
        subprocess.run(command, check=True, cwd=star.parent, stdout=log, stderr=subprocess.STDOUT)
    return _seconds(folder)


def _seconds(folder: Path) -> float:
    times = [(folder / f"log.{i}").read_text().split()[-2:] for i in range(1, FOLLOWERS + 1)]
    return sum(float(u) + float(s) for u, s in times)


def quality(half1: Path, half2: Path, whole: Path, case: dict[str, object]) -> dict[str, float]:
    """Resolutions in angstrom, both programs by the same rule: in a soft sphere of the particle's diameter."""
    a, b, joined = (np.asarray(read_map(p)) for p in (half1, half2, whole))
    n, pixel = a.shape[0], float(read_map(half1).attrs["pixel_size"])
    mask = soft_sphere(n, float(str(case["diameter"])) / 2 / pixel, 5)
    out = {"half-maps, unmasked, 0.143": resolution_at(fsc(a, b), n, pixel),
           "half-maps, masked, 0.143": resolution_at(fsc(a * mask, b * mask), n, pixel)}  # fmt: skip
    if case.get("truth"):
        truth = np.asarray(read_map(str(case["truth"])))
        curve = fsc(joined * mask, truth * mask)
        out |= {"against truth, masked, 0.5": resolution_at(curve, n, pixel, 0.5),
                "against truth, mean FSC to half Nyquist": float(curve[1 : n // 4].mean())}  # fmt: skip
    return out


def pose_error(star: Path, case: dict[str, object]) -> float:
    """Median angular error in degrees against the truth."""
    from cryoflow.kernels.rotation import angular_distance
    from cryoflow.kernels.symmetry import point_group

    found = read_particles(star, images=False).sortby("image_name")
    truth = read_particles(str(case["truth_star"]), images=False).sortby("image_name")
    group = point_group(str(case["symmetry"]))
    return float(np.median(angular_distance(found["rotation"].values, truth["rotation"].values, group)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("betagal", "stack"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--particles", type=int, default=2000)
    parser.add_argument("--star", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--diameter", type=float)
    parser.add_argument("--ini-high", type=float, default=40.0)
    parser.add_argument("--no-relion", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "betagal":
        case = simulate_betagal(args.out, args.particles)
    else:
        case = {k: getattr(args, k) for k in ("star", "reference", "truth", "symmetry", "diameter", "ini_high")}
    figures: dict[str, object] = {"cryoflow CPU s": run_cryoflow(case, args.out)}
    figures["cryoflow"] = quality(*(args.out / f"cryoflow_{k}.mrc" for k in ("half1", "half2", "map")), case)
    if case.get("truth_star"):
        figures["cryoflow median pose error, degrees"] = pose_error(args.out / "cryoflow.star", case)
    relion = None if args.no_relion else run_relion(case, args.out)
    if relion is not None:
        run = args.out / "relion"
        names = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc", "run_class001.mrc")
        figures |= {"RELION CPU s": relion, "RELION": quality(*(run / n for n in names), case),
                    "ratio": relion / float(str(figures["cryoflow CPU s"]))}  # fmt: skip
        if case.get("truth_star"):
            figures["RELION median pose error, degrees"] = pose_error(run / "run_data.star", case)
    print(json.dumps(figures, indent=1))
    (args.out / "figures.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
