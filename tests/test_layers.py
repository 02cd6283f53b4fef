"""The layers of docs/design.md, read from the imports: each module imports only from its left."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cryoflow"

# layer of each room; a module may import from lower layers and from its own room
LAYERS: dict[str, float] = {
    "errors": -1, "": 0, "conventions": 0, "late": -1, "options": 0, "schema": 0,
    "kernels": 1, "io": 1.5, "catalog": 2, "engine": 2,
    "movies": 3, "ctf": 3, "picking": 3, "particles": 3, "classification": 3, "refinement": 3, "heterogeneity": 3,
    "postprocess": 3, "simulate": 3, "tables": 3,
    "display": 4, "workflow": 5, "cli": 6, "__main__": 7,
}  # fmt: skip

# libraries that belong to some rooms alone
OWNERS = {
    "dask": {"engine"}, "distributed": {"engine"}, "dask_cuda": {"engine"}, "dask_jobqueue": {"engine"},
    "dask_kubernetes": {"engine"}, "cupy": {"kernels", "engine"}, "cupyx": {"kernels", "engine"}, "rmm": {"engine"},
    "zarr": {"io"}, "mrcfile": {"io"}, "starfile": {"io"}, "gemmi": {"io"},
    "tifffile": {"io"}, "h5py": {"io"}, "urllib3": {"io"}, "fsspec": {"io", "catalog"},
    "intake": {"catalog"}, "pydantic": {"catalog", "workflow", "cli"},
    "pydantic_core": {"workflow", "cli"}, "typer": {"cli"}, "click": {"cli"}, "rich": {"cli"},
    "matplotlib": {"display"}, "jinja2": {"display"}, "k3d": {"display"},
}  # fmt: skip

# not installed with the core: only ever imported inside the function that needs them
OPTIONAL = {"cupy", "cupyx", "dask_cuda", "dask_jobqueue", "dask_kubernetes", "rmm", "k3d", "asyncssh"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(name: str) -> str:
    """The first part of a dotted name below the package."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(tree: ast.AST, package: str) -> list[tuple[str, int]]:
    """(dotted name, line) of everything imported anywhere in a module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                stem = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*stem, base] if base else stem)
            if base == "cryoflow":
                found += [(f"cryoflow.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((base, node.lineno))
    return found


def violations(source: str, path: Path) -> list[str]:
    """Every import of ``source``, lying at ``path`` inside the package, that breaks the layers."""
    here = path.parts[0].removesuffix(".py") if path.parts != ("__init__.py",) else ""
    package = ".".join(["cryoflow", *path.parts[:-1]])
    tree = ast.parse(source)
    if here not in LAYERS:
        return [f"{path}: room {here!r} has no layer; give it one in this test and in docs/design.md"]
    wrong = []
    for name, line in imports(tree, package):
        top = name.split(".")[0]
        if top == "cryoflow":
            other = room(name)
            if other in LAYERS and other != here and LAYERS[other] >= LAYERS[here] and other != "":
                wrong.append(f"{path}:{line}: {here or 'the root'} imports {other}")
        elif top in OWNERS and here not in OWNERS[top]:
            wrong.append(f"{path}:{line}: {here or 'the root'} imports {top}, which belongs to {sorted(OWNERS[top])}")
    for node in tree.body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        wrong += [
            f"{path}:{node.lineno}: {n} is optional: import it inside the function that needs it"
            for n in names if n.split(".")[0] in OPTIONAL
        ]  # fmt: skip
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_from_the_left(path: Path) -> None:
    wrong = violations(path.read_text(), path.relative_to(PACKAGE))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/ctf.py", "from cryoflow.engine import map_reduce"),
        ("kernels/ctf.py", "def f():\n    import dask.array"),
        ("refinement/refine.py", "from cryoflow import workflow"),
        ("refinement/refine.py", "from ..ctf import estimate"),
        ("engine/cluster.py", "import dask_cuda"),
        ("ctf/estimate.py", "import zarr"),
        ("schema.py", "import cryoflow.io.star.star"),
        ("nowhere/x.py", "import numpy"),
    ],
)
def test_the_rule_finds_what_breaks_it(path: str, source: str) -> None:
    assert violations(source, Path(path))


def test_the_rule_lets_the_right_pass() -> None:
    source = "from cryoflow.kernels import ctf\nfrom cryoflow.ctf import fit\nimport numpy"
    assert not violations(source, Path("ctf/a.py"))
    assert not violations("def gpu():\n    import cupy", Path("kernels/backend.py"))
