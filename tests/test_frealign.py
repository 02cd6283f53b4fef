"""Frealign parameter files: layouts, units and signs, and the real set of 50 particles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fuzz_harness import fuzz, on_file
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.programs.frealign import frealign_to_matrix, matrix_to_frealign, read_frealign, write_frealign
from cryoflow.kernels.rotation import angular_distance, euler_to_matrix, random_rotations

OLD = "C  PSI THETA PHI SHX SHY MAG FILM DF1 DF2 ANGAST PRESA\n"
ROW_OLD = "      1  50.000  78.603 236.063  -5.000   2.000  50000.     1  39671.6  35222.2   80.79  41.29\n"
ROW_V9 = "      1   50.00   78.60  236.06    -15.00      6.00   50000     7  39671.6  35222.2   80.79   99.50     -1234     1.2500   12.34   -0.50\n"  # noqa: E501


@pytest.fixture
def real(data: Path) -> xr.Dataset:
    folder = data / "particles"
    return read_frealign(folder / "parts-15_128x128f.par", stack=folder / "parts.stk", pixel_size=3.0, trust_given=True)


def random_set(rng: np.random.Generator, n: int) -> xr.Dataset:
    """Particles whose values the old layout holds exactly but for the angles of their rotations."""
    u = rng.uniform(5e3, 4e4, n).round(1)
    return xr.Dataset(
        {
            "rotation": (("particle", "row", "col"), random_rotations(n, rng)),
            "shift": (("particle", "xy"), rng.normal(0, 20, (n, 2)).round(3)),
            "defocus_u": ("particle", u),
            "defocus_v": ("particle", (u - rng.uniform(0, 900, n)).round(1)),
            "defocus_angle": ("particle", rng.uniform(-89.9, 90, n).round(2)),
            "phase_shift": ("particle", rng.uniform(0, 120, n)),
            "optics_group": ("particle", np.zeros(n, np.int32)),
            "pixel_size": ("optics", [round(rng.uniform(0.5, 4), 3)]),
        }
    )


def test_the_real_file_returns_byte_for_byte(data: Path, tmp_path: Path, real: xr.Dataset) -> None:
    write_frealign(real, tmp_path / "back.par")
    assert (tmp_path / "back.par").read_bytes() == (data / "particles/parts-15_128x128f.par").read_bytes()
    assert real.image.shape == (50, 128, 128)
    assert real["shift"].values[0].tolist() == [15.0, -6.0]  # (-5, 2) pixels of 3 angstrom, to be taken off


def test_angles_are_those_of_relion() -> None:
    psi, theta, phi = np.random.default_rng(1).uniform(0, 180, (3, 100))
    np.testing.assert_allclose(frealign_to_matrix(psi, theta, phi), euler_to_matrix(phi, theta, psi), atol=1e-12)
    back = matrix_to_frealign(frealign_to_matrix(psi + 180, theta, phi + 180))
    np.testing.assert_allclose(back, (psi + 180, theta, phi + 180), atol=1e-7)


def test_matrix_is_the_published_one() -> None:
    """The rows of DM in Frealign's source, spelled out."""
    psi, theta, phi = np.deg2rad((20.0, 50.0, 110.0))
    cs, ct, cp, ss, st, sp = *np.cos((psi, theta, phi)), *np.sin((psi, theta, phi))
    expected = [
        [cp * ct * cs - sp * ss, sp * ct * cs + cp * ss, -st * cs],
        [-cp * ct * ss - sp * cs, -sp * ct * ss + cp * cs, st * ss],
        [st * cp, st * sp, ct],
    ]
    np.testing.assert_allclose(frealign_to_matrix(20.0, 50.0, 110.0), expected, atol=1e-12)


def test_shifts_are_taken_off() -> None:
    """An image moved by (3, -2) is brought back by the published phase, exp(+i (SHX kx + SHY ky)), of (3, -2)."""
    image = np.random.default_rng(0).normal(size=(16, 16))
    moved = np.roll(image, (-2, 3), axis=(0, 1))
    k = 2 * np.pi * np.fft.fftfreq(16)
    phase = np.exp(1j * (3 * k[None, :] - 2 * k[:, None]))
    np.testing.assert_allclose(np.fft.ifft2(np.fft.fft2(moved) * phase).real, image, atol=1e-12)


def consistency(images: NDArray[np.float64], rotation: NDArray[np.float64], radius: int = 7) -> float:
    """Mean correlation of each particle's low frequencies with the slice of a map made of all the others."""
    n, g = images.shape[1], 2 * radius + 5
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=(1, 2))), axes=(1, 2))
    y, x = np.mgrid[:n, :n] - n // 2
    ring = (np.hypot(x, y) <= radius) & (np.hypot(x, y) > 1.5)
    plane = np.stack([x[ring], y[ring], np.zeros(ring.sum())])
    samples = spectrum[:, ring]
    at = [(np.rint(a.T @ plane).astype(int) + g // 2)[::-1] for a in rotation]
    total, weight = np.zeros((g,) * 3, complex), np.zeros((g,) * 3)
    for where, values in zip(at, samples, strict=True):
        np.add.at(total, tuple(where), values)
        np.add.at(weight, tuple(where), 1.0)
    scores = []
    for where, values in zip(at, samples, strict=True):
        t, w = total[tuple(where)] - values, weight[tuple(where)] - 1
        rest = np.where(w > 0, t / np.maximum(w, 1), 0)
        scores.append((rest * values.conj()).real.sum() / np.sqrt((abs(rest) ** 2).sum() * (abs(values) ** 2).sum()))
    return float(np.mean(scores))


def test_the_real_particles_prefer_the_order_and_sign_of_the_angles(real: xr.Dataset) -> None:
    """50 noisy particles settle the angles (not the hand, nor the sign of their integer shifts)."""
    images = real.image.values.astype(np.float64)
    psi, theta, phi = matrix_to_frealign(real.rotation.values)
    right = consistency(images, real.rotation.values)
    rng = np.random.default_rng(0)
    wrong = {
        "psi and phi exchanged": frealign_to_matrix(phi, theta, psi),
        "all angles negated": frealign_to_matrix(-psi, -theta, -phi),
        "psi negated": frealign_to_matrix(-psi, theta, phi),
        "transposed": np.swapaxes(real.rotation.values, 1, 2),
        "shuffled": real.rotation.values[rng.permutation(50)],
    }
    others = {name: consistency(images, rotation) for name, rotation in wrong.items()}
    assert right > 0.15
    assert right > 2 * max(others.values()), (right, others)


def test_shift_unit_follows_the_version(tmp_path: Path) -> None:
    (tmp_path / "old.par").write_text(OLD + ROW_OLD)
    (tmp_path / "new.par").write_text(ROW_V9)
    old, new = (read_frealign(tmp_path / f"{name}.par", pixel_size=3.0) for name in ("old", "new"))
    assert old["shift"].values.tolist() == new["shift"].values.tolist() == [[15.0, -6.0]]
    forced = read_frealign(tmp_path / "old.par", pixel_size=3.0, shift_unit="angstrom")
    assert forced["shift"].values.tolist() == [[5.0, -2.0]]
    assert new.x_OCC.item() == 99.5
    assert new.x_LOGP.item() == -1234
    assert new.x_CHANGE.item() == -0.5
    assert old.x_PRESA.item() == 41.29


def test_pixel_size_from_magnification_and_detector(tmp_path: Path) -> None:
    (tmp_path / "a.par").write_text(ROW_V9 + ROW_V9.replace("50000", "40000"))
    ds = read_frealign(tmp_path / "a.par", detector_pixel=5.0)
    assert ds.pixel_size.values.tolist() == [1.0, 1.25]
    assert ds.optics_group.values.tolist() == [0, 1]
    with pytest.raises(FormatError, match="pixel_size="):
        read_frealign(tmp_path / "a.par")


def test_header_lines_of_cistem_are_heeded(tmp_path: Path) -> None:
    head = "C Pixel size of images (A):  1.25\nC Beam energy (keV): 300.0\nC Spherical aberration (mm): 2.7\n"
    (tmp_path / "a.par").write_text(head + ROW_V9)
    ds = read_frealign(tmp_path / "a.par")
    assert (ds.pixel_size.item(), ds.voltage.item(), ds.cs.item()) == (1.25, 300.0, 2.7)
    assert read_frealign(tmp_path / "a.par", pixel_size=2.0).pixel_size.item() == 2.0


def test_touching_columns_of_the_old_layout(tmp_path: Path) -> None:
    row = "      1-150.000-178.603-236.063-105.000-102.000  50000.     1  39671.6  35222.2  -80.79  41.29\n"
    (tmp_path / "a.par").write_text(OLD + row)
    ds = read_frealign(tmp_path / "a.par", pixel_size=1.0)
    assert ds["shift"].values.tolist() == [[105.0, 102.0]]
    np.testing.assert_allclose(ds.rotation.values[0], euler_to_matrix(-236.063, -178.603, -150.0), atol=1e-12)


@pytest.mark.parametrize("layout", ["v9", "x", "old"])
def test_round_trips_of_random_sets(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        ds = random_set(rng, int(rng.integers(1, 30)))
        write_frealign(ds, tmp_path / "a.par", layout=layout)  # type: ignore[arg-type]
        back = read_frealign(tmp_path / "a.par", pixel_size=ds.pixel_size.item())
        coarse = layout == "old"
        assert angular_distance(back.rotation.values, ds.rotation.values).max() < (2e-3 if coarse else 1e-5)
        scale = ds.pixel_size.item() if coarse else 1.0
        np.testing.assert_allclose(back["shift"], ds["shift"], atol=6e-4 * scale if coarse else 1e-6)
        for name in ("defocus_u", "defocus_v", "defocus_angle"):
            np.testing.assert_allclose(back[name], ds[name], atol=1e-6)
        if layout == "x":
            np.testing.assert_allclose(back.phase_shift, ds.phase_shift, atol=1e-4)
        lines = (tmp_path / "a.par").read_text().splitlines()[1:]
        if layout != "old":
            assert all(129 <= len(line) <= 200 for line in lines)  # how version 9 tells its own lines
        write_frealign(back, tmp_path / "b.par")
        assert (tmp_path / "a.par").read_bytes() == (tmp_path / "b.par").read_bytes()


def test_images_written_and_read_back(tmp_path: Path, real: xr.Dataset) -> None:
    some = real.isel(particle=[4, 2, 9])
    write_frealign(some, tmp_path / "some.par", images=tmp_path / "some.mrc")
    back = read_frealign(tmp_path / "some.par", pixel_size=3.0)  # finds the stack beside it
    np.testing.assert_array_equal(back.image, some.image)
    np.testing.assert_allclose(back.rotation, some.rotation, atol=1e-9)
    write_frealign(some, tmp_path / "same.par")
    lines = (tmp_path / "same.par").read_text().splitlines()
    assert [int(line.split()[0]) for line in lines if not line.startswith("C")] == [5, 3, 10]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "at least one row"),
        ("C only comments\n", "at least one row"),
        (ROW_V9 + "1 2 3\n", "line 2"),
        (ROW_V9.replace("78.60", "abcde"), "abcde"),
        ("1 2 3 4\n", "line 1"),
        (ROW_V9.replace("99.50", "  nan"), "nan"),
        (ROW_V9.replace("      1", "      0"), "from 1"),
        ("\0\0\0", "zero byte"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "bad.par").write_text(content)
    with pytest.raises(FormatError, match=told) as caught:
        read_frealign(tmp_path / "bad.par", pixel_size=1.0)
    assert "bad.par" in str(caught.value)


def test_several_stacks_and_wide_values_are_refused(tmp_path: Path) -> None:
    ds = random_set(np.random.default_rng(3), 2).assign(image_name=("particle", ["1@a.mrcs", "1@b.mrcs"]))
    with pytest.raises(ParameterError, match="2 stacks"):
        write_frealign(ds, tmp_path / "a.par")
    ds["image_name"] = ("particle", ["1@a.mrcs", "2@a.mrcs"])
    ds["shift"] = ds["shift"] * 0 + 1e6
    with pytest.raises(ParameterError, match="layout='v9'"):
        write_frealign(ds, tmp_path / "a.par", layout="old")
    assert not list(tmp_path.iterdir())


def fuzz_par(cases: int, folder: Path) -> None:
    seeds = [(OLD + ROW_OLD * 3).encode(), (ROW_V9 * 3).encode()]
    target = on_file(lambda p: read_frealign(p, pixel_size=1.5), ".par", folder)
    report = fuzz(
        target, seeds, cases, seed=1, words=[b"C", b"*******", b"nan", b"\n", b" 1e999"], cover=["io/programs/frealign"]
    )
    assert report.accepted
    assert report.refused


def test_fuzz(tmp_path: Path) -> None:
    fuzz_par(300, tmp_path)


@pytest.mark.slow
def test_fuzz_long(tmp_path: Path) -> None:
    fuzz_par(10_000, tmp_path)
