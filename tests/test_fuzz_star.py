"""Mutated STAR files: read, or refused by a typed error, as tables and Datasets, small and large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz_harness import fuzz, on_file

from cryoflow.io.particles import read_particles, write_particles
from cryoflow.io.star import starblock, startokens
from cryoflow.io.star.relion_motion import read_motion, write_motion
from cryoflow.io.star.star import read_star, write_star
from cryoflow.io.star.xmipp import read_xmipp, write_xmipp

WORDS = (b"data_", b"loop_", b"\n;", b"#", b"_rlnImageName", b"\ndata_optics\n", b"_rlnOpticsGroup", b" 1e-400 ",
         b"\x01", b"0x1p3", b"1_0", b"\xc3\xa9", b"\r", b"\xef\xbb\xbf", b"[1,2]", b"9007199254740993")  # fmt: skip
NEW = b"""# version 30001
data_general
_rlnNote 'two words'
data_optics
loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnImagePixelSize #4
_rlnBeamTiltX #5
_rlnBeamTiltY #6
_rlnOddZernike #7
7 seven 300.0 1.25 0.1 0.2 [0.1,0,2]
9 'nine 9' 200.0 1.25 0 0 [1]
data_particles
loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnOpticsGroup #3
_rlnAngleRot #4
_rlnAngleTilt #5
_rlnAnglePsi #6
_rlnOriginXAngst #7
_rlnOriginYAngst #8
_rlnDefocusU #9
_rlnDefocusV #10
_rlnDefocusAngle #11
_rlnRandomSubset #12
_rlnClassNumber #13
_rlnCtfMaxResolution #14
_myOwn #15
000001@a.mrcs "m 1.mrc" 7 10.5 0 -30.25 1.5 -2.25 8000.5 9000 120 1 3 3.5 007
000002@a.mrcs m2.mrc 9 1e2 170 0.5 0 0 9000 8000 -45 2 1 inf x#y
"""
OLD = b"""data_images
loop_
_rlnImageName
_rlnMagnification
_rlnDetectorPixelSize
_rlnVoltage
_rlnOriginX
_rlnOriginY
_rlnRemark
1@a.mrcs 38168 5 300 1.25 -2.5
;of two
lines
;
2@a.mrcs 38168 5 200 0 0.5 ""
"""
XMIPP = b"""# XMIPP_STAR_1 *
#
data_noname
loop_
 _image
 _flip
 _angleRot
 _angleTilt
 _anglePsi
 _shiftX
 _shiftY
 _ctfSamplingRate
 1@a.stk 1 10 20 30 1 2 1.5
 2@a.stk 0 -10 120 30 1 2 1.5
"""
MOTION = (
    b"data_general\n_rlnImageSizeX 40\n_rlnImageSizeY 30\n_rlnImageSizeZ 2\n_rlnMicrographStartFrame 1\n"
    b"data_global_shift\nloop_\n_rlnMicrographFrameNumber\n_rlnMicrographShiftX\n_rlnMicrographShiftY\n1 0 0\n2 .5 -1\n"
    b"data_local_motion_model\nloop_\n_rlnMotionModelCoeffsIdx\n_rlnMotionModelCoeff\n"
    + b"".join(b"%d 0.%d\n" % (i, i) for i in range(36))
    + b"data_hot_pixels\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n"
)


def whole(path: Path) -> None:
    """Whatever is read can be written and read again."""
    write_star(path.with_suffix(".out"), read_star(path))
    again = read_star(path.with_suffix(".out"))
    assert again


def particles(path: Path) -> None:
    ds = read_particles(path, images=False, mixed_pixel_sizes=True)
    write_particles(ds, path.with_suffix(".out"), version="source")
    again = read_particles(path.with_suffix(".out"), images=False, mixed_pixel_sizes=True)
    assert again.sizes["particle"] == ds.sizes["particle"]


def xmipp(path: Path) -> None:
    write_xmipp(read_xmipp(path, images=False), path.with_suffix(".out"))


def motion(path: Path) -> None:
    write_motion(read_motion(path), path.with_suffix(".out"))


SHORT = [(whole, 120), (particles, 60), (xmipp, 60), (motion, 60)]
LONG = [(whole, 5000), (particles, 1200), (xmipp, 800), (motion, 600)]  # a third more as large tables: 10,000


@pytest.mark.parametrize(("target", "count"), SHORT + [pytest.param(*case, marks=pytest.mark.slow) for case in LONG])
def test_mutated_files(
    tmp_path: Path, target: Callable[[Path], None], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = {whole: [NEW, OLD, MOTION], particles: [NEW, OLD], xmipp: [XMIPP], motion: [MOTION]}[target]
    read = on_file(target, ".star", tmp_path)
    for seed in seeds:
        read(seed)  # whole files are read: what is refused below is refused for its damage
    cover = ("io/star/star", "io/star/relion", "io/star/xmipp")
    report = fuzz(read, seeds, count, seed=count, words=WORDS, cover=cover)
    assert report.accepted >= (1 if count > 100 else 0)
    assert report.refused >= 1
    monkeypatch.setattr(starblock, "_SMALL", 0)  # tables of any size as large ones, in pieces
    monkeypatch.setattr(startokens, "_LEAST", 100)
    fuzz(read, seeds, count // 3, seed=count + 1, words=WORDS)
