"""map_reduce and compute in this process: values, order of sums, laziness, and errors that come early."""

# ruff: noqa: ARG001, ARG005  (kernels name arguments they do not all use)
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoflow.engine import compute, map_reduce, map_rows
from cryoflow.engine.sums import add
from cryoflow.errors import ComputeError, ParameterError, ResourceError, SchemaError

ROWS, BOX = 203, 12


def particles(chunk: int | None = 17, rows: int = ROWS) -> xr.Dataset:
    """Rows with a large range, so that float32 sums depend on their order."""
    rng = np.random.default_rng(7)
    image = (rng.normal(size=(rows, BOX, BOX)) * 10.0 ** rng.uniform(-4, 4, (rows, 1, 1))).astype("f4")
    ds = xr.Dataset(
        {
            "image": (("particle", "y", "x"), image),
            "defocus_u": ("particle", rng.uniform(1e4, 2e4, rows).astype("f4")),
            "voltage": ("optics", np.array([300.0, 200.0], "f4")),
            "optics_group": ("particle", np.arange(rows) % 2),
            "micrograph_name": ("particle", np.array([f"m{i // 10}.mrc" for i in range(rows)])),
        }
    )
    return ds.assign(image=ds.image.chunk(particle=chunk)) if chunk else ds


def kernel(image, defocus_u, voltage, particle, micrograph_name, *, scale=1.0):
    power = (image * image).sum((1, 2)) * scale
    rows = {
        "norm": power,
        "shift": np.stack([defocus_u, voltage], 1),
        "x_row": particle,
        "micrograph_name": np.array([n.upper() for n in micrograph_name], object),
    }
    return rows, {"sum": image.sum(0), "parts": (power.sum(), len(power)), "f8": image.sum(0, dtype="f8")}


OUTPUTS = {"norm": None, "shift": None, "x_row": (("particle",), "i8"), "micrograph_name": None}


def test_values_are_those_of_one_call() -> None:
    ds = particles()
    rows, sums = compute(*map_reduce(kernel, ds, {"scale": 2.0}, outputs=OUTPUTS, lanes=4, batch=5))
    image = ds.image.values
    np.testing.assert_allclose(rows.norm, 2 * (image**2).sum((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(rows["shift"][:, 0], ds.defocus_u)
    np.testing.assert_array_equal(rows["shift"][:, 1], ds.voltage.values[ds.optics_group.values])
    np.testing.assert_array_equal(rows.x_row, np.arange(ROWS))
    assert list(rows.micrograph_name.values) == [n.upper() for n in ds.micrograph_name.values]
    np.testing.assert_allclose(sums["f8"], image.sum(0, dtype="f8"), rtol=1e-10)
    assert sums["parts"][1] == ROWS


def expected_sum(image: np.ndarray, chunks: tuple[int, ...], lanes: int, batch: int) -> np.ndarray:
    """The documented order, written out: batch -> chunk -> lane -> pairwise tree."""
    edges = np.concatenate([[0], np.cumsum(chunks)])
    folded: list[np.ndarray] = []
    for part in np.array_split(np.arange(len(chunks)), lanes):
        lane = None
        for c in part:
            rows, total = image[edges[c] : edges[c + 1]], None
            for low in range(0, len(rows), batch):
                s = rows[low : low + batch].sum(0)
                total = s if total is None else total + s
            lane = total if lane is None else lane + total
        folded.append(lane)
    while len(folded) > 1:
        tail = folded[-1:] if len(folded) % 2 else []
        folded = [folded[i] + folded[i + 1] for i in range(0, len(folded) - 1, 2)] + tail
    return folded[0]


@pytest.mark.parametrize(
    ("chunk", "lanes", "batch"), [(17, 4, 5), (17, 1, 100), (8, 64, 3), (203, 64, 50), (29, 3, 29)]
)
def test_order_of_the_sum_is_the_documented_one(chunk: int, lanes: int, batch: int) -> None:
    ds = particles(chunk)
    _, sums = compute(*map_reduce(kernel, ds, lanes=lanes, batch=batch))
    chunks = ds.image.variable.chunks
    assert chunks is not None
    expected = expected_sum(ds.image.values, chunks[0], min(lanes, len(chunks[0])), batch)
    np.testing.assert_array_equal(sums["sum"], expected)


def test_the_order_matters_for_these_data() -> None:
    """Else the tests of equal bits could not fail."""
    image = particles().image.values
    assert not np.array_equal(expected_sum(image, (ROWS,), 1, ROWS), expected_sum(image, (100, 103), 2, 7))


def test_in_memory_data_and_a_single_chunk() -> None:
    ds = particles(None)
    rows, sums = map_reduce(kernel, ds, outputs=["norm"])
    assert rows.norm.chunks == ((ROWS,),)
    got, _ = compute(rows, sums)
    np.testing.assert_allclose(got.norm, (ds.image.values**2).sum((1, 2)), rtol=1e-5)


class Counter:
    """A kernel that counts its calls (threads share it)."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, image, *, offset):
        self.calls.append(len(image))
        return {"norm": image[:, 0, 0] + offset}, {"n": len(image)}


def test_nothing_runs_until_asked() -> None:
    count = Counter()
    ds = particles(50)
    loaded: list[int] = []
    watched = ds.image.data.map_blocks(lambda b: (loaded.append(len(b)), b)[1], meta=np.empty((0, 0, 0), "f4"))
    ds = ds.assign(image=ds.image.copy(data=watched))
    rows, sums = map_reduce(count, ds, {"offset": 1.0}, outputs=["norm"], batch=20)
    later = rows.norm * 2
    assert not count.calls
    assert not loaded
    assert rows.norm.dtype == np.float32
    assert rows.sizes == {"particle": ROWS}
    first = compute(rows.isel(particle=slice(0, 10)))[0]
    assert first.sizes["particle"] == 10
    assert sum(loaded) <= 50  # its own chunk alone
    count.calls.clear(), loaded.clear()
    a, b, c = compute(rows, sums, later)
    assert sum(count.calls) == ROWS  # each row once, for all three lazies
    assert sum(loaded) == ROWS
    np.testing.assert_array_equal(a.norm * 2, c)
    assert b == {"n": ROWS}


def test_lazies_work_with_dask_itself() -> None:
    import dask

    lazy = map_reduce(kernel, particles(), outputs=["norm"], lanes=3)
    mine, theirs = compute(*lazy), dask.compute(*lazy)
    assert mine[0].identical(theirs[0])
    np.testing.assert_array_equal(mine[1]["sum"], theirs[1]["sum"])


def test_compute_passes_other_values_and_containers() -> None:
    rows, sums = map_reduce(kernel, particles(), outputs=["norm"])
    got = compute({"a": [rows.norm, 3], "b": (sums,)}, "text", None)
    assert got[0]["a"][1] == 3
    assert got[0]["b"][0]["parts"][1] == ROWS
    assert got[1:] == ("text", None)
    assert isinstance(got[0]["a"][0], xr.DataArray)


def test_lazy_shared_data_and_two_graphs_at_once() -> None:
    """A kernel's sums can be another's shared data without a compute between them."""
    ds = particles()
    _, first = map_reduce(kernel, ds)

    def second(image, *, model):
        return {"norm": (image * model["sum"]).sum((1, 2))}, {}

    rows, sums = compute(map_rows(second, ds, {"model": first}, outputs=["norm"]), first)
    np.testing.assert_allclose(rows.norm, (ds.image.values * sums["sum"]).sum((1, 2)), rtol=1e-4)


@dataclasses.dataclass
class Scaled:
    factor: float

    def __call__(self, image):
        return {"norm": self.factor * image[:, 0, 0]}, {}


def test_partials_and_callable_objects() -> None:
    ds = particles()
    (a,) = compute(map_rows(Scaled(3.0), ds, outputs=["norm"]))
    (b,) = compute(map_rows(functools.partial(kernel, scale=0.5), ds, outputs=["norm"]))
    np.testing.assert_array_equal(a.norm, np.float32(3.0) * ds.image[:, 0, 0].values)
    assert b.norm.shape == (ROWS,)


def test_one_optics_group_needs_no_index() -> None:
    ds = particles().drop_vars("optics_group").isel(optics=[0])
    rows, _ = compute(*map_reduce(kernel, ds, outputs=["shift"]))
    assert (rows["shift"][:, 1] == 300).all()


def test_an_optional_variable() -> None:
    def phase(image, phase_shift=None):
        return {}, {"has": int(phase_shift is not None)}

    ds = particles()
    assert compute(map_reduce(phase, ds, batch=ROWS)[1])[0]["has"] == 0
    ds["phase_shift"] = ("particle", np.zeros(ROWS, "f4"))
    assert compute(map_reduce(phase, ds)[1])[0]["has"] == ds.image.data.numblocks[0]


def test_other_chunks_of_metadata_and_of_rows_inside() -> None:
    """Metadata in other chunks, images chunked within: the chunks along rows of the images rule."""
    ds = particles(20)
    ds["defocus_u"] = ds.defocus_u.chunk(particle=33)
    ds["image"] = ds.image.chunk(y=5)
    rows, sums = compute(*map_reduce(kernel, ds, outputs=["shift"]))
    np.testing.assert_array_equal(rows["shift"][:, 0], ds.defocus_u)
    np.testing.assert_array_equal(sums["sum"], compute(map_reduce(kernel, particles(20))[1])[0]["sum"])


def test_micrographs_are_rows_too() -> None:
    ds = xr.Dataset({"micrograph": (("micrograph", "y", "x"), np.ones((5, 8, 9), "u1"))}).chunk(micrograph=1)

    def mean(micrograph):
        return {"defocus_u": micrograph.mean((1, 2)), "reason": np.array([""] * len(micrograph), object)}, {}

    (got,) = compute(map_rows(mean, ds, dim="micrograph", outputs=["defocus_u", "reason"]))
    assert got.defocus_u.dims == ("micrograph",)
    assert list(got.defocus_u.values) == [1.0] * 5
    assert got.sizes == {"micrograph": 5}


def test_rows_keep_the_labels_of_the_data() -> None:
    ds = particles().assign_coords(particle=np.arange(ROWS) + 1000)
    (rows,) = compute(map_rows(Scaled(1.0), ds, outputs=["norm"]))
    assert int(rows.particle[0]) == 1000


# --- errors that come before anything runs ---------------------------------------------------------------------------


def needs(image, *, volume):
    return {}, {}


@pytest.mark.parametrize(
    ("function", "change", "shared", "options", "kind", "text"),
    [
        (kernel, lambda d: d.drop_vars("defocus_u"), {}, {}, SchemaError, "defocus_u"),
        (kernel, lambda d: d.drop_vars("optics_group"), {}, {}, SchemaError, "optics_group"),
        (kernel, lambda d: d.assign(optics_group=d.optics_group + 1), {}, {}, SchemaError, "1 to 2"),
        (kernel, lambda d: d.isel(particle=[]), {}, {}, SchemaError, "at least one row"),
        (kernel, lambda d: d.rename(particle="movie"), {}, {}, SchemaError, "particle"),
        (kernel, lambda d: d.assign(image=d.image.transpose("y", "x", "particle")), {}, {}, SchemaError, "first dim"),
        (needs, lambda d: d, {}, {}, ParameterError, "volume"),
        (needs, lambda d: d, {"volume": 1, "volumes": 2}, {}, ParameterError, "volumes"),
        (lambda *images: ({}, {}), lambda d: d, {}, {}, ParameterError, "images"),
        (kernel, lambda d: d, {}, {"outputs": ["x_new"]}, ParameterError, "x_new"),
        (kernel, lambda d: d, {}, {"outputs": {"fit": (("shell",), "f4")}}, ParameterError, "shell"),
        (kernel, lambda d: d, {}, {"batch": 0}, ParameterError, "batch"),
        (kernel, lambda d: d, {}, {"lanes": 0}, ParameterError, "lanes"),
    ],
)  # fmt: skip
def test_errors_of_use_come_when_the_graph_is_built(
    function: Any, change: Callable[[xr.Dataset], xr.Dataset], shared: dict[str, Any], options: dict[str, Any],
    kind: type[Exception], text: str,
) -> None:  # fmt: skip
    with pytest.raises(kind, match=text):
        map_reduce(function, change(particles()), shared, **options)


# --- errors while running --------------------------------------------------------------------------------------------


def failing(error: Exception) -> Callable[..., Any]:
    def fails(image, particle):
        if 40 in particle:
            raise error
        return {"norm": image[:, 0, 0]}, {"n": 1}

    return fails


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("not a number"), ComputeError, "not a number"),
        (MemoryError("too much"), ResourceError, "too much"),
        (OSError(28, "No space left on device"), ResourceError, "No space left"),
        (OSError(5, "Input/output error"), ComputeError, "Input/output"),
        (SchemaError("inner.star", expected="x", found="y"), ComputeError, "inner.star"),
    ],
)
def test_a_failing_chunk_is_named(error: Exception, kind: type[Exception], text: str) -> None:
    ds = particles(17)
    ds.encoding["source"] = "stacks/a.zarr"
    with pytest.raises(kind, match=text) as caught:
        compute(map_reduce(failing(error), ds, lanes=2)[1])
    assert "fails, rows 34 to 50 of stacks/a.zarr" in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda n: None, "mappings"),
        (lambda n: ({}, {}), "no row variable 'norm'"),
        (lambda n: ({"norm": np.zeros(n + 1)}, {}), "shape"),
        (lambda n: ({"norm": np.zeros(n)}, {"s": np.zeros(n)}), "sums of shapes"),
    ],
)
def test_a_kernel_that_breaks_its_promise(returned: Callable[[int], Any], text: str) -> None:
    def wrong(image):
        return returned(len(image))

    with pytest.raises(ComputeError, match=text):
        compute(*map_reduce(wrong, particles(17), outputs=["norm"], batch=9))


def test_a_truncated_chunk_is_named() -> None:
    import dask.array as da

    ds = particles(50)
    short = da.map_blocks(lambda b, block_id=None: b[:-1] if block_id[0] == 1 else b, ds.image.data, dtype="f4",
                          meta=np.empty((0, 0, 0), "f4"))  # fmt: skip
    with pytest.raises(ComputeError, match=r"rows 50 to 99: expected 50 rows of 'image'; found 49"):
        compute(map_reduce(kernel, ds.assign(image=ds.image.copy(data=short)))[1])


def test_rows_alone_drop_the_sums() -> None:
    rows, sums = compute(*map_reduce(kernel, particles(), outputs=["norm"], lanes=None))
    assert sums == {}
    assert rows.norm.shape == (ROWS,)


def test_shared_data_stay_as_they_are() -> None:
    """A kernel may hand out its shared array as a sum: adding must not write into it."""
    base = np.ones((3, 3), "f4")

    def lends(image, *, base):
        return {}, {"b": base}

    (got,) = compute(map_reduce(lends, particles(17), {"base": base}, batch=4)[1])
    np.testing.assert_array_equal(base, np.ones((3, 3)))
    assert got["b"][0, 0] == sum(-(-n // 4) for n in particles(17).image.variable.chunks[0])


def test_progress_counts_rows(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    rows, sums = map_reduce(kernel, particles(), outputs=["norm"])
    compute(rows, sums, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (ROWS, ROWS)
    assert len(seen) == len(particles().image.chunks[0])
    assert capsys.readouterr().err == ""
    compute(sums, progress=True, label="fold")
    assert f"{ROWS}/{ROWS} rows" in capsys.readouterr().err
    compute(sums)
    assert capsys.readouterr().err == ""  # not a terminal


def test_the_users_client_is_left_alone_and_blas_threads_come_back() -> None:
    from threadpoolctl import threadpool_info

    before = [(m["filepath"], m["num_threads"]) for m in threadpool_info()]
    seen: list[int] = []

    def looks(image):
        seen.extend(m["num_threads"] for m in threadpool_info() if m["user_api"] == "blas")
        return {}, {"n": 1}

    compute(map_reduce(looks, particles(50))[1])
    assert set(seen) == {1}
    assert [(m["filepath"], m["num_threads"]) for m in threadpool_info()] == before


def test_optics_read_lazily_serve_every_chunk() -> None:
    lazy = particles(50)
    lazy = lazy.assign(voltage=(2 * lazy.voltage.chunk(optics=1)))  # tasks that all chunks share, and their constants
    lazy = lazy.assign(optics_group=lazy.optics_group.chunk(particle=31))

    def volts(image, voltage):
        return {}, {"total": voltage.astype("f8").sum()}

    _, sums = compute(*map_reduce(volts, lazy))
    assert sums["total"] == np.array([600.0, 400.0])[np.arange(ROWS) % 2].sum()


def test_sums_on_a_device_add_up_batch_by_batch() -> None:
    """Arrays of a device say nothing of being writeable."""

    class Flags:
        c_contiguous = True

    class There(np.ndarray):  # type: ignore[type-arg]
        flags = Flags()  # type: ignore[assignment]

    a, b = (np.ones(3).view(There) for _ in range(2))
    assert add({"s": a}, {"s": b}, own=True)["s"].tolist() == [2.0, 2.0, 2.0]
