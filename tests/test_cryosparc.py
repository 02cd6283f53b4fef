"""cryoSPARC's .cs and .csg: against files that describe the same particles, and back without a loss."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.transform import Rotation

from cryoflow.errors import FormatError, ParameterError, SchemaError
from cryoflow.io import open_store, read_particles, save, write_map, write_particles
from cryoflow.io.cryosparc.cryosparc import read_cryosparc, write_cryosparc
from cryoflow.io.cryosparc.cs_file import read_cs, write_cs
from cryoflow.io.cryosparc.csg import read_csg
from cryoflow.io.formats import detect, open_data, write_data
from cryoflow.kernels.rotation import angular_distance, euler_to_matrix

# written by cryosparc-tools 5.0.3: uid 11, 7, 2^63 + 5; J1/a.mrc, J1/b.mrc, J1/a.mrc; idx 0, 4, 2; pose 0..8
CSDAT = base64.b64decode(
    "lUNTREFU8AAAAHsibGVuZ3RoIjogMywgImR0eXBlIjogW1sidWlkIiwgIjx1OCJdLCBbImJsb2IvcGF0aCIsICJ8TyJdLCBbImJsb2IvaWR4Iiwg"
    "Ijx1NCJdLCBbImFsaWdubWVudHMzRC9wb3NlIiwgIjxmNCIsIFszXV0sIFsiY3RmL3R5cGUiLCAifE8iXV0sICJjb21wcmVzc2lvbiI6ICJsejQi"
    "LCAiY29tcHJlc3NlZF9maWVsZHMiOiBbImJsb2IvcGF0aCIsICJibG9iL2lkeCIsICJhbGlnbm1lbnRzM0QvcG9zZSIsICJjdGYvdHlwZSJdfRgA"
    "AAALAAAAAAAAAAcAAAAAAAAABQAAAAAAAIAaAAAA8AkBAAAAAAAAAAoAAAAAAAAAAQAAAAAAAAANAAAAwAAAAAAEAAAAAgAAACQAAAARAAEA8A+A"
    "PwAAAEAAAEBAAACAQAAAoEAAAMBAAADgQAAAAEERAAAAEwABABMTCACAHAAAAAAAAAAASjEvYS5tcmMASjEvYi5tcmMAaW1wb3J0ZWQAw6kA"
)
FIELDS: dict[str, Any] = {
    "uid": "u8", "blob/path": "S20", "blob/idx": "u4", "blob/shape": ("u4", 2), "blob/psize_A": "f4", "blob/sign": "f4",
    "ctf/exp_group_id": "u4", "ctf/accel_kv": "f4", "ctf/cs_mm": "f4", "ctf/amp_contrast": "f4", "ctf/df1_A": "f4",
    "ctf/df2_A": "f4", "ctf/df_angle_rad": "f4", "ctf/phase_shift_rad": "f4", "ctf/tilt_A": ("f4", 2),
    "ctf/tetra_A": ("f4", 4), "alignments3D/split": "u4", "alignments3D/shift": ("f4", 2),
    "alignments3D/pose": ("f4", 3), "alignments3D/psize_A": "f4", "alignments3D/class": "u4",
    "alignments3D/error": "f4", "alignments2D/pose": "f4", "location/micrograph_path": "S12",
    "location/micrograph_shape": ("u4", 2), "location/center_x_frac": "f4", "location/center_y_frac": "f4",
}  # fmt: skip


def table(rows: int, seed: int = 0, **given: Any) -> dict[str, np.ndarray]:
    """Columns of random but sensible particles; ``given`` replaces fields (``/`` written ``__``)."""
    rng = np.random.default_rng(seed)
    cs = {n: np.zeros((rows, t[1]) if isinstance(t, tuple) else rows, t[0] if isinstance(t, tuple) else t)
          for n, t in FIELDS.items()}  # fmt: skip
    cs["uid"] = rng.permutation(rows).astype("u8") + rng.integers(0, 2**64 - 9999, dtype="u8")
    cs["blob/path"][:] = [f"J1/extract/{i % 3}.mrc" for i in range(rows)]
    cs["blob/idx"][:] = rng.integers(0, 500, rows)
    cs["blob/shape"][:], cs["blob/psize_A"][:], cs["blob/sign"][:] = 64, 1.25, -1
    cs["ctf/exp_group_id"][:] = rng.integers(3, 6, rows)
    cs["ctf/accel_kv"][:], cs["ctf/cs_mm"][:], cs["ctf/amp_contrast"][:] = 300, 2.7, 0.1
    cs["ctf/df1_A"][:], cs["ctf/df2_A"][:] = rng.uniform(3e3, 4e4, (2, rows))
    cs["ctf/df_angle_rad"][:] = rng.uniform(-2, 5, rows)
    cs["ctf/tilt_A"][:] = rng.normal(0, 500, 2)[None] * cs["ctf/exp_group_id"][:, None]
    cs["ctf/tetra_A"][:] = rng.normal(size=(rows, 4))
    cs["alignments3D/split"][:] = np.arange(rows) % 2
    cs["alignments3D/shift"][:] = rng.normal(0, 5, (rows, 2))
    cs["alignments3D/pose"][:] = rng.uniform(-2, 2, (rows, 3))
    cs["alignments3D/psize_A"][:] = 1.3
    cs["alignments3D/class"][:] = rng.integers(0, 4, rows)
    cs["alignments3D/error"][:] = rng.normal(size=rows)
    cs["location/micrograph_path"][:] = [f"J0/m{i % 2}.mrc" for i in range(rows)]
    cs["location/micrograph_shape"][:] = (4092, 5760)
    cs["location/center_x_frac"][:], cs["location/center_y_frac"][:] = rng.uniform(0, 1, (2, rows))
    for name, value in given.items():
        cs[name.replace("__", "/")][:] = value
    return cs


@pytest.fixture
def cs_file(tmp_path: Path) -> Path:
    write_cs(tmp_path / "p.cs", table(9))
    return tmp_path / "p.cs"


def same_bytes(first: Path, second: Path) -> None:
    a, b = np.load(first), np.load(second)
    assert a.dtype == b.dtype
    assert a.tobytes() == b.tobytes()


# the pair ------------------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_star_and_cs_that_describe_the_same_particles_agree(data: Path) -> None:
    star = read_particles(data / "particles/empiar_10076_7.star")
    cs = read_cryosparc(data / "particles/empiar_10076_7.cs")
    np.testing.assert_array_equal(cs.image.values, star.image.values)
    for name, limit in (("defocus_u", 0.01), ("defocus_v", 0.01), ("defocus_angle", 1e-4)):
        np.testing.assert_allclose(cs[name], star[name], rtol=0, atol=limit)
    for name in ("pixel_size", "voltage", "cs", "amplitude_contrast"):
        np.testing.assert_allclose(cs[name], star[name], rtol=3e-6)


@pytest.mark.data
def test_the_pair_agrees_after_conversion_both_ways(data: Path, tmp_path: Path) -> None:
    star, cs = data / "particles/empiar_10076_7.star", data / "particles/empiar_10076_7.cs"
    write_cryosparc(read_particles(star, root=data / "particles"), tmp_path / "from_star.cs")
    write_particles(read_cryosparc(cs), tmp_path / "from_cs.star")
    made, truth = np.load(tmp_path / "from_star.cs"), np.load(cs)
    assert set(truth.dtype.names) <= set(made.dtype.names)
    for name in truth.dtype.names:
        if name not in ("uid", "blob/import_sig", "blob/sign", "ctf/exp_group_id"):
            if truth[name].dtype.kind == "f":
                np.testing.assert_allclose(made[name], truth[name], rtol=3e-6, atol=2e-6, err_msg=name)
            else:
                np.testing.assert_array_equal(made[name], truth[name], err_msg=name)
    back = read_particles(tmp_path / "from_cs.star", root=data / "particles")
    want = read_particles(star)
    np.testing.assert_array_equal(back.image.values, want.image.values)
    np.testing.assert_allclose(back.defocus_u, want.defocus_u, rtol=0, atol=0.01)
    np.testing.assert_allclose(back.defocus_angle, want.defocus_angle, rtol=0, atol=1e-4)


@pytest.mark.data
def test_particles_are_dark_where_the_sign_says_so(data: Path) -> None:
    ds = read_cryosparc(data / "particles/empiar_10076_7.cs")
    assert ds.attrs["image_contrast"] == ds.image.attrs["contrast"] == "dark"
    y, x = np.indices((320, 320)) - 160
    inside = np.hypot(y, x) < 60
    means = ds.image.values[:, inside].mean(axis=1) - ds.image.values[:, ~inside].mean(axis=1)
    assert (means < 0).all()  # the protein: never inverted on the way in


# conversions ---------------------------------------------------------------------------------------------------------


def test_pose_is_the_rotation_vector_of_reversed_euler_angles(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    angles = np.stack([rng.uniform(-180, 180, 50), rng.uniform(0, 180, 50), rng.uniform(-180, 180, 50)], axis=1)
    active = Rotation.from_euler("ZYZ", angles, degrees=True)  # intrinsic rot, tilt, psi: the inverse of RELION's A
    write_cs(tmp_path / "p.cs", table(50, alignments3D__pose=active.as_rotvec()))
    ds = read_cryosparc(tmp_path / "p.cs", images=False)
    assert angular_distance(ds.rotation.values, euler_to_matrix(*angles.T)).max() < 2e-5


def test_shift_split_class_coordinate_and_aberrations(cs_file: Path) -> None:
    cs, ds = read_cs(cs_file), read_cryosparc(cs_file, images=False)
    np.testing.assert_allclose(ds["shift"], cs["alignments3D/shift"] * 1.3, rtol=1e-6)
    np.testing.assert_array_equal(ds["half"], cs["alignments3D/split"] + 1)
    np.testing.assert_array_equal(ds["class_number"], cs["alignments3D/class"] + 1)
    np.testing.assert_allclose(ds["coordinate"][:, 0], cs["location/center_x_frac"] * 5760.0)
    np.testing.assert_allclose(ds["coordinate"][:, 1], cs["location/center_y_frac"] * 4092.0)
    np.testing.assert_array_equal(ds["particle_id"], cs["uid"])
    assert ds["particle_id"].dtype == np.uint64
    group = ds["optics_group"].values
    np.testing.assert_array_equal(ds["x_optics_cs_exp_group_id"].values[group], cs["ctf/exp_group_id"])
    tilt = 1e3 * np.arcsin(cs["ctf/tilt_A"] / 2.7e7)
    np.testing.assert_allclose(ds["beam_tilt"].values[group], tilt, rtol=1e-6)
    assert str(ds["image_name"].values[0]) == f"{cs['blob/idx'][0] + 1:06d}@J1/extract/0.mrc"
    assert "x_cs_alignments2D__pose" in ds
    assert "alignments2D/pose" not in ds


def test_flip_counts_rows_from_the_other_end(cs_file: Path, tmp_path: Path) -> None:
    ds, flipped = (read_cryosparc(cs_file, images=False, flip_y=f) for f in (False, True))
    np.testing.assert_allclose(flipped.coordinate[:, 1], 4091 - ds.coordinate[:, 1])
    np.testing.assert_array_equal(flipped.coordinate[:, 0], ds.coordinate[:, 0])
    write_cryosparc(flipped, tmp_path / "o.cs", flip_y=True)
    same_bytes(cs_file, tmp_path / "o.cs")


def test_defocus_keeps_its_astigmatism_whichever_is_larger(tmp_path: Path) -> None:
    given = {"ctf__df1_A": [9000, 12000], "ctf__df2_A": [12000, 9000], "ctf__df_angle_rad": np.deg2rad([10, 280])}
    write_cs(tmp_path / "p.cs", table(2, **given))
    ds = read_cryosparc(tmp_path / "p.cs", images=False)
    np.testing.assert_array_equal(ds.defocus_u, [12000, 12000])
    np.testing.assert_allclose(ds.defocus_angle, [-80, -80], atol=1e-5)


def test_one_half_for_all_is_no_half_set(tmp_path: Path) -> None:
    write_cs(tmp_path / "p.cs", table(4, alignments3D__split=0))
    ds = read_cryosparc(tmp_path / "p.cs", images=False)
    assert not ds.half.any()
    ds["half"] = ("particle", [1, 1, 1, 1])  # which no split can say
    write_cryosparc(ds, tmp_path / "o.cs")
    np.testing.assert_array_equal(read_cryosparc(tmp_path / "o.cs", images=False).half, 1)


# there and back ------------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", ["particles/empiar_10076_7.cs", "metadata/t20s_J209_000_particles.cs"])
def test_what_is_not_touched_returns_bit_by_bit(data: Path, tmp_path: Path, name: str) -> None:
    ds = read_cryosparc(data / name, images=False)
    write_cryosparc(ds, tmp_path / "o.cs")
    same_bytes(data / name, tmp_path / "o.cs")


@pytest.mark.data
def test_a_selection_returns_to_its_job_through_a_store(data: Path, tmp_path: Path) -> None:
    source = data / "metadata/t20s_J209_000_particles.cs"
    ds = read_cryosparc(source, images=False)
    save(ds, tmp_path / "p.zarr", function="test", parameters={})
    chosen = np.random.default_rng(0).permutation(11764)[:500]
    write_cryosparc(open_store(tmp_path / "p.zarr").isel(particle=chosen), tmp_path / "sub.csg")
    truth, made = np.load(source), np.load(tmp_path / "sub.cs")
    assert made.tobytes() == truth[chosen].tobytes()
    group = read_csg(tmp_path / "sub.csg")
    assert group.type == "particle"
    assert set(group.results) == {"blob", "ctf", "alignments3D"}


@pytest.mark.data
def test_by_way_of_star_the_original_lends_its_fields(data: Path, tmp_path: Path) -> None:
    source = data / "metadata/t20s_J209_000_particles.cs"
    ds = read_cryosparc(source, images=False).isel(particle=slice(None, None, 20))
    write_particles(ds, tmp_path / "p.star")
    star = read_particles(tmp_path / "p.star", images=False)
    assert set(map(str, ds.variables)) <= set(map(str, star.variables))
    write_cryosparc(star, tmp_path / "alone.cs")
    truth, alone = np.load(source)[::20], np.load(tmp_path / "alone.cs")
    np.testing.assert_array_equal(alone["uid"], truth["uid"])
    assert set(truth.dtype.names) <= set(alone.dtype.names)
    for name in truth.dtype.names:
        if truth[name].dtype.kind == "f" and name not in ("alignments3D/pose", "ctf/df_angle_rad"):  # other turns
            np.testing.assert_allclose(alone[name], truth[name], rtol=2e-6, atol=2e-6, err_msg=name)
    write_cryosparc(star, tmp_path / "full.cs", original=source)
    assert np.load(tmp_path / "full.cs").tobytes() == truth.tobytes()


def test_only_what_was_changed_changes(cs_file: Path, tmp_path: Path) -> None:
    ds = read_cryosparc(cs_file, images=False)
    ds["shift"].values[2] += [1.3, 0]
    ds["voltage"] = ds["voltage"] * 0 + 200
    write_cryosparc(ds, tmp_path / "o.cs")
    a, b = np.load(cs_file), np.load(tmp_path / "o.cs")
    changed = [n for n in a.dtype.names if a[n].tobytes() != b[n].tobytes()]
    assert changed == ["ctf/accel_kv", "alignments3D/shift"]
    np.testing.assert_array_equal(np.flatnonzero((a["alignments3D/shift"] != b["alignments3D/shift"]).any(axis=1)), [2])
    assert b["alignments3D/shift"][2, 0] == pytest.approx(a["alignments3D/shift"][2, 0] + 1, rel=1e-6)


def test_other_byte_orders_and_types_return(tmp_path: Path) -> None:
    cs = {n: c.astype(c.dtype.newbyteorder(">")) if c.dtype.kind != "S" else c for n, c in table(5).items()}
    cs["ctf/df1_A"] = cs["ctf/df1_A"].astype(">f8")
    cs["x_group/flag"] = np.array([1, 0, 1, 0, 1], "i1")
    cs["x_group/name"] = np.array(["a", "β", "", "d", "e"])
    cs["x_group/grid"] = np.arange(5 * 6, dtype="f4").reshape(5, 2, 3)
    cs["x_group/long"] = np.arange(5 * 40, dtype="i8").reshape(5, 40)
    cs["x_group/bad"] = np.array([np.nan, np.inf, -0.0, 1, 2], "f4")
    write_cs(tmp_path / "p.cs", cs)
    write_cryosparc(read_cryosparc(tmp_path / "p.cs", images=False), tmp_path / "o.cs")
    same_bytes(tmp_path / "p.cs", tmp_path / "o.cs")


def test_a_source_without_a_group_of_fields_gets_none(tmp_path: Path) -> None:
    few = {n: c for n, c in table(4).items() if not n.startswith(("ctf", "location"))}
    write_cs(tmp_path / "p.cs", few)
    write_cryosparc(read_cryosparc(tmp_path / "p.cs", images=False), tmp_path / "o.cs")
    same_bytes(tmp_path / "p.cs", tmp_path / "o.cs")


def relion(rows: int, rng: np.random.Generator) -> xr.Dataset:
    """Random particles as RELION's files give them, some variables left out."""
    groups = int(rng.integers(1, 4))
    text = np.dtypes.StringDType()
    row: dict[str, Any] = {
        "optics_group": np.sort(np.append(rng.integers(0, groups, rows - groups), np.arange(groups))).astype(np.int32),
        "image_name": np.array([f"{i + 1:06d}@Extract/s{i % 4}.mrcs" for i in range(rows)], text),
        "defocus_u": rng.uniform(2e4, 6e4, rows), "defocus_v": rng.uniform(2e3, 2e4, rows),
        "defocus_angle": rng.uniform(-89.9, 90, rows), "phase_shift": rng.uniform(0, 180, rows),
        "half": rng.integers(0, 3, rows), "class_number": rng.integers(0, 9, rows),
        "micrograph_name": np.array([f"MotionCorr/m{i % 5}.mrc" for i in range(rows)], text),
        "norm": rng.uniform(0.5, 1, rows), "pick_score": rng.normal(size=rows),
        "x_rlnSomething": rng.normal(size=rows), "x_rlnWord": np.array([f"w{i}" for i in range(rows)], text),
    }  # fmt: skip
    row = {n: v for n, v in row.items() if n in ("optics_group", "image_name") or rng.random() < 0.8}
    if len(row.keys() & {"defocus_u", "defocus_v", "defocus_angle"}) < 3:
        row = {n: v for n, v in row.items() if not n.startswith("defocus")}
    ds = xr.Dataset({n: ("particle", v) for n, v in row.items()})
    if rng.random() < 0.8:
        angles = rng.uniform(-180, 180, rows), rng.choice([0.0, 180.0, *rng.uniform(0, 180, 5)], rows)
        ds["rotation"] = (("particle", "row", "col"), euler_to_matrix(*angles, rng.uniform(-180, 180, rows)))
    if rng.random() < 0.8:
        ds["shift"] = (("particle", "xy"), rng.normal(0, 20, (rows, 2)))
    if rng.random() < 0.8:
        ds["coordinate"] = (("particle", "xy"), rng.uniform(0, 8000, (rows, 2)))
    ds["pixel_size"] = ("optics", np.full(groups, rng.uniform(0.3, 5)))
    ds["voltage"], ds["cs"] = ("optics", np.full(groups, 300.0)), ("optics", np.full(groups, 2.7))
    ds["amplitude_contrast"] = ("optics", np.full(groups, 0.1))
    ds["optics_name"] = ("optics", np.array([f"group {i}" for i in range(groups)], text))
    if rng.random() < 0.5:
        ds["beam_tilt"] = (("optics", "xy"), rng.normal(0, 0.5, (groups, 2)))
    if rng.random() < 0.5:
        ds["odd_zernike"] = (("optics", "odd"), rng.normal(0, 10, (groups, 6)))
        ds["magnification"] = (("optics", "row2", "col2"), np.eye(2) + rng.normal(0, 0.01, (groups, 2, 2)))
    return ds


def agree(first: xr.Dataset, second: xr.Dataset, skip: Sequence[str] = ()) -> None:
    """All of ``first`` is in ``second`` within the figures the borders promise."""
    limits = {"shift": 1e-4, "defocus_u": 0.01, "defocus_v": 0.01, "defocus_angle": 1e-4, "phase_shift": 1e-4,
              "coordinate": 1e-3}  # fmt: skip
    for key in first.variables:
        name = str(key)
        if name in skip:
            continue
        a, b = first[name].values, second[name].values
        assert a.shape == b.shape, name
        if name == "rotation":
            assert angular_distance(a, b).max() < 1e-4
        elif a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=2e-6, atol=limits.get(name, 2e-6), err_msg=name)
        else:
            np.testing.assert_array_equal(np.asarray(b, a.dtype), a, err_msg=name)


@pytest.mark.parametrize("shape", [None, (6000, 9000)])
def test_random_tables_of_relion_return_through_cs(tmp_path: Path, shape: tuple[int, int] | None) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ds = relion(int(rng.integers(4, 60)), rng)
        write_cryosparc(ds, tmp_path / "p.cs", box=64, micrograph_shape=shape)
        back = read_cryosparc(tmp_path / "p.cs", images=False)
        agree(ds, back)
        write_particles(back, tmp_path / "p.star")
        agree(ds, read_particles(tmp_path / "p.star", images=False), skip=["optics_group"])


@pytest.mark.slow
def test_a_thousand_random_tables(tmp_path: Path) -> None:
    for seed in range(1000):
        rng = np.random.default_rng(10_000 + seed)
        ds = relion(int(rng.integers(4, 200)), rng)
        shape = (6000, 9000) if rng.random() < 0.5 else None
        write_cryosparc(ds, tmp_path / "p.cs", box=64, micrograph_shape=shape)
        back = read_cryosparc(tmp_path / "p.cs", images=False)
        agree(ds, back)
        write_cryosparc(back, tmp_path / "again.cs")
        same_bytes(tmp_path / "p.cs", tmp_path / "again.cs")
        write_particles(back, tmp_path / "p.star")
        star = read_particles(tmp_path / "p.star", images=False)
        agree(ds, star, skip=["optics_group"])
        write_cs(tmp_path / "q.cs", table(int(rng.integers(2, 200)), seed))
        write_cryosparc(read_cryosparc(tmp_path / "q.cs", images=False), tmp_path / "r.cs")
        same_bytes(tmp_path / "q.cs", tmp_path / "r.cs")


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["metadata/betagal_refine3d/run_it016_data.star", "particles/relion31.6opticsgroups.star",
             "particles/relion5.star", "particles/sample_particles_relion30.star", "particles/relion31.star"]
)  # fmt: skip
def test_no_column_of_relion_is_lost(data: Path, tmp_path: Path, name: str) -> None:
    ds = read_particles(data / name, images=False, mixed_pixel_sizes=True)
    write_cryosparc(ds, tmp_path / "p.cs", box=100)
    agree(ds, read_cryosparc(tmp_path / "p.cs", images=False), skip=["particle_id", "image_name"])


def test_names_stay_as_short_as_cryosparc_needs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ds = relion(20, rng)
    long = "x_rln" + "Long" * 15
    ds[long], ds[f"{long}2"] = ("particle", rng.normal(size=20)), ("particle", np.arange(20))
    ds["x_optics_rlnMicrographOriginalPixelSize"] = ("optics", np.full(ds.sizes["optics"], 0.885))
    ds[f"x_optics_{long}"] = ("optics", np.arange(ds.sizes["optics"]) + 0.5)
    write_cryosparc(ds, tmp_path / "p.cs", box=64)
    assert max(map(len, read_cs(tmp_path / "p.cs"))) <= 50
    back = read_cryosparc(tmp_path / "p.cs", images=False)
    agree(ds, back)
    write_cryosparc(back, tmp_path / "again.cs")
    same_bytes(tmp_path / "p.cs", tmp_path / "again.cs")


def test_images_are_bit_equal_and_keep_their_contrast(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(9, 8, 8)).astype(np.float32)
    (tmp_path / "J1/extract").mkdir(parents=True)
    for i in range(3):
        write_map(tmp_path / f"J1/extract/{i}.mrc", images[i::3], pixel_size=1.25)
    cs = table(9, blob__idx=np.arange(9) // 3, blob__shape=8)
    (tmp_path / "J2").mkdir()
    write_cs(tmp_path / "J2/p.cs", cs)
    ds = read_cryosparc(tmp_path / "J2/p.cs")
    np.testing.assert_array_equal(ds.image.values, images)
    write_cryosparc(ds, tmp_path / "out/q.cs", images=tmp_path / "out/stack.mrc")
    back = read_cryosparc(tmp_path / "out/q.cs")
    np.testing.assert_array_equal(back.image.values, images)
    assert back.image.attrs["contrast"] == "dark"
    a, b = np.load(tmp_path / "J2/p.cs"), np.load(tmp_path / "out/q.cs")
    assert [n for n in a.dtype.names if a[n].tobytes() != b[n].tobytes()] == ["blob/path", "blob/idx"]
    write_cryosparc(ds, tmp_path / "full.cs", names="absolute")
    assert np.load(tmp_path / "full.cs")["blob/path"][0] == str(tmp_path / "J1/extract/0.mrc").encode()
    with pytest.raises(FormatError, match=r"full\.cs, row 1"):
        read_cryosparc(tmp_path / "full.cs", root=tmp_path / "out")
    assert read_cryosparc(tmp_path / "full.cs", root=tmp_path / "out", allow_outside=True).sizes["particle"] == 9


def test_a_mark_before_names_is_dropped_and_returns(tmp_path: Path) -> None:
    write_cs(tmp_path / "p.cs", table(3, blob__path=b">a.mrc", location__micrograph_path=b">m.mrc"))
    ds = read_cryosparc(tmp_path / "p.cs", images=False)
    assert str(ds.image_name.values[0]).endswith("@a.mrc")
    assert str(ds.micrograph_name.values[0]) == "m.mrc"
    write_cryosparc(ds, tmp_path / "o.cs")
    same_bytes(tmp_path / "p.cs", tmp_path / "o.cs")


def test_micrographs_of_other_programs_get_what_an_import_needs(tmp_path: Path) -> None:
    text = np.dtypes.StringDType()
    row = {"optics_group": np.zeros(2, np.int32), "micrograph_name": np.array(["a.mrc", "b.mrc"], text),
           "defocus_u": np.array([9e3, 8e3]), "defocus_v": np.array([8e3, 8e3]), "defocus_angle": np.zeros(2),
           "exposure": np.full(2, 40.0), "usable": np.array([True, False]),
           "reason": np.array(["", "no rings"], text)}  # fmt: skip
    ds = xr.Dataset({n: ("micrograph", v) for n, v in row.items()})
    ds["micrograph"] = (("micrograph", "y", "x"), np.zeros((2, 30, 20), "f4"))
    for name, value in (("pixel_size", 1.5), ("voltage", 300.0), ("cs", 2.7), ("amplitude_contrast", 0.1)):
        ds[name] = ("optics", [value])
    write_cryosparc(ds, tmp_path / "m.cs")
    cs = read_cs(tmp_path / "m.cs")
    assert cs["micrograph_blob/shape"].tolist() == [[30, 20]] * 2
    assert cs["mscope_params/accel_kv"].tolist() == [300, 300]
    back = read_cryosparc(tmp_path / "m.cs", images=False)
    agree(ds.drop_vars("micrograph"), back)


# uids ----------------------------------------------------------------------------------------------------------------


def test_new_uids_are_distinct_and_the_same_every_time(tmp_path: Path) -> None:
    ds = relion(50, np.random.default_rng(3))
    for name in ("a", "b"):
        write_cryosparc(ds, tmp_path / f"{name}.cs", box=64)
    same_bytes(tmp_path / "a.cs", tmp_path / "b.cs")
    uid = np.load(tmp_path / "a.cs")["uid"]
    assert len(np.unique(uid)) == 50
    write_cryosparc(ds.isel(particle=[7, 3]), tmp_path / "c.cs", box=64)
    np.testing.assert_array_equal(np.load(tmp_path / "c.cs")["uid"], uid[[7, 3]])


def test_copies_of_particles_need_new_uids(cs_file: Path, tmp_path: Path) -> None:
    ds = read_cryosparc(cs_file, images=False).isel(particle=[0, 0, 1])
    with pytest.raises(ParameterError, match="new_uids"):
        write_cryosparc(ds, tmp_path / "o.cs")
    assert not (tmp_path / "o.cs").exists()
    write_cryosparc(ds, tmp_path / "o.cs", new_uids=True)
    uid = np.load(tmp_path / "o.cs")["uid"]
    assert len(np.unique(uid)) == 3


# passthrough and groups ----------------------------------------------------------------------------------------------


def split_in_two(folder: Path, cs: dict[str, np.ndarray], order: np.ndarray) -> None:
    first = {n: c for n, c in cs.items() if n == "uid" or n.startswith(("blob", "alignments3D"))}
    rest = {n: c[order] for n, c in cs.items() if n == "uid" or not n.startswith(("blob", "alignments3D"))}
    write_cs(folder / "p.cs", first)
    write_cs(folder / "J1_passthrough.cs", rest)


def group_text(folder: Path, **metafile: str) -> Path:
    names = {"blob": ">p.cs", "alignments3D": ">p.cs", "ctf": ">J1_passthrough.cs"} | metafile
    lines = ["created: 2024-01-01 00:00:00.000000", "group:", "  name: particles", "  type: particle", "results:"]
    for name, file in names.items():
        lines += [f"  {name}:", f"    metafile: '{file}'", "    num_items: 9", f"    type: particle.{name}"]
    (folder / "p.csg").write_text("\n".join([*lines, "version: v4.4.1", ""]))
    return folder / "p.csg"


def test_passthroughs_are_joined_by_uid_in_any_order(tmp_path: Path) -> None:
    cs = table(9)
    split_in_two(tmp_path, cs, np.random.default_rng(1).permutation(9))
    write_cs(tmp_path / "whole.cs", cs)
    whole = read_cryosparc(tmp_path / "whole.cs", images=False)
    joined = read_cryosparc(tmp_path / "p.cs", passthrough=tmp_path / "J1_passthrough.cs", images=False)
    grouped = read_cryosparc(group_text(tmp_path), images=False)
    for ds in (joined, grouped):
        assert set(ds.variables) == set(whole.variables)
        for name in whole.variables:
            np.testing.assert_array_equal(ds[name].values, whole[name].values, err_msg=str(name))
    assert detect(tmp_path / "p.csg").name == "cryosparc-particles"


def test_missing_and_repeated_uids_are_named(tmp_path: Path) -> None:
    cs = table(9)
    split_in_two(tmp_path, cs, np.arange(8))
    with pytest.raises(FormatError, match=f"1 missing: {cs['uid'][8]}"):
        read_cryosparc(tmp_path / "p.cs", passthrough=[tmp_path / "J1_passthrough.cs"], images=False)
    split_in_two(tmp_path, cs, np.array([*range(9), 4]))
    with pytest.raises(FormatError, match=f"passthrough.cs: .*1 repeated: {cs['uid'][4]}"):
        read_cryosparc(tmp_path / "p.cs", passthrough=[tmp_path / "J1_passthrough.cs"], images=False)


@pytest.mark.parametrize("name", [">../x.cs", "/etc/passwd", ">/etc/passwd", "https://host/x.cs", "../../x.cs"])
def test_a_group_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    split_in_two(tmp_path, table(9), np.arange(9))
    with pytest.raises(FormatError, match=r"p\.csg"):
        read_cryosparc(group_text(tmp_path, ctf=name), images=False)


@pytest.mark.parametrize(
    "text",
    ["", "results: 3", "results: {}", "results: {blob: 1}", "a: [" * 3000, "results: {blob: {metafile: ''}}", "\0",
     "!!python/object/apply:os.system ['true']", "&a [*a]", "results: {1: {metafile: '>p.cs'}}", "- " * 20000],
)  # fmt: skip
def test_broken_groups_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.csg").write_text(text)
    with pytest.raises(FormatError, match=r"p\.csg"):
        read_cryosparc(tmp_path / "p.csg", images=False)


def test_a_stale_count_is_refused(tmp_path: Path) -> None:
    split_in_two(tmp_path, table(8), np.arange(8))
    with pytest.raises(FormatError, match="num_items 8"):
        read_cryosparc(group_text(tmp_path), images=False)


# micrographs ---------------------------------------------------------------------------------------------------------


def test_exposures_become_micrographs_and_return(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "J2").mkdir()
    cs: dict[str, np.ndarray] = {"uid": np.array([2**64 - 1, 5, 9], "u8")}
    cs["micrograph_blob/path"] = np.array([b"J2/a.mrc", b"J2/b.mrc", b"J2/c.mrc"])
    cs["micrograph_blob/shape"] = np.full((3, 2), 32, "u4")
    cs["micrograph_blob/psize_A"] = np.full(3, 1.5, "f4")
    cs["mscope_params/accel_kv"], cs["mscope_params/cs_mm"] = np.full(3, 300, "f4"), np.full(3, 2.7, "f4")
    cs["mscope_params/total_dose_e_per_A2"] = np.array([40, 41, 42], "f4")
    cs["mscope_params/exp_group_id"] = np.array([1, 1, 2], "u4")
    cs["ctf/df1_A"], cs["ctf/df2_A"] = np.array([9e3, 8e3, 7e3], "f4"), np.array([8e3, 8e3, 8e3], "f4")
    cs["ctf/df_angle_rad"], cs["ctf/ctf_fit_to_A"] = np.array([0.1, 4, 1], "f4"), np.array([3.5, 4, 9], "f4")
    images = rng.normal(size=(3, 32, 32)).astype("f4")
    for name, image in zip("abc", images, strict=True):
        write_map(tmp_path / f"J2/{name}.mrc", image[None], pixel_size=1.5)
    write_cs(tmp_path / "J2/exposures.cs", cs)
    assert detect(tmp_path / "J2/exposures.cs").name == "cryosparc-micrographs"
    ds = open_data(tmp_path / "J2/exposures.cs")
    np.testing.assert_array_equal(ds.micrograph.values, images)
    np.testing.assert_array_equal(ds.exposure, [40, 41, 42])
    np.testing.assert_array_equal(ds.defocus_u, [9e3, 8e3, 8e3])
    np.testing.assert_array_equal(ds.ctf_resolution, [3.5, 4, 9])
    assert ds.voltage.values.tolist() == [300, 300]
    write_data(ds, tmp_path / "out.cs", format="cryosparc-micrographs")
    same_bytes(tmp_path / "J2/exposures.cs", tmp_path / "out.cs")
    assert read_csg(tmp_path / "out.csg").type == "exposure"
    assert detect(tmp_path / "out.csg").name == "cryosparc-micrographs"


# the file ------------------------------------------------------------------------------------------------------------


def test_compressed_tables_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.cs").write_bytes(CSDAT)
    cs = read_cs(tmp_path / "p.cs")
    assert cs["uid"].tolist() == [11, 7, 2**63 + 5]
    assert cs["blob/path"].tolist() == [b"J1/a.mrc", b"J1/b.mrc", b"J1/a.mrc"]
    assert cs["blob/idx"].tolist() == [0, 4, 2]
    assert cs["alignments3D/pose"].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [t.decode() for t in cs["ctf/type"].tolist()] == ["", "imported", "é"]
    ds = read_cryosparc(tmp_path / "p.cs", images=False)
    write_cryosparc(ds, tmp_path / "o.cs", box=4)
    np.testing.assert_array_equal(np.load(tmp_path / "o.cs")["uid"], cs["uid"])


@pytest.mark.parametrize("cut", [3, 9, 40, 250, 275, 300, len(CSDAT) - 5])
def test_truncated_compressed_tables_are_refused(tmp_path: Path, cut: int) -> None:
    (tmp_path / "p.cs").write_bytes(CSDAT[:cut])
    with pytest.raises(FormatError, match=r"p\.cs"):
        read_cs(tmp_path / "p.cs")


def test_another_compression_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "p.cs").write_bytes(CSDAT.replace(b'"lz4"', b'"sna"'))
    with pytest.raises(FormatError, match=r"'sna'.*NUMPY_FORMAT"):
        read_cs(tmp_path / "p.cs")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_numpy_files(tmp_path: Path, version: tuple[int, int]) -> None:
    array = np.zeros(3, [("uid", "<u8"), ("ctf/df1_A", "<f4"), ("ctf/tilt_A", "<f4", (2,))])
    with (tmp_path / "p.cs").open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    assert list(read_cs(tmp_path / "p.cs")) == ["uid", "ctf/df1_A", "ctf/tilt_A"]


def npy(descr: str, shape: str = "(2,)", rows: bytes = bytes(16)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + rows


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (npy("[('uid', '<u8'), ('a/b', '|O')]"), "never unpickled"),
        (npy("[('uid', '<u8')]", "(2000000000000,)"), "16000000000"),
        (npy("[('uid', '<u8', (2147483648,))]"), "uid"),
        (npy("[('uid', '<u8'), ('uid', '<u8')]"), "twice"),
        (npy("[('uid', '<u8')]", "(2, 1)"), "one dimension"),
        (npy("[('uid', '<u8')]", "(-1,)"), "one dimension"),
        (npy("[('uid', '<u8')]", "(True,)"), "one dimension"),
        (npy("'<u8'"), "named fields"),
        (npy("[('uid', '<f8')]"), "uid of whole numbers"),
        (npy("[('../x', '<u8'), ('uid', '<u8')]", rows=bytes(32)), None),
        (npy("[('a__b', '<u8')]"), "field names"),
        (npy("[('uid', 'M8[s]')]"), "numbers or text"),
        (npy("[('uid', [('a', '<u8')])]"), "numbers or text"),
        (npy("__import__('os').system('true')"), "header"),
        (npy("[" * 9 + "]" * 9), "deep"),
        (npy("[('uid', '<u8')]", rows=bytes(15)), "16 rows|expected .* bytes"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), "header of at most"),
        (b"\x80\x04pickle", "a cryoSPARC"),
        (b"", "a cryoSPARC"),
    ],
)
def test_hostile_headers_are_refused_by_name(tmp_path: Path, raw: bytes, said: str | None) -> None:
    (tmp_path / "p.cs").write_bytes(raw)
    if said is None:
        assert "../x" in read_cs(tmp_path / "p.cs")
        return
    with pytest.raises(FormatError, match=said):
        read_cs(tmp_path / "p.cs")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("ctf/df1_A", np.nan, "df1_A, row 2"), ("alignments3D/split", 3, "split, row 2"),
        ("alignments3D/pose", 1e6, "pose, row 2"), ("blob/psize_A", 0, "pixel sizes"),
        ("alignments3D/psize_A", -1, "psize_A, row 2"), ("location/center_x_frac", np.inf, "center_x_frac, row 2"),
    ],
)  # fmt: skip
def test_bad_values_name_their_row(tmp_path: Path, field: str, value: float, said: str) -> None:
    cs = table(5)
    cs[field][1] = value
    write_cs(tmp_path / "p.cs", cs)
    with pytest.raises(FormatError, match=said):
        read_cryosparc(tmp_path / "p.cs", images=False)


def test_text_that_is_not_utf8_and_empty_tables_are_refused(tmp_path: Path) -> None:
    write_cs(tmp_path / "p.cs", table(2, blob__path=b"\xff\xfe"))
    with pytest.raises(FormatError, match="UTF-8"):
        read_cryosparc(tmp_path / "p.cs", images=False)
    write_cs(tmp_path / "p.cs", table(0))
    with pytest.raises(FormatError, match="at least one row"):
        read_cryosparc(tmp_path / "p.cs", images=False)


def test_a_hostile_field_for_cryoflow_obeys_the_schema(tmp_path: Path) -> None:
    cs = table(3) | {"cryoflow/half": np.array([b"x", b"y", b"z"])}
    write_cs(tmp_path / "p.cs", cs)
    with pytest.raises(SchemaError):
        read_cryosparc(tmp_path / "p.cs", images=False)


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    write_map(tmp_path / "out.mrc", np.zeros((600, 8, 8), "f4"), pixel_size=1.25)
    (tmp_path / "job").mkdir()
    write_cs(tmp_path / "job/p.cs", table(3, blob__path=b"../out.mrc"))
    with pytest.raises(FormatError, match="row 1"):
        read_cryosparc(tmp_path / "job/p.cs", root=tmp_path / "job")


def test_what_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    ds = relion(6, np.random.default_rng(0))
    with pytest.raises(ParameterError, match="box="):
        write_cryosparc(ds, tmp_path / "p.cs")
    with pytest.raises(ParameterError, match="at least one"):
        write_cryosparc(ds.isel(particle=[]), tmp_path / "p.cs", box=8)
    assert not list(tmp_path.iterdir())
