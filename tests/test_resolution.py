"""FSC and what follows from it, against direct sums, analytic expectations and RELION's printed curves."""


import numpy as np
import pytest

from cryoflow.errors import ParameterError
from cryoflow.kernels import resolution as res
from cryoflow.kernels.fourier import rfft3c, shell_index


def naive_fsc(a, b):
    """The definition over the full spectrum, shell by shell."""
    n = a.shape[0]
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    k = np.fft.fftfreq(n) * n
    radius = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)).astype(int)
    out = []
    for s in range(n // 2 + 1):
        x, y = fa[radius == s], fb[radius == s]
        out.append((x * y.conj()).sum().real / np.sqrt((abs(x) ** 2).sum() * (abs(y) ** 2).sum()))
    return np.array(out)


@pytest.mark.parametrize("n", [12, 15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fsc_is_its_definition(n, dtype):
    rng = np.random.default_rng(n)
    a = rng.standard_normal((n, n, n)).astype(dtype)
    b = (a + rng.standard_normal((n, n, n))).astype(dtype)
    curve = res.fsc(a, b)
    assert curve.shape == (n // 2 + 1,)
    assert curve.dtype == np.float64
    np.testing.assert_allclose(curve, naive_fsc(a, b), atol=2e-6 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(res.fsc(rfft3c(a), rfft3c(b)), curve, atol=1e-12)
    np.testing.assert_allclose(res.fsc(np.stack([a, b]), b)[1], 1, atol=1e-6)


def test_ring_correlation_of_images():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((3, 11, 11))
    np.testing.assert_allclose(res.fsc(image, -image, dims=2), -1)


def test_fsc_follows_the_signal_to_noise_ratio():
    """Equal white signal and noise in both halves: FSC = 1/2 within its standard error."""
    rng = np.random.default_rng(1)
    signal, *noise = rng.standard_normal((3, 48, 48, 48))
    curve = res.fsc(signal + noise[0], signal + noise[1])[8:]
    assert abs(curve.mean() - 0.5) < 0.01
    np.testing.assert_allclose(res.fsc_from_ssnr(res.ssnr(curve)), curve)
    np.testing.assert_allclose(res.fsc_weight(curve) ** 2, res.ssnr(curve) / (1 + res.ssnr(curve)), atol=1e-12)
    # C_ref is the correlation of the mean of the halves with the truth
    truth = res.fsc(signal + 0.5 * (noise[0] + noise[1]), signal)[8:]
    assert abs(res.fsc_weight(curve).mean() - truth.mean()) < 0.01


@pytest.mark.parametrize("bad", ["box", "sides", "nan"])
def test_fsc_refuses(bad):
    a = np.ones((8, 8, 8))
    b = {"box": np.ones((10, 10, 10)), "sides": np.ones((8, 8, 9)), "nan": np.where(a == 1, np.nan, a)}[bad]
    with pytest.raises(ParameterError):
        res.fsc(a, b)


def test_empty_shells_correlate_by_zero():
    constant = np.ones((8, 8, 8))
    np.testing.assert_allclose(res.fsc(constant, constant), [1, 0, 0, 0, 0], atol=1e-12)


def test_resolution_conventions_and_odd_curves():
    curve = np.full(33, 0.02)
    curve[:11] = 1.0
    curve[11] = 0.1
    between = 10 + (1 - 0.143) / 0.9
    assert res.resolution_at(curve, 64, 1.5) == pytest.approx(96 / between)
    assert res.resolution_at(curve, 64, 1.5, convention="whole-shell") == pytest.approx(9.6)
    curve[30] = 0.9  # a later rise counts for nothing
    assert res.resolution_at(curve, 64, 1.5) == pytest.approx(96 / between)
    curve[0] = -1.0  # nor does the mean
    assert res.resolution_at(curve, 64, 1.5) == pytest.approx(96 / between)
    assert res.resolution_at(np.ones(33), 64, 1.5) == 3.0
    assert res.resolution_at(np.ones(33), 65, 1.0) == pytest.approx(65 / 32)
    assert res.resolution_at(np.where(np.arange(33) == 1, 0.1, 1), 64, 1.5) == np.inf
    assert res.resolution_at(np.full(33, np.nan), 64, 1.5) == np.inf
    with pytest.raises(ParameterError):
        res.resolution_at(np.ones(32), 64, 1.5)
    with pytest.raises(ParameterError):
        res.resolution_at(np.ones(33), 64, 0.0)


@pytest.mark.parametrize("n", [16, 17])
def test_phase_randomisation_keeps_low_shells_and_all_amplitudes(n):
    rng = np.random.default_rng(2)
    volume = rng.standard_normal((n, n, n))
    other = res.phase_randomise(volume, 4, rng)
    before, after = rfft3c(volume), rfft3c(other)
    np.testing.assert_allclose(abs(after), abs(before), rtol=1e-6)
    low = shell_index(n, dims=3) < 4
    np.testing.assert_allclose(after[low], before[low], atol=1e-6)
    curve = res.fsc(volume, other)
    np.testing.assert_allclose(curve[:4], 1, atol=1e-6)
    assert abs(curve[4:]).max() < 0.35  # 5 / sqrt(samples of shell 4)
    assert not np.array_equal(other, res.phase_randomise(volume, 4, rng))


def test_correction_is_applied_two_shells_beyond():
    masked, randomised = np.full(8, 0.6), np.full(8, 0.2)
    np.testing.assert_allclose(res.corrected_fsc(masked, randomised, 3), [0.6] * 5 + [0.5] * 3)
    np.testing.assert_allclose(res.corrected_fsc(np.ones(4), np.ones(4), 0), [1, 1, 0, 0])


def test_low_pass_keeps_what_lies_below_and_removes_what_lies_above():
    rng = np.random.default_rng(3)
    volume = rng.standard_normal((32, 32, 32))
    ratio = res.power_spectrum(res.low_pass(volume, 6.4, 2.0)) / res.power_spectrum(volume)  # cut at shell 10
    np.testing.assert_allclose(ratio[:9], 1)
    assert 0.1 < ratio[10] < 0.5
    assert ratio[12:].max() < 1e-20
    assert res.low_pass(volume, 1.0, 2.0) is volume
    assert res.low_pass(volume.astype(np.float32), 6.4, 2.0).dtype == np.float32


def test_map_model_fsc_ignores_scale_and_what_lies_outside_the_mask():
    rng = np.random.default_rng(4)
    model = np.zeros((16, 16, 16))
    model[5:11, 5:11, 5:11] = rng.standard_normal((6, 6, 6))
    inside = model != 0
    dirty = np.where(inside, -2 * model, rng.standard_normal(model.shape))
    np.testing.assert_allclose(res.map_model_fsc(dirty, model, mask=inside), -1)
    assert res.map_model_fsc(dirty, model).min() > -0.9


def test_device_curves_agree_with_the_host():
    cupy = pytest.importorskip("cupy", reason="needs CuPy and a CUDA device")
    if not cupy.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 24, 24, 24)).astype(np.float32)
    np.testing.assert_allclose(res.fsc(cupy.asarray(a), cupy.asarray(a + b)).get(), res.fsc(a, a + b), atol=1e-6)
    np.testing.assert_allclose(res.low_pass(cupy.asarray(a), 4.0, 1.0).get(), res.low_pass(a, 4.0, 1.0), atol=1e-5)
    random = res.phase_randomise(cupy.asarray(a), 3, np.random.default_rng(0)).get()
    np.testing.assert_allclose(random, res.phase_randomise(a, 3, np.random.default_rng(0)), atol=1e-4)
