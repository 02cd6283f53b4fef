"""All benchmarks one after the other, each in its own process; ``--refine`` adds the long one against RELION."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RUNS: list[list[str]] = [
    ["bench_likelihood.py"],
    ["bench_store.py"],
    ["bench_star.py"],
    ["bench_open.py"],
    ["bench_import.py", "16000", "128"],
    ["bench_engine.py"],
    ["bench_ctf.py"],
    ["bench_picking.py"],
]
LONG: list[list[str]] = [["bench_refine.py", "betagal", "--out", "bench/betagal"]]


def main() -> int:
    runs = RUNS + (LONG if "--refine" in sys.argv[1:] else [])
    failed = []
    for run in runs:
        print(f"--- {' '.join(run)}", flush=True)
        if subprocess.run([sys.executable, str(HERE / run[0]), *run[1:]]).returncode:
            failed.append(run[0])
    print(f"failed: {', '.join(failed)}" if failed else "all benchmarks ran")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
