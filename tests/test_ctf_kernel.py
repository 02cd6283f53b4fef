"""The CTF against RELION's numbers and against what it must be by its formula."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cryoflow.conventions import electron_wavelength
from cryoflow.kernels.ctf import ctf, ctf_phase
from cryoflow.kernels.fourier import frequencies, rfft2c

BOX, PIXEL = 64, 1.5
REFERENCE = Path(__file__).parent / "reference" / "relion_ctf.csv"
# RELION's wavelength has 12.2643247 where CODATA 2018 gives 12.2642596: 5 parts in a million of the phase
TOLERANCE = 1e-3


def _rows() -> list[dict[str, float]]:
    lines = [line for line in REFERENCE.read_text().splitlines() if not line.startswith("#")]
    return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines)]


def _of(row: dict[str, float], sx: np.ndarray, sy: np.ndarray) -> np.ndarray:
    names = ("voltage", "cs", "amplitude_contrast", "phase_shift", "b_factor")
    return ctf(sx, sy, row["defocus_u"], row["defocus_v"], row["defocus_angle"], **{n: row[n] for n in names})


def test_values_are_those_of_relion() -> None:
    """Astigmatism, phase shift, Cs, amplitude contrast and B-factor, all signs included."""
    rows = _rows()
    assert len(rows) == 180
    ours = [float(_of(r, np.array(r["kx"] / (BOX * PIXEL)), np.array(r["ky"] / (BOX * PIXEL)))) for r in rows]
    np.testing.assert_allclose(ours, [r["ctf"] for r in rows], atol=TOLERANCE)


@pytest.mark.relion
@pytest.mark.skipif(not shutil.which("relion_project"), reason="relion_project is not installed")
def test_projection_of_a_point_by_relion_is_this_ctf(tmp_path: Path) -> None:
    import mrcfile

    volume = np.zeros((BOX,) * 3, np.float32)
    volume[(BOX // 2,) * 3] = 1
    with mrcfile.new(tmp_path / "point.mrc") as file:
        file.set_data(volume)
        file.voxel_size = PIXEL
    case = {"defocus_u": 21000, "defocus_v": 18500, "defocus_angle": 37, "phase_shift": 60, "b_factor": 40}
    case |= {"voltage": 200, "cs": 2.2, "amplitude_contrast": 0.12}
    (tmp_path / "p.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnVoltage #3\n_rlnSphericalAberration #4\n"
        "_rlnAmplitudeContrast #5\n_rlnImagePixelSize #6\n_rlnImageSize #7\n_rlnImageDimensionality #8\n"
        f"1 og1 200 2.2 0.12 {PIXEL} {BOX} 2\n\ndata_particles\n\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n"
        "_rlnAngleRot #3\n_rlnAngleTilt #4\n_rlnAnglePsi #5\n_rlnOriginXAngst #6\n_rlnOriginYAngst #7\n"
        "_rlnDefocusU #8\n_rlnDefocusV #9\n_rlnDefocusAngle #10\n_rlnPhaseShift #11\n_rlnCtfBfactor #12\n"
        "_rlnCtfScalefactor #13\n"
        "000001@x.mrcs 1 0 0 0 0 0 21000 18500 37 60 40 1\n"
    )
    command = ["relion_project", "--i", "point.mrc", "--ang", "p.star", "--o", "out", "--ctf", "--angpix", str(PIXEL)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    image = mrcfile.read(tmp_path / "out.mrcs").reshape(BOX, BOX).astype(np.float64)
    kx, ky = frequencies(BOX, dtype=np.float64)
    inside = np.hypot(kx, ky) < 0.49
    theirs = rfft2c(image).real * BOX
    np.testing.assert_allclose(theirs[inside], _of(case, kx / PIXEL, ky / PIXEL)[inside], atol=2e-3)


def test_zeros_lie_where_the_formula_puts_them() -> None:
    """Without Cs and amplitude contrast the n-th zero is at s = sqrt(n / (lambda z))."""
    lam, z = electron_wavelength(300.0), 15000.0
    zeros = np.sqrt(np.arange(1, 9) / (lam * z))
    for angle in (0.0, 35.0, 90.0):
        x, y = zeros * np.cos(np.deg2rad(angle)), zeros * np.sin(np.deg2rad(angle))
        value = ctf(x, y, z, z, 12.0, voltage=300.0, cs=0.0, amplitude_contrast=0.0)
        np.testing.assert_allclose(value, 0, atol=1e-9)


@pytest.mark.parametrize("angle", [-60.0, 0.0, 25.0, 90.0])
def test_larger_defocus_lies_along_the_angle(angle: float) -> None:
    """The phase is that of defocus_u along ``defocus_angle`` and of defocus_v across it, also after a half turn."""
    optics = {"voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.07}
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    k = 0.15

    def phase(x: float, y: float, u: float, v: float) -> float:
        return float(ctf_phase(np.array(x), np.array(y), u, v, angle, **optics))

    np.testing.assert_allclose(phase(k * c, k * s, 2e4, 1.7e4), phase(k, 0, 2e4, 2e4), rtol=1e-12)
    np.testing.assert_allclose(phase(-k * s, k * c, 2e4, 1.7e4), phase(k, 0, 1.7e4, 1.7e4), rtol=1e-12)
    np.testing.assert_allclose(phase(-k * c, -k * s, 2e4, 1.7e4), phase(k, 0, 2e4, 2e4), rtol=1e-12)


def test_phase_plate_of_ninety_degrees_turns_sine_into_cosine() -> None:
    s = np.linspace(0, 0.3, 50)
    optics = {"voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.07}
    chi = ctf_phase(s, 0 * s, 1e4, 1e4, 0.0, **optics)
    np.testing.assert_allclose(ctf(s, 0 * s, 1e4, 1e4, 0.0, phase_shift=90.0, **optics), np.cos(chi), atol=1e-12)


def test_defocus_arrays_broadcast_over_particles_in_float32() -> None:
    kx, ky = frequencies(32)
    u = np.array([1e4, 2e4], np.float32)[:, None, None]
    stack = ctf(kx / PIXEL, ky / PIXEL, u, 0.9 * u, u * 0, voltage=300.0, cs=2.7, amplitude_contrast=0.1)
    one = ctf(
        kx.astype(float) / PIXEL, ky.astype(float) / PIXEL, 2e4, 1.8e4, 0.0, voltage=300.0, cs=2.7,
        amplitude_contrast=0.1,
    )  # fmt: skip
    assert stack.shape == (2, 32, 17)
    np.testing.assert_allclose(stack[1], one, atol=2e-4)


def test_device_gives_the_values_of_the_host() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("no CUDA device")
    kx, ky = frequencies(64, dtype=np.float64)
    arguments = {"voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.1, "phase_shift": 20.0, "b_factor": 30.0}
    host = ctf(kx, ky, 2e4, 1.5e4, 30.0, **arguments)
    device = ctf(cupy.asarray(kx), cupy.asarray(ky), 2e4, 1.5e4, 30.0, **arguments)
    np.testing.assert_allclose(device.get(), host, atol=1e-9)
