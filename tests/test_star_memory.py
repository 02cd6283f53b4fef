"""What reading a STAR file takes beyond what the process had: under four times the file, whatever it holds.

Each file is read by a process of its own, forked from one with the libraries loaded and nothing else; the figure is the
peak of its resident memory (what ``ru_maxrss`` tells) less what was resident before, after free memory was given back.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest

LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)


def loop(columns: int, rows: bytes) -> bytes:
    return b"data_\nloop_\n" + b"".join(b"_a%d\n" % i for i in range(columns)) + rows


def random_words(size: int, width: int, columns: int) -> bytes:
    n = size // (width + 1) // columns * columns
    words = LETTERS[np.random.default_rng(0).integers(0, 26, (n, width + 1))]
    words[:, -1] = ord(" ")
    words[columns - 1 :: columns, -1] = ord("\n")
    return loop(columns, words.tobytes())


def rows(size: int, row: Callable[[int], bytes]) -> bytes:
    """Rows up to about ``size`` bytes; a thousand are made at a time."""
    out = bytearray()
    for first in count(0, 1000):
        out += b"".join(map(row, range(first, first + 1000)))
        if len(out) >= size:
            return bytes(out)
    raise AssertionError


def particles(size: int) -> bytes:
    one = "%06d@Extract/job012/Movies/stack_%05d.mrcs MotionCorr/job002/mic_%05d.mrc " + "%d.062500 " * 10 + "1 2\n"
    return loop(14, rows(size, lambda i: (one % (i % 500, i // 500, i // 500, *range(i, i + 10))).encode()))


def blocks(size: int) -> bytes:
    return b"".join(b"data_%d\nloop_\n_a\n_b\n" % i + b"%d 2.5\n" % i * (size // 36_000) for i in range(4000))


KINDS: dict[str, Callable[[int], bytes]] = {
    "particles": particles,
    "random words of 1": lambda n: random_words(n, 1, 1),
    "random words of 3": lambda n: random_words(n, 3, 1),
    "random words of 3, 20 columns": lambda n: random_words(n, 3, 20),
    "digits": lambda n: loop(1, b"0\n1\n" * (n // 4)),
    "a word after digits": lambda n: loop(1, b"0\n1\n" * (n // 4) + b"x\n"),
    "short numbers": lambda n: loop(2, b".1 .2\n" * (n // 6)),
    "numbered words": lambda n: loop(1, rows(n, lambda i: b"1@%x\n" % (i * 7919 % (1 << 20)))),
    "quoted words": lambda n: loop(2, rows(n, lambda i: b"%d 'a b %d'\n" % (i, i))),
    "one huge word": lambda n: loop(2, b"1 " + b"x" * n + b"\n2 y\n"),
    "one huge quoted word": lambda n: loop(2, b"2 y\n1 '" + b"x y " * (n // 4) + b"'\n"),
    "one huge text in a table": lambda n: loop(2, b"1\n;" + b"x y\n" * (n // 4) + b";\n2 y\n"),
    "one huge text, CR LF": lambda n: loop(2, b"1\n;" + b"some words\r\n" * (n // 12) + b";\n2 y\n"),
    "one huge text in a list": lambda n: b"data_\n_a\n;" + b"x y\n" * (n // 4) + b";\n_b 3\n",
    "many texts": lambda n: loop(2, rows(n, lambda i: b"%d\n;remarks on a row,\nthe %d of all\n;\n" % (i, i))),
    "a text, then a table": lambda n: b"data_a\n_a\n;x y\n;\n" + particles(n),
    "blocks": blocks,
}
# eight bytes of the result to two of the file: four times the file, and the pieces that are read
WIDE: dict[str, Callable[[int], bytes]] = {
    "a point after digits": lambda n: loop(1, b"0\n1\n" * (n // 4) + b"0.5\n"),
    "a zero that loses its sign": lambda n: loop(1, b"-0\n" + b"0\n1\n" * (n // 4) + b"0.5\n"),
}


def peak(path: Path, small: Path) -> int:
    """Bytes that reading ``path`` takes at most."""
    from cryoflow.io.star.star import read_star

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

    read_star(small)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    read_star(path)
    return status("VmHWM") - before


def measure(folder: Path, size: int) -> None:
    """Print the peak and the size of each kind of file, in a process of its own."""
    small, path = folder / "small.star", folder / "a.star"
    small.write_bytes(b"data_x\n_a\n;t\n;\ndata_\nloop_\n_a\n_b\n_c\n" + b"1 a 2.5\n" * 50_000 + b"1 a '2 x'\n" * 2000)

    def write(kind: str) -> None:
        path.write_bytes((KINDS | WIDE)[kind](size))

    def report(kind: str) -> None:
        print(json.dumps([kind, peak(path, small), path.stat().st_size]), flush=True)

    for kind in KINDS | WIDE:
        for work in (write, report):
            child = os.fork()
            if child == 0:
                try:
                    work(kind)
                finally:
                    os._exit(sys.exc_info()[0] is not None)
            assert os.waitpid(child, 0)[1] == 0, kind


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")
@pytest.mark.parametrize("size", [10_000_000, pytest.param(120_000_000, marks=pytest.mark.slow)])
def test_no_file_takes_four_times_its_size(tmp_path: Path, size: int) -> None:
    run = subprocess.run([sys.executable, __file__, str(tmp_path), str(size)], stdout=subprocess.PIPE, check=True)
    found = {kind: (taken, size) for kind, taken, size in map(json.loads, run.stdout.splitlines())}
    assert set(found) == set(KINDS | WIDE)
    print("\n".join(f"{taken / size:5.2f} times the file of {size}: {kind}" for kind, (taken, size) in found.items()))
    assert [kind for kind in KINDS if found[kind][0] >= 4 * found[kind][1]] == []
    assert [kind for kind in WIDE if found[kind][0] >= 4 * found[kind][1] + (8 << 20)] == []


if __name__ == "__main__":
    import cryoflow.io.star.starblock
    import cryoflow.io.star.starscan
    import cryoflow.io.star.wordcolumn  # noqa: F401

    measure(Path(sys.argv[1]), int(sys.argv[2]))
