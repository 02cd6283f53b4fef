"""Clients by one word: this process, this machine, its GPUs, a scheduler's address, SSH hosts, Slurm, Kubernetes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from cryoflow.errors import ParameterError, ResourceError

__all__ = ["Address", "connect", "parse_address", "performance_report"]

FORMS = (
    "embedded, local[:workers[xthreads]], cuda[:gpus], tcp://host:port, scheduler.json, ssh:host1,host2, slurm[:jobs], "
    "kubernetes:name or kubernetes:file.yaml"
)
_COUNTS = re.compile(r"(\d+)(?:x(\d+))?")


@dataclass(frozen=True, slots=True)
class Address:
    """What an address asks for. ``count`` workers, GPUs or jobs with ``threads`` each; ``names`` of hosts or files."""

    kind: str
    count: int | None = None
    threads: int | None = None
    names: tuple[str, ...] = ()


def parse_address(address: str | None) -> Address:
    """Read an address without connecting.

    >>> parse_address("local:4x2")
    Address(kind='local', count=4, threads=2, names=())
    >>> parse_address("ssh:a,b").names
    ('a', 'b')
    """
    text = (address or "embedded").strip()
    if re.match(r"(tcp|tls|ws|wss|ucx|ucxx)://.", text):
        return Address("address", names=(text,))
    kind, _, rest = text.partition(":")
    if kind == "embedded" and not rest:
        return Address("embedded")
    if kind in ("local", "cuda", "slurm") and (not rest or _COUNTS.fullmatch(rest)):
        count, threads = _COUNTS.fullmatch(rest).groups() if rest else (None, None)  # type: ignore[union-attr]
        if (threads is None or kind == "local") and count != "0" and threads != "0":
            return Address(kind, int(count) if count else None, int(threads) if threads else None)
    if kind == "ssh" and all(h.strip() for h in rest.split(",")):
        return Address("ssh", names=tuple(h.strip() for h in rest.split(",")))
    if kind == "kubernetes" and rest:
        return Address("kubernetes", names=(rest,))
    if text.endswith(".json"):
        return Address("file", names=(text.removeprefix("file:"),))
    raise ParameterError("connect", expected=f"one of: {FORMS}", found=repr(address))


@contextlib.contextmanager
def connect(
    address: str | None = "embedded", *, report: str | PathLike[str] | None = None, **options: Any
) -> Iterator[Any]:
    """A client for ``compute``, closed when the block ends, with its cluster if this call started one.

    ===========================  =================================================================================
    address                      what it gives
    ===========================  =================================================================================
    ``embedded``                 None: the threads of this process
    ``local[:n[xthreads]]``      n worker processes here (one a core), with so many threads each (1)
    ``cuda[:n]``                 one worker process for each of n GPUs of this machine (all); needs cryoflow[cuda12/13]
    ``tcp://host:port``          a scheduler that runs already; also ``tls://``
    ``scheduler.json``           the same, by its scheduler file
    ``ssh:host1,host2``          a scheduler on the first host, a worker with all cores on each; cryoflow[clusters]
    ``slurm[:n]``                n Slurm jobs as ``jobqueue.yaml`` describes them (1); needs cryoflow[clusters]
    ``kubernetes:name``          a cluster of the Dask operator that runs already, or one made from a ``.yaml`` file
    ===========================  =================================================================================

    Parameters
    ----------
    report : file for Dask's performance report of the block (HTML; needs bokeh and a cluster).
    options : passed on to the cluster's (or, for an address, the client's) constructor.

    Raises
    ------
    ParameterError : no such form of address. ResourceError : the cluster does not answer, or an extra is missing.

    The client is never registered as the process's default.

    Examples
    --------
    >>> with connect("embedded") as client:
    ...     print(client)
    None
    """
    parsed = parse_address(address)
    if parsed.kind == "embedded":
        if report is not None:
            raise ParameterError("connect", expected="a cluster for a performance report", found="embedded",
                                 remedy="Use 'local'.")  # fmt: skip
        yield None
        return
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client(parsed, options))
        if report is not None:
            stack.enter_context(performance_report(client, Path(report)))
        yield client


@contextlib.contextmanager
def _client(address: Address, options: dict[str, Any]) -> Iterator[Any]:
    from distributed import Client

    try:
        if address.kind == "address":
            client = Client(address.names[0], **{"set_as_default": False, "timeout": "10s", **options})
        elif address.kind == "file":
            client = Client(scheduler_file=_existing(address.names[0]),
                            **{"set_as_default": False, "timeout": "10s", **options})  # fmt: skip
        else:
            client = None
    except OSError as error:
        raise ResourceError(f"connect to {address.names[0]}", expected="a Dask scheduler that answers",
                            found=str(error), remedy="Is it running, and is its port open?") from error  # fmt: skip
    if client is not None:
        with client:
            yield client
        return
    with _MAKERS[address.kind](address, options) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


def _existing(name: str) -> str:
    if not Path(name).is_file():
        raise ResourceError(f"connect to {name}", expected="a scheduler file", found="none",
                            remedy="Start the scheduler with --scheduler-file.")  # fmt: skip
    return name


def _local(address: Address, options: dict[str, Any]) -> Any:
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    threads = address.threads or 1
    workers = address.count or max(1, CPU_COUNT // threads)
    return LocalCluster(**{"n_workers": workers, "threads_per_worker": threads, "processes": True,
                           "dashboard_address": ":0", **options})  # fmt: skip


def _cuda(address: Address, options: dict[str, Any]) -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise _missing("cuda", "dask-cuda", "cuda13' or 'cuda12", error) from error
    gpus = {"CUDA_VISIBLE_DEVICES": list(range(address.count))} if address.count else {}
    try:
        return LocalCUDACluster(**{"threads_per_worker": 1, "resources": {"GPU": 1}, "dashboard_address": ":0",
                                   **gpus, **options})  # fmt: skip
    except Exception as error:
        raise ResourceError(
            "connect to cuda", expected="CUDA devices of this machine", found=str(error),
            remedy="nvidia-smi shows what there is; 'local' computes on the CPU.",
        ) from error  # fmt: skip


def ssh_spec(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``distributed.SSHCluster``: the first host runs the scheduler, every host a worker.

    A worker has a thread for each core of its host, as the embedded scheduler has; ``worker_options={"nthreads": 1,
    "n_workers": 16}`` asks for processes instead.
    """
    hosts = list(address.names)
    return {"hosts": [hosts[0], *hosts], **options}


def _ssh(address: Address, options: dict[str, Any]) -> Any:
    try:
        import asyncssh  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        from distributed import SSHCluster
    except ImportError as error:
        raise _missing("ssh", "asyncssh", "clusters", error) from error
    try:
        return SSHCluster(**ssh_spec(address, options))
    except Exception as error:  # asyncssh has errors of its own
        raise ResourceError(
            f"connect to ssh:{','.join(address.names)}", expected="hosts that take a login by key", found=str(error),
            remedy="Try `ssh HOST python -c 'import cryoflow'`.",
        ) from error  # fmt: skip


def _slurm(address: Address, options: dict[str, Any]) -> Any:
    import shutil

    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise _missing("slurm", "dask-jobqueue", "clusters", error) from error
    if shutil.which("sbatch") is None:
        raise ResourceError("connect to slurm", expected="the command sbatch", found="none on this machine's path",
                            remedy="Start from a login node.")  # fmt: skip
    try:
        cluster = SLURMCluster(**options)
    except ValueError as error:
        raise ResourceError("connect to slurm", expected="a job description (cores, memory, queue)", found=str(error),
                            remedy="Copy cluster/jobqueue.yaml to ~/.config/dask/ and edit it.") from error  # fmt: skip
    cluster.scale(jobs=address.count or 1)
    return cluster


def _kubernetes(address: Address, options: dict[str, Any]) -> Any:
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise _missing("kubernetes", "dask-kubernetes", "clusters", error) from error
    name = address.names[0]
    if name.endswith((".yaml", ".yml")):
        return KubeCluster(custom_cluster_spec=name, **options)
    return KubeCluster.from_name(name, **options)


_MAKERS = {"local": _local, "cuda": _cuda, "ssh": _ssh, "slurm": _slurm, "kubernetes": _kubernetes}


def _missing(kind: str, package: str, extra: str, error: ImportError) -> ResourceError:
    return ResourceError(f"connect to {kind}", expected=f"the package {package}", found=str(error),
                         remedy=f"pip install 'cryoflow[{extra}]'.")  # fmt: skip


@contextlib.contextmanager
def performance_report(client: Any, path: Path) -> Iterator[None]:
    """Dask's performance report of the block, for any client.

    It asks for the current client, which this one is only while it starts and ends.
    """
    from distributed import performance_report as dask_report

    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise _missing("report", "bokeh", "clusters", error) from error
    report = dask_report(filename=str(path))
    with client.as_current():
        report.__enter__()
    try:
        yield
    finally:
        with client.as_current():
            report.__exit__(None, None, None)
