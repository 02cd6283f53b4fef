"""The notebook runs from its first cell to its last, on simulated data."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    # of a cell; the question that nbclient asks after the last one is now and then lost, and waited for as long
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    by_source = {cell["source"]: cell for cell in notebook.cells if cell["cell_type"] == "code"}
    refined = next(cell for source, cell in by_source.items() if "cryoflow.refine(" in source)
    shown = refined["outputs"][-1]["data"]["text/plain"]
    assert shown.startswith("[(1, ")
    pictures = [o for cell in by_source.values() for o in cell["outputs"] if "image/png" in o.get("data", {})]
    assert len(pictures) >= 5


def test_notebooks_are_kept_without_output() -> None:
    nbformat = pytest.importorskip("nbformat")
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert all(not cell.get("outputs") for cell in cells), f"{path.name}: clear its outputs before a commit"


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
