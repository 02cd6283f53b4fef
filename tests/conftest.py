"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their place: written out, a compressed file's clock would give each worker another test."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the shared experimental data; the test is skipped where there is none."""
    folder = Path(os.environ.get("CRYOFLOW_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set CRYOFLOW_DATA")
    return folder


@pytest.fixture(scope="session")
def relion_programs() -> Path:
    """Folder of RELION's programs; the test is skipped where they are not installed."""
    program = shutil.which("relion_star_printtable")
    if program is None:
        pytest.skip("RELION's programs are not installed (Debian: apt install relion)")
    return Path(program).parent


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 1 MB: the operating system itself refuses, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)
