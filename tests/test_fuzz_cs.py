"""Mutated .cs and .csg files: read, or refused by a typed error; no hang, bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzz_harness import fuzz, on_file
from test_cryosparc import CSDAT, table

from cryoflow.io.cryosparc.cryosparc import read_cryosparc
from cryoflow.io.cryosparc.cs_file import write_cs

WORDS = (
    b"'descr'", b"'shape'", b"'fortran_order'", b"|O", b"<f4", b">u8", b"|S63", b"<U9", b"(2,)", b"(9999999999,)",
    b"|V8", b"'uid'", b"alignments3D/pose", b"blob/path", b"ctf/tilt_A", b"location/micrograph_shape",
    b"cryoflow/half", b"cryoflow/optics/cs", b'"length"', b'"lz4"', b"None", b"[[", b"))", b"\x93NUMPY", b"\x95CSDAT",
)  # fmt: skip
GROUP_WORDS = (
    b"metafile:", b"'>p.cs'", b">../p.cs", b"num_items:", b"results:", b"&a", b"*a", b"!!python/name:os.system",
    b"- ", b"[", b"{", b"'", b": ",
)  # fmt: skip
GROUP = b"""created: 2024-01-01 00:00:00.000000
group: {name: particles, type: particle}
results:
  blob: {metafile: '>p.cs', num_items: 3, type: particle.blob}
  ctf: {metafile: '>p.cs', num_items: 3, type: particle.ctf}
version: v4.4.1
"""


def read(path: Path) -> None:
    ds = read_cryosparc(path, images=False)
    for variable in ds.variables.values():
        _ = variable.values


def seeds(folder: Path) -> list[bytes]:
    """Both forms, small: with and without what cryoflow adds."""
    small = table(3)
    write_cs(folder / "a.cs", small)
    few = {n: c for n, c in small.items() if n.startswith(("uid", "location"))}
    write_cs(folder / "b.cs", few | {"cryoflow/half": np.ones(3, "i4"), "cryoflow/optics/x_word": np.array([b"w"] * 3)})
    write_cs(
        folder / "c.cs", {"uid": np.arange(4, dtype="u8"), "micrograph_blob/path": np.array([b"a", b"b", b"c", b"d"])}
    )
    return [(folder / f"{n}.cs").read_bytes() for n in "abc"] + [CSDAT]


def whole(tmp_path: Path, cases: int, seed: int) -> None:
    """Any byte of the file changes: headers above all."""
    target = on_file(read, ".cs", tmp_path)
    report = fuzz(target, seeds(tmp_path), cases, seed=seed, words=WORDS, cover=("io/cryosparc/cs",))
    assert report.refused > cases // 4


def rows(tmp_path: Path, cases: int, seed: int) -> None:
    """The header stays and the rows change, so that every conversion sees every value."""
    write_cs(tmp_path / "a.cs", table(3))
    raw = (tmp_path / "a.cs").read_bytes()
    begin = 10 + int.from_bytes(raw[8:10], "little")
    size = len(raw) - begin
    target = on_file(read, ".cs", tmp_path)
    report = fuzz(lambda b: target(raw[:begin] + b[:size].ljust(size, b"\0")), [raw[begin:]], cases, seed=seed,
                  cover=("io/cryosparc/cs",))  # fmt: skip
    assert min(report.accepted, report.refused) > cases // 20


@pytest.mark.parametrize(("part", "cases"), [(whole, 220), (rows, 80)])
def test_mutated_tables(tmp_path: Path, part: Callable[[Path, int, int], None], cases: int) -> None:
    part(tmp_path, cases, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "cases"), [(whole, 8000), (rows, 2000)])
def test_ten_thousand_mutated_tables(tmp_path: Path, part: Callable[[Path, int, int], None], cases: int) -> None:
    part(tmp_path, cases, 2)


def test_mutated_groups(tmp_path: Path) -> None:
    write_cs(tmp_path / "p.cs", table(3))
    target = on_file(read, ".csg", tmp_path)
    report = fuzz(target, [GROUP], 60, seed=3, words=GROUP_WORDS, cover=("io/cryosparc/csg",))
    assert report.refused > 10
