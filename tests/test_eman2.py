"""EMAN2's lists: rotations, shifts, CTF, half-sets, attributes, and damaged rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fuzz_harness import fuzz, on_file

from cryoflow.errors import FormatError
from cryoflow.io.programs.eman2 import eman_to_matrix, matrix_to_eman, read_eman_list, write_eman_list
from cryoflow.io.star.relion import text
from cryoflow.kernels.rotation import angular_distance, euler_to_matrix, random_rotations

MATRIX = (
    "[0.994593,-0.0657139,-0.0804149,1.01098,-0.0332251,-0.934989,0.353117,-3.19245,"
    "-0.0983923,-0.348536,-0.932117,5.92621]"
)
CTF = {
    "__class__": "EMAN2Ctf", "defocus": 1.25, "dfdiff": 0.1, "dfang": 100.0, "bfactor": 150.0, "ampcont": 10.0,
    "voltage": 300.0, "cs": 2.7, "apix": 1.5, "dsbg": 0.01, "background": [1.0, 0.5], "snr": [2.0],
}  # fmt: skip


def row(index: int, file: str, **attributes: object) -> str:
    return f"{index}\t{file}\t{json.dumps(attributes)}\n"


def listed(path: Path, *rows: str) -> Path:
    width = max(map(len, rows))
    path.write_text("#LSX\n# comment\n# " + f"{width}\n" + "".join(r[:-1].ljust(width - 1) + "\n" for r in rows))
    return path


def passive(axis: str, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def test_rotation_is_the_documented_product() -> None:
    """Rz(phi) Rx(alt) Rz(az), as EMAN2's documentation spells out the three matrices."""
    rng = np.random.default_rng(5)
    for az, alt, phi in rng.uniform((0, 0, 0), (360, 180, 360), (50, 3)):
        expected = passive("z", phi) @ passive("x", alt) @ passive("z", az)
        np.testing.assert_allclose(eman_to_matrix(az, alt, phi), expected, atol=1e-12)
        np.testing.assert_allclose(matrix_to_eman(expected), (az, alt, phi), atol=1e-7)


def test_spider_angles_of_a_transform_are_relions(tmp_path: Path) -> None:
    """What EMAN2's converter from RELION writes: spider angles (psi, tilt, rot), minus the origin in pixels."""
    lst = tmp_path / "a.lst"
    pose = {"type": "spider", "phi": 30.0, "theta": 40.0, "psi": 50.0, "tx": -2.0, "ty": 3.0}
    listed(lst, row(4, "p.hdf", **{"xform.projection": pose}))
    ds = read_eman_list(lst, images=False, pixel_size=1.5)
    np.testing.assert_allclose(ds.rotation[0], euler_to_matrix(30.0, 40.0, 50.0), atol=1e-12)
    assert ds["shift"].values.tolist() == [[3.0, -4.5]]
    assert ds.image_name.item() == "000005@p.hdf"


def test_matrices_of_six_digits_become_rotations(tmp_path: Path) -> None:
    pose = {"__class__": "Transform", "matrix": MATRIX}
    listed(tmp_path / "a.lst", row(0, "p.hdf", **{"xform.projection": pose, "score": -0.7}))
    ds = read_eman_list(tmp_path / "a.lst", images=False, pixel_size=2.0)
    numbers = np.array(json.loads(MATRIX)).reshape(3, 4)
    np.testing.assert_allclose(ds.rotation[0], numbers[:, :3], atol=2e-6)
    np.testing.assert_allclose(ds.rotation.values[0] @ ds.rotation.values[0].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(ds["shift"][0], -2 * numbers[:2, 3], atol=1e-9)
    assert ds.x_score.item() == -0.7


def test_ctf_and_half_sets(tmp_path: Path) -> None:
    listed(tmp_path / "a.lst", row(0, "p.hdf", ctf=CTF, **{"class": 0}), row(1, "p.hdf", ctf=CTF, **{"class": 1}))
    ds = read_eman_list(tmp_path / "a.lst", images=False)
    assert (ds.pixel_size.item(), ds.voltage.item(), ds.cs.item(), ds.amplitude_contrast.item()) == (1.5, 300, 2.7, 0.1)
    np.testing.assert_allclose([ds.defocus_u[0], ds.defocus_v[0], ds.defocus_angle[0]], [13000, 12000, -80])
    assert ds.half.values.tolist() == [1, 2]
    write_eman_list(ds, tmp_path / "b.lst")
    rows = [line.split("\t") for line in (tmp_path / "b.lst").read_text().splitlines()[3:]]
    back = json.loads(rows[1][2])
    assert back["class"] == 1
    assert back["ctf"]["background"] == [1.0, 0.5]  # what the schema has no word for
    assert back["ctf"]["defocus"] == pytest.approx(1.25)


def test_lines_of_a_list_have_one_length(tmp_path: Path) -> None:
    listed(tmp_path / "a.lst", row(0, "p.hdf", a=1), row(12345, "much/longer/name.hdf", a=2, more_of_it=[1, 2]))
    write_eman_list(read_eman_list(tmp_path / "a.lst", images=False, pixel_size=1.0), tmp_path / "b.lst")
    lines = (tmp_path / "b.lst").read_bytes().splitlines(keepends=True)
    width = int(lines[2][1:])
    assert {len(line) for line in lines[3:]} == {width}
    assert json.loads(lines[4].split(b"\t")[2]) == {"a": 2, "more_of_it": [1, 2]}
    assert json.loads(lines[3].split(b"\t")[2]) == {"a": 1}


def test_lists_without_attributes_and_with_comments(tmp_path: Path) -> None:
    (tmp_path / "a.lst").write_text("#LST\n0 start.hdf\n3\tother.hdf\tkept words\n")
    ds = read_eman_list(tmp_path / "a.lst", images=False, pixel_size=1.0)
    assert ds.image_name.values.tolist() == ["000001@start.hdf", "000004@other.hdf"]
    assert "rotation" not in ds


def test_images_come_with_a_list(tmp_path: Path, data: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "particles").mkdir()
    (tmp_path / "particles/p.mrcs").write_bytes((data / "particles/relion31.mrcs").read_bytes())
    listed(tmp_path / "sets/a.lst", row(2, "particles/p.mrcs"), row(0, "particles/p.mrcs"))
    ds = read_eman_list(tmp_path / "sets/a.lst", pixel_size=1.0, trust_given=True)
    write_eman_list(ds, tmp_path / "out.lst", images=tmp_path / "out.mrcs")
    back = read_eman_list(tmp_path / "out.lst", pixel_size=1.0, allow_outside=True)
    np.testing.assert_array_equal(back.image, ds.image)
    listed(tmp_path / "sets/b.lst", row(0, "../../elsewhere.mrcs"))
    with pytest.raises(FormatError):
        read_eman_list(tmp_path / "sets/b.lst", pixel_size=1.0)


def test_round_trips_of_random_sets(tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    for _ in range(150):
        n = int(rng.integers(1, 20))
        u = rng.uniform(5e3, 4e4, n)
        ds = xr.Dataset(
            {
                "rotation": (("particle", "row", "col"), random_rotations(n, rng)),
                "shift": (("particle", "xy"), rng.normal(0, 20, (n, 2))),
                "defocus_u": ("particle", u),
                "defocus_v": ("particle", u - rng.uniform(0, 900, n)),
                "defocus_angle": ("particle", rng.uniform(-89, 90, n)),
                "half": ("particle", rng.integers(1, 3, n)),
                "image_name": ("particle", text(f"{i + 1:06d}@a b/ß{i % 2}.hdf" for i in rng.permutation(n))),
                "x_score": ("particle", rng.normal(size=n)),
                "x_number": ("particle", rng.integers(-9, 9, n)),
                "x_words": ("particle", text(f"word {i}" for i in range(n))),
                "optics_group": ("particle", np.zeros(n, np.int32)),
                "pixel_size": ("optics", [round(rng.uniform(0.5, 3), 4)]),
                "voltage": ("optics", [300.0]),
                "cs": ("optics", [2.7]),
                "amplitude_contrast": ("optics", [0.07]),
            }
        )
        write_eman_list(ds, tmp_path / "a.lst")
        back = read_eman_list(tmp_path / "a.lst", images=False)
        assert angular_distance(back.rotation.values, ds.rotation.values).max() < 1e-5
        np.testing.assert_allclose(back["shift"], ds["shift"], atol=1e-6)
        for name in ("defocus_u", "defocus_v", "defocus_angle"):
            np.testing.assert_allclose(back[name], ds[name], atol=1e-4)
        for name in ("half", "image_name", "x_score", "x_number", "pixel_size", "amplitude_contrast"):
            assert back[name].values.tolist() == ds[name].values.tolist()
        write_eman_list(back, tmp_path / "b.lst")
        assert (tmp_path / "a.lst").read_bytes() == (tmp_path / "b.lst").read_bytes()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("0\ta.hdf\n", "#LST"),
        ("#LST\n", "at least one row"),
        ("#LST\nx\ta.hdf\n", "line 2"),
        ("#LST\n0\ta.hdf\t{broken\n", "line 2.*JSON"),
        ('#LST\n0\ta.hdf\t{"xform.projection": {"matrix": [1, 2]}}\n', "12 numbers"),
        ('#LST\n0\ta.hdf\t{"xform.projection": {"matrix": "[0,0,0,0,0,0,0,0,0,0,0,0]"}}\n', "a rotation"),
        ('#LST\n0\ta.hdf\t{"xform.projection": {"type": "imagic", "alpha": 1}}\n', "eman or spider"),
        ('#LST\n0\ta.hdf\t{"score": NaN}\n', "JSON"),
        ("#LST\n0\ta.hdf\t" + '{"a":' * 100_000 + "\n", "JSON"),
        ("#LST\n99999999999\ta.hdf\n", "2\\^31"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "bad.lst").write_text(content)
    with pytest.raises(FormatError, match=told) as caught:
        read_eman_list(tmp_path / "bad.lst", images=False, pixel_size=1.0)
    assert "bad.lst" in str(caught.value)


def fuzz_lists(cases: int, folder: Path) -> None:
    pose = {"xform.projection": {"__class__": "Transform", "matrix": MATRIX}, "class": 0, "score": 0.5}
    seed = "#LSX\n# c\n# 9\n" + row(0, "a.hdf", **pose, ctf=CTF) + row(1, "b.hdf", **pose, ctf=CTF)
    target = on_file(lambda p: read_eman_list(p, images=False, pixel_size=1.5), ".lst", folder)
    words = [b"{", b"}", b'"ctf":', b"null", b"true", b"1e999", b"[[["]
    report = fuzz(target, [seed.encode()], cases, seed=4, words=words, cover=["io/programs/eman2"])
    assert report.accepted
    assert report.refused


def test_fuzz(tmp_path: Path) -> None:
    fuzz_lists(300, tmp_path)


@pytest.mark.slow
def test_fuzz_long(tmp_path: Path) -> None:
    fuzz_lists(10_000, tmp_path)
