"""RELION -> Dataset -> RELION, also through a store and a selection: what comes back equals what came in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.particles import read_particles, write_particles
from cryoflow.io.query import select
from cryoflow.io.star.star import parse_star, read_star, write_star
from cryoflow.io.stores.store import open_store, save
from cryoflow.kernels.rotation import angular_distance, euler_to_matrix

OPTIONS: dict[str, Any] = {"images": False, "mixed_pixel_sizes": True}
TOLERANCE = {"rlnAngle": 1e-4, "rlnOrigin": 1e-4, "rlnDefocus": 0.01, "rlnCoordinate": 1e-4, "rlnBeamTilt": 1e-6}


def rows_of(blocks: dict[str, pd.DataFrame]) -> str:
    return next(n for n, b in blocks.items() if "rlnImageName" in b)


def same_tables(first: pd.DataFrame, again: pd.DataFrame, where: str, *, extra: bool = False) -> None:
    """Every column of ``first`` is in ``again``, in order: numbers within the tolerances, the rest exact."""
    kept = [c for c in again.columns if c in first.columns]
    assert kept == list(first.columns), where
    if not extra:
        assert len(again.columns) == len(first.columns), (where, set(again.columns) - set(first.columns))
    for label in first:
        a, b = first[label], again[label]
        limit = next((v for k, v in TOLERANCE.items() if label.startswith(k)), 1e-6)
        if a.dtype.kind == "f" or b.dtype.kind == "f":
            np.testing.assert_allclose(b.astype(float), a.astype(float), rtol=5.1e-7, atol=limit, err_msg=label)
        else:
            assert a.tolist() == b.tolist(), (where, label)


def real_files(data: Path) -> list[Path]:
    files = [*(data / "particles").glob("*.star"), *(data / "metadata").rglob("*.star")]
    return sorted(f for f in files if "rlnImageName" in f.read_text()[:20000])


def test_every_real_file_returns_as_it_was(data: Path, tmp_path: Path) -> None:
    files = real_files(data)
    assert len(files) >= 8
    for path in files:
        before = read_star(path)
        given = {"pixel_size": 1.0} if not {"rlnImagePixelSize", "rlnDetectorPixelSize"} & set().union(
            *(b.columns for b in before.values())) else {}  # fmt: skip
        ds = read_particles(path, **OPTIONS, **given)
        save(ds, tmp_path / f"{path.stem}.zarr", function="test", parameters={})
        stored = open_store(tmp_path / f"{path.stem}.zarr")
        for form, state in (("direct", ds), ("store", stored), ("select", select(stored, "defocus_u > 0"))):
            write_particles(state, tmp_path / "out.star", version="source")
            after = read_star(tmp_path / "out.star")
            assert list(after) == list(before), path
            for name in before:
                same_tables(before[name], after[name], f"{path.name} {name} {form}", extra=bool(given))
        write_particles(stored, tmp_path / "31.star")  # in the form of 3.1, nothing is lost either
        again = read_particles(tmp_path / "31.star", **OPTIONS)
        for name, variable in ds.variables.items():
            if name == "image_name" or variable.dtype.kind in "TUOiu":
                assert [str(v) for v in variable.values] == [str(v) for v in again[name].values], name
            else:
                np.testing.assert_allclose(again[name], variable, rtol=1e-6, atol=1e-6, err_msg=str(name))


def test_a_selection_through_text_and_halves_keeps_the_rest(data: Path, tmp_path: Path) -> None:
    ds = read_particles(data / "particles" / "relion31.6opticsgroups.star", **OPTIONS)
    assert ds.sizes["optics"] == 6
    part = select(ds, "half == 1")
    write_particles(part, tmp_path / "half.star")
    before, after = (read_star(p) for p in (data / "particles" / "relion31.6opticsgroups.star", tmp_path / "half.star"))
    same_tables(before["optics"], after["optics"], "optics groups without particles stay")
    kept = before["particles"][before["particles"].rlnRandomSubset == 1].reset_index(drop=True)
    same_tables(kept, after["particles"], "half")


HEAD = """# made by hand
data_general
_rlnTomoSubTomosAre2DStacks 1
_rlnRemark "two words"

data_optics
loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnVoltage
_rlnImagePixelSize
_myOwn
7 seven 300.0 1.5 0.123456789012
3 empty 200.0 1.25 1e-12
data_particles
loop_
"""


def write(folder: Path, text: str) -> Path:
    (folder / "p.star").write_text(text)
    return folder / "p.star"


def test_numbers_of_groups_foreign_blocks_and_columns_return(tmp_path: Path) -> None:
    labels = (
        "_rlnImageName\n_rlnOpticsGroup\n_myText\n_rlnHelicalTubeID\n_rlnHelicalTrackLengthAngst\n_rlnAnglePsiPrior\n"
    )
    rows = "1@a.mrcs 7 007 4 12.3456789012345 -90.5\n2@a.mrcs 7 'b c' 5 1e-9 10.25\n"
    tail = "\ndata_tomograms\nloop_\n_rlnTomoName\n_rlnX\n01 0.1\n02 0.30000000000000004\n"
    path = write(tmp_path, HEAD + labels + rows + tail)
    ds = read_particles(path, **OPTIONS)
    assert ds.optics_group.values.tolist() == [0, 0]
    save(ds, tmp_path / "p.zarr", function="test", parameters={})
    write_particles(select(open_store(tmp_path / "p.zarr"), "x_rlnHelicalTubeID == 5"), tmp_path / "out.star")
    before, after = read_star(path), read_star(tmp_path / "out.star")
    assert list(after) == ["general", "optics", "particles", "tomograms"]
    assert after["general"].attrs["comments"] == ["# made by hand"]
    for name in ("general", "optics", "tomograms"):
        pd.testing.assert_frame_equal(after[name], before[name], check_exact=True, obj=name)
    pd.testing.assert_frame_equal(after["particles"], before["particles"].iloc[1:].reset_index(drop=True))


@pytest.mark.parametrize(
    "triple",
    [(10, 0, 20), (0, 180, 33), (-170, -20, 30), (190, 45, -181), (180, 90, 180), (-180, 90, -180), (0, 0, 0),
     (400, 370, -725.5), (12.5, 1e-5, 7.5), (12.5, 179.99999, 7.5), (0, -0.0, 90)],
)  # fmt: skip
def test_triples_return_and_say_the_same_rotation(tmp_path: Path, triple: tuple[float, float, float]) -> None:
    labels = "_rlnImageName\n_rlnOpticsGroup\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n"
    rows = "1@a.mrcs 7 {} {} {}\n2@a.mrcs 7 10 20 30\n".format(*triple)
    ds = read_particles(write(tmp_path, HEAD + labels + rows), **OPTIONS)
    np.testing.assert_allclose(ds.rotation.values[0], euler_to_matrix(*triple), atol=1e-12)
    write_particles(ds, tmp_path / "out.star")
    table = read_star(tmp_path / "out.star")["particles"]
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    np.testing.assert_allclose(angles, [triple, (10, 20, 30)], atol=5.1e-7)
    # a refined rotation is written, whatever the source said
    ds["rotation"].values[0] = euler_to_matrix(50.0, 60.0, 70.0)
    write_particles(ds, tmp_path / "new.star")
    table = read_star(tmp_path / "new.star")["particles"]
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    np.testing.assert_allclose(angles, [(50, 60, 70), (10, 20, 30)], atol=5.1e-7)


def test_defocus_keeps_its_order_and_turns_through_edits(tmp_path: Path) -> None:
    labels = "_rlnImageName\n_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
    values = [(9000, 8000, 45), (8000, 9000, 45), (8000, 9000, 180), (9000, 8000, 90), (9000, 8000, -90),
              (9000, 9000, 300.5), (8000, 9000, -400)]  # fmt: skip
    rows = "".join(f"{i}@a.mrcs 3 {u} {v} {a}\n" for i, (u, v, a) in enumerate(values, 1))
    ds = read_particles(write(tmp_path, HEAD + labels + rows), **OPTIONS)
    assert (ds.defocus_u >= ds.defocus_v).all()
    assert ((ds.defocus_angle > -90) & (ds.defocus_angle <= 90)).all()
    axis = np.deg2rad(2 * ds.defocus_angle.values)  # the astigmatism as a vector of twice the angle
    expected = [(u - v) * np.exp(2j * np.deg2rad(a)) for u, v, a in values]
    np.testing.assert_allclose((ds.defocus_u - ds.defocus_v).values * np.exp(1j * axis), expected, atol=1e-9)
    write_particles(ds, tmp_path / "out.star")
    table = read_star(tmp_path / "out.star")["particles"]
    np.testing.assert_allclose(table[["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]], values, atol=1e-6)
    ds["defocus_u"] = ds.defocus_u + 100
    write_particles(ds, tmp_path / "out.star")
    np.testing.assert_allclose(read_particles(tmp_path / "out.star", **OPTIONS).defocus_u, ds.defocus_u)


OLD = """data_images
loop_
_rlnImageName
_rlnMagnification
_rlnDetectorPixelSize
_rlnVoltage
_rlnOriginX
_rlnOriginY
_rlnBeamTiltX
_rlnBeamTiltY
_rlnBeamTiltClass
1@a.mrcs 38168 5 300 1.25 -2.5 0.1 0.2 1
2@a.mrcs 38168 5 300 0 0.333333333 0.1 0.25 2
3@a.mrcs 50000 5 300 -1 7 0.1 0.2 1
"""


def test_the_form_of_relion_30(tmp_path: Path) -> None:
    path = write(tmp_path, OLD)
    ds = read_particles(path, **OPTIONS)
    np.testing.assert_allclose(ds.pixel_size, [5e4 / 38168, 5e4 / 38168, 1.0])
    assert ds.optics_group.values.tolist() == [0, 1, 2]  # every distinct beam tilt keeps its meaning
    np.testing.assert_allclose(ds["shift"].values[0], np.array([1.25, -2.5]) * 5e4 / 38168)
    for version in ("3.0", "source"):
        write_particles(ds, tmp_path / "out.star", version=version)
        assert b"# version" not in (tmp_path / "out.star").read_bytes()  # RELION 3.1 would take it for its own
        after = read_star(tmp_path / "out.star")
        assert list(after) == ["images"]
        same_tables(read_star(path)["images"], after["images"], version)
    write_particles(ds, tmp_path / "new.star")
    new = read_star(tmp_path / "new.star")
    assert list(new) == ["optics", "particles"]
    assert {"rlnMagnification", "rlnDetectorPixelSize", "rlnImagePixelSize", "rlnBeamTiltX"} <= set(new["optics"])
    again = read_particles(tmp_path / "new.star", **OPTIONS)
    np.testing.assert_allclose(again["shift"], ds["shift"], atol=1e-6)
    write_particles(again, tmp_path / "back.star", version="3.0")
    back = read_particles(tmp_path / "back.star", **OPTIONS)
    np.testing.assert_allclose(back["shift"], ds["shift"], atol=1e-6)
    np.testing.assert_allclose(back.beam_tilt, ds.beam_tilt)
    ds["pixel_size"] = ds.pixel_size * 2  # binned: the detector's pixel follows
    write_particles(ds, tmp_path / "binned.star", version="3.0")
    np.testing.assert_allclose(read_particles(tmp_path / "binned.star", **OPTIONS).pixel_size, ds.pixel_size)
    with pytest.raises(ParameterError, match=r"version of 3\.1, 3\.0, source"):
        write_particles(ds, tmp_path / "x.star", version="2")


@pytest.mark.relion
@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_relion_reads_both_forms(tmp_path: Path, relion_programs: Path, version: str) -> None:
    import subprocess

    ds = read_particles(write(tmp_path, OLD.replace("50000", "38168")), **OPTIONS)
    ds["x_rlnMicrographName"] = ("particle", ["m.mrc"] * 3)
    ds["cs"], ds["amplitude_contrast"] = ("optics", [2.7, 2.7]), ("optics", [0.1, 0.1])
    write_particles(ds, tmp_path / "out.star", version=version)
    if version == "3.0":
        command = [relion_programs / "relion_convert_star", "--i", tmp_path / "out.star", "--o", tmp_path / "r.star"]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    else:
        command = [relion_programs / "relion_star_handler", "--i", tmp_path / "out.star", "--o", tmp_path / "r.star"]
        subprocess.run([*command, "--select", "rlnOriginXAngst", "--minval", "-99"], check=True, capture_output=True)
    theirs = read_particles(tmp_path / "r.star", **OPTIONS)
    np.testing.assert_allclose(theirs["shift"], ds["shift"], atol=1e-4)
    np.testing.assert_allclose(theirs.pixel_size.values[theirs.optics_group.values], 5e4 / 38168, rtol=1e-6)


def random_table(rng: np.random.Generator) -> tuple[dict[str, pd.DataFrame], int]:
    """A file of 3.0 or 3.1 with some columns of each kind, in any order."""
    n, groups = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    names = [f"{i + 1:06d}@stack {i % 2}.mrcs" if rng.random() < 0.1 else f"{i + 1:06d}@s.mrcs" for i in range(n)]
    columns: dict[str, Any] = {"rlnImageName": names}
    if rng.random() < 0.8:
        columns |= {"rlnAngleRot": rng.uniform(-400, 400, n), "rlnAngleTilt": rng.uniform(-200, 200, n),
                    "rlnAnglePsi": rng.uniform(-400, 400, n)}  # fmt: skip
        columns["rlnAngleTilt"][rng.random(n) < 0.3] = rng.choice([0.0, 180.0, -180.0])
    if rng.random() < 0.8:
        columns |= {"rlnDefocusU": rng.uniform(5e3, 4e4, n), "rlnDefocusV": rng.uniform(5e3, 4e4, n),
                    "rlnDefocusAngle": rng.uniform(-400, 400, n)}  # fmt: skip
    if rng.random() < 0.7:
        columns["rlnRandomSubset"] = rng.integers(1, 3, n)
    if rng.random() < 0.5:
        columns |= {"rlnCoordinateX": rng.uniform(0, 4e3, n), "rlnCoordinateY": rng.uniform(0, 4e3, n)}
    if rng.random() < 0.5:
        columns |= {
            "rlnMicrographName": [str(rng.integers(0, 99)) for _ in range(n)],
            "rlnPhaseShift": rng.uniform(0, 180, n),
        }
    for i in range(int(rng.integers(0, 4))):
        kind = rng.integers(3)
        if kind == 0:
            columns[f"foreign{i}"] = rng.normal(size=n) * 10.0 ** rng.integers(-20, 20)
        elif kind == 1:
            columns[f"foreign{i}"] = rng.integers(-(2**53), 2**53, n)
        else:
            words = rng.choice(["", "a b", "007", "x#y", "it's", "_z", "é", "none"], n)
            columns[f"foreign{i}"] = [f"{word}{end}" for word, end in zip(words, rng.choice(["", "!"], n), strict=True)]
    old = rng.random() < 0.4
    number = rng.permutation(np.arange(1, 20))[:groups]
    if rng.random() < 0.8:
        origin = "" if old else "Angst"
        columns |= {f"rlnOriginX{origin}": rng.normal(0, 5, n), f"rlnOriginY{origin}": rng.normal(0, 5, n)}
    optics: dict[str, Any] = {"rlnVoltage": rng.choice([200.0, 300.0], groups), "rlnBeamTiltX": rng.normal(size=groups),
                              "rlnBeamTiltY": rng.normal(size=groups)}  # fmt: skip
    of_row = rng.integers(0, groups, n)
    if old:
        optics |= {"rlnMagnification": rng.uniform(3e4, 9e4, groups), "rlnDetectorPixelSize": np.full(groups, 5.0)}
        columns |= {label: np.asarray(values)[of_row] for label, values in optics.items()}
    else:
        columns["rlnOpticsGroup"] = number[of_row]
        optics |= {"rlnOpticsGroup": number, "rlnOpticsGroupName": [f"g {i}" for i in number],
                   "rlnImagePixelSize": rng.uniform(0.5, 2, groups)}  # fmt: skip
        if rng.random() < 0.5:
            optics["rlnEvenZernike"] = [
                "[" + ",".join(f"{x:.12g}" for x in rng.normal(size=9)) + "]" for _ in range(groups)
            ]
    order = rng.permutation(list(columns))
    rows = pd.DataFrame({label: columns[label] for label in order})
    rows.attrs["exact"] = True
    table = pd.DataFrame({label: optics[label] for label in rng.permutation(list(optics))})
    table.attrs["exact"] = True
    if old:
        return {str(rng.choice(["", "images", "particles"])): rows}, n
    blocks = {"optics": table, "particles": rows}
    if rng.random() < 0.3:
        blocks = {"general": pd.DataFrame({"rlnTomoSubTomosAre2DStacks": [1]}), **blocks}
        blocks["general"].attrs["list"] = True
    return blocks, n


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_tables_return_as_they_were(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(count):
        blocks, n = random_table(rng)
        write_star(tmp_path / "a.star", blocks)
        before = read_star(tmp_path / "a.star")
        ds = read_particles(tmp_path / "a.star", **OPTIONS)
        write_particles(ds, tmp_path / "b.star", version="source")
        after = read_star(tmp_path / "b.star")
        assert list(after) == list(before)
        for name in before:
            same_tables(before[name], after[name], name)
        if "rotation" in ds:
            rows = after[rows_of(after)]
            again = euler_to_matrix(rows.rlnAngleRot, rows.rlnAngleTilt, rows.rlnAnglePsi)
            assert angular_distance(ds.rotation.values, again).max() < 1e-4
            assert ds.sizes["particle"] == n


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    labels = "_rlnImageName\n_rlnOpticsGroup\n_rlnRandomSubset\n"
    cases = {
        HEAD.replace("3 empty", "7 empty")
        + labels
        + "1@a 7 1\n": "row 2: expected distinct optics groups; found group 7",
        HEAD + labels + "1@a 7 1\n2@a 9 1\n": r"row 2: expected an optics group of \[7, 3\]; found 9",
        HEAD + labels + "1@a 7 1.5\n": "row 1: expected a whole number for _rlnRandomSubset; found",
        HEAD + labels + "1@a 7 3\n": "expected _rlnRandomSubset of 0, 1 or 2",
        OLD.replace("38168", "0"): "expected _rlnMagnification above 0",
    }
    for content, says in cases.items():
        with pytest.raises(FormatError, match=says):
            read_particles(write(tmp_path, content), **OPTIONS)
    (tmp_path / "l.star").write_bytes((HEAD + labels + "1@caf\xe9.mrcs 7 1\n").encode("latin-1"))
    with pytest.raises(FormatError, match="row 1: expected UTF-8 for _rlnImageName"):
        read_particles(tmp_path / "l.star", **OPTIONS)
    assert list(parse_star((HEAD + labels + "1@a 7 1\n").encode())) == ["general", "optics", "particles"]


def test_scores_may_be_missing_but_poses_may_not(tmp_path: Path) -> None:
    labels = "_rlnImageName\n_rlnOpticsGroup\n_rlnCtfMaxResolution\n_rlnAngleRot\n_rlnAngleTilt\n"
    ds = read_particles(write(tmp_path, HEAD + labels + "1@a.mrcs 7 inf 0 10\n2@a.mrcs 7 nan 0 20\n"), **OPTIONS)
    write_particles(ds, tmp_path / "out.star")
    values = read_star(tmp_path / "out.star")["particles"].rlnCtfMaxResolution.to_numpy()
    assert np.isinf(values[0])
    assert np.isnan(values[1])
    with pytest.raises(FormatError, match="a number for _rlnAngleTilt"):
        read_particles(write(tmp_path, HEAD + labels + "1@a.mrcs 7 1 0 nan\n"), **OPTIONS)
