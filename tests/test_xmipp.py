"""Xmipp's metadata: labels, mirrored rows against a projection, and round trips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoflow.errors import FormatError
from cryoflow.io.formats import detect, open_data
from cryoflow.io.images.mrc import write_stack
from cryoflow.io.particles import read_particles, write_particles
from cryoflow.io.star.star import read_star
from cryoflow.io.star.xmipp import read_xmipp, write_xmipp
from cryoflow.kernels.rotation import euler_to_matrix

HEAD = "# XMIPP_STAR_1 * \n# \ndata_acquisition\n _samplingRate 1.5\n _note 'by hand'\ndata_Particles\nloop_\n"
LABELS = """ _itemId
 _enabled
 _image
 _flip
 _angleRot
 _angleTilt
 _anglePsi
 _shiftX
 _shiftY
 _ctfDefocusU
 _ctfDefocusV
 _ctfDefocusAngle
 _ctfVoltage
 _ctfSphericalAberration
 _ctfQ0
 _ctfSamplingRate
 _zScore
"""
ROWS = """ 1 1 000001@p.mrcs:mrcs 0 10.5 20.25 -30 1.25 -2.5 12000 11000 45 300 2.7 0.1 1.5 0.123456789
 2 -1 000002@p.mrcs:mrcs 1 100 120 80 3 4 11000 12000 150 300 2.7 0.1 1.5 -1e-12
 3 1 000003@p.mrcs:mrcs 0 0 0 45 0 0 12000 11000 0 200 2.7 0.1 1.5 3
"""


def write(folder: Path, text: str = HEAD + LABELS + ROWS) -> Path:
    (folder / "p.xmd").write_text(text)
    return folder / "p.xmd"


def test_rows_become_the_schema(tmp_path: Path) -> None:
    images = np.arange(3 * 64, dtype=np.float32).reshape(3, 8, 8)
    write_stack(tmp_path / "p.mrcs", xr.DataArray(images, dims=("particle", "y", "x")), pixel_size=1.5)
    path = write(tmp_path)
    assert detect(path).name == "xmipp"
    ds = open_data(path)
    np.testing.assert_array_equal(ds.image.values, images)
    np.testing.assert_allclose(ds.rotation.values[0], euler_to_matrix(10.5, 20.25, -30), atol=1e-12)
    np.testing.assert_allclose(ds["shift"].values, [[1.875, -3.75], [-4.5, 6.0], [0, 0]])
    assert ds.voltage.values[ds.optics_group.values].tolist() == [300, 300, 200]
    assert ds.defocus_u.values.tolist() == [12000, 12000, 12000]
    assert ds.defocus_angle.values.tolist() == [45, 60, 0]
    assert ds.x_enabled.values.tolist() == [1, -1, 1]


def test_a_flipped_row_is_the_mirrored_projection() -> None:
    """Points of an object, projected by Xmipp's own rule (rotate, mirror x, shift) and by ours."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 3))
    angles, shift = (35.0, 70.0, -110.0), np.array([3.0, 4.0])
    # Xmipp: stored -> mirrored in x -> shifted is the projection at these angles
    stored = ((euler_to_matrix(*angles) @ points.T).T[:, :2] - shift) * [-1, 1]
    import tempfile

    folder = Path(tempfile.mkdtemp())
    labels = " _image\n _flip\n _angleRot\n _angleTilt\n _anglePsi\n _shiftX\n _shiftY\n"
    text = f"# XMIPP_STAR_1 * \ndata_noname\nloop_\n{labels} 1@a.stk 1 35 70 -110 3 4\n"
    ds = read_xmipp(write(folder, text), images=False, pixel_size=2.0)
    ours = (ds.rotation.values[0] @ points.T).T[:, :2] - ds["shift"].values[0] / 2.0
    np.testing.assert_allclose(ours, stored, atol=1e-12)
    assert np.linalg.det(ds.rotation.values[0]) == pytest.approx(1)


def test_what_was_read_returns(tmp_path: Path) -> None:
    path = write(tmp_path)
    ds = read_xmipp(path, images=False)
    write_xmipp(ds, tmp_path / "out.xmd")
    assert (tmp_path / "out.xmd").read_bytes().startswith(b"# XMIPP_STAR_1 * ")
    before, after = read_star(path), read_star(tmp_path / "out.xmd")
    assert list(after) == ["acquisition", "Particles"]
    assert after["acquisition"].iloc[0].tolist() == [1.5, "by hand"]
    assert list(after["Particles"]) == list(before["Particles"])
    for label, column in before["Particles"].items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(after["Particles"][label], column, atol=1e-6, err_msg=label)
        else:
            assert after["Particles"][label].astype(column.dtype).tolist() == column.tolist()
    again = read_xmipp(tmp_path / "out.xmd", images=False)
    np.testing.assert_allclose(again.rotation, ds.rotation, atol=1e-6)


def test_relion_to_xmipp_and_back(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"images": False}
    ds = read_particles(data / "metadata" / "betagal_refine3d" / "run_it016_data.star", **options)
    ds = ds.isel(particle=slice(0, 200))
    write_xmipp(ds, tmp_path / "p.xmd")
    labels = list(read_star(tmp_path / "p.xmd")["noname"])
    assert {"image", "angleRot", "shiftX", "ctfDefocusU", "ctfVoltage", "ctfSamplingRate", "xcoor"} <= set(labels)
    again = read_xmipp(tmp_path / "p.xmd", **options)
    for name in ("rotation", "shift", "defocus_u", "defocus_v", "defocus_angle", "coordinate", "phase_shift", "half"):
        np.testing.assert_allclose(again[name], ds[name], atol=2e-6, err_msg=name)
    for name in ("voltage", "cs", "amplitude_contrast", "pixel_size"):
        np.testing.assert_allclose(again[name].values[again.optics_group], ds[name].values[ds.optics_group])
    assert again.image_name.values.tolist() == ds.image_name.values.tolist()
    write_particles(again, tmp_path / "back.star")
    np.testing.assert_allclose(read_particles(tmp_path / "back.star", **options).rotation, ds.rotation, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data_a\nloop_\n _micrograph\n a.mrc\n", "expected a table with _image"),
        (HEAD + LABELS + ROWS.replace("120 80", "nan 80"), "row 2: expected a number for _rlnAngleTilt"),
        (HEAD + LABELS.replace("_ctfSamplingRate", "_other") + ROWS, "a pixel size"),
        (HEAD + LABELS.replace("_zScore", "_Xoff") + ROWS, "each label once"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        read_xmipp(write(tmp_path, text), images=False)
