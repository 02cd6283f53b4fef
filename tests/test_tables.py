"""Tables as tables: against pandas, brute force, RELION's own tools, and projections of simulated maps."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoflow import tables
from cryoflow.errors import ParameterError, SchemaError
from cryoflow.io.expression import evaluate
from cryoflow.io.images.lazy import FileImages
from cryoflow.io.images.mrc import write_stack
from cryoflow.io.particles import read_particles, write_particles
from cryoflow.io.star.relion import text
from cryoflow.io.star.star import read_star
from cryoflow.io.stores.store import open_store, save
from cryoflow.kernels.fourier import irfft2c, rfft2c, shift_phases
from cryoflow.kernels.projection import project
from cryoflow.kernels.rotation import angular_distance, matrix_to_euler, random_rotations
from cryoflow.kernels.symmetry import point_group
from cryoflow.tables.recentre import centres

PIXEL = 2.0


def rows(n: int = 40, seed: int = 0, **more: Any) -> xr.Dataset:
    """A table of n particles in some micrographs of two optics groups."""
    rng = np.random.default_rng(seed)
    ds = xr.Dataset({
        "particle_id": ("particle", rng.permutation(n).astype(np.int64) + 1000 * seed),
        "micrograph_name": ("particle", text(f"job/m{i}.mrc" for i in rng.integers(0, 5, n))),
        "image_name": ("particle", text(f"{i + 1:06d}@s{seed}.mrcs" for i in range(n))),
        "defocus_u": ("particle", rng.uniform(8e3, 2e4, n)),
        "defocus_v": ("particle", rng.uniform(7e3, 8e3, n)),
        "defocus_angle": ("particle", rng.uniform(-90, 90, n)),
        "half": ("particle", rng.integers(1, 3, n).astype(np.int32)),
        "max_probability": ("particle", rng.random(n).round(1)),
        "rotation": (("particle", "row", "col"), random_rotations(n, rng)),
        "shift": (("particle", "xy"), rng.normal(0, 5, (n, 2))),
        "coordinate": (("particle", "xy"), rng.uniform(0, 500, (n, 2))),
        "optics_group": ("particle", rng.integers(0, 2, n).astype(np.int32)),
        "optics_name": ("optics", text(["one", "two"])),
        "voltage": ("optics", [300.0, 200.0]),
        "pixel_size": ("optics", [PIXEL, PIXEL]),
        "micrograph_pixel_size": ("optics", [1.0, 1.0]),
    })  # fmt: skip
    return ds.assign(more)


def frame(ds: xr.Dataset) -> pd.DataFrame:
    """Its plain columns for pandas."""
    plain = {str(n): a.values for n, a in ds.variables.items() if a.dims == ("particle",)}
    return pd.DataFrame({n: v.astype(object) if v.dtype.kind == "T" else v for n, v in plain.items()})


def lazy_set(folder: Path, n: int = 60) -> xr.Dataset:
    """Particles read from two stacks; image i of stack s is all 100 s + i."""
    names = []
    for s, count in enumerate((n // 3, n - n // 3)):
        values = np.full((count, 8, 8), 100.0 * s) + np.arange(count)[:, None, None]
        write_stack(folder / f"s{s}.mrcs", xr.DataArray(values, dims=("particle", "y", "x")), pixel_size=PIXEL)
        names += [f"{i + 1}@s{s}.mrcs" for i in range(count)]
    ds = rows(n).assign(image_name=("particle", text(names)))
    write_particles(ds, folder / "p.star")
    return read_particles(folder / "p.star", chunk_bytes=4 * 64 * 7)


# order ----------------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000))
def test_sort_agrees_with_pandas(n: int, seed: int) -> None:
    ds = rows(n, seed % 7)
    found = tables.sort(ds, "half", "-max_probability", "micrograph_name")
    expected = frame(ds).sort_values(
        ["half", "max_probability", "micrograph_name"], ascending=[True, False, True], kind="stable"
    )
    assert found.particle_id.values.tolist() == expected.particle_id.tolist()
    np.testing.assert_array_equal(found.rotation.values, ds.rotation.values[expected.index])


def test_sort_of_nan_text_and_formulas() -> None:
    ds = rows(4, defocus_u=("particle", [2.0, np.nan, 1.0, 3.0]), defocus_v=("particle", [0.0, 0, 5, 0]))
    for key, order in (("defocus_u", [2, 0, 3, 1]), ("-defocus_u", [3, 0, 2, 1]),
                       ("-minimum(defocus_u, 2) + defocus_v", [2, 0, 3, 1])):  # fmt: skip
        found = tables.sort(ds, key).particle_id.values
        np.testing.assert_array_equal(found, ds.particle_id.values[order])
    down = tables.sort(rows(20), "-micrograph_name").micrograph_name.values.tolist()
    assert down == sorted(down, reverse=True)
    unsigned = ds.assign(particle_id=("particle", np.array([0, 1, 2**64 - 1, 5], np.uint64)))
    assert tables.sort(unsigned, "-particle_id").particle_id.values.tolist() == [2**64 - 1, 5, 1, 0]


def test_parts_of_a_table() -> None:
    ds = rows(40)
    assert tables.head(ds, 100).sizes["particle"] == 40
    np.testing.assert_array_equal(tables.slice_rows(ds, 30, None, 3).defocus_u, ds.defocus_u[30::3])
    drawn = tables.sample(ds, 15, seed=4)
    assert len(np.unique(drawn.particle_id)) == 15
    order = [ds.particle_id.values.tolist().index(i) for i in drawn.particle_id.values]
    assert order == sorted(order)
    xr.testing.assert_identical(drawn, tables.sample(ds, 15, seed=4))
    assert not drawn.particle_id.equals(tables.sample(ds, 15, seed=5).particle_id)
    assert tables.sample(ds, fraction=0.25).sizes["particle"] == 10


def test_splits() -> None:
    ds = rows(41)
    parts = tables.split(ds, 4, seed=1)
    assert [p.sizes["particle"] for p in parts] == [11, 10, 10, 10]
    assert sorted(i for p in parts for i in p.particle_id.values) == sorted(ds.particle_id.values)
    by = tables.split_by(ds, "micrograph_name")
    for value, part in by.items():
        np.testing.assert_array_equal(part.particle_id, ds.particle_id.values[ds.micrograph_name.values == value])
    assert sum(p.sizes["particle"] for p in by.values()) == 41


def test_halves_keep_micrographs_together() -> None:
    ds = tables.assign_halves(rows(400), seed=3, by="micrograph_name")
    table = frame(ds).groupby("micrograph_name").half.nunique()
    assert (table == 1).all()
    counts = np.bincount(ds.half)[1:]
    assert counts.min() >= 400 * 2 // 5 - 40
    free = tables.assign_halves(rows(401), seed=3)
    assert sorted(np.bincount(free.half)[1:]) == [200, 201]
    assert free.half.equals(tables.assign_halves(rows(401), seed=3).half)


# keys -----------------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_join_and_sets_agree_with_pandas(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = xr.Dataset({"particle_id": ("particle", rng.permutation(50)[:n])})
    b = xr.Dataset({"particle_id": ("particle", rng.permutation(50)[:m]), "x_b": ("particle", rng.random(m))})
    both = pd.merge(frame(a), frame(b), on="particle_id", how="left")
    shared = both.x_b.notna().to_numpy()
    if shared.any():
        found = tables.join(a, b, on="particle_id", missing="drop")
        np.testing.assert_array_equal(found.x_b.values, both.x_b[shared])
        np.testing.assert_array_equal(tables.join(a, b, on="particle_id", missing="fill").x_b.values, both.x_b)
        np.testing.assert_array_equal(
            tables.intersect(a, b, on="particle_id").particle_id, a.particle_id.values[shared]
        )
    if not shared.all():
        np.testing.assert_array_equal(
            tables.difference(a, b, on="particle_id").particle_id, a.particle_id.values[~shared]
        )
        with pytest.raises(ParameterError, match="partner"):
            tables.join(a, b, on="particle_id")


def test_join_names_what_is_missing_or_double() -> None:
    a, b = rows(6), rows(6)
    lost = b.isel(particle=slice(1, None))
    with pytest.raises(ParameterError, match=rf"none for 1 of 6: {int(a.particle_id[0])} \(row 1\)"):
        tables.join(a, lost, on="particle_id", columns=["shift"])
    double = tables.take(b, [0, 1, 1, 2, 3, 4, 5])
    with pytest.raises(ParameterError, match=r"\(row 2\), .*\(row 3\)"):
        tables.join(a, double, on="particle_id", columns=["shift"])


def test_join_replaces_poses_and_optics_and_compares_names() -> None:
    a = rows(30)
    b = tables.sort(a.assign(shift=a["shift"] * 2, voltage=("optics", [120.0, 100.0])), "-defocus_u")
    b["image_name"] = (
        "particle",
        text(f"{n.split('@')[0].lstrip('0')}@other/{n.split('@')[1]}" for n in b.image_name.values),
    )
    found = tables.join(a, b, on="image_name", columns=["shift", "optics"], basename=True)
    np.testing.assert_array_equal(found["shift"].values, 2 * a["shift"].values)
    np.testing.assert_array_equal(found.voltage.values, [120.0, 100.0])
    np.testing.assert_array_equal(found.optics_group.values, a.optics_group.values)
    by_two = tables.join(a, b, on="micrograph_name,coordinate[0]", columns=["rotation"])
    np.testing.assert_array_equal(by_two.rotation.values, a.rotation.values)
    with pytest.raises(ParameterError, match="image_name"):
        tables.join(a, b, on="image_name", columns=["shift"])


# merge ----------------------------------------------------------------------------------------------------------------
def test_merge_reconciles_optics() -> None:
    a, b = rows(10, 1), rows(12, 2)
    same = tables.merge(a, b)
    assert same.sizes == {**a.sizes, "particle": 22}
    np.testing.assert_array_equal(same.half, np.concatenate([a.half, b.half]))
    np.testing.assert_array_equal(same.particle_id, np.concatenate([a.particle_id, b.particle_id]))
    other = b.assign(voltage=("optics", [300.0, 120.0]))
    mixed = tables.merge(a, other)
    assert mixed.optics_name.values.tolist() == ["one", "two", "two_2"]
    assert "two_2" in mixed.attrs["notes"][0]
    for ds, part in ((a, mixed.isel(particle=slice(0, 10))), (other, mixed.isel(particle=slice(10, None)))):
        np.testing.assert_array_equal(evaluate(part, "voltage"), evaluate(ds, "voltage"))
    renamed = b.assign(optics_name=("optics", text(["three", "four"])))
    assert tables.merge(a, renamed).sizes["optics"] == 4
    assert tables.merge(a, renamed, ignore_names=True).sizes["optics"] == 2


def test_merge_tells_what_differs() -> None:
    a, b = rows(10, 1), rows(12, 2)
    with pytest.raises(ParameterError, match="x_new only in set 2"):
        tables.merge(a, b.assign(x_new=("particle", np.arange(12.0))))
    filled = tables.merge(a, b.assign(x_new=("particle", np.arange(12.0))), missing="fill")
    assert np.isnan(filled.x_new[:10]).all()
    assert filled.x_new[-1] == 11
    assert "x_new" not in tables.merge(a, b.assign(x_new=("particle", np.arange(12.0))), missing="drop")
    with pytest.raises(ParameterError, match="one pixel size"):
        tables.merge(a, b.assign(pixel_size=("optics", [1.0, 1.0])))
    tilted = b.assign(beam_tilt=(("optics", "xy"), [[0.1, 0.2], [0.0, 0.0]]))
    assert tables.merge(a, tilted).beam_tilt.values.tolist() == [[0, 0], [0, 0], [0.1, 0.2]]
    box = [x.assign(image=(("particle", "y", "x"), np.zeros((x.sizes["particle"], s, s)))) for x, s in ((a, 4), (b, 6))]
    with pytest.raises(ParameterError, match="one box"):
        tables.merge(*box)
    with pytest.raises(ParameterError, match="tables of one kind"):
        tables.merge(a, xr.Dataset({"usable": ("micrograph", [True])}))


def test_merge_makes_ids_and_noise_groups_distinct() -> None:
    a = rows(5, group=("particle", np.array([1, 1, 2, 2, 3], np.int32)))
    both = tables.merge(a, a)
    assert len(np.unique(both.particle_id)) == 10
    np.testing.assert_array_equal(both.x_source_id, np.tile(a.particle_id, 2))
    assert both.group.values.tolist() == [1, 1, 2, 2, 3, 4, 4, 5, 5, 6]
    named = a.assign(x_rlnGroupName=("particle", text("aabbc")))
    assert tables.merge(named, named).group.values.tolist() == [1, 1, 2, 2, 3] * 2
    roots = tables.merge(a.assign_attrs(root="/p/x"), a.assign_attrs(root="/p/y"))
    assert roots.attrs["root"] == "/p"
    assert roots.image_name.values[[0, -1]].tolist() == ["000001@x/s0.mrcs", "000005@y/s0.mrcs"]


# columns --------------------------------------------------------------------------------------------------------------
def test_columns() -> None:
    ds = rows(30)
    np.testing.assert_array_equal(tables.set_column(ds, "defocus_u = defocus_u + 100").defocus_u, ds.defocus_u + 100)
    np.testing.assert_array_equal(
        tables.set_column(ds, "shift[1] = -shift[1] / 2")["shift"][:, 1], -ds["shift"][:, 1] / 2
    )
    np.testing.assert_array_equal(tables.set_column(ds, "shift[1] = 0")["shift"][:, 0], ds["shift"][:, 0])
    assert tables.set_column(ds, "voltage = voltage / 2").voltage.values.tolist() == [150.0, 100.0]
    turned = tables.set_column(ds, "psi = psi + 30")
    np.testing.assert_allclose(angular_distance(turned.rotation.values, ds.rotation.values), 30, atol=1e-9)
    np.testing.assert_allclose(evaluate(ds, "tilt"), matrix_to_euler(ds.rotation.values)[:, 1])
    np.testing.assert_array_equal(evaluate(ds, "rlnDefocusU"), ds.defocus_u)
    named = tables.set_column(ds, "x_label = 'a/' + micrograph_name")
    assert named.x_label.values[0] == "a/" + ds.micrograph_name.values[0]
    counts = frame(ds).groupby("micrograph_name").half.transform("count")
    np.testing.assert_array_equal(evaluate(ds, "count(micrograph_name)"), counts)
    edited = tables.replace_text(ds, "micrograph_name", r"job/m(\d)\.mrc", r"k/\1/m.mrc")
    assert edited.micrograph_name.values[3] == ds.micrograph_name.values[3].replace("job/m", "k/").replace(
        ".mrc", "/m.mrc"
    )
    two = tables.renumber_optics(tables.select(ds, "voltage == 200"))
    assert two.voltage.values.tolist() == [200.0]
    assert set(two.optics_group.values) == {0}
    groups = tables.renumber_groups(ds)
    assert frame(groups).groupby("micrograph_name").group.nunique().max() == 1
    assert groups.group.max() == 5


@pytest.mark.parametrize(
    ("edit", "kind", "says"),
    [
        (lambda d: tables.select(d, "defocs_u > 1"), ParameterError, "Did you mean defocus_u?"),
        (lambda d: tables.sort(d, "defocus"), ParameterError, "Did you mean defocus_"),
        (lambda d: tables.sort(d, "shift"), ParameterError, r"shift\[0\]"),
        (lambda d: tables.sort(d), ParameterError, "at least one column"),
        (lambda d: tables.head(d, 0), ParameterError, "at least 1"),
        (lambda d: tables.slice_rows(d, 90), ParameterError, "at least one of"),
        (lambda d: tables.sample(d, 1000), ParameterError, "from 1 to 40"),
        (lambda d: tables.sample(d, fraction=np.nan), ParameterError, "from 1 to 40"),
        (lambda d: tables.take(d, [40]), ParameterError, "rows from 0 to 39"),
        (lambda d: tables.split(d, 41), ParameterError, "parts"),
        (lambda d: tables.rename(d, "half", "halb"), SchemaError, "Did you mean half?"),
        (lambda d: tables.rename(d, "half", "defocus_u"), ParameterError, "there already"),
        (lambda d: tables.rename(d, "defocus_u", "group"), SchemaError, "dtype"),
        (lambda d: tables.drop(d, ["shft"]), ParameterError, "Did you mean shift?"),
        (lambda d: tables.set_column(d, "defocus_u"), ParameterError, "assignment"),
        (lambda d: tables.set_column(d, "half = half / 2"), ParameterError, "whole numbers"),
        (lambda d: tables.set_column(d, "half = half * 10000000000"), ParameterError, "int32"),
        (lambda d: tables.set_column(d, "half = 'one'"), ParameterError, "int32"),
        (lambda d: tables.set_column(d, "voltage = defocus_u"), ParameterError, "one value for each optics"),
        (lambda d: tables.set_column(d, "rotation = 1"), ParameterError, "rot, tilt and psi"),
        (lambda d: tables.set_column(d, "defocus = 1"), SchemaError, "Did you mean defocus_"),
        (lambda d: tables.set_column(d, "x_a = __import__('os')"), ParameterError, "names, numbers"),
        (lambda d: tables.set_column(d, "x_a = 'a' * 999999999"), ParameterError, "text"),
        (lambda d: tables.set_column(d, "tilt = 1 / (half - half)"), ParameterError, "finite"),
        (lambda d: tables.replace_text(d, "micrograph_name", "(", ""), ParameterError, "regular expression"),
        (lambda d: tables.replace_text(d, "micrograph_name", "nowhere", ""), ParameterError, "match"),
        (lambda d: tables.replace_text(d, "micrograph_name", "m", r"\7"), ParameterError, "regular expression"),
        (lambda d: tables.replace_text(d, "half", "1", "2"), ParameterError, "text"),
        (lambda d: tables.remove_duplicates(d, -1), ParameterError, "above 0"),
        (lambda d: tables.remove_duplicates(d, 1e-12), ParameterError, "within a micrograph"),
        (lambda d: tables.remove_duplicates(d.drop_vars("micrograph_pixel_size"), 5), ParameterError, "pixel_size ="),
        (lambda d: tables.recentre(d.drop_vars("coordinate")), SchemaError, "coordinate"),
        (lambda d: tables.expand_symmetry(d, "D0"), ParameterError, "point group"),
        (lambda d: tables.subparticles(d, (1, 2)), ParameterError, "vectors"),
        (lambda d: tables.subparticles(d, (1, 2, 3), frame=np.ones((3, 3))), ParameterError, "rotation"),
        (lambda d: tables.select_views(d, (0, 0, 0), 5), ParameterError, "direction"),
        (lambda d: tables.difference(d, d, on="particle_id"), ParameterError, "at least one row"),
        (lambda d: tables.join(d, d, on="nothing"), ParameterError, "a column of"),
        (lambda d: tables.join(d, d, on="half", columns=["shift"]), ParameterError, "each key once"),
        (lambda d: tables.join(d, d, on="particle_id", columns=["voltage"]), ParameterError, "optics"),
    ],
)  # fmt: skip
def test_errors_say_what_and_how(edit: Any, kind: type[Exception], says: str) -> None:
    ds = rows(40)
    before = ds.copy(deep=True)
    with pytest.raises(kind, match=says):
        edit(ds)
    xr.testing.assert_identical(ds, before)


# duplicates -----------------------------------------------------------------------------------------------------------
def brute_force(xy: np.ndarray, group: np.ndarray, order: np.ndarray, distance: float) -> np.ndarray:
    keep: list[int] = []
    for i in order:
        near = [j for j in keep if group[j] == group[i] and np.hypot(*(xy[i] - xy[j])) < distance]
        if not near:
            keep.append(i)
    return np.sort(np.array(keep))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.floats(1, 200), st.integers(0, 10_000))
def test_duplicates_agree_with_brute_force(n: int, distance: float, seed: int) -> None:
    ds = rows(n, seed % 11)
    found = tables.remove_duplicates(ds, distance, score="max_probability")
    names = np.unique(ds.micrograph_name.values.astype(object), return_inverse=True)[1]
    order = np.argsort(-ds.max_probability.values, kind="stable")
    place = ds.coordinate.values - ds["shift"].values
    expected = brute_force(place, names, order, distance)
    np.testing.assert_array_equal(found.particle_id, ds.particle_id.values[expected])


def test_many_points_on_one_place_cost_no_more() -> None:
    n = 200_000
    ds = xr.Dataset({
        "coordinate": (("particle", "xy"), np.full((n, 2), 7.0)), "micrograph_name": ("particle", text(["a"] * n)),
        "optics_group": ("particle", np.zeros(n, np.int32)), "micrograph_pixel_size": ("optics", [1.0]),
    })  # fmt: skip
    tables.remove_duplicates(tables.head(ds, 10), 5.0)  # compiled
    start = time.process_time()
    assert tables.remove_duplicates(ds, 5.0).sizes["particle"] == 1
    assert time.process_time() - start < 3


# poses ----------------------------------------------------------------------------------------------------------------
def blobs(points: np.ndarray, n: int, width: float = 2.0) -> np.ndarray:
    """Gaussians at points (x, y, z) in voxels from the centre, heights 1, 2, 3, ...: a map without symmetry."""
    axis = np.arange(n) - n // 2
    out = np.zeros((n, n, n))
    for i, (px, py, pz) in enumerate(points):
        x, y, z = (np.exp(-0.5 * ((axis - p) / width) ** 2) for p in (px, py, pz))
        out += (1 + i % 3) * z[:, None, None] * y[:, None] * x
    return out.astype(np.float32)


def displaced(images: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Images as they lie before ``shift`` (pixels) is added to centre them."""
    return irfft2c(rfft2c(images) * shift_phases(images.shape[-1], -shift), images.shape[-1])


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 0.02) -> None:
    assert np.abs(a - b).max() < tolerance * np.abs(a).max()


def test_moving_the_centre_is_moving_the_map() -> None:
    n, v = 48, np.array([5.0, -3.0, 4.0])  # voxels
    rng = np.random.default_rng(1)
    points = rng.uniform(-8, 8, (6, 3))
    ds = rows(7, 1)
    moved = tables.move_centre(ds, v * PIXEL)
    images = displaced(project(blobs(points, n), ds.rotation.values), ds["shift"].values / PIXEL)
    again = displaced(project(blobs(points - v, n), moved.rotation.values), moved["shift"].values / PIXEL)
    close(images, again)
    wrong = displaced(
        project(blobs(points - v, n), ds.rotation.values), (2 * ds["shift"] - moved["shift"]).values / PIXEL
    )
    assert np.abs(images - wrong).max() > 0.3 * images.max()
    defocus = tables.move_centre(ds, (0, 0, 10.0), defocus_hand=1)
    np.testing.assert_allclose(defocus.defocus_u, ds.defocus_u - 10 * ds.rotation[:, 2, 2])


@pytest.mark.parametrize("group", ["C3", "D2", "O"])
def test_copies_of_a_symmetric_particle_project_alike(group: str) -> None:
    n = 40
    seed_points = np.array([[6.0, 3.0, 8.0], [9.0, -2.0, 1.0]])
    points = np.concatenate([seed_points @ g.T for g in point_group(group)])
    volume = sum(blobs(seed_points @ g.T, n) for g in point_group(group))
    assert len(points) == 2 * len(point_group(group))
    ds = rows(3, 1)
    expanded = tables.expand_symmetry(ds, group)
    order = len(point_group(group))
    images = project(volume, expanded.rotation.values).reshape(3, order, n, n)
    for particle in images:
        close(np.broadcast_to(particle[0], particle.shape), particle, 0.03)
    lopsided = project(blobs(seed_points, n), expanded.rotation.values).reshape(3, order, n, n)
    assert np.abs(lopsided[0, 0] - lopsided[0, 1]).max() > 0.1 * lopsided.max()
    np.testing.assert_array_equal(expanded.half, np.repeat(ds.half, order))
    assert len(np.unique(expanded.particle_id)) == 3 * order
    np.testing.assert_array_equal(expanded.x_parent_id, np.repeat(ds.particle_id, order))
    np.testing.assert_array_equal(expanded.rotation[::order], ds.rotation)


@pytest.mark.parametrize(("group", "frame"), [("C4", "axis"), ("D2", "map"), ("D3", "axis")])
def test_the_whole_is_the_sum_of_its_sub_particles(group: str, frame: str) -> None:
    n, v = 64, np.array([9.0, 4.0, -10.0])
    motif = np.array([[0.0, 0, 0], [4.0, 0, 1], [0, 3.0, -2]])
    from cryoflow.tables.symmetry import _frame

    turn = _frame(frame, v)
    operators = point_group(group)
    whole = sum(blobs((v + motif @ turn) @ g.T, n) for g in operators)  # rows: w -> R^T w is motif @ R
    ds = rows(3, 2)
    parts = tables.subparticles(ds, v * PIXEL, group, frame=frame)
    assert parts.sizes["particle"] == 3 * len(operators)
    images = displaced(project(whole, ds.rotation.values), ds["shift"].values / PIXEL)
    pieces = displaced(project(blobs(motif, n), parts.rotation.values), parts["shift"].values / PIXEL)
    close(images, pieces.reshape(3, len(operators), n, n).sum(axis=1))


def test_sub_particles_on_an_axis_count_once_and_look_along_z() -> None:
    ds = rows(4, 3)
    assert tables.subparticles(ds, (0, 0, 40), "D7").sizes["particle"] == 4 * 2
    assert tables.subparticles(ds, (40, 0, 0), "D7").sizes["particle"] == 4 * 7
    assert tables.subparticles(ds, [(1, 2, 40), (0, 0, 40)], "C2").x_site.values.tolist() == [0, 0, 1] * 4
    parts = tables.subparticles(ds, (0, 0, -40), "C1")
    # what lies along v is now along z: A' z = A v / |v|
    np.testing.assert_allclose(parts.rotation.values[:, :, 2], -ds.rotation.values[:, :, 2], atol=1e-12)
    assert tables.subparticles(ds, (0, 0, 0), "O").sizes["particle"] == 4


def test_a_recentred_particle_is_cut_where_its_centre_is() -> None:
    from cryoflow.particles.window import nearest_pixel, windows

    n = 32
    rng = np.random.default_rng(5)
    ds = rows(3, 5, shift=(("particle", "xy"), PIXEL * rng.integers(-5, 6, (3, 2)).astype(float)),
              coordinate=(("particle", "xy"), rng.integers(60, 140, (3, 2)).astype(float)),
              micrograph_pixel_size=("optics", [PIXEL, PIXEL]))  # fmt: skip
    centred = project(blobs(rng.uniform(-6, 6, (5, 3)), n), ds.rotation.values)
    new = tables.recentre(ds)
    assert "image_name" not in new
    assert not new["shift"].values.any()
    for i, image in enumerate(centred):
        micrograph = np.zeros((200, 200), image.dtype)
        # the box about the old coordinate shows the particle displaced by minus its shift
        x, y = (ds.coordinate.values[i] - ds["shift"].values[i] / PIXEL).astype(int)
        micrograph[y - n // 2 : y + n // 2, x - n // 2 : x + n // 2] = image
        old = windows(micrograph, nearest_pixel(ds.coordinate.values[i : i + 1]), n)[0]
        close(displaced(image[None], ds["shift"].values[i : i + 1] / PIXEL)[0], old, 0.05)
        np.testing.assert_array_equal(windows(micrograph, nearest_pixel(new.coordinate.values[i : i + 1]), n)[0], image)
    uneven = rows(50, 6)
    whole = tables.recentre(uneven, whole_pixels=True)
    assert (whole.coordinate.values == np.rint(whole.coordinate.values)).all()
    np.testing.assert_allclose(whole.coordinate - whole["shift"], uneven.coordinate - uneven["shift"], atol=1e-9)


def test_views_under_symmetry() -> None:
    ds = rows(500, 7)
    group = point_group("D2")
    near = tables.select_views(ds, (1, 1, 1), 20, symmetry="D2")
    d = np.ones(3) / np.sqrt(3)
    angle = np.min([np.rad2deg(np.arccos(np.clip((ds.rotation.values @ g)[:, 2] @ d, -1, 1))) for g in group], axis=0)
    np.testing.assert_array_equal(near.particle_id, ds.particle_id.values[angle <= 20])
    top = tables.select(ds, "tilt < 20 or tilt > 160")
    both = tables.select_views(ds, (0, 0, 1), 20, opposite=True)
    np.testing.assert_array_equal(top.particle_id, both.particle_id)


# RELION's own tools ---------------------------------------------------------------------------------------------------
@pytest.mark.relion
def test_relion_expands_centres_and_thins_alike(data: Path, tmp_path: Path, relion_programs: Path) -> None:
    star = data / "metadata" / "betagal_refine3d" / "run_it016_data.star"
    ds = tables.sample(read_particles(star, images=False), 300)
    write_particles(ds, tmp_path / "in.star")

    def theirs(program: str, *arguments: object) -> xr.Dataset:
        command = [relion_programs / program, "--i", "in.star", "--o", "out.star", *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        return read_particles(tmp_path / "out.star", images=False)

    expanded = theirs("relion_particle_symmetry_expand", "--sym", "D2")
    mine = tables.expand_symmetry(ds, "D2")
    assert expanded.sizes["particle"] == mine.sizes["particle"] == 1200
    for name, poses in frame(expanded).groupby("image_name").groups.items():
        ours = mine.rotation.values[mine.image_name.values == name]
        distance = angular_distance(expanded.rotation.values[np.asarray(poses)][:, None], ours[None])
        assert (distance.min(axis=0) < 1e-3).all()
        assert (distance.min(axis=1) < 1e-3).all()

    v = np.array([10.0, -4.0, 7.0])  # pixels of the reference
    centred = theirs("relion_star_handler", "--center", "--center_X", v[0], "--center_Y", v[1], "--center_Z", v[2])
    expected = tables.move_centre(ds, v * float(ds.pixel_size[0]))
    np.testing.assert_allclose(centred["shift"].values, expected["shift"].values, atol=2e-4)

    whole = read_particles(star, images=False)
    write_particles(whole, tmp_path / "in.star")
    thinned = theirs("relion_star_handler", "--remove_duplicates", 150, "--image_angpix",
                     float(whole.micrograph_pixel_size[0]))  # fmt: skip
    # RELION 3.1 drops every particle that has a later one near, even if that is dropped too; here one of them stays
    place, pixel = centres(whole)
    place, names = place * pixel[:, None], whole.micrograph_name.values.astype(object)
    later = np.zeros(len(names), bool)
    for name in np.unique(names):
        here = np.flatnonzero(names == name)
        near = np.hypot(*(place[here][:, None] - place[here][None]).transpose(2, 0, 1)) < 150
        later[here] = np.triu(near, 1).any(axis=1)
    np.testing.assert_array_equal(np.isin(whole.image_name.values.astype(object), thinned.image_name.values), ~later)
    assert thinned.sizes["particle"] < tables.remove_duplicates(whole, 150.0).sizes["particle"] < len(names)


# laziness -------------------------------------------------------------------------------------------------------------
def test_images_stay_lazy_and_follow_their_rows(tmp_path: Path) -> None:
    ds = lazy_set(tmp_path)
    values = ds.image.values[:, 0, 0]
    with mock.patch.object(FileImages, "read", side_effect=AssertionError("an image was read")):
        some = tables.sort(tables.select(ds, "half == 1"), "-defocus_u")
        drawn = tables.sample(some, 10, seed=1)
        expanded = tables.expand_symmetry(drawn, "D2")
        halves = tables.merge(some, drawn)
        joined = tables.join(drawn.drop_vars("image"), ds, on="image_name", columns=["image"])
        part = tables.split_by(expanded, "x_parent_id")
    where = dict(zip(ds.image_name.values, values))
    for out in (some, drawn, expanded, halves, joined, *part.values()):
        assert out.image.chunks is not None
        assert max(out.image.chunksizes["particle"]) <= 7
        expected = [where[name] for name in out.image_name.values]
        np.testing.assert_array_equal(out.image.values[:, 3, 5], expected)
        np.testing.assert_array_equal(out.image[2].values, np.full((8, 8), expected[2]))
        np.testing.assert_array_equal(out.image[::3, 2:4, 1].values[:, 1], expected[::3])


def test_images_of_a_store_stay_lazy(tmp_path: Path) -> None:
    ds = lazy_set(tmp_path).assign_attrs(root="r")
    ds = tables.drop(ds, ["x_*"]) if any(str(v).startswith("x_") for v in ds) else ds
    big = ds.assign(image=(("particle", "y", "x"), np.random.default_rng(0).random((60, 16, 16), np.float32)))
    save(big, tmp_path / "p.zarr", function="test", parameters={}, chunk_bytes=16 * 16 * 4 * 9)
    stored = open_store(tmp_path / "p.zarr")
    taken = tables.sort(stored, "-defocus_u")
    order = np.argsort(-ds.defocus_u.values, kind="stable")
    np.testing.assert_array_equal(taken.image.values, big.image.values[order])
    assert len(taken.image.data.dask) < 40


def test_a_permutation_of_many_images_is_a_small_graph(tmp_path: Path) -> None:
    ds = lazy_set(tmp_path)
    many = tables.take(ds, np.tile(np.arange(60), 1500))  # 90,000 rows, 7 a chunk
    start = time.process_time()
    mixed = tables.sort(many, "-defocus_u")
    spent = time.process_time() - start
    chunks = len(mixed.image.chunksizes["particle"])
    assert len(mixed.image.data.dask) <= chunks + 1
    assert spent < 10
    last = mixed.isel(particle=slice(-3, None))
    first = int(np.argmin(ds.defocus_u.values))
    np.testing.assert_array_equal(last.image.values[:, 0, 0], [float(ds.image[first, 0, 0])] * 3)


def test_a_million_rows_are_queried_within_a_second() -> None:
    n = 1_000_000
    rng = np.random.default_rng(0)
    names = np.array([f"MotionCorr/job002/m{i:05d}.mrc" for i in range(3000)], np.dtypes.StringDType())
    columns = {f"x_c{i}": ("particle", rng.random(n)) for i in range(7)}
    ds = xr.Dataset({
        "defocus_u": ("particle", rng.uniform(8e3, 2e4, n)), "half": ("particle", rng.integers(1, 3, n)),
        "micrograph_name": ("particle", names[rng.integers(0, 3000, n)]),
        "shift": (("particle", "xy"), rng.normal(0, 1, (n, 2))), "optics_group": ("particle", np.zeros(n, np.int32)),
        "voltage": ("optics", [300.0]), "particle_id": ("particle", np.arange(n)),
        "max_probability": ("particle", rng.random(n)), **columns,
    })  # fmt: skip
    assert sum("particle" in a.dims for a in ds.variables.values()) >= 14
    best = np.inf
    for _ in range(2):
        start = time.process_time()
        out = tables.select(ds, "defocus_u < 15000 and half == 1 and voltage > 200 and abs(shift[0]) < 2")
        best = min(best, time.process_time() - start)
    mask = (ds.defocus_u.values < 15000) & (ds.half.values == 1) & (np.abs(ds["shift"].values[:, 0]) < 2)
    assert out.sizes["particle"] == mask.sum()
    assert best < 1.0


def test_a_table_can_be_written_and_read_again(tmp_path: Path) -> None:
    ds = tables.expand_symmetry(rows(10), "C2")
    write_particles(ds, tmp_path / "o.star")
    again = read_star(tmp_path / "o.star")["particles"]
    assert len(again) == 20
    np.testing.assert_array_equal(again["parent_id"], ds.x_parent_id)
