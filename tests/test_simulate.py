"""Simulation against analytic densities, independent formulas, and RELION's reconstruction from the truth."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cryoflow.errors import ParameterError
from cryoflow.io import open_micrographs, read_map, read_particles, write_map, write_particles
from cryoflow.kernels.fourier import irfft2c, rfft3c, shell_mean, shell_sum
from cryoflow.kernels.rotation import angular_distance, random_rotations, rotation_about
from cryoflow.kernels.symmetry import point_group, symmetrise_volume
from cryoflow.simulate import procedural_protein, save_simulation, simulate_micrographs, simulate_particles
from cryoflow.simulate.field import illumination
from cryoflow.simulate.model import align_to_symmetry, model_chains
from cryoflow.simulate.noise import coloured_power, stream
from cryoflow.simulate.projector import prepare, slice_spectra
from cryoflow.simulate.protein import alpha_helix, atoms_to_map, procedural_atoms
from cryoflow.simulate.source import load_source, regrid, volume_of

PIXEL, WIDTH = 2.0, 3.5  # angstrom; Gaussian atoms of this standard deviation have no power at Nyquist
B_ATOM = 8 * np.pi**2 * WIDTH**2


def atoms(count: int = 12, reach: float = 18.0) -> np.ndarray:
    return np.random.default_rng(5).uniform(-reach, reach, (count, 3))


def blob_map(box: int, where: np.ndarray) -> xr.DataArray:
    """The sum of normalised Gaussians, written out."""
    z, y, x = PIXEL * (np.mgrid[:box, :box, :box] - box // 2)
    norm = (2 * np.pi * WIDTH**2) ** -1.5
    total = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * WIDTH**2)) for a, b, c in where)
    return xr.DataArray(norm * total.astype(np.float32), dims=("z", "y", "x"), name="map", attrs={"pixel_size": PIXEL})


def blob_picture(shape: tuple[int, int], where: np.ndarray) -> np.ndarray:
    """Its line integral per voxel length, at (x, y) angstrom from pixel (ny // 2, nx // 2)."""
    y, x = (PIXEL * (np.arange(side) - side // 2) for side in shape)
    norm = (2 * np.pi * WIDTH**2) ** -1.0 / PIXEL
    gauss = [
        np.outer(np.exp(-((y - b) ** 2) / (2 * WIDTH**2)), np.exp(-((x - a) ** 2) / (2 * WIDTH**2)))
        for a, b in where[:, :2]
    ]
    return norm * np.sum(gauss, axis=0)


def seen_through_ctf(picture: np.ndarray, u: float, v: float, angle: float, b_factor: float) -> np.ndarray:
    """The microscope written from the textbook, with an arctangent and no shared code: 300 kV, 2.7 mm, Q = 0.1."""
    sy, sx = np.meshgrid(*[np.fft.fftfreq(side, PIXEL) for side in picture.shape], indexing="ij")
    s2, theta = sx**2 + sy**2, np.arctan2(sy, sx)
    wavelength = 0.01968749
    z = 0.5 * (u + v) + 0.5 * (u - v) * np.cos(2 * (theta - np.deg2rad(angle)))
    chi = np.pi * wavelength * z * s2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * s2**2 + np.arcsin(0.1)
    return np.fft.ifft2(np.fft.fft2(picture) * np.sin(chi) * np.exp(-b_factor * s2 / 4)).real


def images_of(particles: xr.Dataset) -> np.ndarray:
    return particles.image.compute(scheduler="synchronous").values


# ---------------------------------------------------------------- projector


@pytest.mark.parametrize("n", [48, 49])
def test_projector_agrees_with_analytic_projection(n: int) -> None:
    turns = random_rotations(3, np.random.default_rng(0))
    images = irfft2c(slice_spectra(prepare(blob_map(n, atoms()).values), turns), n)
    for turn, image in zip(turns, images):
        truth = blob_picture((n, n), atoms() @ turn.T)
        np.testing.assert_allclose(image, truth, atol=2e-4 * truth.max())


@pytest.mark.parametrize("n", [24, 25])
def test_projector_agrees_with_a_non_uniform_transform_on_noise(n: int) -> None:
    volume = np.random.default_rng(1).standard_normal((n, n, n)).astype(np.float32)
    turn = random_rotations(1, np.random.default_rng(2))[0]
    ky, kx = np.meshgrid(np.fft.fftfreq(n) * n, np.arange(n // 2 + 1), indexing="ij")
    keep = 4 * (kx**2 + ky**2) < n * n
    points = turn.T @ np.stack([kx[keep], ky[keep], 0 * kx[keep]])
    axis = np.arange(n) - n // 2
    ex, ey, ez = (np.exp(-2j * np.pi * np.outer(q, axis) / n) for q in points)  # the sum itself, factor by factor
    direct = np.einsum("pz,py,px,zyx->p", ez, ey, ex, volume, optimize=True) / n
    got = slice_spectra(prepare(volume), turn[None])[0]
    assert np.linalg.norm(got[keep] - direct) < 3e-5 * np.linalg.norm(direct)
    assert (got[~keep] == 0).all()


# ---------------------------------------------------------------- particles


@pytest.mark.parametrize("box", [48, 49])
def test_clean_particles_follow_the_conventions(box: int) -> None:
    particles, truth = simulate_particles(
        blob_map(box, atoms()), n=4, box=box, pixel_size=PIXEL, snr=np.inf, b_factor=50, shift_sd=6.0,
        astigmatism=3000.0, particles_per_micrograph=1, seed=3,
    )  # fmt: skip
    for i, image in enumerate(images_of(particles)):
        row = truth.isel(particle=i)
        # adding the shift centres the particle: the picture lies at minus the shift
        placed = atoms() @ row.rotation.values.T
        placed[:, :2] -= row["shift"].values
        picture = seen_through_ctf(
            blob_picture((box, box), placed), float(row.defocus_u), float(row.defocus_v), float(row.defocus_angle), 50.0
        )
        np.testing.assert_allclose(image, picture, atol=2e-3 * np.abs(picture).max())
    assert np.abs(truth["shift"].values).max() > 3
    assert "rotation" not in particles
    assert "shift" not in particles


def test_snr_is_what_was_asked_and_the_background_is_normalised() -> None:
    source = blob_map(48, atoms())
    kw = {"n": 150, "box": 48, "pixel_size": PIXEL, "shift_sd": 0.0, "particles_per_micrograph": 1, "seed": 4}
    clean = images_of(simulate_particles(source, snr=np.inf, **kw)[0]).reshape(150, -1)  # type: ignore[arg-type]
    clean = clean - clean.mean(axis=1, keepdims=True)
    for kind in ("white", "coloured"):
        noisy = images_of(simulate_particles(source, snr=0.5, noise=kind, **kw)[0])  # type: ignore[arg-type]
        y, x = np.mgrid[:48, :48] - 24
        outside = noisy[:, x**2 + y**2 > 18**2]
        np.testing.assert_allclose(outside.mean(axis=1), 0, atol=1e-4)
        np.testing.assert_allclose(outside.std(axis=1), 1, atol=1e-4)
        flat = noisy.reshape(150, -1) - noisy.reshape(150, -1).mean(axis=1, keepdims=True)
        # regression of noisy on clean images, one slope for all as the amplitude is one; the rest is noise
        slope = (flat * clean).sum() / (clean * clean).sum()
        signal, rest = (slope * clean).var(), (flat - slope * clean).var()
        assert signal / rest == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("box", [32, 33])
def test_coloured_noise_has_its_formula(box: int) -> None:
    source = blob_map(box, atoms(reach=10))
    particles, _ = simulate_particles(source, n=400, box=box, pixel_size=1.5, snr=1e-9, seed=5)
    spectra = np.fft.rfft2(images_of(particles), norm="ortho")
    measured = shell_mean((np.abs(spectra) ** 2).mean(axis=0), box)
    expected = coloured_power(np.arange(box // 2 + 1) / (box * 1.5), 1.5)
    ratio = measured[2:] / expected[2:]
    np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.06)  # 400 images: about 2 % a shell
    assert expected[2] > 1.5 * expected[-1]


def test_particles_depend_on_seed_and_index_alone() -> None:
    source = blob_map(33, atoms(reach=10))

    def run(n: int, chunk: int | None, seed: int = 0) -> tuple[np.ndarray, xr.Dataset]:
        particles, truth = simulate_particles(
            source, n=n, box=33, pixel_size=PIXEL, snr=0.2, seed=seed, chunk=chunk, particles_per_micrograph=4
        )
        return images_of(particles), truth

    images, truth = run(10, None)
    for n, chunk in ((10, 1), (10, 3), (23, 7)):
        others, other_truth = run(n, chunk)
        np.testing.assert_array_equal(others[:10], images)
        np.testing.assert_array_equal(other_truth.rotation[:10], truth.rotation)
        np.testing.assert_array_equal(other_truth.defocus_u[:10], truth.defocus_u)
    assert np.abs(run(10, None, seed=1)[0] - images).min(axis=(1, 2)).max() < 1  # another seed, other images
    assert not np.array_equal(run(10, None, seed=1)[0], images)
    assert len(np.unique(truth.micrograph_name)) == 3
    particles, _ = simulate_particles(source, n=10, box=33, pixel_size=PIXEL, chunk=3)
    assert particles.image.chunks is not None  # lazy
    assert particles.image.chunks[0] == (3, 3, 3, 1)


@pytest.mark.relion
@pytest.mark.skipif(not shutil.which("relion_reconstruct"), reason="relion_reconstruct is not installed")
def test_relion_reconstructs_the_truth(tmp_path: Path) -> None:
    source = procedural_protein(symmetry="C1", box=48, pixel_size=4.0, size=110)
    particles, truth = simulate_particles(
        source, n=300, box=48, pixel_size=4.0, snr=2.0, noise="white", b_factor=20, shift_sd=8.0, seed=6
    )
    poses = particles.assign(rotation=truth.rotation, shift=truth["shift"])
    write_particles(poses.compute(scheduler="synchronous"), tmp_path / "p.star", images=tmp_path / "p.mrcs")
    subprocess.run(["relion_reconstruct", "--i", "p.star", "--o", "r.mrc", "--ctf"], cwd=tmp_path, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    a, b = rfft3c(read_map(tmp_path / "r.mrc").values), rfft3c(truth["map"].values)
    power = [shell_sum(np.abs(f) ** 2, 48, dims=3) for f in (a, b)]
    fsc = shell_sum((a * b.conj()).real, 48, dims=3) / np.sqrt(power[0] * power[1])
    assert fsc[1:16].min() > 0.9  # to 12 A; a mirrored, transposed or misplaced convention gives none
    mirrored = rfft3c(truth["map"].values[:, :, ::-1].copy())
    wrong = shell_sum((a * mirrored.conj()).real, 48, dims=3) / np.sqrt(power[0] * power[1])
    assert wrong[6:16].max() < 0.7


# ---------------------------------------------------------------- sources


def test_helices_are_right_handed_alpha_helices() -> None:
    helix = alpha_helix(12, np.random.default_rng(0)).reshape(12, 7, 3)
    ca = helix[:, 1]
    np.testing.assert_allclose(np.diff(ca[:, 2]), 1.5)
    turn = np.diff(np.unwrap(np.arctan2(ca[:, 1], ca[:, 0])))
    np.testing.assert_allclose(np.rad2deg(turn), 100)
    # what no parameter says: neighbouring CA are 3.8 A apart, and N-CA, CA-C, C-N and C=O are bonds
    np.testing.assert_allclose(np.linalg.norm(np.diff(ca, axis=0), axis=1), 3.8, atol=0.05)
    bonds = {(0, 1, 0): 1.46, (1, 2, 0): 1.52, (2, 0, 1): 1.33, (2, 3, 0): 1.23, (1, 4, 0): 1.53}
    for (i, j, step), length in bonds.items():
        measured = np.linalg.norm(helix[step:, j] - helix[: 12 - step, i], axis=1)
        np.testing.assert_allclose(measured, length, atol=0.12)
    assert helix[-1, 2, 2] > helix[0, 2, 2]


@pytest.mark.parametrize("group", ["C1", "C3", "D2", "D7", "T", "O", "I"])
def test_protein_has_its_symmetry_and_a_hand(group: str) -> None:
    size = 240.0 if group == "I" else 130.0
    found = procedural_atoms(group, size, 1)
    assert 0.8 * size < 2 * np.linalg.norm(found, axis=1).max() < 1.15 * size
    operators = point_group(group)
    images = np.sort((operators[-1] @ found.T).T.round(3), axis=0)
    np.testing.assert_allclose(images, np.sort(found.round(3), axis=0), atol=2e-3)
    # no mirror: the map and its mirror image disagree in every orientation that keeps the group's axes
    box, pixel = 40, size * 1.4 / 40
    volume = procedural_protein(symmetry=group, box=box, pixel_size=pixel, size=size, seed=1).values[1:, 1:, 1:]
    for axis in range(3):
        assert np.corrcoef(volume.ravel(), np.flip(volume, axis).ravel())[0, 1] < 0.9
    different = procedural_atoms(group, size, 2)
    assert different.shape != found.shape or not np.allclose(different, found)


@pytest.mark.parametrize("box", [40, 41])
def test_atoms_to_map_is_the_gaussian_sum_also_when_drawn_finer(box: int) -> None:
    drawn = atoms_to_map(atoms(), box, PIXEL, B_ATOM)
    np.testing.assert_allclose(drawn, blob_map(box, atoms()), atol=2e-4 * drawn.max())
    sharp = atoms_to_map(atoms(), box, PIXEL, 40.0)  # finer than the grid: drawn at a third of the pixel and cropped
    spectrum, frequency = rfft3c(sharp), np.fft.rfftfreq(box, PIXEL)
    k = np.meshgrid(np.fft.fftfreq(box, PIXEL), np.fft.fftfreq(box, PIXEL), frequency, indexing="ij")
    inside = sum(f * f for f in k) < (0.45 / PIXEL) ** 2
    points = np.stack([k[2][inside], k[1][inside], k[0][inside]], axis=1)
    exact = np.exp(-2j * np.pi * points @ atoms().T).sum(axis=1) * np.exp(-40.0 * (points**2).sum(axis=1) / 4)
    exact *= PIXEL**-3 * box**-1.5
    assert np.linalg.norm(spectrum[inside] - exact) < 1e-3 * np.linalg.norm(exact)


def test_regrid_keeps_the_density_in_place() -> None:
    for box, pixel in ((40, 2.37), (61, 1.5), (32, 2.0)):
        got = regrid(blob_map(48, atoms(reach=12)), box=box, pixel_size=pixel)
        z, y, x = pixel * (np.mgrid[:box, :box, :box] - box // 2)
        norm = (2 * np.pi * WIDTH**2) ** -1.5
        exact = norm * sum(
            np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * WIDTH**2)) for a, b, c in atoms(reach=12)
        )
        np.testing.assert_allclose(got, exact, atol=4e-3 * exact.max())
        assert got.attrs["pixel_size"] == pixel


def test_alignment_finds_axes_and_centre_of_turned_models() -> None:
    rng = np.random.default_rng(8)
    one = rng.normal(0, 5, (40, 3)) + np.array([20, 9, 14])
    for group in ("C2", "C5", "D2", "D7", "T", "O", "I1", "I3"):
        turn, centre = rotation_about((1, 2, -1), 143.0), np.array([40.0, -3, 70])
        chains = [(g @ one.T).T @ turn.T + centre + rng.normal(0, 0.05, (40, 3)) for g in point_group(group)]
        rotation, found, residual = align_to_symmetry(chains, group)
        assert residual < 0.5
        if group[0] != "C":
            np.testing.assert_allclose(found, centre, atol=0.1)
        # aligned again, nothing moves
        aligned = [(chain - found) @ rotation.T for chain in chains]
        again, origin, _ = align_to_symmetry(aligned, group)
        assert angular_distance(again, np.eye(3)) < 0.2
        np.testing.assert_allclose(origin, 0, atol=0.1)
        assert np.isinf(align_to_symmetry(chains, "C11")[2])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "group", "limit"), [("5a1a.cif", "D2", 0.1), ("6z6u.pdb", "O", 0.1), ("3c91.pdb", "D7", 1.5),
                                 ("3j5p.pdb", "C4", 0.1), ("1oel.pdb", "C7", 1.5)],
)  # fmt: skip
def test_deposited_models_lie_on_relions_axes(data: Path, name: str, group: str, limit: float) -> None:
    rotation, _, residual = align_to_symmetry(model_chains(data / "models" / name), group)
    assert residual < limit
    assert angular_distance(rotation, np.eye(3)) < 3.0  # these five are deposited on the axes, 1oel 2 degrees off


@pytest.mark.data
def test_model_density_is_symmetric_also_from_a_turned_file(data: Path, tmp_path: Path) -> None:
    import gemmi

    plain = load_source(data / "models" / "3j5p.pdb", box=48, pixel_size=4.0, symmetry="C4")
    structure = gemmi.read_structure(str(data / "models" / "3j5p.pdb"))
    turn = rotation_about((1, 1, 0), 70.0)
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                atom.pos = gemmi.Position(*(turn @ np.array(atom.pos.tolist()) + [5, 6, 7]))
    structure.write_pdb(str(tmp_path / "turned.pdb"))
    turned = load_source(tmp_path / "turned.pdb", box=48, pixel_size=4.0, symmetry="C4")
    for volume, least in ((plain, 0.99), (turned, 0.98)):
        same = symmetrise_volume(volume.values, "C4")
        assert np.corrcoef(same.ravel(), volume.values.ravel())[0, 1] > least
    with pytest.raises(ParameterError, match="symmetry D3"):
        load_source(data / "models" / "3j5p.pdb", box=48, pixel_size=4.0, symmetry="D3")


# ---------------------------------------------------------------- micrographs


def test_clean_micrograph_follows_the_conventions() -> None:
    shape = (180, 224)
    micrographs, truth = simulate_micrographs(
        blob_map(40, atoms(reach=10)), n=1, shape=shape, pixel_size=PIXEL, particles_per_micrograph=5, diameter=56.0,
        snr=np.inf, contaminants=0, dose=25.0, b_factor=50, astigmatism=3000.0, seed=9,
    )  # fmt: skip
    counts = micrographs.micrograph.compute(scheduler="synchronous").values[0]
    placed = [
        (turn @ atoms(reach=10).T).T[:, :2] + PIXEL * (xy - np.array([shape[1] // 2, shape[0] // 2]))
        for turn, xy in zip(truth.rotation.values, truth.coordinate.values)
    ]
    row = truth.isel(particle=0)
    picture = seen_through_ctf(blob_picture(shape, np.concatenate(placed)), float(row.defocus_u), float(row.defocus_v),
                               float(row.defocus_angle), 50.0)  # fmt: skip
    electrons = 25.0 * PIXEL**2
    bright = electrons * (1 + illumination(shape, stream(9, 16, 0)))
    x = np.sqrt(electrons) * (1 - counts / bright)  # dark on bright: protein takes electrons away
    np.testing.assert_allclose(x, picture, atol=5e-3 * np.abs(picture).max())
    assert micrographs.attrs["contrast"] == "dark"


def test_a_diameter_is_taken_at_its_word_whatever_the_source(tmp_path: Path) -> None:
    model = tmp_path / "model.pdb"
    model.write_text("".join(
        f"ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{0:8.3f}{0:8.3f}  1.00 10.00           C\n"
        for i, x in enumerate((-20.0, 0.0, 20.0), 1)
    ))  # fmt: skip
    for diameter, extent in ((None, 48.0), (60.0, 60.0)):
        found, volume = volume_of(model, 4.0, "C1", diameter, 0)
        assert found == pytest.approx(extent)
        assert volume.sizes["x"] * 4.0 >= 1.5 * extent


def test_particles_keep_apart_from_each_other_the_edge_and_the_dirt() -> None:
    micrographs, truth = simulate_micrographs(
        n=2, shape=(300, 400), pixel_size=5.0, particles_per_micrograph=25, symmetry="D2", diameter=120.0,
        contaminants=2.0, snr=np.inf, seed=3,
    )  # fmt: skip
    assert 40 <= truth.sizes["particle"] <= 50
    images = micrographs.micrograph.compute(scheduler="synchronous").values
    dark = images.min(axis=(1, 2)) < 0.9 * 1000  # 40 e/A^2 x 25 A^2, less what ice takes
    assert dark.any()
    for i in range(2):
        xy = truth.coordinate.values[truth.x_micrograph.values == i]
        distance = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(len(xy))
        assert distance.min() >= 24.0
        assert (xy >= 18).all()
        assert (xy <= np.array([399, 299]) - 18).all()
        at = images[i][xy[:, 1].round().astype(int), xy[:, 0].round().astype(int)]
        assert (at > 0.85 * 1000).all()


def test_micrograph_noise_shows_thon_rings_and_unit_share() -> None:
    micrographs, truth = simulate_micrographs(
        n=1, shape=(512, 512), pixel_size=3.0, particles_per_micrograph=1, snr=1e-6, contaminants=0, astigmatism=0.0,
        defocus=(15000.0, 15000.0), dose=40.0, dtype="uint16", seed=2,
    )  # fmt: skip
    counts = micrographs.micrograph.compute(scheduler="synchronous").values[0]
    assert counts.dtype == np.uint16
    flat = counts / (1 + illumination((512, 512), stream(2, 16, 0)))
    power = np.abs(np.fft.rfft2(flat - flat.mean())) ** 2 / 512**2 / (40 * 9)
    profile = shell_mean(power, 512)[24:200]
    s = np.arange(24, 200) / (512 * 3.0)
    chi = np.pi * 0.01968749 * 15000 * s**2 - 0.5 * np.pi * 2.7e7 * 0.01968749**3 * s**4 + np.arcsin(0.1)
    smooth = np.convolve(profile, np.ones(41) / 41, "same")
    assert np.corrcoef((profile - smooth)[20:-20], np.sin(chi)[20:-20] ** 2)[0, 1] > 0.8
    assert power.mean() == pytest.approx(1.0, rel=0.1)  # variance of the counts: that of the electrons
    assert truth.defocus_u.values[0] == 15000.0


def test_micrographs_depend_on_seed_and_number_alone() -> None:
    def run(n: int) -> np.ndarray:
        micrographs, _ = simulate_micrographs(
            n=n, shape=(128, 150), pixel_size=6.0, particles_per_micrograph=4, diameter=100.0, seed=1
        )
        return micrographs.micrograph.compute(scheduler="synchronous").values

    three = run(3)
    np.testing.assert_array_equal(run(1)[0], three[0])
    assert not np.array_equal(three[0], three[1])


def test_simulation_is_written_and_read_back(tmp_path: Path) -> None:
    micrographs, truth = simulate_micrographs(
        n=2, shape=(128, 150), pixel_size=6.0, particles_per_micrograph=4, diameter=100.0, dtype="uint16", seed=1
    )
    paths = save_simulation(micrographs, truth, tmp_path / "sim")
    read = open_micrographs(paths, pixel_size=6.0, voltage=300, cs=2.7, amplitude_contrast=0.1)
    np.testing.assert_array_equal(read.micrograph.values, micrographs.micrograph.compute(scheduler="synchronous"))
    back = read_particles(tmp_path / "sim" / "truth.star", images=False)
    np.testing.assert_allclose(back.coordinate, truth.coordinate, atol=1e-3)
    assert angular_distance(back.rotation.values, truth.rotation.values).max() < 1e-2
    np.testing.assert_allclose(read_map(tmp_path / "sim" / "truth.mrc"), truth["map"])


# ---------------------------------------------------------------- errors


GOOD = {"n": 2, "box": 32, "pixel_size": 4.0}


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0}, {"box": 4}, {"pixel_size": 0.0}, {"snr": 0.0}, {"snr": -1.0}, {"defocus": (2e4, 1e4)}, {"seed": -1},
        {"symmetry": "Q4"}, {"noise": "pink"}, {"chunk": 0}, {"amplitude_contrast": 1.0}, {"voltage": 0.0},
        {"b_factor": -1.0}, {"shift_sd": -1.0}, {"particles_per_micrograph": 0}, {"astigmatism": -1.0},
        {"source": "nowhere.pdb"}, {"source": xr.DataArray(np.ones((8, 8, 8)), dims=("z", "y", "x"))},
        {"source": xr.DataArray(np.full((8, 8, 8), np.nan), dims=("z", "y", "x"), attrs={"pixel_size": 4.0})},
        {"source": xr.DataArray(np.zeros((8, 8, 8)), dims=("z", "y", "x"), attrs={"pixel_size": 4.0})},
        {"source": blob_map(32, atoms(reach=12)), "symmetry": "C3"},
        *({name: np.inf} for name in ("astigmatism", "voltage", "cs", "b_factor", "shift_sd", "scale_sd")),
        {"pixel_size": np.inf}, {"cs": np.nan}, {"defocus": (1e4, np.inf)}, {"background_diameter": np.nan},
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_before_any_work(change: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        simulate_particles(**{**GOOD, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (20, 400)}, {"particles_per_micrograph": 5000}, {"dose": 0.0}, {"contaminants": -1.0},
        {"dtype": "int8"}, {"pixel_size": -1.0}, {"n": 0}, {"noise": "pink"}, {"contaminants": np.inf},
        {"dose": np.inf}, {"pixel_size": np.inf}, {"diameter": np.nan}, {"diameter": 0.0},
    ],
)  # fmt: skip
def test_bad_micrograph_parameters_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        simulate_micrographs(**{"n": 1, "shape": (300, 300), "pixel_size": 4.0, **change})  # type: ignore[arg-type]


def test_unknown_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("ATOM")
    with pytest.raises(ParameterError, match=r"model\.txt"):
        simulate_particles(tmp_path / "model.txt", **GOOD)  # type: ignore[arg-type]
    write_map(tmp_path / "good.mrc", blob_map(32, atoms(reach=12)))
    particles, _ = simulate_particles(tmp_path / "good.mrc", n=1, box=32, pixel_size=4.0)
    assert particles.sizes["x"] == 32
