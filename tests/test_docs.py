"""The documentation runs: examples in docstrings, and the Python blocks of README.md and docs/*.md, page by page."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import cryoflow

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL

FOUND = {m.name for m in pkgutil.walk_packages(cryoflow.__path__, "cryoflow.")}
MODULES = ["cryoflow", *sorted(FOUND - {"cryoflow.__main__"})]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share one namespace and an empty folder, as a reader would run them.

    Blocks of prompts (``>>>``) are compared with the output they show. Sketches are fenced as ``py``.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page), 1):
        name = f"{page.name}, block {number}"
        if block.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, namespace, name, str(page), 0)
            assert doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False).failed == 0, name
            namespace.update(test.globs)
        else:
            exec(compile(block, name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page: Path) -> None:
    """Every ``cryoflow COMMAND`` of a page is a command."""
    from typer.main import get_command

    from cryoflow.cli import app
    from cryoflow.cli.app import _ROOMS

    for room in _ROOMS:
        importlib.import_module(f"cryoflow.cli.{room}")
    known = set(getattr(get_command(app), "commands"))  # noqa: B009 - typer's own stubs hide it
    used = re.findall(r"^\s*cryoflow ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(used) <= known
