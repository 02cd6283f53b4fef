"""Auto-refine against simulated truth, against noise, and against bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cryoflow.engine import compute
from cryoflow.errors import ParameterError, SchemaError, StoreError
from cryoflow.kernels.resolution import fsc, resolution_at
from cryoflow.kernels.rotation import angular_distance, vector_to_rotation
from cryoflow.kernels.symmetry import point_group
from cryoflow.refinement import refine
from cryoflow.simulate import procedural_protein, simulate_particles

BOX, PIXEL = 48, 5.0
QUICK = {"diameter": 160.0, "ini_high": 40.0, "join_halves_to": 60.0}


def _set(n: int, symmetry: str, snr: float, seed: int = 1) -> tuple[xr.Dataset, xr.Dataset]:
    particles, truth = simulate_particles(
        n=n, box=BOX, pixel_size=PIXEL, symmetry=symmetry, snr=snr, seed=seed, noise="white", shift_sd=6.0
    )
    (loaded,) = compute(particles)
    return loaded, truth


@pytest.fixture(scope="module")
def d2() -> tuple[xr.Dataset, xr.Dataset]:
    return _set(300, "D2", 0.2)


def _reference(truth: xr.Dataset) -> xr.DataArray:
    volume = truth["map"]
    return xr.DataArray(np.asarray(volume), dims=volume.dims, attrs={"pixel_size": PIXEL})


def test_refinement_recovers_simulated_poses_and_map(d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    particles, truth = d2
    reference = 37.0 * _reference(truth)  # grey values need not be absolute
    reference.attrs["pixel_size"] = PIXEL
    found = refine(particles, reference, symmetry="D2", **QUICK)
    error = angular_distance(found.particles["rotation"].values, truth["rotation"].values, point_group("D2"))
    shift = np.linalg.norm(found.particles["shift"].values - truth["shift"].values, axis=1)
    assert found.converged
    assert np.median(error) < 3.0, "degrees"
    assert np.median(shift) < 0.5 * PIXEL
    against_truth = resolution_at(fsc(found.map.values, truth["map"].values), BOX, PIXEL, 0.5)
    assert against_truth < 16.0, "angstrom; the filter of the reference was 40"
    # what the half-maps claim must hold against the truth: FSC 0.143 of halves stands for 0.5 against a perfect map
    assert against_truth < 1.25 * found.resolution
    assert set(np.unique(found.particles["half"].values)) == {1, 2}
    assert not found.warnings


def test_pure_noise_gives_no_structure(d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    particles, truth = d2
    noise = np.random.default_rng(5).standard_normal(particles["image"].shape).astype("f4")
    ds = particles.assign(image=(("particle", "y", "x"), noise))
    found = refine(ds, _reference(truth), symmetry="D2", limit=6, **QUICK)
    assert found.resolution >= 40.0
    assert any("no resolution better than the reference's filter" in w for w in found.warnings)


def test_shuffled_poses_give_no_structure(d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    particles, truth = d2
    wrong = np.random.default_rng(3).permutation(len(truth["rotation"]))
    ds = particles.assign(
        rotation=(("particle", "row", "col"), truth["rotation"].values[wrong]), shift=truth["shift"].variable
    )
    found = refine(ds, _reference(truth), symmetry="D2", poses="fixed", **QUICK)
    assert found.resolution >= 40.0
    assert any("no resolution better than the reference's filter" in w for w in found.warnings)


def test_known_poses_reconstruct_and_local_search_repairs(d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    particles, truth = d2
    right = particles.assign(rotation=truth["rotation"].variable, shift=truth["shift"].variable)
    fixed = refine(right, _reference(truth), symmetry="D2", poses="fixed", **QUICK)
    np.testing.assert_allclose(fixed.particles["rotation"].values, truth["rotation"].values, atol=1e-6)
    assert resolution_at(fsc(fixed.map.values, np.asarray(truth["map"])), BOX, PIXEL, 0.5) < 15.0
    off = np.random.default_rng(7).normal(size=(len(truth["rotation"]), 3)) * 3.0
    rotation = np.asarray(vector_to_rotation(off)) @ truth["rotation"].values
    moved = particles.assign(rotation=(("particle", "row", "col"), rotation), shift=truth["shift"].variable)
    local = refine(moved, _reference(truth), symmetry="D2", poses="local", **QUICK)
    before = np.median(angular_distance(rotation, truth["rotation"].values))
    after = np.median(angular_distance(local.particles["rotation"].values, truth["rotation"].values, point_group("D2")))
    assert after < 0.6 * before


def test_two_classes_come_apart() -> None:
    sets = []
    for seed in (1, 9):
        volume = procedural_protein(symmetry="C1", box=BOX, pixel_size=PIXEL, seed=seed)
        particles, truth = simulate_particles(
            volume, n=150, box=BOX, pixel_size=PIXEL, snr=0.5, seed=seed, noise="white", shift_sd=3.0
        )
        sets.append((compute(particles)[0], truth))
    both = xr.concat(
        [s[0].drop_vars([v for v in s[0].variables if "optics" in s[0][v].dims]) for s in sets], dim="particle"
    )
    both = both.assign({v: sets[0][0][v] for v in sets[0][0].variables if "optics" in sets[0][0][v].dims})
    rotation = np.concatenate([s[1]["rotation"].values for s in sets])
    shift = np.concatenate([s[1]["shift"].values for s in sets])
    both = both.assign(rotation=(("particle", "row", "col"), rotation), shift=(("particle", "xy"), shift))
    mean = 0.5 * (_reference(sets[0][1]) + _reference(sets[1][1]))
    mean.attrs["pixel_size"] = PIXEL
    found = refine(both, mean, classes=2, poses="fixed", limit=12, **QUICK)
    label = np.repeat([0, 1], 150)
    agree = np.mean((found.particles["class_number"].values - 1) == label)
    assert max(agree, 1 - agree) > 0.9
    assert found.half1 is None


def test_half_sets_are_kept_and_groups_may_have_gaps(d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    particles, truth = d2
    half = np.random.default_rng(0).integers(1, 3, 300).astype("i1")
    ds = particles.assign(
        half=("particle", half), group=("particle", np.where(np.arange(300) < 150, 3, 17).astype("i4")),
        rotation=truth["rotation"].variable, shift=truth["shift"].variable,
    )  # fmt: skip
    found = refine(ds, _reference(truth), symmetry="D2", poses="fixed", limit=2, **QUICK)
    assert np.array_equal(found.particles["half"].values, half)


def test_broken_particles_are_set_aside_by_name(d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    particles, truth = d2
    image = particles["image"].values.copy()
    image[7, 3, 3] = np.nan
    image[11] = 2.5
    ds = particles.assign(
        image=(("particle", "y", "x"), image), rotation=truth["rotation"].variable, shift=truth["shift"].variable,
        image_name=("particle", np.array([f"{i + 1:06d}@stack.mrcs" for i in range(300)])),
    )  # fmt: skip
    found = refine(ds, _reference(truth), symmetry="D2", poses="fixed", limit=2, **QUICK)
    assert found.excluded == [7, 11]
    assert "000008@stack.mrcs" in found.warnings[0]
    assert found.particles.sizes["particle"] == 298
    assert np.isfinite(found.map.values).all()


def test_bad_input_is_refused_before_any_work(d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    particles, truth = d2
    reference = _reference(truth)
    with pytest.raises(ParameterError, match="48 x 48 x 48"):
        refine(particles, reference[1:, 1:, 1:], **QUICK)
    wrong = reference.copy()
    wrong.attrs["pixel_size"] = 2 * PIXEL
    with pytest.raises(ParameterError, match="pixel size"):
        refine(particles, wrong, **QUICK)
    with pytest.raises(ParameterError, match="empty selection"):
        refine(particles.isel(particle=slice(0)), reference, **QUICK)
    with pytest.raises(SchemaError, match="defocus_u"):
        refine(particles.drop_vars("defocus_u"), reference, **QUICK)
    with pytest.raises(SchemaError, match="rotation"):
        refine(particles, reference, poses="local", **QUICK)
    with pytest.raises(ParameterError, match="particle diameter"):
        refine(particles, reference, diameter=1e4)
    with pytest.raises(SchemaError, match="one pixel size"):
        refine(particles.assign(pixel_size=("optics", np.array([5.0, 6.0])[: particles.sizes["optics"] + 1]))
               if particles.sizes["optics"] == 2 else _two_optics(particles), reference, **QUICK)  # fmt: skip
    with pytest.raises(ParameterError, match="between 0 and 1"):
        refine(particles, reference, mask=np.full((BOX,) * 3, 255.0, "f4"), **QUICK)
    with pytest.raises(ParameterError, match="finite"):
        refine(particles, reference * np.nan, **QUICK)


@pytest.mark.parametrize("name", ["rotation", "shift", "defocus_u", "phase_shift", "norm", "voltage", "cs",
                                  "amplitude_contrast"])  # fmt: skip
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_by_name(name: str, value: float) -> None:
    from cryoflow.refinement.prepare import fill_defaults

    particles = fill_defaults(_set(8, "C1", 1.0)[0], poses="global", seed=0, halves=True)
    values = particles[name].values.astype(float)
    values.flat[-1] = value
    with pytest.raises(SchemaError, match=f"finite '{name}'.*found {value}"):
        fill_defaults(particles.assign({name: (particles[name].dims, values)}), poses="global", seed=0, halves=True)


def _two_optics(particles: xr.Dataset) -> xr.Dataset:
    twice = particles.isel(optics=[0, 0])
    return twice.assign(pixel_size=("optics", np.array([5.0, 6.0])))


SCRIPT = """
import sys, numpy as np, os
from tests.test_refinement import _set, _reference, QUICK
from cryoflow.refinement import refine
particles, truth = _set(120, "D2", 0.3)
def told(record):
    if sys.argv[2] == "die" and record["iteration"] == 3:
        os.kill(os.getpid(), 9)
found = refine(particles, _reference(truth), symmetry="D2", store=sys.argv[1] or None, limit=4,
               on_iteration=told, **QUICK)
np.save(sys.argv[3], found.map.values)
"""


def test_a_killed_refinement_resumes_to_the_same_bits(tmp_path: Path, d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    root = Path(__file__).parents[1]

    def run(store: str, how: str, out: str) -> int:
        command = [sys.executable, "-c", SCRIPT, store, how, str(tmp_path / out)]
        return subprocess.run(command, cwd=root, capture_output=True, timeout=600).returncode

    assert run(str(tmp_path / "store"), "die", "no.npy") == -9
    assert run(str(tmp_path / "store"), "go", "resumed.npy") == 0
    assert run("", "go", "whole.npy") == 0
    resumed, whole = (np.load(tmp_path / f"{name}.npy") for name in ("resumed", "whole"))
    assert np.array_equal(resumed, whole)
    particles, truth = _set(120, "D2", 0.3)
    again = {"symmetry": "D2", "store": tmp_path / "store", "limit": 4, **QUICK}
    with pytest.raises(StoreError):  # other particles
        refine(d2[0], _reference(d2[1]), **again)
    with pytest.raises(StoreError):  # the same number of others
        refine(_set(120, "D2", 0.3, seed=4)[0], _reference(truth), **again)
    with pytest.raises(StoreError):  # another mask
        refine(particles, _reference(truth), mask=np.ones((BOX,) * 3, "f4"), **again)
    assert np.array_equal(refine(particles, _reference(truth), **again).map.values, whole)


@pytest.mark.slow
def test_one_two_and_four_workers_give_the_same_bits(d2: tuple[xr.Dataset, xr.Dataset]) -> None:
    from distributed import Client, LocalCluster

    particles, truth = d2
    ds = particles.chunk(particle=40)
    maps = [refine(ds, _reference(truth), symmetry="D2", limit=3, **QUICK).map.values]
    for workers in (1, 2, 4):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as c,
        ):
            maps.append(refine(ds, _reference(truth), symmetry="D2", limit=3, client=c, **QUICK).map.values)
    for other in maps[1:]:
        assert np.array_equal(maps[0], other)
