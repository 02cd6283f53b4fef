"""CTF estimation on simulated spectra of known defocus, on noise, on broken images, and on real micrographs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.fft import irfft2, rfft2

from cryoflow.ctf import estimate_ctf
from cryoflow.ctf.fit import CtfFit, fit_micrograph, significance
from cryoflow.ctf.quality import equiphase_profile, fit_resolution
from cryoflow.ctf.rings import Optics, SearchRange, spline_complement
from cryoflow.ctf.search import Defocus
from cryoflow.ctf.spectrum import amplitude_spectrum, tile_size, to_polar
from cryoflow.ctf.tiles import UnusableMicrographError, clipped, good_tiles, tile_corners
from cryoflow.errors import ParameterError, SchemaError
from cryoflow.kernels.ctf import ctf
from cryoflow.schema import validate

TITAN = Optics(voltage=300.0, cs=2.7, amplitude_contrast=0.07, pixel_size=1.5)
SEARCH = SearchRange(30.0, 5.0, 5000.0, 50000.0, 3000.0)


def simulated(
    seed: int, u: float, v: float, angle: float = 0.0, phase: float = 0.0, *, optics: Optics = TITAN, snr: float = 0.3,
    shape: tuple[int, int] = (1200, 1240),
) -> np.ndarray:  # fmt: skip
    """Gaussian noise of power N(s) + snr S(s) CTF(s)^2: rings that fade with B = 80 A^2 on a sloping background."""
    sy = np.fft.fftfreq(shape[0])[:, None] / optics.pixel_size
    sx = np.fft.rfftfreq(shape[1])[None] / optics.pixel_size
    s2 = sx * sx + sy * sy
    value = ctf(
        sx, sy, u, v, angle, voltage=optics.voltage, cs=optics.cs, amplitude_contrast=optics.amplitude_contrast,
        phase_shift=phase,
    )  # fmt: skip
    power = 1 + 0.3 * np.exp(-200 * s2) + snr * 10 * np.exp(-40 * s2) / (1 + 400 * s2) * value**2
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.asarray(irfft2(rfft2(noise) * np.sqrt(power).astype(np.float32), s=shape), np.float32)


def astigmatism(u: float, v: float, angle: float) -> complex:
    """Astigmatism as a vector, in which a half turn is a full one."""
    return complex((u - v) * np.exp(2j * np.deg2rad(angle)))


def dataset(images: list[np.ndarray], optics: Optics = TITAN, **extra: object) -> xr.Dataset:
    values = {n: ("optics", [getattr(optics, n)]) for n in ("voltage", "cs", "amplitude_contrast", "pixel_size")}
    return xr.Dataset({"micrograph": (("micrograph", "y", "x"), np.stack(images)), **values, **extra}).chunk(
        micrograph=1
    )


# --- truth of simulation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "astig", "angle"),
    [
        (6500, 300, 20), (10000, 1500, -75), (15000, 0, 0), (15000, 2000, 90), (20000, 1000, -45), (20000, 500, 45),
        (26000, 2000, 10), (40000, 1000, -20),
    ],
)  # fmt: skip
def test_finds_the_defocus_of_simulated_micrographs(mean: float, astig: float, angle: float) -> None:
    u, v = mean + astig / 2, mean - astig / 2
    fit = fit_micrograph(simulated(int(mean + angle), u, v, angle), TITAN, SEARCH)
    assert not fit.reason
    assert abs(fit.defocus.mean - mean) < 100
    assert abs(astigmatism(fit.defocus.u, fit.defocus.v, fit.defocus.angle) - astigmatism(u, v, angle)) < 350
    assert fit.defocus.u >= fit.defocus.v
    assert -90 < fit.defocus.angle <= 90
    assert fit.resolution < 8


def test_estimates_are_unbiased_without_noise_to_speak_of() -> None:
    """A model error (amplitude contrast, window, bins) would shift defocus by more than strong rings leave room for."""
    errors = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        mean, astig, angle = rng.uniform(8000, 30000), rng.uniform(0, 2000), rng.uniform(-90, 90)
        image = simulated(seed, mean + astig / 2, mean - astig / 2, angle, snr=10.0)
        errors.append(fit_micrograph(image, TITAN, SEARCH).defocus.mean - mean)
    assert np.abs(errors).max() < 50
    assert abs(np.mean(errors)) < 20


@pytest.mark.parametrize(("defocus", "phase"), [(12000, 90), (18000, 35), (21000, 150)])
def test_finds_the_phase_shift_of_a_phase_plate(defocus: float, phase: float) -> None:
    search = SearchRange(30.0, 5.0, 5000.0, 50000.0, 3000.0, phase_shift=True)
    fit = fit_micrograph(simulated(int(phase), defocus + 300, defocus - 300, 60, phase), TITAN, search)
    assert not fit.reason
    assert abs((fit.defocus.phase_shift - phase + 90) % 180 - 90) < 8
    assert abs(fit.defocus.mean - defocus) < 220
    blind = fit_micrograph(simulated(int(phase), defocus + 300, defocus - 300, 60, phase), TITAN, SEARCH)
    assert fit.defocus.score >= blind.defocus.score - 1e-6  # the search over phases contains the search without


@pytest.mark.parametrize(
    ("optics", "shape"),
    [
        (Optics(200.0, 2.0, 0.1, 0.83), (2048, 1800)),  # finer than the target: tiles are larger than the box
        (Optics(120.0, 0.01, 0.1, 2.5), (901, 1103)),  # coarser than 5 A allows: the band is drawn back; odd shapes
    ],
)
def test_other_microscopes_pixels_and_shapes(optics: Optics, shape: tuple[int, int]) -> None:
    search = SearchRange(30.0, max(5.0, 2.2 * optics.pixel_size), 5000.0, 50000.0, 3000.0)
    image = simulated(7, 18500, 17700, -30, optics=optics, shape=shape)
    fit = fit_micrograph(image, optics, search)
    assert not fit.reason
    assert abs(fit.defocus.mean - 18100) < 100
    assert abs(astigmatism(fit.defocus.u, fit.defocus.v, fit.defocus.angle) - astigmatism(18500, 17700, -30)) < 300


def test_grey_values_scale_and_contrast_do_not_matter() -> None:
    image = simulated(3, 21000, 20000, 15)
    one = fit_micrograph(image, TITAN, SEARCH).defocus
    other = fit_micrograph((-40 * image + 9000).round().astype(np.uint16), TITAN, SEARCH).defocus
    assert abs(one.mean - other.mean) < 1
    assert abs(one.score - other.score) < 1e-3


def test_transposing_the_micrograph_mirrors_the_angle_at_the_diagonal() -> None:
    image = simulated(4, 21000, 19500, 20, snr=1.0, shape=(1100, 1100))
    one, other = (fit_micrograph(i, TITAN, SEARCH).defocus for i in (image, np.ascontiguousarray(image.T)))
    assert abs(one.mean - other.mean) < 2
    assert abs(astigmatism(one.u, one.v, 90 - one.angle) - astigmatism(other.u, other.v, other.angle)) < 5


# --- what must not be fitted ----------------------------------------------------------------------------------------


def test_noise_is_not_given_a_defocus() -> None:
    scores = []
    for seed in range(8):
        fit = fit_micrograph(simulated(100 + seed, 2e4, 2e4, snr=0.0), TITAN, SEARCH)
        assert fit.reason.startswith("no Thon rings")
        scores.append(significance(fit.defocus.score, 36, 127))
    assert max(scores) < 6.0


def test_defocus_outside_the_search_range_is_not_reported_as_its_end() -> None:
    search = SearchRange(30.0, 5.0, 5000.0, 15000.0, 1000.0)
    assert fit_micrograph(simulated(1, 16500, 16000, snr=2.0), TITAN, search).reason


def test_bad_areas_are_left_out() -> None:
    image = simulated(5, 18500, 17500, 30)
    image[:350, :] = 40 + 15 * np.random.default_rng(0).normal(size=(350, 1240))  # carbon, say
    image[800:830, 600:630] = -60
    fit = fit_micrograph(image, TITAN, SEARCH)
    assert not fit.reason
    assert abs(fit.defocus.mean - 18000) < 150


def test_level_and_deviation_are_those_of_all_columns() -> None:
    image = np.random.default_rng(0).normal(size=(1200, 1240)).astype(np.float32)
    image[:, ::2] = 7.0
    assert np.unique(clipped(image)).size > 1000  # by its even columns alone it is blank


def test_hot_pixels_change_little() -> None:
    image = simulated(6, 18500, 17500, 30)
    hot = image.copy()
    rng = np.random.default_rng(0)
    hot[rng.integers(0, 1200, 60), rng.integers(0, 1240, 60)] = 1e4
    one, other = fit_micrograph(image, TITAN, SEARCH).defocus, fit_micrograph(hot, TITAN, SEARCH).defocus
    assert abs(one.mean - other.mean) < 60


def test_every_row_that_fails_says_why_and_the_others_are_kept() -> None:
    good = simulated(8, 20500, 19500, 30, shape=(700, 720))
    broken = np.full_like(good, np.nan)
    spotted = good.copy()
    spotted[:120, :120] = np.nan  # one of four corners: those tiles are left out
    blank, noise = np.full_like(good, 7.0), simulated(9, 2e4, 2e4, snr=0, shape=(700, 720))
    riddled, hole = good.copy(), good.copy()
    riddled[np.random.default_rng(0).random(good.shape) < 0.05] = np.inf
    hole[350, 360] = np.inf  # lies in every tile, and is filled
    skipped = ("micrograph", [True] * 7 + [False])
    reasons = ("micrograph", np.array([""] * 7 + ["not a micrograph"], dtype=object))
    ds = dataset([good, broken, spotted, blank, noise, riddled, hole, good], usable=skipped, reason=reasons)
    out = estimate_ctf(ds, box=512)
    assert out["usable"].values.tolist() == [True, False, True, False, False, False, True, False]
    reason = [str(r) for r in out["reason"].values]
    assert reason[0] == reason[2] == reason[6] == ""
    assert abs(out["defocus_u"].values[6] - out["defocus_u"].values[0]) < 60
    assert "finite" in reason[1]
    assert "blank" in reason[3]
    assert "no Thon rings" in reason[4]
    assert "clean" in reason[5]
    assert reason[7] == "not a micrograph"
    assert np.isfinite(out["defocus_u"].values).tolist() == out["usable"].values.tolist()
    validate(out, required=("defocus_u", "ctf_score", "power_spectrum", "frequency"))


def test_optics_groups_of_different_pixels_share_one_frequency_axis() -> None:
    fine, coarse = Optics(300.0, 2.7, 0.07, 1.1), Optics(200.0, 1.4, 0.1, 1.7)
    shape = (900, 940)
    images = [
        simulated(20, 16500, 15500, 30, optics=coarse, shape=shape),
        simulated(21, 12200, 11800, 30, optics=fine, shape=shape),
    ]
    ds = dataset(images, fine)
    names = ("voltage", "cs", "amplitude_contrast", "pixel_size")
    groups = {name: ("optics", [getattr(fine, name), getattr(coarse, name)]) for name in names}
    ds = ds.drop_vars(names).assign(groups | {"optics_group": ("micrograph", [1, 0])})
    out = estimate_ctf(ds)
    assert out["usable"].values.all()
    np.testing.assert_allclose(0.5 * (out["defocus_u"] + out["defocus_v"]), [16000, 12000], atol=120)
    s, fit = out["frequency"].values, out["ctf_fit"].values
    assert s[-1] == pytest.approx(0.5 / 1.7, rel=0.01)
    zeros = [s[5:100][np.argmin(row[5:100])] for row in fit]  # the same shells mean the same frequencies in both rows
    for zero, optics, z in zip(zeros, (coarse, fine), (16000.0, 12000.0)):
        phase = optics.aberration(np.array(zero), z) + optics.constant_phase
        assert abs(np.sin(phase)) < 0.2


def test_range_of_one_defocus_still_finds_the_astigmatism() -> None:
    search = SearchRange(30.0, 5.0, 15000.0, 15020.0, 3000.0)
    fit = fit_micrograph(simulated(22, 15510, 14510, 30, snr=2.0), TITAN, search)
    assert abs(astigmatism(fit.defocus.u, fit.defocus.v, fit.defocus.angle) - astigmatism(15510, 14510, 30)) < 200


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"box": 511}, "box even"),
        ({"min_resolution": 4.0}, "max_resolution < min_resolution"),
        ({"min_defocus": 60000.0}, "min_defocus < max_defocus"),
        ({"min_defocus": -100.0}, "0 < min_defocus"),
        ({"astigmatism_limit": -1.0}, "astigmatism_limit"),
        ({"box": 4096}, "tile"),
        ({"box": 64}, "24 samples"),
        ({"max_defocus": float("inf")}, "min_defocus < max_defocus"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_read(options: dict[str, float], text: str) -> None:
    import dask.array as da

    def explode(*_: object) -> np.ndarray:
        raise AssertionError("read")

    ds = dataset([np.zeros((600, 600), np.float32)])
    ds["micrograph"] = (("micrograph", "y", "x"), da.map_blocks(explode, dtype="f4", chunks=((1,), (600,), (600,))))
    with pytest.raises(ParameterError, match=text):
        estimate_ctf(ds, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("amplitude_contrast", 7.0, "a fraction"), ("amplitude_contrast", -0.1, "a fraction"),
        ("cs", float("nan"), "cs"), ("voltage", 0.0, "kV"), ("voltage", 300_000.0, "kV"), ("voltage", np.nan, "kV"),
    ],
)  # fmt: skip
def test_optics_that_no_microscope_has_are_refused(name: str, value: float, text: str) -> None:
    ds = dataset([np.zeros((600, 600), np.float32)])
    ds[name] = ("optics", np.full(ds.sizes["optics"], value))
    with pytest.raises(ParameterError, match=text):
        estimate_ctf(ds)


def test_missing_optics_are_named() -> None:
    with pytest.raises(SchemaError, match="cs"):
        estimate_ctf(dataset([np.zeros((600, 600), np.float32)]).drop_vars("cs"))
    ds = dataset([np.zeros((600, 600), np.float32)], Optics(300.0, 2.7, 0.1, float("nan")))
    with pytest.raises(ParameterError, match="pixel"):
        estimate_ctf(ds)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_spectrum_of_white_noise_is_flat_and_rayleigh() -> None:
    """E|F| of windowed white noise is sqrt(pi/4 sum w^2), everywhere."""
    image = np.random.default_rng(0).normal(size=(1000, 900)).astype(np.float32)
    spectrum = amplitude_spectrum(image, 128)
    window = np.sin(np.pi * (np.arange(128) + 0.5) / 128) ** 2
    expected = np.sqrt(np.pi / 4) * window.sum()
    assert abs(spectrum[8:-8, 4:-4].mean() / expected - 1) < 0.01
    assert spectrum[8:-8, 4:-4].std() / expected < 0.06


def test_polar_bins_keep_radius_and_angle() -> None:
    """Linear shares keep the mean radius exactly; a ramp over angle comes back as the sectors' angles."""
    n = 256
    ky, kx = np.meshgrid(np.fft.fftfreq(n) * n, np.arange(n // 2 + 1), indexing="ij")
    polar, grid = to_polar(np.hypot(kx, ky), sectors=18, radii=n // 2)
    np.testing.assert_allclose(polar[:, 60:126].mean(axis=1), np.arange(60, 126).mean(), atol=0.05)
    angle, _ = to_polar(np.rad2deg(np.arctan2(ky, kx)), sectors=18, radii=n // 2)
    np.testing.assert_allclose(
        angle[:, 60:126].mean(axis=1), grid.angles, atol=0.2
    )  # the cross is cut out of the outermost


def test_equiphase_profile_undoes_astigmatism() -> None:
    """ln A = CTF^2 of an astigmatic CTF averages to the CTF^2 of the mean defocus, with its zeros."""
    n, unit = 512, 1 / (512 * 1.5)
    defocus = Defocus(21500.0, 18500.0, 25.0, 0.0, 1.0)
    ky, kx = np.meshgrid(np.fft.fftfreq(n) * n * unit, np.arange(n // 2 + 1) * unit, indexing="ij")
    rings = {"voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.07}
    spectrum = np.exp(ctf(kx, ky, defocus.u, defocus.v, defocus.angle, **rings) ** 2)
    profile = equiphase_profile(spectrum, defocus, TITAN, tile=n, step=unit, radii=n // 2)
    s = np.arange(n // 2) * unit
    wanted = ctf(s, 0 * s, 20000.0, 20000.0, 0.0, **rings) ** 2
    inside = (s > 0.03) & (s < 0.12)
    assert np.corrcoef(profile[inside], wanted[inside])[0, 1] > 0.98
    circular = to_polar(spectrum, sectors=1, radii=n // 2)[0][0][1:]
    assert np.corrcoef(np.log(circular)[inside[1:]], wanted[inside])[0, 1] < 0.9


def test_fit_resolution_ends_at_the_first_failure_and_needs_low_frequencies() -> None:
    s = np.arange(200) / 600
    quality = np.where(s < 0.1, 0.9, 0.2)
    assert fit_resolution(quality, s) == pytest.approx(1 / s[s < 0.1][-1])
    assert fit_resolution(np.where((s > 0.15) & (s < 0.2), 0.9, 0.2), s) == np.inf
    assert fit_resolution(np.full(200, np.nan), s) == np.inf


def test_splines_take_any_cubic_and_leave_rings() -> None:
    s, weights = np.linspace(1 / 30, 1 / 5, 127), np.linspace(0.5, 1.5, 127)
    q = spline_complement(s, weights)
    cubic = (3 - 50 * s + 200 * s**2 - 700 * s**3) * weights
    assert np.abs(cubic - q @ (q.T @ cubic)).max() < 1e-9
    rings = np.cos(2 * TITAN.aberration(s, 20000.0)) * weights
    assert np.linalg.norm(rings - q @ (q.T @ rings)) > 0.9 * np.linalg.norm(rings)


def test_tiles_cover_the_area_and_outliers_are_left_out() -> None:
    corners = tile_corners((700, 1300), 256)
    assert corners.min() == 0
    assert corners.max(axis=0).tolist() == [700 - 256, 1300 - 256]
    assert good_tiles(np.r_[np.zeros(15), 5.0], np.ones(16)).tolist() == [True] * 15 + [False]
    assert good_tiles(np.full(4, np.nan), np.full(4, np.nan)).sum() == 0
    assert tile_size(512, 0.5) * 0.5 == pytest.approx(512 * 1.4, rel=0.02)
    with pytest.raises(UnusableMicrographError, match="blank"):
        clipped(np.full((8, 8), 3, np.uint8))


# --- pictures -------------------------------------------------------------------------------------------------------


def test_picture_of_a_fit_shows_rings_where_they_are() -> None:
    from cryoflow.display.ctf import plot_ctf, ring_picture

    images = [simulated(11, 18000, 15500, 30, snr=20.0, shape=(700, 720)), np.zeros((700, 720), np.float32)]
    out = estimate_ctf(dataset(images))
    row = out.drop_vars("micrograph").isel(micrograph=0)
    picture = ring_picture(row, highest=0.12)
    n = picture.shape[0]
    left, right = picture[:, : n // 2], picture[::-1, n // 2 + 1 :][:, ::-1]  # point mirror: the same frequencies
    both = np.isfinite(left) & np.isfinite(right)
    both[:, -8:] = False
    assert np.corrcoef(left[both], right[both])[0, 1] > 0.6
    assert np.corrcoef(left[both], right[::-1][both])[0, 1] < 0.5  # the mirrored astigmatism does not fit
    for index in (0, 1):
        axes = plot_ctf(out, index).axes
        assert len(axes) == 2
    with pytest.raises(SchemaError):
        plot_ctf(dataset(images))


# --- real micrographs -----------------------------------------------------------------------------------------------


def real(data: Path) -> tuple[xr.Dataset, list[str]]:
    import mrcfile

    files = sorted((data / "empiar-10146" / "micrographs").glob("*.mrc"))
    return dataset([mrcfile.read(f) for f in files]), [f.stem for f in files]


@pytest.mark.data
def test_apoferritin_micrographs(data: Path) -> None:
    """20 of EMPIAR-10146: one shows no rings and is flagged; the rest agree in other boxes and bands."""
    ds, names = real(data)
    start = time.process_time()
    out = estimate_ctf(ds)
    seconds = (time.process_time() - start) / len(names)
    flagged = [n for n, ok in zip(names, out["usable"].values) if not ok]
    assert flagged == ["May08_06.09.02"]
    mean = 0.5 * (out["defocus_u"] + out["defocus_v"]).values
    good = out["usable"].values
    assert mean[good].min() > 15000
    assert mean[good].max() < 26000
    assert (out["defocus_u"] - out["defocus_v"]).values[good].max() < 1100
    assert out["ctf_resolution"].values[good].max() < 7
    for options in ({"box": 400, "min_resolution": 20.0}, {"max_resolution": 6.0}):
        other = estimate_ctf(ds, **options)  # type: ignore[arg-type]
        again = 0.5 * (other["defocus_u"] + other["defocus_v"]).values
        assert np.abs(again - mean)[good].max() < 100
    assert seconds < 0.7


def classical_fit(image: np.ndarray, optics: Optics, start: tuple[float, float, float]) -> tuple[float, float]:
    """Mean defocus and astigmatism by the method as published, written down independently: spectrum of the whole
    micrograph, binned by cropping its transform, background by a moving average in 2D, correlation with |CTF| over all
    samples from 30 to 5 A, refined from ``start``.
    """
    from scipy.fft import fft2, fftshift, ifft2, ifftshift
    from scipy.ndimage import uniform_filter
    from scipy.optimize import minimize

    box, n = 512, max(image.shape)
    padded = np.zeros((n, n), np.float32)
    padded[: image.shape[0], : image.shape[1]] = image - image.mean(dtype=np.float64)
    middle = slice(n // 2 - box // 2, n // 2 + box // 2)
    binned = ifft2(ifftshift(fftshift(fft2(np.abs(fft2(padded))))[middle, middle])).real
    amplitude, c = fftshift(binned), box // 2
    k = (np.arange(box) - c) / (box * optics.pixel_size)
    sx, sy = np.meshgrid(k, k)
    cross = (np.abs(sx) <= 1.5 * k[c + 1]) | (np.abs(sy) <= 1.5 * k[c + 1])
    amplitude[cross] = np.median(amplitude)
    width = int(box * optics.pixel_size / 30 * np.sqrt(2)) | 1
    amplitude -= uniform_filter(amplitude, width, mode="wrap")
    band = (np.hypot(sx, sy) > 1 / 30) & (np.hypot(sx, sy) < 1 / 5) & ~cross & (sy > 0)
    sx, sy, data = sx[band], sy[band], amplitude[band]

    def cost(p: np.ndarray) -> float:
        a, angle = np.hypot(p[1], p[2]), np.rad2deg(np.arctan2(p[2], p[1])) / 2
        value = np.abs(ctf(
            sx, sy, p[0] + a / 2, p[0] - a / 2, angle, voltage=optics.voltage, cs=optics.cs,
            amplitude_contrast=optics.amplitude_contrast,
        ))  # fmt: skip
        return -float(data @ value / np.sqrt(value @ value))

    a = astigmatism(*start)
    first = np.array([0.5 * (start[0] + start[1]), a.real, a.imag])
    simplex = np.concatenate([first[None], first + np.diag([150.0, 200.0, 200.0])])
    found = minimize(cost, first, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 2, "fatol": 1e-9})
    return float(found.x[0]), float(np.hypot(*found.x[1:]))


@pytest.mark.data
@pytest.mark.parametrize("name", ["May08_03.05.02", "May08_05.57.01"])
def test_the_method_as_published_finds_the_same(data: Path, name: str) -> None:
    import mrcfile

    image = mrcfile.read(data / "empiar-10146" / "micrographs" / f"{name}.mrc")
    ours = fit_micrograph(image, TITAN, SEARCH).defocus
    mean, astig = classical_fit(image, TITAN, (ours.u, ours.v, ours.angle))
    assert abs(mean - ours.mean) < 60
    assert abs(astig - (ours.u - ours.v)) < 120


@pytest.mark.data
def test_micrograph_with_an_extended_header(data: Path) -> None:
    """An independent one-dimensional fit gave about 1.07 um."""
    import mrcfile

    image = mrcfile.read(data / "micrographs" / "fei-extended.mrc")
    fit = fit_micrograph(image, Optics(300.0, 2.7, 0.07, 0.8538), SEARCH)
    assert not fit.reason
    assert abs(fit.defocus.mean - 10700) < 250


def test_device_finds_what_the_host_finds() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("no CUDA device")
    image = simulated(12, 20500, 19500, 30)
    host: CtfFit = fit_micrograph(image, TITAN, SEARCH)
    device = fit_micrograph(cupy.asarray(image), TITAN, SEARCH)
    assert abs(host.defocus.mean - device.defocus.mean) < 2
    assert isinstance(device.spectrum, np.ndarray)
