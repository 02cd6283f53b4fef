"""RELION's motion STAR: round trips and the displacement field against its formula written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.formats import detect, open_data
from cryoflow.io.star.relion_motion import motion_at, read_motion, write_motion
from cryoflow.io.star.star import read_star
from cryoflow.io.stores.store import open_store, save

GENERAL = """
# version 30001

data_general

_rlnImageSizeX                                     3710
_rlnImageSizeY                                     3838
_rlnImageSizeZ                                       24
_rlnMicrographMovieName                    Movies/a.tiff
_rlnMicrographGainName                     Movies/gain.mrc
_rlnMicrographBinning                          1.000000
_rlnMicrographOriginalPixelSize                0.885000
_rlnMicrographDoseRate                         1.277000
_rlnMicrographPreExposure                      0.000000
_rlnVoltage                                  200.000000
_rlnMicrographStartFrame                              2
_rlnMotionModelVersion                                1
"""


def movie(folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    shifts, coefficients = rng.normal(0, 5, (24, 2)).round(6), rng.normal(size=36).round(6)
    text = GENERAL + "\n\ndata_global_shift\n\nloop_\n_rlnMicrographFrameNumber #1\n_rlnMicrographShiftX #2\n"
    text += "_rlnMicrographShiftY #3\n           1 -9999.000000 -9999.000000\n"
    text += "".join(f"{i + 1:12d} {x:12.6f} {y:12.6f}\n" for i, (x, y) in enumerate(shifts) if i)
    text += "\n\ndata_local_motion_model\n\nloop_\n_rlnMotionModelCoeffsIdx #1\n_rlnMotionModelCoeff #2\n"
    text += "".join(f"{i:12d} {c:12.6e}\n" for i, c in enumerate(coefficients))
    text += "\n\ndata_hot_pixels\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n  12 34\n  3000 1\n"
    text += "\n\ndata_local_shift\n\nloop_\n_rlnMicrographFrameNumber\n_rlnCoordinateX\n_rlnCoordinateY\n"
    text += "_rlnMicrographShiftX\n_rlnMicrographShiftY\n2 371.5 383.5 0.25 -0.125\n3 371.5 383.5 0.5 -0.25\n"
    text += "\ndata_other\n_myOwn 0.1234567890123\n"
    (folder / "m.star").write_text(text)
    return folder / "m.star", shifts, coefficients


def test_the_field_is_the_formula(tmp_path: Path) -> None:
    path, shifts, c = movie(tmp_path)
    assert detect(path).name == "relion-motion"
    ds = open_data(path)
    c = np.array([float(f"{x:.6e}") for x in c])
    rng = np.random.default_rng(2)
    for frame, x, y in zip(rng.integers(2, 25, 20), rng.uniform(0, 3709, 20), rng.uniform(0, 3837, 20), strict=True):
        z, u, v = frame - 2.0, x / 3710 - 0.5, y / 3838 - 0.5
        expected = shifts[frame - 1].copy()
        for axis in range(2):
            k = c[18 * axis : 18 * axis + 18]
            cubic = [k[3 * t] * z + k[3 * t + 1] * z**2 + k[3 * t + 2] * z**3 for t in range(6)]
            expected[axis] += np.dot(cubic, [1, u, u**2, v, v**2, u * v])
        np.testing.assert_allclose(motion_at(ds, frame, x, y), expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(motion_at(ds, frame, x, y, local=False), shifts[frame - 1])
    assert np.isnan(motion_at(ds, 1, 0, 0)).all()
    assert motion_at(ds, [2, 3], [[0.0], [1.0], [2.0]], 5.0).shape == (3, 2, 2)
    with pytest.raises(ParameterError, match="frames 1 to 24"):
        motion_at(ds, 25, 0, 0)


def test_it_returns_as_it_was_through_a_store(tmp_path: Path) -> None:
    path, *_ = movie(tmp_path)
    save(read_motion(path), tmp_path / "m.zarr", function="test", parameters={})
    write_motion(open_store(tmp_path / "m.zarr"), tmp_path / "out.star")
    before, after = read_star(path), read_star(tmp_path / "out.star")
    assert list(after) == list(before)
    for name, table in before.items():
        assert list(after[name]) == list(table)
        for label in table:
            assert after[name][label].tolist() == table[label].tolist(), label


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("data_general", "data_particular"), "a block data_general"),
        (("data_global_shift", "data_shift"), "a block data_global_shift"),
        (("          35 ", "          36 "), "coefficients 0 to 35"),
        (("           3 ", "           2 "), "each frame once"),
        (("  12 34", "  12 nan"), "numbers for _rlnCoordinateY"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path, *_ = movie(tmp_path)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(FormatError, match=says):
        read_motion(path)
