"""map_reduce on worker processes: the same bits for any number of them, placement, progress; and connect."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from cryoflow.engine import compute, connect, map_reduce, map_rows
from cryoflow.engine.cluster import Address, parse_address, ssh_spec
from cryoflow.errors import ComputeError, ParameterError, ResourceError

ROOT = Path(__file__).parents[1]
ROWS = 400


def particles(chunk: int = 13) -> xr.Dataset:
    """float32 sums over eight decades with cancellation: every order has bits of its own."""
    import dask.array as da

    def make(block_info: Any = None) -> np.ndarray:
        (low, high), *_ = block_info[None]["array-location"]
        return np.stack([one(i) for i in range(low, high)])

    def one(i: int) -> np.ndarray:
        rng = np.random.default_rng(i // 2)
        image = (rng.normal(size=(16, 16)) * 10.0 ** rng.uniform(-4, 4)).astype("f4")
        return image if i % 2 else np.float32(-1.0001) * image

    sizes = tuple(min(chunk, ROWS - a) for a in range(0, ROWS, chunk))
    image = da.map_blocks(make, chunks=(sizes, (16,), (16,)), dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    return xr.Dataset(
        {
            "image": (("particle", "y", "x"), image),
            "voltage": ("optics", np.array([300.0, 200.0], "f4")),
            "optics_group": ("particle", np.arange(ROWS) % 2),
        }
    )


def kernel(image, voltage, *, model, factor=1.0):
    cross = image.reshape(len(image), -1) @ model  # a BLAS product: its bits depend on the number of threads
    return {"norm": cross[:, 0] * voltage, "x_cross": cross}, {"sum": image.sum(0), "cross": factor * cross.sum(0)}


OUTPUTS = {"norm": None, "x_cross": (("particle", "model"), "f4")}
MODEL = np.random.default_rng(5).normal(size=(256, 1100)).astype("f4")  # 1.1 MB: broadcast, not in the graph


def lazy(ds: xr.Dataset | None = None) -> tuple[xr.Dataset, Any]:
    return map_reduce(kernel, particles() if ds is None else ds, {"model": MODEL}, outputs=OUTPUTS, lanes=5, batch=6,
                      sizes={"model": MODEL.shape[1]})  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[Any]:
    from distributed import Client

    with Client(cluster, set_as_default=False) as made:
        yield made


def test_the_same_bits_for_any_number_of_workers(cluster: Any, client: Any) -> None:
    rows, sums = compute(*lazy())
    assert np.abs(sums["sum"]).max() > 0
    for workers in (1, 2, 4):
        cluster.scale(workers)
        client.wait_for_workers(workers, timeout=60)
        other_rows, other_sums = compute(*lazy(), client=client)
        assert rows.identical(other_rows)
        np.testing.assert_array_equal(sums["sum"], other_sums["sum"])
        np.testing.assert_array_equal(sums["cross"], other_sums["cross"])
    cluster.scale(2)


def test_chunks_have_a_part_in_the_bits() -> None:
    """Else the test above could not fail."""
    (a,), (b,) = (compute(lazy(particles(chunk))[1]) for chunk in (13, 20))
    assert not np.array_equal(a["sum"], b["sum"])


def test_data_that_lie_on_the_workers(client: Any) -> None:
    ds = particles()
    held = ds.assign(image=ds.image.copy(data=client.persist(ds.image.data)))
    rows, sums = compute(*lazy(held), client=client)
    expected, expected_sums = compute(*lazy(ds))
    assert expected.identical(rows)
    np.testing.assert_array_equal(expected_sums["sum"], sums["sum"])


def test_large_shared_arrays_stay_out_of_the_graph(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two graphs with one model: it travels once. (client.map with such a keyword hangs; this does not use it.)"""
    import cloudpickle

    sent: list[Any] = []
    sizes: list[int] = []
    submit, get = client.submit, client.get
    monkeypatch.setattr(client, "submit", lambda f, x, **kw: sent.append(x) or submit(f, x, **kw))
    monkeypatch.setattr(client, "get", lambda graph, *a, **kw: sizes.append(graph_bytes(graph)) or get(graph, *a, **kw))

    def graph_bytes(graph: dict[Any, Any]) -> int:
        nodes = {k: v for k, v in graph.items() if hasattr(v, "dependencies")}
        return len(cloudpickle.dumps(nodes))

    (_, a), (_, b) = lazy(), lazy()
    first, second = compute(a, b, client=client)
    np.testing.assert_array_equal(first["cross"], second["cross"])
    assert len(sent) == 1
    assert sent[0] is MODEL
    assert sizes[0] < MODEL.nbytes / 2


def test_progress_from_the_workers(client: Any) -> None:
    seen: list[tuple[int, int]] = []
    compute(lazy()[1], client=client, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {ROWS}
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def fails(image, particle):
    if 100 in particle:
        raise ValueError("a row that cannot be")
    return {"norm": image[:, 0, 0]}, {"n": 1}


def test_a_failing_chunk_is_named(client: Any) -> None:
    with pytest.raises(ComputeError, match=r"fails, rows 91 to 103: .*a row that cannot be") as caught:
        compute(*map_reduce(fails, particles(), outputs=["norm"]), client=client)
    assert isinstance(caught.value.__cause__, ValueError)


def test_no_client_is_registered_or_used_behind_the_back(client: Any) -> None:
    import os

    from distributed import default_client

    def where(image):
        return {"x_pid": np.full(len(image), os.getpid())}, {}

    outputs = {"x_pid": (("particle",), "i8")}
    with client.as_current():
        (rows,) = compute(map_rows(where, particles(), outputs=outputs))
    assert set(rows.x_pid.values) == {os.getpid()}
    (rows,) = compute(map_rows(where, particles(), outputs=outputs), client=client)
    assert os.getpid() not in rows.x_pid.values
    with pytest.raises(ValueError, match="No clients"):
        default_client()


def test_chunks_go_to_the_workers_that_declare_a_gpu() -> None:
    """One worker of two has the resource; without CuPy there it computes on the CPU, and says so in its log."""
    from distributed import Client, Nanny, Scheduler, SpecCluster, get_worker

    def worker(gpus: int) -> dict[str, Any]:
        options = {"nthreads": 1, "resources": {"GPU": gpus} if gpus else {}}
        return {"cls": Nanny, "options": options}

    def where(image):
        return {"x_gpu": np.full(len(image), get_worker().state.total_resources.get("GPU", 0))}, {"n": len(image)}

    scheduler = {"cls": Scheduler, "options": {"dashboard_address": ":0", "port": 0}}
    outputs = {"x_gpu": (("particle",), "i8")}
    with (
        SpecCluster(workers={0: worker(0), 1: worker(1)}, scheduler=scheduler) as made,
        Client(made, set_as_default=False) as both,
    ):
        both.wait_for_workers(2, timeout=60)
        rows, sums = compute(*map_reduce(where, particles(), outputs=outputs), client=both)
        assert set(rows.x_gpu.values) == {1}
        assert sums["n"] == ROWS
        (free,) = compute(map_rows(where, particles(), outputs=outputs, device="cpu"), client=both)
        assert set(free.x_gpu.values) == {0, 1}
        if importlib.util.find_spec("cupy") is None:
            with pytest.raises(ResourceError, match="CuPy"):
                compute(map_rows(where, particles(), outputs=outputs, device="cuda"), client=both)


@pytest.mark.gpu
def test_the_same_numbers_on_a_gpu() -> None:
    cupy = pytest.importorskip("cupy", reason="needs CuPy and a CUDA device")
    if not cupy.cuda.is_available():
        pytest.skip("no CUDA device")
    rows, _ = compute(*lazy())
    on_gpu = map_reduce(kernel, particles(), {"model": MODEL}, outputs=OUTPUTS, lanes=5, batch=6, device="cuda",
                        sizes={"model": MODEL.shape[1]})  # fmt: skip
    gpu_rows, gpu_sums = compute(*on_gpu)
    np.testing.assert_allclose(gpu_rows.norm, rows.norm, rtol=1e-3, atol=1e-2 * np.abs(rows.norm).max())
    assert isinstance(gpu_sums["sum"], np.ndarray)


# --- connect ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, Address("embedded")),
        ("embedded", Address("embedded")),
        ("local", Address("local")),
        ("local:4", Address("local", 4)),
        ("local:4x2", Address("local", 4, 2)),
        ("cuda", Address("cuda")),
        ("cuda:2", Address("cuda", 2)),
        ("tcp://10.0.0.1:8786", Address("address", names=("tcp://10.0.0.1:8786",))),
        ("tls://host:1", Address("address", names=("tls://host:1",))),
        ("ssh:a,b,c", Address("ssh", names=("a", "b", "c"))),
        ("slurm", Address("slurm")),
        ("slurm:8", Address("slurm", 8)),
        ("kubernetes:cryoflow", Address("kubernetes", names=("cryoflow",))),
        ("scheduler.json", Address("file", names=("scheduler.json",))),
        ("file:shared/s.json", Address("file", names=("shared/s.json",))),
    ],
)
def test_addresses(text: str | None, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["locall", "local:0", "local:x", "local:2x0", "cuda:1x2", "ssh:", "ssh:a,,b", "slurm:a", "tcp://",
             "kubernetes:", "embedded:3"],
)  # fmt: skip
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(ParameterError, match="one of: embedded"), connect(text):
        pass


def test_embedded() -> None:
    with connect() as client:
        assert client is None
    with pytest.raises(ParameterError, match="report"), connect("embedded", report="x.html"):
        pass


def test_local_with_a_performance_report(tmp_path: Path) -> None:
    pytest.importorskip("bokeh")
    with connect("local:1", report=tmp_path / "report.html") as client:
        assert len(client.scheduler_info()["workers"]) == 1
        compute(lazy()[1], client=client)
    text = (tmp_path / "report.html").read_text()
    assert "kernel" in text


def test_an_address_and_a_scheduler_file(cluster: Any, client: Any, tmp_path: Path) -> None:
    with connect(cluster.scheduler_address) as other:
        assert other.id != client.id
    file = tmp_path / "scheduler.json"
    client.write_scheduler_file(str(file))
    with connect(str(file)) as other:
        assert compute(lazy()[1], client=other)[0]["sum"].shape == (16, 16)
    assert client.status == "running"


def test_nobody_answers() -> None:
    with pytest.raises(ResourceError, match="scheduler that answers"), connect("tcp://127.0.0.1:1", timeout="0.3s"):
        pass
    with pytest.raises(ResourceError, match="scheduler file"), connect("missing.json"):
        pass


@pytest.mark.parametrize(
    ("address", "module", "remedy"),
    [
        ("cuda", "dask_cuda", "cuda13"),
        ("ssh:a", "asyncssh", "clusters"),
        ("slurm", "dask_jobqueue", "clusters"),
        ("kubernetes:a", "dask_kubernetes.operator", "clusters"),
    ],
)
def test_a_missing_extra_is_named(address: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ResourceError, match=rf"pip install 'cryoflow\[{remedy}"), connect(address):
        pass


def test_ssh_hosts() -> None:
    spec = ssh_spec(parse_address("ssh:a,b"), {"remote_python": "python3"})
    assert spec["hosts"] == ["a", "a", "b"]
    assert spec["remote_python"] == "python3"


def test_an_ssh_host_that_refuses() -> None:
    pytest.importorskip("asyncssh", reason="needs cryoflow[clusters]")
    with (
        pytest.raises(ResourceError, match="login by key"),
        connect("ssh:127.0.0.1", connect_options={"known_hosts": None, "port": 1}),
    ):
        pass


def test_slurm_away_from_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue", reason="needs cryoflow[clusters]")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceError, match="sbatch"), connect("slurm:2"):
        pass


# --- ready files -----------------------------------------------------------------------------------------------------


def test_the_jobqueue_file_describes_whole_jobs() -> None:
    slurm = yaml.safe_load((ROOT / "cluster" / "jobqueue.yaml").read_text())["jobqueue"]["slurm"]
    assert {"cores", "processes", "memory", "walltime", "job-script-prologue"} <= slurm.keys()
    jobqueue = pytest.importorskip("dask_jobqueue", reason="needs cryoflow[clusters]")
    import dask

    with dask.config.set({f"jobqueue.slurm.{k}": v for k, v in slurm.items()}):
        script = jobqueue.SLURMCluster.job_cls(scheduler="tcp://x:1", name="n", config_name="slurm").job_script()
    assert "#SBATCH -n 1\n" in script
    assert "OMP_NUM_THREADS=1" in script
    assert "--nthreads 1 " in script
    assert "--nworkers 16 " in script


def test_the_kubernetes_file_names_one_image_and_the_service() -> None:
    made = yaml.safe_load((ROOT / "cluster" / "kubernetes.yaml").read_text())
    assert made["kind"] == "DaskCluster"
    scheduler, worker = made["spec"]["scheduler"], made["spec"]["worker"]
    images = {c["image"] for part in (scheduler, worker) for c in part["spec"]["containers"]}
    assert len(images) == 1
    name = made["metadata"]["name"]
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == name
    assert {"tcp-comm"} <= {p["name"] for p in scheduler["service"]["ports"]}
