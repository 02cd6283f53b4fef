"""Postprocessing against RELION's figures on real half-maps, known B-factors, noise and bad input."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cryoflow.errors import FormatError, ParameterError
from cryoflow.kernels.fourier import irfft3c, rfft3c, shell_index
from cryoflow.kernels.masks import soft_sphere
from cryoflow.kernels.resolution import fsc, low_pass, phase_randomise, resolution_at
from cryoflow.postprocess import FSC_CURVES, apply_b_factor, five_curves, log_amplitudes, postprocess, read_mtf

RELION = Path(__file__).parent / "reference" / "relion_postprocess_apoferritin.csv"


@pytest.fixture(scope="module")
def apoferritin(data):
    import mrcfile

    return [mrcfile.read(data / "maps" / f"apoferritin_half{i}_unfil.mrc").copy() for i in (1, 2)]


@pytest.fixture(scope="module")
def relion():
    return np.genfromtxt(RELION, delimiter=",", names=True, comments="#", skip_header=2)


@pytest.fixture(scope="module")
def processed(apoferritin):
    sphere = soft_sphere(128, 85 / 1.5, 5)
    return postprocess(*apoferritin, pixel_size=1.5, mask=sphere, fit_range=(10.0, 0.0))


def synthetic_halves(n=48, pixel=1.5, b=60.0, noise=0.01, seed=0):
    """White random density in a ball with amplitudes exp(-b s^2 / 4), and two noisy copies."""
    rng = np.random.default_rng(seed)
    density = rng.standard_normal((n, n, n)) * soft_sphere(n, n / 5, 2) + 0.3 * soft_sphere(n, n / 5, 2)
    truth = irfft3c(apply_b_factor(rfft3c(density), b, pixel), n)
    return truth, *(truth + noise * rng.standard_normal((2, n, n, n)))


def relion_counting(a, b):
    """FSC as RELION sums it: over the half spectrum without Friedel weights, so that its x = 0 plane counts double."""
    index = shell_index(128, dims=3).ravel()
    fa, fb = rfft3c(a).ravel(), rfft3c(b).ravel()

    def total(values):
        return np.bincount(index, values.astype(float))[:65]

    return total((fa * fb.conj()).real) / np.sqrt(total(abs(fa) ** 2) * total(abs(fb) ** 2))


def test_curves_agree_with_relion(processed, apoferritin, relion):
    """To 0.02 a shell (RELION counts the x = 0 plane twice), and to its printed digits when we count so too."""
    curves = processed.fsc_curves
    for name, column, tolerance in (("none", "unmasked", 0.02), ("tight", "masked", 0.02)):
        np.testing.assert_allclose(curves.sel(curve=name), relion[column], atol=tolerance)
    # other random phases: within 5 standard deviations of their own scatter (0.009 at its largest beyond)
    assert processed.randomised_from == 30
    np.testing.assert_allclose(curves.sel(curve="randomised")[33:], relion["randomised"][33:], atol=0.05)
    np.testing.assert_allclose(curves.sel(curve="corrected")[32:], relion["corrected"][32:], atol=0.05)
    sphere = soft_sphere(128, 85 / 1.5, 5)
    a, b = apoferritin
    np.testing.assert_allclose(relion_counting(a, b), relion["unmasked"], atol=1e-5)
    np.testing.assert_allclose(relion_counting(a * sphere, b * sphere), relion["masked"], atol=1e-5)


def test_resolution_of_the_real_halves(processed):
    corrected = processed.fsc_curves.sel(curve="corrected").values
    assert resolution_at(corrected, 128, 1.5, convention="whole-shell") == pytest.approx(6.4)  # as RELION prints
    assert 6.1 < processed.attrs["resolution"] < 6.3  # 6.2 A by its source
    at = processed.resolution_143.sel(curve=["none", "loose", "spherical"]).values
    assert 6.9 > at[0] > at[1] > at[2]
    assert processed.attrs["warnings"] == []


def test_b_factor_agrees_with_relion(processed, apoferritin, relion, data):
    assert processed.attrs["b_factor"] == pytest.approx(-540.711, rel=0.02)
    assert processed.attrs["guinier_correlation"] < -0.95
    with_mtf = postprocess(
        *apoferritin, pixel_size=1.5, mask=soft_sphere(128, 85 / 1.5, 5), fit_range=(10.0, 0.0),
        mtf=data / "mtf" / "mtf_k2_300kV.star",
    )  # fmt: skip
    assert with_mtf.attrs["b_factor"] == pytest.approx(-506.416, rel=0.02)
    use = slice(3, 30)  # whose weights are far from 0; the transforms' norms differ by a constant
    for ours, column in (("log_amplitude", "log_amplitude"), ("log_amplitude_weighted", "log_amplitude_weighted")):
        difference = with_mtf[ours].values[use] - relion[column][use]
        assert np.ptp(difference) < 0.08


def test_known_b_factor_is_found_and_undone():
    """Noiseless in effect: a map that falls with B = 60 is sharpened by -60 and becomes the density it came from."""
    truth, a, b = synthetic_halves(noise=1e-5)
    ds = postprocess(a, b, pixel_size=1.5, fit_range=(7.0, None), mask=np.ones_like(truth))
    assert ds.attrs["b_factor"] == pytest.approx(-60, abs=4)
    density = log_amplitudes(rfft3c(synthetic_halves(b=0.0)[0]))
    assert np.ptp((ds.log_amplitude_weighted.values - density)[8:22]) > 1
    assert np.ptp((ds.log_amplitude_sharpened.values - density)[8:22]) < 0.1
    plain = postprocess(a, b, pixel_size=1.5, b_factor=0)
    assert plain.attrs["b_factor"] == 0
    np.testing.assert_array_equal(plain["map"], plain.map_sharpened)
    given = postprocess(a, b, pixel_size=1.5, b_factor=-33)
    assert given.attrs["b_factor"] == -33
    ratio = given.log_amplitude_sharpened - given.log_amplitude_weighted
    np.testing.assert_allclose(ratio[2:20], 33 / 4 * given.frequency[2:20] ** 2, rtol=0.05, atol=0.005)


def test_mtf_is_divided_out(tmp_path):
    star = tmp_path / "mtf.star"
    star.write_text("data_\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1.0\n0.25 0.5\n0.5 0.25\n")
    mtf = read_mtf(star, box=48, pixel_size=1.5)
    assert mtf[[0, 12, 24]] == pytest.approx([1, 0.5, 0.25])
    assert read_mtf(star, box=48, pixel_size=1.5, mtf_pixel_size=0.75)[24] == pytest.approx(0.5)
    _, a, b = synthetic_halves()
    plain, divided = (postprocess(a, b, pixel_size=1.5, b_factor=0, mtf=m) for m in (None, star))
    gain = np.exp(divided.log_amplitude_weighted - plain.log_amplitude_weighted)
    np.testing.assert_allclose(gain[1:15], 1 / mtf[1:15], rtol=1e-5)
    np.testing.assert_array_equal(divided.fsc_curves, plain.fsc_curves)
    for text in ("data_\n_rlnMtfValue 1\n", "data_\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.5 0\n"):
        star.write_text(text)
        with pytest.raises(FormatError, match=r"mtf\.star"):
            postprocess(a, b, pixel_size=1.5, mtf=star)


@pytest.mark.parametrize("n", [47, 48])
def test_weighting_brings_the_map_nearer_to_the_truth(n):
    truth, a, b = synthetic_halves(n=n, noise=0.15)
    ds = postprocess(a, b, pixel_size=1.5, b_factor=0)
    assert ds["map"].shape == (n, n, n)
    assert ds["map"].dtype == np.float32

    def error(volume):
        return np.mean((np.asarray(volume) - truth) ** 2)

    assert error(ds["map"]) < 0.7 * error(0.5 * (a + b))


def test_the_five_masks_are_those_described():
    """Against masks made here from the distance to a cube, whose low-passed half maximum is known."""
    n, pixel = 64, 2.0
    rng = np.random.default_rng(0)
    cube = np.zeros((n, n, n))
    cube[26:38, 26:38, 26:38] = 1
    a, b = cube + 0.1 * rng.standard_normal((2, n, n, n))
    five = five_curves(a, b, pixel_size=pixel)
    core = np.argwhere(low_pass(0.5 * (a + b), 15.0, pixel) > 0.5 * low_pass(0.5 * (a + b), 15.0, pixel).max())
    low, high = core.min(0), core.max(0)
    z = np.indices((n, n, n)).reshape(3, -1).T
    row = z[(z[:, 0] == 32) & (z[:, 1] == 32)]
    d = pixel * np.maximum(np.maximum(low - row, row - high), 0)[:, 2]
    expected = np.where(d <= 6, 1, np.where(d >= 12, 0, 0.5 + 0.5 * np.cos(np.pi * (d - 6) / 6)))
    np.testing.assert_allclose(five.tight[32, 32], expected, atol=0.02)
    sphere = soft_sphere(n, 0.85 * 32, 0.15 * 32)
    np.testing.assert_allclose(five.curves["spherical"], fsc(a * sphere, b * sphere), atol=1e-9)
    np.testing.assert_allclose(five.curves["none"], fsc(a, b))
    start = five.randomised_from
    assert five.curves["none"][start] < 0.143 <= five.curves["none"][1:start].min()
    np.testing.assert_array_equal(five.curves["corrected"][: start + 2], five.curves["tight"][: start + 2])
    user = soft_sphere(n, 12, 3)
    with_user = five_curves(a, b, pixel_size=pixel, mask=user)
    np.testing.assert_allclose(with_user.curves["tight"], fsc(a * user, b * user))
    np.testing.assert_array_equal(with_user.curves["loose"], five.curves["loose"])


def test_correction_takes_away_what_a_sharp_mask_brings_in():
    """Signal ends at shell 8 and a mask common to both halves correlates them beyond: the corrected curve does not."""
    rng = np.random.default_rng(5)
    truth, *_ = synthetic_halves(n=48, b=0.0)
    signal = low_pass(truth, 9.0, 1.5)
    noise = rng.standard_normal((2, 48, 48, 48))
    a, b = signal + 0.05 * noise
    a, b = (phase_randomise(h + 4 * signal.std(), 9, rng) for h in (a, b))
    sharp = (rng.random((48, 48, 48)) < 0.05).astype(np.float32)
    five = five_curves(a, b, pixel_size=1.5, mask=sharp)
    beyond = slice(five.randomised_from + 3, None)
    assert five.curves["tight"][beyond].mean() > 0.3
    assert abs(five.curves["corrected"][beyond].mean()) < 0.05


def test_pure_noise_has_no_resolution():
    for seed in range(5):
        a, b = np.random.default_rng(seed).standard_normal((2, 32, 32, 32))
        ds = postprocess(a, b, pixel_size=1.5, seed=seed)
        assert np.isinf(ds.resolution_143).all()
        assert np.isinf(ds.resolution_50).all()
        assert ds.attrs["resolution"] == np.inf
        assert "no signal" in ds.attrs["warnings"][0]
        assert ds.attrs["b_factor"] == 0
        assert np.isfinite(ds.map_sharpened).all()


def test_few_independent_values_are_told_with_a_range_that_holds_the_resolution():
    """Weak halves in a small mask: the curve of one pair strays, the mean of all is what it strays about."""
    truth, *_ = synthetic_halves(n=32, pixel=3.0, b=2000.0)
    mask, found = soft_sphere(32, 6, 3), []
    for seed in range(24):
        noise = np.random.default_rng(seed).standard_normal((2, 32, 32, 32))
        found.append(postprocess(*(truth + 0.15 * noise), pixel_size=3.0, mask=mask, b_factor=0))
    expected = resolution_at(np.mean([ds.fsc for ds in found], axis=0), 32, 3.0)
    ranges = [(ds.attrs["resolution_coarse"], ds.attrs["resolution_fine"]) for ds in found]
    assert 0.5 < np.mean([coarse >= expected >= fine for coarse, fine in ranges]) < 1  # 0.68 of a normal deviate
    assert all(any("scatters" in w for w in ds.attrs["warnings"]) for ds in found)


def test_a_point_group_widens_the_deviation():
    _, a, b = synthetic_halves()
    plain, four = (postprocess(a, b, pixel_size=1.5, symmetry=g, b_factor=0) for g in ("C1", "C4"))
    assert (four.fsc_deviation[1:] > plain.fsc_deviation[1:]).all()
    assert not any("scatters" in w for w in plain.attrs["warnings"])


def test_a_curve_that_never_falls_is_told():
    _, a, b = synthetic_halves(noise=1e-4)
    ds = postprocess(a, b, pixel_size=1.5)
    assert ds.attrs["resolution"] == pytest.approx(3.0)
    assert any("never falls" in w for w in ds.attrs["warnings"])


def test_the_same_seed_gives_the_same_bits_and_identical_halves_are_named():
    _, a, b = synthetic_halves(n=32, noise=0.1)
    xr.testing.assert_identical(postprocess(a, b, pixel_size=1.5), postprocess(a, b, pixel_size=1.5))
    same = postprocess(a, a, pixel_size=1.5)
    assert any("same" in w for w in same.attrs["warnings"])
    assert np.isinf(same.resolution_143).all()
    assert list(same.curve.values) == list(FSC_CURVES)


BAD = {
    "other box": lambda a: {"half2": np.pad(a, 1)},
    "not cubic": lambda a: {"half1": a[:-2], "half2": a[:-2]},
    "NaN": lambda a: {"half2": np.where(a == a.max(), np.nan, a)},
    "empty half": lambda a: {"half1": np.zeros_like(a)},
    "pixel size": lambda a: {"pixel_size": 0.0},  # noqa: ARG005
    "pixel size not finite": lambda a: {"pixel_size": np.nan},  # noqa: ARG005
    "pixel size of the header": lambda a: {"half2": xr.DataArray(a, dims=("z", "y", "x"), attrs={"pixel_size": 1.2})},
    "B-factor": lambda a: {"b_factor": np.nan},  # noqa: ARG005
    "mask of another box": lambda a: {"mask": np.ones((8, 8, 8))},  # noqa: ARG005
    "mask out of range": lambda a: {"mask": 3 * np.ones_like(a)},
    "mask of zeros": lambda a: {"mask": np.zeros_like(a)},
    "mask with NaN": lambda a: {"mask": np.full_like(a, np.nan)},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case):
    _, a, b = synthetic_halves(n=24)
    arguments = {"half1": a, "half2": b, "pixel_size": 1.5} | BAD[case](a)
    with pytest.raises(ParameterError, match="postprocess"):
        postprocess(arguments.pop("half1"), arguments.pop("half2"), **arguments)


def test_map_agrees_with_the_atomic_model(apoferritin, data):
    """The last shell with map-model FSC above 0.5 is at 7.7 A, as the source of the half-maps states."""
    model_to_map = pytest.importorskip("cryoflow.io.model", reason="the model reader is not there").model_to_map

    model = model_to_map(data / "models" / "6z6u.pdb", box=128, pixel_size=1.5)
    curve = fsc(0.5 * (apoferritin[0] + apoferritin[1]), np.asarray(model))
    assert 128 * 1.5 / np.flatnonzero(curve > 0.5)[-1] == pytest.approx(7.68)
