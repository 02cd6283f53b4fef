"""Densities of models: against analytic Gaussians and real maps, with hands and axes that a mirror would break."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.images.mrc import read_map
from cryoflow.io.model import model_centre, model_to_map

ATOM = "ATOM  {n:5d}  {name:<3s} ALA {chain}{n:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00{b:6.2f}          {e:>2s}\n"


def pdb(folder: Path, *positions: tuple[float, float, float], b: float = 30.0, name: str = "CA") -> Path:
    sites = enumerate(positions, 1)
    lines = [ATOM.format(n=i, name=name, chain="A", x=x, y=y, z=z, b=b, e="C") for i, (x, y, z) in sites]
    path = folder / "m.pdb"
    path.write_text("".join(lines))
    return path


def curve(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Fourier shell correlation, written out apart from the package's own."""
    n = a.shape[0]
    k = np.fft.fftfreq(n) * n
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)).astype(int).ravel()
    fa, fb = np.fft.fftn(a).ravel(), np.fft.fftn(b).ravel()
    cross = np.bincount(shell, (fa * fb.conj()).real)
    norm = np.bincount(shell, np.abs(fa) ** 2) * np.bincount(shell, np.abs(fb) ** 2)
    return np.asarray((cross / np.sqrt(norm))[: n // 2])


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("pixel_size", [0.8, 1.3])
def test_one_atom_is_the_tabled_gaussians(tmp_path: Path, box: int, pixel_size: float) -> None:
    rho = model_to_map(pdb(tmp_path, (5.0, -3.0, 2.0)), box=box, pixel_size=pixel_size).values
    a, b = _carbon()
    s = np.fft.fftfreq(box, pixel_size)
    s2 = s[:, None, None] ** 2 + s[None, :, None] ** 2 + s**2
    factor = sum(ai * np.exp(-(bi + 30.0) * s2 / 4) for ai, bi in zip(a, b, strict=True))
    centred = np.fft.ifftshift(rho)
    spectrum = np.fft.fftn(centred) * pixel_size**3
    inside = s2 < (0.9 * 0.5 / pixel_size) ** 2
    np.testing.assert_allclose(spectrum.real[inside], factor[inside], rtol=5e-3, atol=5e-3 * factor.max())
    assert np.abs(spectrum.imag[inside]).max() < 2e-3 * factor.max()


def _carbon() -> tuple[list[float], list[float]]:
    """Electron scattering of neutral carbon, five Gaussians: Peng et al. 1996, table 1."""
    return [0.0893, 0.2563, 0.7570, 1.0487, 0.3575], [0.2465, 1.7100, 6.4094, 18.6113, 50.2523]


def test_axes_and_centre(tmp_path: Path) -> None:
    """Three atoms along +x, +y, +z at different distances land on voxels (z, y, x)."""
    path = pdb(tmp_path, (4.0, 0, 0), (0, 6.0, 0), (0, 0, 9.0))
    rho = model_to_map(path, box=32, pixel_size=1.0, centre=(0.0, 0.0, 0.0)).values
    peak = rho.max()
    for z, y, x in ((0, 0, 4), (0, 6, 0), (9, 0, 0)):
        assert rho[16 + z, 16 + y, 16 + x] > 0.9 * peak
        assert rho[16 - z, 16 - y, 16 - x] < 0.1 * peak
    raw = model_to_map(path, box=32, pixel_size=1.0, centre=False).values
    np.testing.assert_allclose(np.roll(raw, 16, (0, 1, 2)), rho, atol=1e-4 * peak)


def test_haemoglobin_agrees_with_its_map(data: Path) -> None:
    target = read_map(data / "maps" / "emd_3488.mrc").values
    rho = model_to_map(data / "models" / "5ni1_updated.cif", box=100, pixel_size=1.05, centre=False).values
    fsc = curve(rho, target)
    assert fsc[: int(105 / 4.0)].min() > 0.85  # to 4 A; the map's published resolution is 3.2 A
    assert np.corrcoef(rho.ravel(), target.ravel())[0, 1] > 0.65
    for mirrored in (rho[::-1], rho[:, ::-1], rho.transpose(1, 0, 2), rho.transpose(2, 1, 0)):
        assert np.corrcoef(mirrored.ravel(), target.ravel())[0, 1] < 0.2


def test_apoferritin_agrees_with_its_half_maps(data: Path) -> None:
    half = [read_map(data / "maps" / f"apoferritin_half{i}_unfil.mrc").values for i in (1, 2)]
    rho = model_to_map(data / "models" / "6z6u.pdb", box=128, pixel_size=1.5).values
    fsc = curve(rho, (half[0] + half[1]) / 2)
    last = max(shell for shell in range(1, 64) if fsc[shell] > 0.5)
    assert 192 / last <= 7.75  # 7.7 A is what the makers of the maps found
    rotated = np.rot90(rho[1:, 1:, 1:], axes=(1, 2))  # four-fold along z, through the centre n // 2
    assert np.corrcoef(rotated.ravel(), rho[1:, 1:, 1:].ravel())[0, 1] > 0.98


def test_low_pass_and_b_factor(tmp_path: Path) -> None:
    path = pdb(tmp_path, (0, 0, 0), (3, 0, 0))
    sharp = model_to_map(path, box=32, pixel_size=1.0)
    filtered = np.abs(np.fft.fftn(model_to_map(path, box=32, pixel_size=1.0, resolution=4.0)))
    k = np.fft.fftfreq(32) * 32
    shell = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    full = np.abs(np.fft.fftn(sharp))
    assert filtered[shell > 9.01].max() < 1e-4 * full.max()
    np.testing.assert_allclose(filtered[shell < 7], full[shell < 7], atol=1e-4 * full.max())
    blurred = model_to_map(path, box=32, pixel_size=1.0, b_factor=100.0).values
    assert blurred.max() < 0.5 * sharp.values.max()
    assert blurred.sum() == pytest.approx(sharp.values.sum(), rel=1e-3)


def test_missing_residues_do_not_move_the_centre(tmp_path: Path) -> None:
    rows = []
    for chain, sign in (("A", 1), ("B", -1)):
        for n in range(1, 9):
            if chain == "B" and n > 6:
                continue
            rows.append(ATOM.format(n=n, name="CA", chain=chain, x=sign * 3.0 * n, y=sign * 2.0, z=0.0, b=20, e="C"))
        rows.append("TER\n")
    (tmp_path / "m.pdb").write_text("".join(rows))
    np.testing.assert_allclose(model_centre(tmp_path / "m.pdb"), (0, 0, 0), atol=1e-6)


def test_wrong_use_is_refused_first(tmp_path: Path) -> None:
    path = pdb(tmp_path, (0, 0, 0), (90, 0, 0))
    with pytest.raises(ParameterError, match="Take a box of at least"):
        model_to_map(path, box=64, pixel_size=1.0)
    with pytest.raises(ParameterError, match="pixel size above 0"):
        model_to_map(path, box=64, pixel_size=0.0)
    with pytest.raises(ParameterError, match="at least 2 pixels"):
        model_to_map(path, box=200, pixel_size=2.0, resolution=3.0)
    with pytest.raises(ParameterError, match="assembly"):
        model_to_map(path, box=200, pixel_size=2.0, assembly="7")
    with pytest.raises(FormatError, match="no such file"):
        model_to_map(tmp_path / "none.pdb", box=64, pixel_size=1.0)
    (tmp_path / "bad.cif").write_text("this is not\na model\n")
    with pytest.raises(FormatError, match=r"bad\.cif"):
        model_to_map(tmp_path / "bad.cif", box=64, pixel_size=1.0)
