"""docs/conventions.md row by row: one pose, one CTF and one pixel size in the form of each program, by numbers.

The oracle is RELION's own projection program and products of rotations written out here, not the readers' formulas.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.transform import Rotation

from cryoflow.conventions import electron_wavelength
from cryoflow.io.cryosparc.cryosparc import read_cryosparc
from cryoflow.io.micrographs import read_coordinates
from cryoflow.io.particles import read_particles
from cryoflow.io.programs.cistem import read_cistem
from cryoflow.io.programs.eman2 import read_eman_list
from cryoflow.io.programs.eman2_boxes import read_eman_box
from cryoflow.io.programs.frealign import read_frealign
from cryoflow.io.programs.spider_doc import spider_to_matrix
from cryoflow.io.star.xmipp import read_xmipp
from cryoflow.kernels.ctf import ctf

ROT, TILT, PSI = 25.0, 70.0, -40.0
SHIFT = np.array([3.0, -4.5])  # angstrom, to be added
PIXEL = 1.5
U, V, ANGLE = 21000.0, 19500.0, 30.0


def about(axis: str, degrees: float) -> np.ndarray:
    """The passive rotation: the transpose of the active one by the right-hand rule."""
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix().T


A = about("z", PSI) @ about("y", TILT) @ about("z", ROT)


def relion(folder: Path) -> xr.Dataset:
    (folder / "p.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n_rlnImagePixelSize\n1 og 300 2.7 0.1 1.5\n\ndata_particles\nloop_\n_rlnImageName\n"
        "_rlnOpticsGroup\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnDefocusU\n"
        "_rlnDefocusV\n_rlnDefocusAngle\n1@p.mrcs 1 25 70 -40 3 -4.5 21000 19500 30\n"
    )
    return read_particles(folder / "p.star", images=False)


def relion_30(folder: Path) -> xr.Dataset:
    (folder / "p.star").write_text(
        "data_images\nloop_\n_rlnImageName\n_rlnMagnification\n_rlnDetectorPixelSize\n_rlnVoltage\n"
        "_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n_rlnOriginX\n"
        "_rlnOriginY\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
        "1@p.mrcs 40000 6 300 2.7 0.1 205 -70 140 2 -3 19500 21000 -60\n"  # the other triple, and u and v exchanged
    )
    return read_particles(folder / "p.star", images=False)


def xmipp(folder: Path) -> xr.Dataset:
    (folder / "p.xmd").write_text(
        "# XMIPP_STAR_1 * \ndata_noname\nloop_\n _image\n _flip\n _angleRot\n _angleTilt\n _anglePsi\n _shiftX\n"
        " _shiftY\n _ctfDefocusU\n _ctfDefocusV\n _ctfDefocusAngle\n _ctfVoltage\n _ctfSphericalAberration\n _ctfQ0\n"
        " _ctfSamplingRate\n 1@p.mrcs 0 25 70 -40 2 -3 21000 19500 30 300 2.7 0.1 1.5\n"
    )
    return read_xmipp(folder / "p.xmd", images=False)


def frealign(folder: Path) -> xr.Dataset:
    row = (
        "      1  -40.00   70.00   25.00     -3.00      4.50   40000     1  21000.0  19500.0   30.00  100.00 -1 1 1 0\n"
    )
    (folder / "p.par").write_text(row)
    optics = {"detector_pixel": 6.0, "voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.1}
    return read_frealign(folder / "p.par", images=False, **optics)  # type: ignore[arg-type]


def frealign_old(folder: Path) -> xr.Dataset:
    row = "      1 -40.000  70.000  25.000  -2.000   3.000  40000.     1  21000.0  19500.0   30.00   0.29   0.00\n"
    (folder / "p.par").write_text(row)
    optics = {"pixel_size": 1.5, "voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.1}
    return read_frealign(folder / "p.par", images=False, **optics)  # type: ignore[arg-type]


def cistem(folder: Path) -> xr.Dataset:
    labels = ("PositionInStack", "AnglePsi", "AngleTheta", "AnglePhi", "XShift", "YShift", "Defocus1", "Defocus2",
              "DefocusAngle", "PixelSize", "MicroscopeVoltagekV", "MicroscopeCsMM", "AmplitudeContrast",
              "StackFilename")  # fmt: skip
    head = "data_\n\nloop_\n" + "".join(f"_cisTEM{label} #{i}\n" for i, label in enumerate(labels, 1))
    (folder / "p.star").write_text(head + "1 -40 70 25 -3 4.5 21000 19500 30 1.5 300 2.7 0.1 'p.mrc'\n")
    return read_cistem(folder / "p.star", images=False)


def eman(folder: Path) -> xr.Dataset:
    pose = {"__class__": "Transform", "type": "eman", "az": 115.0, "alt": 70.0, "phi": -130.0, "tx": -2.0, "ty": 3.0}
    optics = {"__class__": "EMAN2Ctf", "defocus": 2.025, "dfdiff": 0.15, "dfang": 30.0, "bfactor": 0.0, "ampcont": 10.0,
              "voltage": 300.0, "cs": 2.7, "apix": 1.5, "dsbg": 0.01, "background": [], "snr": []}  # fmt: skip
    row = f"0\tp.hdf\t{json.dumps({'xform.projection': pose, 'ctf': optics})}\n"
    (folder / "p.lst").write_text(f"#LSX\n# about\n# {len(row)}\n{row}")
    return read_eman_list(folder / "p.lst", images=False)


def sphire(folder: Path) -> xr.Dataset:
    """SPHIRE's (phi, theta, psi, s2x, s2y) = (25, 70, -40, 2, -3), as it stores them in the header of an image."""
    pose = {"__class__": "Transform", "type": "spider", "phi": 25.0, "theta": 70.0, "psi": -40.0, "tx": -2, "ty": 3}
    row = f"0\tp.hdf\t{json.dumps({'xform.projection': pose})}\n"
    (folder / "p.lst").write_text(f"#LSX\n# about\n# {len(row)}\n{row}")
    return read_eman_list(folder / "p.lst", images=False, pixel_size=PIXEL)


def cryosparc(folder: Path) -> xr.Dataset:
    fields = {
        "uid": ("<u8", 7), "blob/path": ("S8", b"p.mrc"), "blob/idx": ("<u4", 0), "blob/shape": ("<u4", [64, 64]),
        "blob/psize_A": ("<f4", 1.5), "blob/sign": ("<f4", -1), "ctf/accel_kv": ("<f4", 300), "ctf/cs_mm": ("<f4", 2.7),
        "ctf/amp_contrast": ("<f4", 0.1), "ctf/df1_A": ("<f4", U), "ctf/df2_A": ("<f4", V),
        "ctf/df_angle_rad": ("<f4", np.pi / 6), "ctf/phase_shift_rad": ("<f4", 0),
        "alignments3D/pose": ("<f4", Rotation.from_matrix(A.T).as_rotvec()), "alignments3D/psize_A": ("<f4", 3.0),
        "alignments3D/shift": ("<f4", [1.0, -1.5]),  # of a search in images binned twice
    }  # fmt: skip
    kinds = [(name, kind, np.shape(value)) for name, (kind, value) in fields.items()]
    table = np.zeros(1, np.dtype(kinds))  # type: ignore[arg-type]
    for name, (_, value) in fields.items():
        table[name] = value
    with (folder / "p.cs").open("wb") as file:
        np.save(file, table)
    return read_cryosparc(folder / "p.cs", images=False)


PROGRAMS = [relion, relion_30, xmipp, frealign, frealign_old, cistem, eman, sphire, cryosparc]


@pytest.mark.parametrize("program", PROGRAMS)
def test_one_pose_in_the_form_of_each_program(tmp_path: Path, program: Callable[[Path], xr.Dataset]) -> None:
    ds = program(tmp_path)
    tolerance = 1e-6 if program is cryosparc else 1e-12  # single precision there
    np.testing.assert_allclose(ds.rotation.values[0], A, atol=tolerance)
    np.testing.assert_allclose(ds["shift"].values[0], SHIFT, atol=1e-6)
    view = ds.rotation.values[0][2]  # the direction of projection in the volume
    r, t = np.deg2rad([ROT, TILT])
    np.testing.assert_allclose(view, [np.cos(r) * np.sin(t), np.sin(r) * np.sin(t), np.cos(t)], atol=1e-6)


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p is not sphire])
def test_one_ctf_and_pixel_size_in_the_form_of_each_program(
    tmp_path: Path, program: Callable[[Path], xr.Dataset]
) -> None:
    ds = program(tmp_path)
    values = [float(ds[name].values[0]) for name in ("defocus_u", "defocus_v", "defocus_angle")]
    np.testing.assert_allclose(values, [U, V, ANGLE], rtol=1e-6)
    optics = {name: float(ds[name].values[0]) for name in ("voltage", "cs", "amplitude_contrast")}
    np.testing.assert_allclose(list(optics.values()), [300, 2.7, 0.1], rtol=1e-6)
    np.testing.assert_allclose(ds.pixel_size.values[0], PIXEL, rtol=1e-6)


def test_spider_angles_and_its_centre() -> None:
    np.testing.assert_allclose(spider_to_matrix(PSI, TILT, ROT), A, atol=1e-12)
    for n in (7, 8):  # n / 2 + 1 counted from 1 is n // 2 counted from 0
        assert (n // 2 + 1) - 1 == n // 2


def test_a_mirrored_row_of_xmipp(tmp_path: Path) -> None:
    path = tmp_path / "p.xmd"
    xmipp(tmp_path)
    path.write_text(path.read_text().replace("1@p.mrcs 0", "1@p.mrcs 1"))
    ds = read_xmipp(path, images=False)
    np.testing.assert_allclose(ds.rotation.values[0], np.diag([-1, 1, -1]) @ A, atol=1e-12)
    np.testing.assert_allclose(ds["shift"].values[0], SHIFT * [-1, 1], atol=1e-12)


@pytest.mark.relion
def test_relion_projects_as_the_matrix_and_the_shift_say(tmp_path: Path, relion_programs: Path) -> None:
    """Three Gaussian atoms through relion_project: where they appear is A r minus the shift, in pixels."""
    import mrcfile

    n, width = 48, 2.0
    atoms, weights = np.array([[8.0, 0, 0], [0, 6.0, 0], [0, 0, 4.0]]), np.array([1.0, 2.0, 3.0])
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    volume = sum(
        w * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * width**2))
        for w, (a, b, c) in zip(weights, atoms, strict=True)
    )
    with mrcfile.new(tmp_path / "v.mrc") as file:
        file.set_data(np.asarray(volume, np.float32))
        file.voxel_size = PIXEL
    relion(tmp_path)
    text = (tmp_path / "p.star").read_text()
    (tmp_path / "p.star").write_text(text.replace("_rlnImagePixelSize\n1 og 300 2.7 0.1 1.5",
        "_rlnImagePixelSize\n_rlnImageSize\n_rlnImageDimensionality\n1 og 300 2.7 0.1 1.5 48 2"))  # fmt: skip
    command = [relion_programs / "relion_project", "--i", "v.mrc", "--ang", "p.star", "--o", "out", "--angpix", "1.5"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    image = mrcfile.read(tmp_path / "out.mrcs").reshape(n, n)
    placed = (A @ atoms.T).T[:, :2] - SHIFT / PIXEL
    y2, x2 = np.mgrid[:n, :n] - n // 2
    expected = sum(
        w * np.exp(-((x2 - a) ** 2 + (y2 - b) ** 2) / (2 * width**2)) for w, (a, b) in zip(weights, placed, strict=True)
    )
    assert np.corrcoef(image.ravel(), np.asarray(expected).ravel())[0, 1] > 0.9995


def test_the_same_particles_for_relion_and_cryosparc(data: Path) -> None:
    """A published pair: CTF, pixel size by magnification against the one in angstrom, and the same images."""
    star = read_particles(data / "particles" / "empiar_10076_7.star")
    cs = read_cryosparc(data / "particles" / "empiar_10076_7.cs")
    for name in ("defocus_u", "defocus_v", "defocus_angle"):
        np.testing.assert_allclose(cs[name], star[name], rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(cs.pixel_size, 5 * 1e4 / 38168, rtol=1e-6)
    np.testing.assert_allclose(star.pixel_size, 5 * 1e4 / 38168, rtol=1e-12)
    for name in ("voltage", "cs", "amplitude_contrast"):
        np.testing.assert_allclose(cs[name].values[0], star[name].values[0], rtol=1e-6)
    np.testing.assert_array_equal(cs.image.values, star.image.values)
    # contrast: said by one, unsaid by the other, and the images are the same either way
    assert cs.image.attrs["contrast"] == "dark"
    assert "contrast" not in star.image.attrs


def test_real_frealign_angles_and_magnification(data: Path) -> None:
    path = data / "particles" / "parts-15_128x128f.par"
    ds = read_frealign(path, images=False, detector_pixel=15.0, voltage=200.0, cs=2.0, amplitude_contrast=0.07)
    np.testing.assert_allclose(ds.pixel_size, 3.0)  # 15 micrometre / 50,000
    first = about("z", 50.0) @ about("y", 78.603) @ about("z", 236.063)
    np.testing.assert_allclose(ds.rotation.values[0], first, atol=1e-12)
    assert ds["shift"].values[0].tolist() == [15.0, -6.0]  # minus (-5, 2) pixels of 3 angstrom


def test_signs_of_the_ctf() -> None:
    """Ours is positive at zero frequency; Frealign's and CTFFIND's is minus it (Mindell & Grigorieff 2003)."""
    s, q, lam = np.linspace(0, 0.3, 50), 0.1, electron_wavelength(300.0)
    ours = ctf(s, 0 * s, 15000.0, 15000.0, 0.0, voltage=300.0, cs=2.7, amplitude_contrast=q)
    chi = np.pi * lam * s**2 * (15000.0 - 0.5 * lam**2 * s**2 * 2.7e7)
    frealigns = -np.sqrt(1 - q * q) * np.sin(chi) - q * np.cos(chi)
    np.testing.assert_allclose(ours, -frealigns, atol=1e-9)
    assert ours[0] == pytest.approx(q)
    more = ctf(s, 0 * s, 15000.0, 15000.0, 0.0, voltage=300.0, cs=2.7, amplitude_contrast=q, phase_shift=90.0)
    assert more[0] > 0.99  # a phase plate adds to the phase


def test_coordinates_count_from_the_first_pixel_or_the_corner(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n132 232\n")
    (tmp_path / "a.box").write_text("100\t200\t64\t64\n")
    assert read_coordinates(tmp_path / "a.star").tolist() == [[132.0, 232.0]]
    assert read_eman_box(tmp_path / "a.box").coordinate.values.tolist() == [[132.0, 232.0]]


def test_rows_of_a_tiff_are_turned_so_that_hands_agree(tmp_path: Path) -> None:
    import tifffile

    from cryoflow.io.micrographs import open_micrographs

    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    tifffile.imwrite(tmp_path / "m.tif", image)
    ds = open_micrographs(tmp_path / "m.tif", pixel_size=1.0, voltage=300.0, cs=2.7, amplitude_contrast=0.1)
    np.testing.assert_array_equal(ds.micrograph.values[0], image[::-1])


def test_both_hands_give_the_same_images() -> None:
    """Points mirrored in z and rotations M A M with M = diag(1, 1, -1): the same places in the image."""
    points, mirror = np.random.default_rng(0).normal(size=(10, 3)), np.diag([1.0, 1.0, -1.0])
    image = (A @ points.T)[:2]
    np.testing.assert_allclose((mirror @ A @ mirror @ (mirror @ points.T))[:2], image, atol=1e-12)
    # rows turned upside down instead: the projection of the mirrored structure, and of no rotation of the first
    turned = image * [[1], [-1]]
    y = np.diag([1.0, -1.0, 1.0])
    np.testing.assert_allclose((y @ A @ y @ (y @ points.T))[:2], turned, atol=1e-12)
    assert np.linalg.det(y @ A) == pytest.approx(-1)
