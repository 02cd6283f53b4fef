"""Start-up: ``import cryoflow`` and ``cryoflow --help`` answer at once.

CPU time, the least of a few tries: what the code costs, and not how busy the machine is.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest


def cpu_seconds(command: list[str], tries: int = 3) -> float:
    """Least user + system seconds of ``command`` in a process of its own."""
    best = float("inf")
    for _ in range(tries):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "COLUMNS": "100"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return best


def test_import_is_quick() -> None:
    assert cpu_seconds([sys.executable, "-c", "import cryoflow"]) < 0.7


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["refine", "--help"]])
def test_help_is_quick(arguments: list[str]) -> None:
    assert cpu_seconds([sys.executable, "-m", "cryoflow", *arguments]) < 0.5


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, cryoflow; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "xarray", "dask", "distributed", "numba", "pandas", "scipy", "matplotlib"} & set(loaded)


def test_public_names_are_all_there() -> None:
    import cryoflow

    assert set(cryoflow._PUBLIC) | {"__version__"} == set(cryoflow.__all__)
    missing = []
    for name in cryoflow.__all__:
        try:
            getattr(cryoflow, name)
        except (AttributeError, ImportError) as error:
            missing.append(f"{name}: {error}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("first", ["cryoflow.postprocess", "cryoflow"])
def test_postprocess_is_the_function_whatever_was_imported_first(first: str) -> None:
    use = "assert callable(cryoflow.postprocess); from cryoflow.postprocess import postprocess"
    code = f"import {first}, cryoflow; {use}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import cryoflow

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cryoflow.nonsense


def test_table_and_inspect_load_no_compiler_and_no_workflow(tmp_path: Path) -> None:
    """Compiled loops, workflows and their models belong to other commands."""
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnImageName\n_rlnPixelSize\n1@p.mrcs 1.5\n")
    for words in (["table", "p.star"], ["inspect", "p.star"]):
        code = (
            f"import sys; sys.argv = ['cryoflow', *{words}]\nfrom cryoflow.cli.app import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\nprint('LOADED', *sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
        loaded = set(done.stdout.partition("LOADED")[2].split())
        assert "xarray" in loaded
        assert not loaded & {"numba", "distributed", "matplotlib", "zarr", "cryoflow.workflow.model"}
