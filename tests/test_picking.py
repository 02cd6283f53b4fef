"""Picking: kernels against analytic cases, simulated truth, hand marks of real micrographs, and bad input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pretended_device import DeviceArray, pretended_modules
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cryoflow.errors import ParameterError, SchemaError
from cryoflow.io import open_micrographs, read_coordinates
from cryoflow.picking import pick_particles
from cryoflow.picking.chance import expected_peaks, independent_positions
from cryoflow.picking.contaminants import contaminant_mask
from cryoflow.picking.log import laplacian_of_gaussian
from cryoflow.picking.passes import log_pass, profile_pass, template_pass
from cryoflow.picking.peaks import find_peaks
from cryoflow.picking.prepare import coarsen
from cryoflow.picking.template import normalised_correlation, radial_profiles
from cryoflow.picking.threshold import choose_threshold
from cryoflow.schema import validate


def matches(found: np.ndarray, truth: np.ndarray, within: float) -> int:
    """Pairs of a one-to-one assignment no farther apart than ``within``."""
    if not len(found) or not len(truth):
        return 0
    distance = cdist(found, truth)
    rows, columns = linear_sum_assignment(np.where(distance <= within, distance - 1e4, 0.0))
    return int((distance[rows, columns] <= within).sum())


def shells(seed: int, count: int, *, shape: tuple[int, int] = (400, 480), radius: float = 14.0, sign: float = -1.0,
           strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Rings of ``radius`` pixels in noise, no nearer than their diameter, some cut by the edge; and their centres."""
    rng = np.random.default_rng(seed)
    xy: list[np.ndarray] = []
    while len(xy) < count:
        p = rng.uniform((3, 3), (shape[1] - 4, shape[0] - 4))
        if all(np.hypot(*(p - q)) > 2.1 * radius for q in xy):
            xy.append(p)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(size=shape)
    for px, py in xy:
        image += sign * strength * np.exp(-((np.hypot(x - px, y - py) - 0.7 * radius) ** 2) / 8.0)
    return image.astype(np.float32), np.array(xy)


def dataset(images: np.ndarray, pixel_size: float = 4.0, **extra: object) -> xr.Dataset:
    names = np.array([f"m{i}.mrc" for i in range(len(images))])
    return xr.Dataset({
        "micrograph": (("micrograph", "y", "x"), images), "micrograph_name": ("micrograph", names),
        "pixel_size": ("optics", [pixel_size]), **extra,
    }).chunk(micrograph=1)  # fmt: skip


# --- kernels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diameter", [14.0, 20.0, 30.0])
def test_log_responds_most_at_the_diameter_of_a_disc(diameter: float) -> None:
    y, x = np.mgrid[:128, :128]
    disc = (np.hypot(x - 64, y - 64) <= diameter / 2).astype(np.float32)
    tried = np.linspace(0.6, 1.6, 41) * diameter
    centre = [laplacian_of_gaussian(disc, pixel_size=1.0, min_diameter=d, max_diameter=d)[64, 64] for d in tried]
    assert tried[int(np.argmax(centre))] == pytest.approx(diameter, rel=0.05)


@pytest.mark.parametrize("shape", [(64, 64), (61, 75)])
def test_correlation_agrees_with_pearson_at_edges_too(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    image = (rng.normal(size=shape) + 5).astype(np.float32)
    profile, radius = rng.normal(size=10), 7.0
    got = normalised_correlation(image, profile, radius).score
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for y, x in [(30, 30), (0, 0), (2, 40), (shape[0] - 1, 11), (33, shape[1] - 3)]:
        distance = np.hypot(yy - y, xx - x)
        weight = np.clip(radius - distance + 0.5, 0, 1)
        template = np.interp(distance, np.arange(10), profile)
        a, b = (v - np.average(v, weights=weight) for v in (image, template))
        expected = (weight * a * b).sum() / np.sqrt((weight * a**2).sum() * (weight * b**2).sum())
        assert got[y, x] == pytest.approx(expected, abs=2e-4)


def test_coarse_grid_keeps_places_and_grey_values() -> None:
    y, x = np.mgrid[:300, :410]
    blob = np.exp(-((x - 251.3) ** 2 + (y - 97.8) ** 2) / (2 * 15.0**2)).astype(np.float32)
    noise = np.random.default_rng(0).normal(scale=0.3, size=blob.shape)
    coarse = coarsen(blob + noise, pixel_size=1.1, diameter=110.0, dark=False)
    assert coarse.pixel == pytest.approx(110 / 32, rel=0.02)
    peak = find_peaks(coarse.image, min_distance=200.0)[0]
    assert coarse.fine(peak[:2]) == pytest.approx([251.3, 97.8], abs=2.0)
    assert coarse.coarse(coarse.fine([[3.0, 4.0]])) == pytest.approx(np.array([[3.0, 4.0]]))


def test_peaks_are_subpixel_apart_and_in_the_order_of_scores() -> None:
    y, x = np.mgrid[:60, :60]
    places = [(20.3, 30.6, 3.0), (40.8, 12.4, 2.0), (23.0, 33.0, 1.0)]  # the third is too near to the first
    score = sum(h * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18.0) for a, b, h in places[:2])
    found = find_peaks(score + 0.001 * (np.hypot(x - 23, y - 36) < 1), min_distance=8.0, threshold=0.5)
    assert found[:, :2] == pytest.approx(np.array([p[:2] for p in places[:2]]), abs=0.1)
    assert np.all(np.diff(found[:, 2]) <= 0)
    flat = find_peaks(np.ones((8, 8)), min_distance=2.0)
    assert len(flat) <= 1  # a plateau is no field of peaks
    assert len(find_peaks(np.full((8, 8), np.nan), min_distance=2.0)) == 0


def test_profiles_do_not_depend_on_scale_or_offset() -> None:
    image = np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)
    xy = np.array([[20.0, 20.0], [12.0, 25.0], [1.0, 1.0]])
    first, other = radial_profiles(image, xy, 6.0), radial_profiles(7 * image + 100, xy, 6.0)
    assert first.shape == (2, 7)  # the disc of the third leaves the image
    assert other == pytest.approx(first, abs=1e-3)


def test_threshold_of_noise_alone_is_none_and_of_two_populations_between_them() -> None:
    rng = np.random.default_rng(0)
    noise, decoys = rng.rayleigh(0.05, 3000), rng.rayleigh(0.05, 3000)
    assert choose_threshold(noise, decoys) is None
    chosen = choose_threshold(np.r_[noise, rng.normal(0.45, 0.05, 700)], decoys)
    assert chosen is not None
    assert 0.2 < chosen < 0.4


# --- simulated truth ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "contrast"), [(-1.0, None), (1.0, "bright")])
@pytest.mark.parametrize("count", [12, 110])
def test_template_finds_hollow_shells_sparse_or_crowded(sign: float, contrast: str | None, count: int) -> None:
    pairs = [shells(seed, count, sign=sign) for seed in (1, 2)]
    ds = dataset(np.stack([image for image, _ in pairs]))
    if contrast:
        ds["micrograph"].attrs["contrast"] = contrast
    picks = validate(pick_particles(ds, diameter=28 * 4.0))
    true = sum(
        matches(picks.coordinate.values[picks.micrograph_name.values == f"m{i}.mrc"], xy, 4.0)
        for i, (_, xy) in enumerate(pairs)
    )
    assert true / picks.sizes["particle"] > 0.95
    assert true / (2 * count) > 0.95
    assert picks.attrs["contrast"] == (contrast or "dark")


def test_wrong_contrast_is_taken_at_its_word() -> None:
    image, xy = shells(1, 60)
    right = pick_particles(dataset(image[None]), diameter=112.0)
    wrong = pick_particles(dataset(image[None]), diameter=112.0, contrast="bright", method="log", threshold=1.0)
    assert matches(right.coordinate.values, xy, 4.0) > 55
    assert matches(wrong.coordinate.values, xy, 4.0) < 30


def test_contaminant_is_masked_and_ice_gradient_is_not() -> None:
    image, xy = shells(4, 60)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    image += 2.0 * x / image.shape[1] + 3.0 * (y / image.shape[0]) ** 3
    blob = np.hypot(x - 300, y - 200) < 60
    clean = contaminant_mask(-image, 28.0)
    assert clean.mean() < 0.02
    image[blob] -= 6.0
    mask = contaminant_mask(-image, 28.0)
    assert mask[blob].mean() > 0.98
    assert mask.mean() < 2.0 * blob.mean()
    picks = pick_particles(dataset(image[None]), diameter=112.0)
    at = picks.coordinate.values
    assert not np.any(np.hypot(at[:, 0] - 300, at[:, 1] - 200) < 55)
    free = np.hypot(xy[:, 0] - 300, xy[:, 1] - 200) > 80
    assert matches(at, xy[free], 4.0) > 0.93 * free.sum()


def number_of_picks(images: np.ndarray, **options: Any) -> np.ndarray:
    """How many picks each micrograph has."""
    try:
        names = pick_particles(dataset(images), **options).micrograph_name.values
    except ParameterError:
        return np.zeros(len(images), int)
    return np.array([(names == f"m{i}.mrc").sum() for i in range(len(images))])


@pytest.mark.parametrize("method", ["log", "template"])
@pytest.mark.parametrize("options", [{}, {"min_diameter": 100.0, "max_diameter": 160.0}])
def test_noise_alone_yields_almost_nothing(method: str, options: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 300, 340)).astype(np.float32)
    images[3:] += 15 * gaussian_filter(
        rng.normal(size=(3, 300, 340)), (0, 5, 5)
    )  # as ice is, stronger at low frequency
    assert number_of_picks(images, diameter=100.0, method=method, **options).sum() <= 2  # of some 600 peaks


@pytest.mark.parametrize("method", ["log", "template"])
def test_micrographs_without_particles_among_others_stay_empty(method: str) -> None:
    full = shells(1, 90)[0]
    images = np.stack([full, full[::-1], *np.random.default_rng(5).normal(size=(3, *full.shape))]).astype(np.float32)
    if method == "template":  # to the Laplacian one particle is no higher than noise
        images = np.concatenate([images, shells(2, 1, strength=2.0)[0][None]])
    picks = number_of_picks(images, diameter=112.0, method=method)
    assert picks[:2].min() > 80
    assert picks[2:5].sum() <= 1
    assert picks[5:].tolist() in ([], [1])


def test_peaks_of_noise_are_as_many_as_expected() -> None:
    z, positions = [], 0.0
    for seed in range(20):
        field = gaussian_filter(np.random.default_rng(seed).normal(size=(300, 300)), 4.0, mode="wrap")
        field /= field.std()
        positions += independent_positions(field)
        z.append(find_peaks(field, min_distance=1.0)[:, 2])
    for level in (2.5, 3.0, 3.5):
        found = (np.concatenate(z) > level).sum()
        assert found == pytest.approx(expected_peaks(level, positions), abs=4 * np.sqrt(found))


def test_noise_is_as_high_at_an_edge_as_elsewhere() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(600, 48, 60)).astype(np.float32)
    maps = np.stack([laplacian_of_gaussian(i, pixel_size=1.0, min_diameter=16, max_diameter=16) for i in noise])
    deviation = maps.std(axis=0)
    inner = deviation[20:28, 20:40].mean()
    for places in (deviation[0], deviation[:, -1], deviation[4], deviation[[0, 0, -1, -1], [0, -1, 0, -1]]):
        assert places.mean() == pytest.approx(inner, rel=0.06)


@pytest.mark.slow
def test_result_does_not_depend_on_the_number_of_workers_or_on_chunks() -> None:
    from cryoflow import connect

    ds = dataset(np.stack([shells(seed, 40)[0] for seed in range(3)]))
    alone = pick_particles(ds, diameter=112.0)
    rechunked = pick_particles(ds.chunk(micrograph=3), diameter=112.0)
    with connect("local:2") as client:
        spread = pick_particles(ds, diameter=112.0, client=client)
    for other in (rechunked, spread):
        assert other.coordinate.values.tobytes() == alone.coordinate.values.tobytes()
        assert other.pick_score.values.tobytes() == alone.pick_score.values.tobytes()


# --- bad input ------------------------------------------------------------------------------------------------------


def test_broken_micrographs_are_set_aside_by_name_and_nothing_else_is_lost() -> None:
    images = np.stack([shells(seed, 50)[0] for seed in range(4)])
    whole = pick_particles(dataset(images[:2]), diameter=112.0).sizes["particle"]
    images[2, 5, 5] = np.nan
    images[3] = 7.0
    picks = pick_particles(dataset(images), diameter=112.0)
    assert [s.split(":")[0] for s in picks.attrs["set_aside"]] == ["m2.mrc", "m3.mrc"]
    assert abs(picks.sizes["particle"] - whole) <= 2
    usable = xr.Variable(("micrograph",), [True, False, False, False])
    one = pick_particles(dataset(images, usable=usable), diameter=112.0)
    assert set(one.micrograph_name.values) == {"m0.mrc"}
    with pytest.raises(ParameterError, match="usable"):
        pick_particles(dataset(images, usable=xr.zeros_like(usable).astype(bool)), diameter=112.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"diameter": 6.0}, {"diameter": 1e5}, {"diameter": float("nan")}, {"min_distance": 0.0}, {"contrast": "grey"},
        {"min_diameter": 200.0, "max_diameter": 100.0}, {"method": "magic"}, {"contaminants": -1.0},
        {"threshold": 3.0, "upper_threshold": 2.0}, {"threshold": float("nan")}, {"upper_threshold": float("nan")},
        {"min_diameter": 1.0, "max_diameter": 200.0}, {"max_diameter": float("inf")},
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused_before_any_work(wrong: dict[str, object]) -> None:
    import dask.array as da

    def explode(*_: object) -> np.ndarray:
        raise AssertionError("read")

    ds = dataset(np.zeros((1, 200, 200), np.float32))
    ds["micrograph"] = (("micrograph", "y", "x"), da.map_blocks(explode, dtype="f4", chunks=((1,), (200,), (200,))))
    with pytest.raises(ParameterError, match="pick_particles"):
        pick_particles(ds, **{"diameter": 112.0, **wrong})  # type: ignore[arg-type]


def test_missing_variables_and_empty_results_are_named() -> None:
    ds = dataset(np.random.default_rng(0).normal(size=(1, 200, 200)).astype("f4"))
    with pytest.raises(SchemaError, match="micrograph_name"):
        pick_particles(ds.drop_vars("micrograph_name"), diameter=100.0)
    with pytest.raises(ParameterError, match="Lower the threshold"):
        pick_particles(ds, diameter=100.0, method="log", threshold=50.0)


# --- real micrographs -----------------------------------------------------------------------------------------------


@pytest.mark.data
def test_hand_marks_of_apoferritin(data: Path) -> None:
    folder = data / "empiar-10146"
    marks = {p.stem: read_coordinates(p) for p in sorted((folder / "picks").glob("*.star"))}
    ds = open_micrographs(
        [folder / "micrographs" / f"{stem}.mrc" for stem in marks], pixel_size=1.5, voltage=300, cs=2.7,
        amplitude_contrast=0.07,
    )  # fmt: skip
    figures = {}
    for method in ("log", "template"):
        picks = pick_particles(ds, diameter=130.0, method=method)  # type: ignore[arg-type]
        names = np.array([Path(str(n)).stem for n in picks.micrograph_name.values])
        true = sum(matches(picks.coordinate.values[names == stem], xy, 20.0) for stem, xy in marks.items())
        figures[method] = true / len(names), true / sum(map(len, marks.values()))
    assert min(figures["log"]) > 0.6
    assert min(figures["template"]) > 0.94, figures


@pytest.mark.data
def test_contaminant_of_a_real_micrograph(data: Path) -> None:
    ds = open_micrographs([data / "micrographs" / "contaminated_edge.mrc"], pixel_size=1.0, voltage=300, cs=2.7,
                          amplitude_contrast=0.1)  # fmt: skip
    coarse = coarsen(ds.micrograph.values[0], pixel_size=1.0, diameter=60.0, dark=True)
    mask = contaminant_mask(coarse.image, 60.0 / coarse.pixel)
    x, y = (coarse.coarse([[730.0, 150.0]])[0]).astype(int)  # inside of the crystal, seen by eye
    assert mask[y, x]
    ny, nx = mask.shape
    assert mask[: int(0.45 * ny), int(0.5 * nx) :].mean() > 0.6
    assert mask[int(0.55 * ny) :].mean() < 0.05


def test_passes_move_arrays_to_and_from_a_device_where_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in pretended_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    images, pixel = shells(1, 40)[0][None], np.array([4.0])
    settings = {"diameter": 112.0, "min_diameter": 112.0, "max_diameter": 160.0, "min_distance": 67.0, "dark": True,
                "contaminants": 5.0, "coverage": 0.55}  # fmt: skip
    there = [a.view(DeviceArray) for a in (images, pixel)]
    rows = [log_pass(*where, settings=settings, max_picks=900)[0] for where in ((images, pixel), there)]
    picks = rows[0]["x_picks"]
    profiles = [
        profile_pass(*where, settings=settings, bins=21)[1]["profile"]
        for where in ((images, pixel, picks), (*there, picks.view(DeviceArray)))
    ]
    found = [
        template_pass(*where, settings=settings, profile=profile, max_picks=900)[0]
        for where, profile in (((images, pixel), profiles[0]), (there, profiles[1].view(DeviceArray)))
    ]
    for host, device in (rows, found):
        for name in ("x_picks", "x_decoys", "x_positions", "x_chance"):
            np.testing.assert_array_equal(device[name], host[name])
    np.testing.assert_array_equal(*profiles)


@pytest.mark.gpu
def test_kernels_on_a_gpu_agree() -> None:
    cupy = pytest.importorskip("cupy", reason="no CuPy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("no CUDA device")
    image, _ = shells(1, 40)
    host = coarsen(image, pixel_size=4.0, diameter=112.0, dark=True)
    there = coarsen(cupy.asarray(image), pixel_size=4.0, diameter=112.0, dark=True)
    profile = np.sin(np.arange(20) / 3)
    a = normalised_correlation(host.image, profile, 17.0).score
    b = normalised_correlation(there.image, cupy.asarray(profile), 17.0).score
    assert cupy.asnumpy(b) == pytest.approx(a, abs=1e-4)
    assert find_peaks(b, min_distance=8.0, threshold=0.2)[:, :2] == pytest.approx(
        find_peaks(a, min_distance=8.0, threshold=0.2)[:, :2], abs=1e-2
    )
