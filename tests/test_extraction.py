"""Extraction: RELION's pixels, conventions of places, lazy chunks, and bad input."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cryoflow.errors import ParameterError, SchemaError
from cryoflow.io import open_micrographs, read_particles, write_particles
from cryoflow.io.images.mrc import read_header, read_images, write_stack
from cryoflow.particles import extract_particles
from cryoflow.particles.normalise import background, normalise
from cryoflow.schema import validate


def dataset(images: np.ndarray, pixel_size: float = 1.5, **extra: object) -> xr.Dataset:
    names = np.array([f"m{i}.mrc" for i in range(len(images))])
    return xr.Dataset({
        "micrograph": (("micrograph", "y", "x"), images), "micrograph_name": ("micrograph", names),
        "pixel_size": ("optics", [pixel_size]), "voltage": ("optics", [300.0]), "cs": ("optics", [2.7]),
        "amplitude_contrast": ("optics", [0.07]), **extra,
    }).chunk(micrograph=1)  # fmt: skip


def table(xy: object, names: object) -> xr.Dataset:
    return xr.Dataset({"coordinate": (("particle", "xy"), np.asarray(xy, float)),
                       "micrograph_name": ("particle", np.asarray(names))})  # fmt: skip


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 5, size=(3, 200, 240)).astype(np.float32)


@pytest.mark.relion
@pytest.mark.parametrize(
    ("flags", "options", "tolerance"),
    [
        ("", {"normalise": False, "invert": False}, 0.0),
        ("--norm --bg_radius 24", {"invert": False}, 1e-6),
        ("--norm --bg_radius 24 --no_ramp --invert_contrast", {"ramp": False}, 1e-6),
        ("--norm --bg_radius 24 --invert_contrast", {}, 1e-6),
        ("--scale 32", {"normalise": False, "invert": False, "rescale": 32}, 2e-4),
    ],
)
def test_pixels_are_those_of_relion(
    tmp_path: Path, noise: np.ndarray, flags: str, options: dict[str, object], tolerance: float
) -> None:
    if shutil.which("relion_preprocess") is None:
        pytest.skip("relion_preprocess is not installed")
    ramp = np.linspace(0, 30, 240, dtype=np.float32)
    image = xr.DataArray(noise[:1] + ramp, dims=("particle", "y", "x"))
    write_stack(tmp_path / "m.mrc", image, pixel_size=1.5)
    # RELION cuts coordinates down to whole pixels and keeps what the edge cuts, with the edge's pixels repeated
    xy = np.array([[100, 90], [57, 120], [32, 32], [10, 100], [239, 199], [207, 167], [208, 168]])
    (tmp_path / "m_pick.star").write_text("data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
                                          + "".join(f"{x}.7 {y}.2\n" for x, y in xy))  # fmt: skip
    (tmp_path / "mics.star").write_text(
        "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n"
        "_rlnMicrographPixelSize #3\n_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n"
        "g1 1 1.5 300 2.7 0.07\n\n"
        "# version 30001\n\ndata_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\nm.mrc 1\n"
    )
    command = "relion_preprocess --i mics.star --coord_suffix _pick.star --coord_dir ./ --part_dir out/ --part_star o"
    subprocess.run([*command.split(), "--extract", "--extract_size", "64", *flags.split()], cwd=tmp_path, check=True,
                   capture_output=True)  # fmt: skip
    header = read_header(tmp_path / "out" / "m.mrcs")
    theirs = np.empty(header.shape, np.float32)
    read_images(header, 0, len(theirs), theirs)
    ds = open_micrographs([tmp_path / "m.mrc"], pixel_size=1.5, voltage=300, cs=2.7, amplitude_contrast=0.07)
    picks = table(xy, [str(ds.micrograph_name.values[0])] * len(xy))
    made = extract_particles(ds, picks, box=64, edge="keep", background_diameter=72.0, **options)  # type: ignore[arg-type]
    ours = made.image.values
    if "rescale" in options:  # a cut Nyquist frequency keeps one sign in RELION, the other here
        ours, theirs = (_without_nyquist(a) for a in (ours, theirs))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


def _without_nyquist(images: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft2(images)
    n = images.shape[-1]
    spectrum[:, n // 2, :] = 0
    spectrum[:, :, n // 2] = 0
    return np.fft.irfft2(spectrum)


def test_rounding_loses_nothing(noise: np.ndarray) -> None:
    xy = np.array([[100.3, 90.8], [120.5, 77.49], [60.0, 60.0]])
    made = validate(extract_particles(dataset(noise), table(xy, ["m1.mrc"] * 3), box=32))
    centre, shift = made.coordinate.values, made["shift"].values
    assert centre.tolist() == [[100, 91], [121, 77], [60, 60]]
    assert centre - shift / 1.5 == pytest.approx(xy, abs=1e-5)  # RELION: coordinate - origin is the particle
    raw = extract_particles(dataset(noise), table(xy, ["m1.mrc"] * 3), box=32, normalise=False, invert=False)
    assert np.array_equal(raw.image.values[0, 16, 16], noise[1, 91, 100])


def test_a_delta_at_the_coordinate_comes_to_the_centre_after_the_shift() -> None:
    y, x = np.mgrid[:128, :128]
    image = np.exp(-((x - 60.37) ** 2 + (y - 70.81) ** 2) / 18.0).astype(np.float32)[None]
    made = extract_particles(dataset(image), table([[60.37, 70.81]], ["m0.mrc"]), box=32, normalise=False, invert=False)
    p = made.image.values[0].astype(float)
    yy, xx = np.mgrid[:32, :32]
    mean = np.array([(p * xx).sum(), (p * yy).sum()]) / p.sum()
    assert mean + made["shift"].values[0] / 1.5 == pytest.approx([16.0, 16.0], abs=0.02)


@pytest.mark.parametrize(("box", "size"), [(64, 32), (64, 48), (48, 64)])
def test_rescaling_keeps_grey_values_and_physical_size(box: int, size: int) -> None:
    y, x = np.mgrid[:128, :128]
    image = (3 + np.cos(2 * np.pi * (x - 64) / 16) + 0 * y).astype(np.float32)[None]
    made = extract_particles(dataset(image), table([[64, 64]], ["m0.mrc"]), box=box, rescale=size, normalise=False,
                             invert=False)  # fmt: skip
    assert made.pixel_size.values[0] == pytest.approx(1.5 * box / size)
    assert made.micrograph_pixel_size.values[0] == 1.5
    at = (np.arange(size) - size // 2) * box / size
    assert made.image.values[0, 5] == pytest.approx(3 + np.cos(2 * np.pi * at / 16), abs=1e-4)


def test_background_is_standard_and_ramps_go() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:40, :40]
    out = normalise(rng.normal(size=(4, 40, 40)) * 7 + 1000 + 2 * x - 3 * y, radius=15.0)
    ring = out[:, background(40, 15.0)]
    assert ring.mean(axis=1) == pytest.approx(0, abs=1e-5)
    assert ring.std(axis=1) == pytest.approx(1, abs=1e-5)
    slope = np.einsum("pyx,x->p", out, np.arange(40) - 20.0) / 40
    assert np.abs(slope).max() < 300


def test_dust_goes_and_the_rest_stays(noise: np.ndarray) -> None:
    spoilt = noise.copy()
    spoilt[0, 100, 100], spoilt[0, 97, 110] = 500.0, -300.0
    args = {"box": 48, "invert": False}
    picks = table([[100, 100]], ["m0.mrc"])
    before = extract_particles(dataset(noise), picks, **args).image.values  # type: ignore[arg-type]
    after = extract_particles(dataset(spoilt), picks, white_dust=6.0, black_dust=6.0, **args).image.values  # type: ignore[arg-type]
    assert np.abs(after).max() < 6.5
    rest = np.ones((48, 48), bool)
    rest[24, 24] = rest[21, 34] = False
    assert after[0][rest] == pytest.approx(before[0][rest], abs=0.02)


def test_edge_rules_and_counts(noise: np.ndarray) -> None:
    xy = [[100, 100], [16, 100], [15, 100], [224, 100], [225, 100], [0, 0], [239, 199], [240, 100], [np.nan, 5]]
    counts = {}
    for edge in ("box", "particle", "keep"):
        made = extract_particles(dataset(noise), table(xy, ["m0.mrc"] * len(xy)), box=32, edge=edge,  # type: ignore[arg-type]
                                 background_diameter=30.0)  # fmt: skip
        counts[edge] = made.sizes["particle"]
        dropped = sum(int(line.split()[0]) for line in made.attrs["dropped"])
        assert dropped == len(xy) - counts[edge]
    assert counts == {"box": 3, "particle": 5, "keep": 7}


def test_order_ctf_groups_and_optics_follow_the_micrographs(noise: np.ndarray) -> None:
    ds = dataset(
                 noise, defocus_u=("micrograph", [1e4, 2e4, 3e4]), defocus_v=("micrograph", [1e4, 2e4, 3e4]),
                 defocus_angle=("micrograph", [0.0, 10.0, 20.0]), usable=("micrograph", [True, False, True])
    )  # fmt: skip
    picks = table([[50, 60], [70, 80], [90, 100], [110, 120]], ["m2.mrc", "m0.mrc", "m1.mrc", "m2.mrc"])
    made = extract_particles(ds, picks.assign(pick_score=("particle", [4.0, 3.0, 2.0, 1.0])), box=32)
    assert made.micrograph_name.values.tolist() == ["m0.mrc", "m2.mrc", "m2.mrc"]
    assert made.defocus_u.values.tolist() == [1e4, 3e4, 3e4]
    assert made.pick_score.values.tolist() == [3.0, 4.0, 1.0]
    assert made.group.values.tolist() == [1, 2, 2]
    assert made.attrs["dropped"] == ["1 in unusable micrographs"]


def test_images_are_lazy_chunked_by_micrograph_and_the_same_in_parts(noise: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    picks = table(rng.uniform(40, 160, (40, 2)), np.sort(rng.choice(["m0.mrc", "m1.mrc", "m2.mrc"], 40)))
    made = extract_particles(dataset(noise), picks, box=32)
    assert made.image.chunks is not None
    assert len(made.image.chunks[0]) == 3
    whole = made.image.values
    assert np.array_equal(made.image.isel(particle=slice(5, 20)).values, whole[5:20])
    reloaded = extract_particles(dataset(noise).chunk(micrograph=3), picks, box=32).image.values
    assert np.array_equal(reloaded, whole)


def test_written_particles_come_back(tmp_path: Path, noise: np.ndarray) -> None:
    made = extract_particles(dataset(noise), table([[50.2, 60.4], [90, 70]], ["m0.mrc", "m2.mrc"]), box=32)
    write_particles(made, tmp_path / "p.star", images=tmp_path / "p.mrcs")
    back = read_particles(tmp_path / "p.star")
    assert np.array_equal(back.image.values, made.image.values)
    assert back["shift"].values == pytest.approx(made["shift"].values, abs=1e-4)
    assert back.coordinate.values == pytest.approx(made.coordinate.values)


def test_unusable_boxes_are_set_aside_by_name(noise: np.ndarray) -> None:
    noise[0, 50, 50] = np.nan
    noise[1, 20:120, 20:120] = 3.0
    picks = table([[60, 60], [150, 150], [70, 70], [150, 60]], ["m0.mrc", "m0.mrc", "m1.mrc", "m1.mrc"])
    made = extract_particles(dataset(noise), picks, box=32)
    assert made.coordinate.values.tolist() == [[150, 150], [150, 60]]
    assert [line.split(":")[0] for line in made.attrs["set_aside"]] == ["m0.mrc at (60, 60)", "m1.mrc at (70, 70)"]
    assert np.isfinite(made.image.values).all()


@pytest.mark.parametrize(
    "wrong",
    [{"box": 31}, {"box": 8}, {"box": 512}, {"rescale": 33}, {"background_diameter": 300.0}, {"edge": "maybe"},
     {"background_diameter": 0.0}, {"background_diameter": 64.5}, {"rescale": 24.0}],
)  # fmt: skip
def test_wrong_parameters_are_refused(noise: np.ndarray, wrong: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match="extract_particles"):
        extract_particles(dataset(noise), table([[60, 60]], ["m0.mrc"]), **{"box": 32, **wrong})  # type: ignore[arg-type]


def test_unknown_micrographs_and_empty_selections_are_named(noise: np.ndarray) -> None:
    with pytest.raises(SchemaError, match=r"'other\.mrc'"):
        extract_particles(dataset(noise), table([[60, 60]], ["other.mrc"]), box=32)
    with pytest.raises(ParameterError, match="at the edge"):
        extract_particles(dataset(noise), table([[2, 2]], ["m0.mrc"]), box=32)
    with pytest.raises(ParameterError):
        extract_particles(dataset(noise), table(np.empty((0, 2)), np.empty(0, "U5")), box=32)


def test_optics_groups_of_very_different_pixels_each_have_their_background(noise: np.ndarray) -> None:
    ds = dataset(noise).isel(optics=[0, 0]).assign(pixel_size=("optics", [1.0, 2.5]))
    ds["optics_group"] = ("micrograph", [0, 1, 1])
    made = extract_particles(ds, table([[80, 80], [80, 80]], ["m0.mrc", "m1.mrc"]), box=32)
    outside = np.hypot(*(np.mgrid[:32, :32] - 16)) > 12
    for image in made.image.values:
        assert image[outside].std() == pytest.approx(1.0, abs=1e-5)


def test_why_no_particle_is_left_is_told(noise: np.ndarray) -> None:
    flat = np.full_like(noise, 3.0)
    with pytest.raises(ParameterError, match="blank background"):
        extract_particles(dataset(flat), table([[80, 80]], ["m0.mrc"]), box=32)
    with pytest.raises(ParameterError, match="1 at the edge"):
        extract_particles(dataset(noise), table([[2, 80]], ["m0.mrc"]), box=32)
