"""The folder of a run: its lock, its log, the records of its stages, and what must hold before it is used."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryoflow.errors import ParameterError, ResourceError
from cryoflow.io.amounts import human_bytes

__all__ = ["RunFolder", "write_text"]

log = logging.getLogger("cryoflow")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


_OWN = ("workflow.yaml", "figures.json", "run.log", "stores", "stages")  # of every run


def _filled(folder: Path) -> Iterator[str]:
    """Names of the files and of the folders with anything in them."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.is_dir() or any(path.iterdir()):
            yield path.name


class RunFolder:
    """Where a run writes. Records lie in ``stages/``, Zarr stores in ``stores/``, files for other programs on top."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        self.stores = self.path / "stores"
        self.records = self.path / "stages"

    def claim(self, names: Iterable[str], source: str) -> None:
        """Refuse a folder where something else has the names that a run writes, or where a run has another source.

        Raises
        ------
        ParameterError : nothing was written yet, and nothing there is touched.
        """
        if not self._of_a_run():
            taken = sorted({name.partition("/")[0] for name in (*names, *_OWN)} & set(_filled(self.path)))
            if taken:
                raise ParameterError(
                    str(self.path), expected="a new folder, or that of a run",
                    found=f"another one, with {', '.join(taken[:3])} in it, which the run would replace",
                    remedy="Choose another with -o.",
                )  # fmt: skip
            return
        import yaml

        try:
            there = yaml.safe_load((self.path / "workflow.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return  # it will be written anew; the records of the stages say what is finished
        others = [s for s in ("micrographs", "particles", "simulate") if isinstance(there, dict) and there.get(s)]
        if len(others) == 1 and others[0] != source:
            raise ParameterError(
                str(self.path), expected=f"a new folder, or a run from {source}", found=f"a run from {others[0]}",
                remedy="Choose another with -o.",
            )  # fmt: skip

    def _of_a_run(self) -> bool:
        """Whether a run was here before."""
        return (self.path / ".lock").is_file() or any(
            self.read_record(path.stem).get("stage") == path.stem for path in self.records.glob("*.json")
        )

    def prepare(self, needed_bytes: int = 0) -> None:
        """Make the folder; raise ``ResourceError`` if it cannot be written or the disk is too full."""
        try:
            for folder in (self.path, self.stores, self.records):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.write_bytes(b"0")
            probe.unlink()
        except OSError as error:
            raise ResourceError(
                str(self.path),
                expected="a folder that can be written",
                found="a file" if isinstance(error, FileExistsError) else error.strerror or str(error),
                remedy="Choose another with -o.",
            ) from None
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            raise ResourceError(
                str(self.path),
                expected=f"{human_bytes(needed_bytes)} of free disk for this run",
                found=human_bytes(free),
                remedy="Free some, or choose another folder with -o.",
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this run alone. The lock ends with the process, however that ends."""
        with (self.path / ".lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                stream.seek(0)
                raise ResourceError(
                    str(self.path),
                    expected="no other run in this folder",
                    found=f"one by {stream.read().strip() or 'another process'}",
                    remedy="Wait for it, or choose another folder with -o.",
                ) from None
            stream.seek(0)
            stream.truncate()
            stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            stream.flush()
            yield

    @contextmanager
    def logging(self, *, echo: bool) -> Iterator[None]:
        """Send the log to ``run.log``, and to the terminal if ``echo``."""
        handlers: list[logging.Handler] = [logging.FileHandler(self.path / "run.log", encoding="utf-8")]
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        if echo:
            handlers.append(logging.StreamHandler())
            handlers[1].setFormatter(logging.Formatter("%(message)s"))
            handlers[1].addFilter(lambda record: not getattr(record, "told", False))
        level = log.level
        log.setLevel(logging.INFO)
        for handler in handlers:
            log.addHandler(handler)
        try:
            yield
        finally:
            for handler in handlers:
                log.removeHandler(handler)
                handler.close()
            log.setLevel(level)

    def read_record(self, stage: str) -> dict[str, Any]:
        """The record of a stage; empty if there is none that can be read."""
        try:
            record = json.loads((self.records / f"{stage}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def write_record(self, stage: str, record: dict[str, Any]) -> None:
        """Write the record of a stage, whole or not at all."""
        write_text(self.records / f"{stage}.json", json.dumps(record, indent=1, default=str) + "\n")

    def sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        """Bytes of each output: of a file its size, of a store 0 (its own completion record speaks for it)."""
        return {n: (self.path / n).stat().st_size if (self.path / n).is_file() else 0 for n in names}

    def discard(self, names: tuple[str, ...]) -> None:
        """Remove what an earlier run of a stage left under these names, stores and files."""
        for name in names:
            path = (self.path / name).resolve()
            if not path.is_relative_to(self.path) or path == self.path:
                raise ResourceError(str(path), expected=f"an output inside {self.path}", found="one outside")
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
