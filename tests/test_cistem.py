"""cisTEM's particle parameters: text and binary, units, optics groups, damaged files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
import xarray as xr
from fuzz_harness import fuzz, on_file

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io import read_particles, write_particles
from cryoflow.io.programs.cistem import read_cistem, write_cistem
from cryoflow.io.star.relion import text
from cryoflow.kernels.rotation import angular_distance, euler_to_matrix, random_rotations

LABELS = (
    "PositionInStack", "AnglePsi", "AngleTheta", "AnglePhi", "XShift", "YShift", "Defocus1", "Defocus2",
    "DefocusAngle", "PhaseShift", "ImageActivity", "Occupancy", "LogP", "Sigma", "Score", "PixelSize",
    "MicroscopeVoltagekV", "MicroscopeCsMM", "AmplitudeContrast", "BeamTiltX", "BeamTiltY", "AssignedSubset",
    "StackFilename", "OriginalImageFilename",
)  # fmt: skip
ROWS = """\
       1  275.00   60.00  350.00     -3.00      4.50  12000.0  11500.0   15.00    1.57    1  100.00     -1234    10.0000   12.50  1.50000  300.00    2.70  0.0700   0.100  -0.200        1 'stack.mrc' 'mic 1.mrc'
       2   10.00   20.00   30.00      1.25     -2.00  11000.0  11800.0   80.00    0.00    0   50.00      -999     9.0000    1.25  1.50000  300.00    2.70  0.0700   0.000   0.000        2 'stack.mrc' 'mic 2.mrc'
"""  # noqa: E501


def star_text() -> str:
    labels = "".join(f"_cisTEM{label} #{i}\n" for i, label in enumerate(LABELS, start=1))
    return f"# Written by cisTEM Version 2.0\n \ndata_\n \nloop_\n{labels}{ROWS}"


def binary(columns: list[tuple[int, int, str, list[float]]], extra: bytes = b"") -> bytes:
    """A binary file from (code, type, struct letter, values), written by the description of the format alone."""
    rows = len(columns[0][3])
    raw = struct.pack("<ii", len(columns), rows)
    raw += b"".join(struct.pack("<qB", code, kind) for code, kind, _, _ in columns)
    for i in range(rows):
        raw += b"".join(struct.pack("<" + letter, values[i]) for _, _, letter, values in columns)
    return raw + extra


BINARY: list[tuple[int, int, str, list[float]]] = [
    (1, 9, "I", [1, 2, 7]),
    (4, 3, "f", [275.0, 10.0, 0.0]),
    (4194304, 3, "f", [60.0, 20.0, 0.0]),
    (8388608, 3, "f", [350.0, 30.0, 0.0]),
    (8, 3, "f", [-3.0, 1.25, 0.0]),
    (16, 3, "f", [4.5, -2.0, 0.0]),
    (16384, 3, "f", [1.5, 1.5, 1.5]),
    (4294967296, 2, "i", [1, 2, 1]),
]


def random_set(rng: np.random.Generator, n: int) -> xr.Dataset:
    u = rng.uniform(5e3, 4e4, n)
    groups = int(rng.integers(1, 4))
    return xr.Dataset(
        {
            "rotation": (("particle", "row", "col"), random_rotations(n, rng)),
            "shift": (("particle", "xy"), rng.normal(0, 20, (n, 2))),
            "defocus_u": ("particle", u),
            "defocus_v": ("particle", u - rng.uniform(0, 900, n)),
            "defocus_angle": ("particle", rng.uniform(-90, 90, n)),
            "phase_shift": ("particle", rng.uniform(0, 180, n)),
            "half": ("particle", rng.integers(1, 3, n)),
            "coordinate": (("particle", "xy"), rng.uniform(0, 4000, (n, 2))),
            "micrograph_name": ("particle", text(f"mic {i % 3}.mrc" for i in range(n))),
            "image_name": ("particle", text(f"{i + 1:06d}@s.mrc" for i in rng.permutation(n))),
            "optics_group": ("particle", rng.integers(0, groups, n).astype(np.int32)),
            "pixel_size": ("optics", np.full(groups, round(rng.uniform(0.5, 3), 4))),
            "voltage": ("optics", np.full(groups, 300.0)),
            "cs": ("optics", np.full(groups, 2.7)),
            "amplitude_contrast": ("optics", np.full(groups, 0.1)),
            "beam_tilt": (("optics", "xy"), rng.normal(0, 1, (groups, 2)).round(3)),
        }
    )


def test_units_and_signs(tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text(star_text())
    ds = read_cistem(tmp_path / "p.star", images=False)
    np.testing.assert_allclose(ds.rotation[0], euler_to_matrix(350.0, 60.0, 275.0), atol=1e-12)
    assert ds["shift"].values.tolist() == [[3.0, -4.5], [-1.25, 2.0]]
    assert ds.phase_shift.values[0] == pytest.approx(np.rad2deg(1.57))
    assert (ds.defocus_u[1], ds.defocus_v[1], ds.defocus_angle[1]) == (11800, 11000, -10)
    assert ds.half.values.tolist() == [1, 2]
    assert ds.beam_tilt.values.tolist() == [[0.1, -0.2], [0, 0]]
    assert ds.optics_group.values.tolist() == [0, 1]
    assert ds.image_name.values.tolist() == ["000001@stack.mrc", "000002@stack.mrc"]
    assert ds.micrograph_name.values.tolist() == ["mic 1.mrc", "mic 2.mrc"]
    assert ds.x_cisTEMLogP.values.tolist() == [-1234, -999]


def test_a_source_returns_with_its_columns_in_order(tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text(star_text())
    write_cistem(read_cistem(tmp_path / "p.star", images=False), tmp_path / "back.star")
    lines = [line for line in (tmp_path / "back.star").read_text().splitlines() if line.startswith("_")]
    assert [line.split()[0] for line in lines] == [f"_cisTEM{label}" for label in LABELS]
    first = (tmp_path / "back.star").read_text().splitlines()[-2]
    assert "'stack.mrc' 'mic 1.mrc'" in first
    again = read_cistem(tmp_path / "back.star", images=False)
    np.testing.assert_allclose(again.phase_shift, [np.rad2deg(1.57), 0], atol=1e-4)


def test_the_binary_file_as_described(tmp_path: Path) -> None:
    (tmp_path / "p.cistem").write_bytes(binary(BINARY))
    ds = read_cistem(tmp_path / "p.cistem")
    np.testing.assert_allclose(ds.rotation[0], euler_to_matrix(350.0, 60.0, 275.0), atol=1e-12)
    assert ds["shift"].values.tolist() == [[3.0, -4.5], [-1.25, 2.0], [0.0, 0.0]]
    assert ds.half.values.tolist() == [1, 2, 1]
    assert ds.x_cisTEMPositionInStack.values.tolist() == [1, 2, 7]
    write_cistem(ds, tmp_path / "back.cistem")
    assert (tmp_path / "back.cistem").read_bytes() == (tmp_path / "p.cistem").read_bytes()


def test_unknown_columns_of_binary_files_return(tmp_path: Path) -> None:
    (tmp_path / "p.cistem").write_bytes(binary([*BINARY, (1 << 40, 3, "f", [0.5, 1.5, 2.5])]))
    ds = read_cistem(tmp_path / "p.cistem")
    assert ds[f"x_cisTEMCode{1 << 40}"].values.tolist() == [0.5, 1.5, 2.5]
    write_cistem(ds, tmp_path / "back.cistem")
    assert (tmp_path / "back.cistem").read_bytes() == (tmp_path / "p.cistem").read_bytes()


def test_another_reader_of_star_files_agrees(tmp_path: Path) -> None:
    ds = random_set(np.random.default_rng(5), 40)
    write_cistem(ds, tmp_path / "a.star")
    table = starfile.read(tmp_path / "a.star")
    assert isinstance(table, pd.DataFrame)
    np.testing.assert_allclose(table["cisTEMXShift"], -ds["shift"][:, 0], atol=1e-6)
    np.testing.assert_allclose(table["cisTEMPhaseShift"], np.deg2rad(ds.phase_shift), atol=1e-6)
    assert table["cisTEMOriginalImageFilename"].str.strip("'").tolist() == ds.micrograph_name.values.tolist()


@pytest.mark.parametrize("suffix", ["star", "cistem"])
def test_round_trips_of_random_sets(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(11)
    single = suffix == "cistem"
    for _ in range(100):
        ds = random_set(rng, int(rng.integers(1, 25)))
        write_cistem(ds, tmp_path / f"a.{suffix}")
        back = read_cistem(tmp_path / f"a.{suffix}", images=False)
        assert angular_distance(back.rotation.values, ds.rotation.values).max() < (1e-4 if single else 5e-6)
        np.testing.assert_allclose(back["shift"], ds["shift"], atol=1e-5)
        for name, limit in (("defocus_u", 0.01), ("defocus_v", 0.01), ("phase_shift", 1e-4), ("coordinate", 2e-3)):
            np.testing.assert_allclose(back[name], ds[name], atol=limit)
        apart = np.abs((back.defocus_angle - ds.defocus_angle + 90) % 180 - 90)
        assert apart.max() < 1e-4
        for name in ("half", "micrograph_name", "image_name"):
            assert back[name].values.tolist() == ds[name].values.tolist()
        mine, theirs = (d.beam_tilt.values[d.optics_group.values] for d in (ds, back))
        np.testing.assert_allclose(theirs, mine, atol=1e-6)


def test_from_relion_and_back(data: Path, tmp_path: Path) -> None:
    """Poses, shifts and CTF of a real refinement go through cisTEM's files unchanged."""
    star = data / "metadata/betagal_refine3d/run_it016_data.star"
    ds = read_particles(star, images=False)
    write_cistem(ds, tmp_path / "p.star")
    back = read_cistem(tmp_path / "p.star", images=False)
    assert angular_distance(back.rotation.values, ds.rotation.values).max() < 1e-4
    np.testing.assert_allclose(back["shift"], ds["shift"], atol=1e-4)
    np.testing.assert_allclose(back.defocus_u, ds.defocus_u, atol=0.01)
    write_particles(back, tmp_path / "again.star")
    again = read_particles(tmp_path / "again.star", images=False)
    assert angular_distance(again.rotation.values, ds.rotation.values).max() < 1e-4
    places = [[(int(n.split("@")[0]), n.split("@")[1]) for n in d.image_name.values.tolist()] for d in (again, ds)]
    assert places[0] == places[1]


def test_images_are_attached(tmp_path: Path, data: Path) -> None:
    stack = data / "particles/parts.stk"
    (tmp_path / "p.cistem").write_bytes(binary(BINARY))
    ds = read_cistem(tmp_path / "p.cistem", stack=stack, trust_given=True)
    assert ds.image.shape == (3, 128, 128)
    write_cistem(ds, tmp_path / "o.star", images=tmp_path / "o.mrc")
    back = read_cistem(tmp_path / "o.star", allow_outside=True)
    np.testing.assert_array_equal(back.image, ds.image)
    with pytest.raises(FormatError):  # an absolute name leads outside unless asked for
        read_cistem(tmp_path / "o.star", root=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\1\0", "8 bytes"),
        (struct.pack("<ii", 300, 1), "columns"),
        (struct.pack("<ii", -1, 1), "columns"),
        (binary(BINARY)[:-1], "truncated"),
        (binary(BINARY, b"x"), "bytes"),
        (struct.pack("<ii", 1, 1 << 30) + struct.pack("<qB", 1, 9), "bytes"),
        (struct.pack("<ii", 1, 1) + struct.pack("<qB", 1, 77) + b"abcd", "type 77"),
        (struct.pack("<ii", 1, 1) + struct.pack("<qB", 1 << 24, 8) + struct.pack("<i", 900), "inside the file"),
        (binary([(4, 3, "f", [1.0])]), "pixel size"),
    ],
)
def test_damaged_binary_files_are_named(tmp_path: Path, raw: bytes, told: str) -> None:
    (tmp_path / "bad.cistem").write_bytes(raw)
    with pytest.raises(FormatError, match=told) as caught:
        read_cistem(tmp_path / "bad.cistem")
    assert "bad.cistem" in str(caught.value)


def test_text_that_is_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text(star_text().replace("  60.00", "  sixty"))
    with pytest.raises(FormatError, match=r"row 1.*AngleTheta"):
        read_cistem(tmp_path / "p.star", images=False)


def fuzz_cistem(cases: int, folder: Path) -> None:
    strings = struct.pack("<ii", 2, 2) + struct.pack("<qBqB", 16384, 3, 1 << 24, 8)
    strings += (struct.pack("<fi", 1.5, 5) + b"a.mrc") * 2
    target = on_file(lambda p: read_cistem(p, images=False), ".cistem", folder)
    report = fuzz(target, [binary(BINARY), strings], cases, seed=2, cover=["io/programs/cistem"])
    assert report.accepted
    assert report.refused
    target = on_file(lambda p: read_cistem(p, images=False), ".star", folder)
    assert fuzz(target, [star_text().encode()], cases, seed=3, words=[b"'", b"loop_", b"_cisTEM"]).accepted


def test_fuzz(tmp_path: Path) -> None:
    fuzz_cistem(200, tmp_path)


@pytest.mark.slow
def test_fuzz_long(tmp_path: Path) -> None:
    fuzz_cistem(10_000, tmp_path)


def positions(x: float, y: float, pixel: float) -> str:
    labels = ("PositionInStack", "OriginalXPosition", "OriginalYPosition", "PixelSize", "OriginalImageFilename")
    head = "data_\n\nloop_\n" + "".join(f"_cisTEM{label} #{i}\n" for i, label in enumerate(labels, 1))
    return head + f"1 {x} {y} {pixel} 'mic.mrc'\n"


def test_a_position_is_the_pixel_from_zero_times_the_pixel_size(tmp_path: Path) -> None:
    """As cisTEM writes a peak of template matching: the pixel of the largest value, from 0, times the pixel size."""
    micrograph, star = np.random.default_rng(0).normal(size=(40, 60)), tmp_path / "p.star"
    micrograph[33, 7] = 20.0
    row, column = np.unravel_index(micrograph.argmax(), micrograph.shape)
    star.write_text(positions(column * 1.35, row * 1.35, 1.35))
    x, y = read_cistem(star).coordinate.values[0]
    assert micrograph[round(y), round(x)] == 20.0
    np.testing.assert_allclose([x, y], [7, 33], rtol=1e-12)
    # a calibrated pixel size does not move the particle in its micrograph
    np.testing.assert_allclose(read_cistem(star, pixel_size=1.32).coordinate, [[7, 33]], rtol=1e-12)
    # particles binned twice
    star.write_text(positions(column * 1.35, row * 1.35, 2.7))
    binned = read_cistem(star, micrograph_pixel_size=1.35)
    np.testing.assert_allclose(binned.coordinate, [[7, 33]], rtol=1e-12)
    write_cistem(binned, tmp_path / "q.star")
    table = starfile.read(tmp_path / "q.star")
    np.testing.assert_allclose(table[["cisTEMOriginalXPosition", "cisTEMOriginalYPosition"]], [[9.45, 44.55]])
    with pytest.raises(ParameterError, match="micrograph_pixel_size above 0"):
        read_cistem(star, micrograph_pixel_size=0.0)


def test_positions_of_relions_binned_particles(tmp_path: Path) -> None:
    head = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnMicrographPixelSize\n1 3.0 1.5\n\n"
    labels = "data_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n_rlnCoordinateX\n_rlnCoordinateY\n"
    (tmp_path / "p.star").write_text(head + labels + "1@p.mrcs 1 100 200\n")
    write_cistem(read_particles(tmp_path / "p.star", images=False), tmp_path / "q.star")
    back = read_cistem(tmp_path / "q.star", images=False, micrograph_pixel_size=1.5)
    np.testing.assert_allclose(back.coordinate, [[100, 200]])
    np.testing.assert_allclose(starfile.read(tmp_path / "q.star")["cisTEMOriginalXPosition"], 150)
