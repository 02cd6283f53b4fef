"""Campaigns: many entries reprocessed, each in a process of its own; a table grows, and a killed campaign goes on."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from cryoflow.catalog import entry_names, is_entry_file, read_entry
from cryoflow.catalog.start import split_name
from cryoflow.errors import CryoflowError, ParameterError, ResourceError
from cryoflow.workflow.campaign_table import Row, read_rows, write_table
from cryoflow.workflow.digest import digest
from cryoflow.workflow.folder import RunFolder, write_text
from cryoflow.workflow.model import load_workflow, parse_settings

__all__ = ["reprocess"]

log = logging.getLogger("cryoflow")

Tell = Callable[[Row], None]


@dataclass(slots=True)
class _Job:
    """One entry: what runs, where, and its row of the table."""

    row: Row
    source: str
    catalog: Path | None
    settings: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)  # what the child is told, and the digest is of
    process: subprocess.Popen[bytes] | None = None


def reprocess(
    entries: Sequence[str | Path],
    *,
    output: Path | str,
    root: Path | str | None = None,
    cluster: str | None = None,
    settings: Iterable[str] = (),
    only: Iterable[str] = (),
    until: str | None = None,
    limit: int | None = None,
    at_once: int = 1,
    fetch: bool = False,
    price: float | None = None,
    tell: Tell | None = None,
) -> list[Row]:
    """Reprocess entries as one campaign; returns the rows of its table.

    Each entry runs in a folder of its own below ``output`` and in a process of its own, so that whatever ends one
    ends no other. After every change the table (``campaign.csv``, ``.html``, ``.json``) is written anew. The same call
    again skips what is finished, and goes on with the rest at the last finished stage.

    Parameters
    ----------
    entries : names of entries or EMPIAR numbers, entry files (.yaml), folders of them, or workflow files (.yaml).
    output : folder of the campaign.
    root : folder of the data, in the archive's layout or flat; ``output/data`` where they are fetched.
    cluster : address for ``cryoflow.connect``; every entry connects to it.
    settings : ``stage.name=value`` laid over every entry, ``ENTRY:stage.name=value`` over those whose names fit.
    only : names or patterns of entries to run now; the others keep their rows.
    until : stop every entry after this stage.
    limit : most micrographs of each entry.
    at_once : entries that run at the same time.
    fetch : download what is not there, in size as told in the entry's log.
    price : of an hour, for the column of costs.
    tell : called with each row that changed.

    Raises
    ------
    ParameterError : no entries, two of one name, or a setting of a wrong form. ResourceError : the folder is in use.

    Examples
    --------
    >>> rows = reprocess(["EMPIAR-10061"], output="campaign")  # movies: refused before anything starts
    >>> rows[0].state, rows[0].error_type
    ('failed', 'ParameterError')
    """
    if at_once < 1 or (limit is not None and limit < 1):
        raise ParameterError("reprocess", expected="at_once and limit of at least 1", found=f"{at_once}, {limit}")
    folder = Path(output).resolve()
    jobs = _jobs(entries, list(settings))
    chosen = list(only)
    if chosen and not any(fnmatchcase(job.row.entry, o) for job in jobs for o in chosen):
        names = ", ".join(job.row.entry for job in jobs)
        raise ParameterError("--only", expected=f"one of {names}", found=", ".join(chosen))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(str(folder), expected="a folder that can be written", found=str(error)) from None
    with RunFolder(folder).lock():
        campaign = _Campaign(folder, jobs, price, tell)
        shared = {
            "root": str(Path(root).resolve()) if root is not None else None, "cluster": cluster, "until": until,
            "limit": limit, "fetch": fetch,
        }  # fmt: skip
        todo = [j for j in jobs if not chosen or any(fnmatchcase(j.row.entry, o) for o in chosen)]
        campaign.run([job for job in todo if campaign.prepare(job, shared)], at_once)
    return [job.row for job in jobs]


def _jobs(entries: Sequence[str | Path], settings: list[str]) -> list[_Job]:
    """One job an entry, with the settings that fit its name."""
    jobs: list[_Job] = []
    for source in entries:
        jobs += _expand(source)
    if not jobs:
        raise ParameterError("reprocess", expected="at least one entry", found="none")
    names = [job.row.entry for job in jobs]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise ParameterError("reprocess", expected="every entry once", found=f"{twice} more than once")
    texts: dict[str, list[str]] = {name: [] for name in names}
    for setting in settings:
        left, colon, right = setting.partition(":")
        own = bool(colon) and "=" not in left  # ENTRY:stage.name=value
        fits = [name for name in names if not own or fnmatchcase(name, left)]
        if not fits:
            raise ParameterError("--set", expected=f"a pattern that fits one of {', '.join(names)}", found=repr(left))
        for name in fits:
            texts[name].append(right if own else setting)
    for job in jobs:
        job.settings = parse_settings(texts[job.row.entry])
    return jobs


def _expand(source: str | Path) -> list[_Job]:
    path = Path(source)
    if path.is_dir():
        return [_Job(Row(entry=name), name, path.resolve()) for name in entry_names(path)]
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ParameterError("reprocess", expected="an existing entry or workflow file", found=str(path))
        if is_entry_file(path):
            return [_Job(Row(entry=path.stem), path.stem, path.resolve().parent)]
        return [_Job(Row(entry=path.stem), str(path.resolve()), None)]
    return [_Job(Row(entry=str(source)), str(source), None)]


class _Campaign:
    """The table, and the processes under way."""

    def __init__(self, folder: Path, jobs: list[_Job], price: float | None, tell: Tell | None) -> None:
        self.folder, self.jobs, self.price, self._tell = folder, jobs, price, tell
        before = read_rows(folder)
        for job in jobs:
            if (row := before.get(job.row.entry)) is not None:
                job.row = row
                if row.state == "running":  # the campaign was killed
                    row.state = "stopped"

    def tell(self, job: _Job) -> None:
        write_table(self.folder, [j.row for j in self.jobs])
        if self._tell is not None:
            self._tell(job.row)

    def prepare(self, job: _Job, shared: Mapping[str, Any]) -> bool:
        """Whether the entry is to run: it is whole, and not finished before. What it lacks is told at once."""
        row = job.row
        row.folder = row.entry.replace(":", "-").replace("/", "-")
        known: dict[str, Any] = {}
        workflow_file = job.source.endswith((".yaml", ".yml"))
        try:
            if not workflow_file:
                entry = read_entry(split_name(job.source)[0], job.catalog)
                row.title, row.published = entry.title, entry.specimen.published_resolution
                known = entry.model_dump(mode="json")
            load_workflow(job.source, settings=job.settings, catalog=job.catalog)
            given = Path(job.source).read_text(encoding="utf-8") if workflow_file else ""
        except (CryoflowError, OSError, yaml.YAMLError) as error:
            self._fail(job, type(error).__name__, str(error))
            return False
        told = {"source": job.source, "catalog": str(job.catalog) if job.catalog else None, "settings": job.settings}
        job.content = {**told, **shared, "output": str(self.folder / row.folder)}
        content = {k: v for k, v in job.content.items() if k not in {"cluster", "fetch", "output"}}
        job.content["digest"] = digest({**content, "entry": known, "file": given})
        outcome = self._outcome(job)
        if outcome.get("state") == "finished" and outcome.get("digest") == job.content["digest"]:
            row.state, row.error, row.error_type = "finished", "", ""
            self._figures(job)
            self.tell(job)
            return False
        row.state, row.error, row.error_type = ("stopped" if row.state == "stopped" else "waiting"), "", ""
        return True

    def run(self, waiting: list[_Job], at_once: int) -> None:
        """Start entries as others end; stop them all if the campaign is interrupted."""
        running: list[_Job] = []
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    if self._start(job):
                        running.append(job)
                time.sleep(0.1)
                for job in [j for j in running if j.process is not None and j.process.poll() is not None]:
                    running.remove(job)
                    self._end(job)
        except BaseException:
            for job in running:
                if job.process is not None and job.process.stdin is not None:
                    job.process.stdin.close()  # it ends by itself
            for job in running:
                self._await(job)
                job.row.state = "stopped"
                self._figures(job)
                self.tell(job)
            raise

    def _start(self, job: _Job) -> bool:
        folder = self.folder / job.row.folder
        try:
            folder.mkdir(exist_ok=True)
            (folder / "outcome.json").unlink(missing_ok=True)
            write_text(folder / "job.json", json.dumps(job.content, indent=1, default=str) + "\n")
            with (folder / "campaign.log").open("ab") as output:
                job.process = subprocess.Popen(
                    [sys.executable, "-m", "cryoflow.workflow.campaign_entry", str(folder / "job.json")],
                    stdin=subprocess.PIPE, stdout=output, stderr=output,
                )  # fmt: skip
        except OSError as error:
            self._fail(job, type(error).__name__, str(error))
            return False
        job.row.state, job.row.began, job.row.ended = "running", _now(), ""
        self.tell(job)
        return True

    def _end(self, job: _Job) -> None:
        assert job.process is not None
        if job.process.stdin is not None:
            job.process.stdin.close()
        outcome, code = self._outcome(job), job.process.returncode
        self._figures(job)
        if outcome:
            job.row.state = outcome["state"]
            job.row.error_type, job.row.error = outcome["error_type"], outcome["error"]
        else:
            how = f"by signal {-code}" if code < 0 else f"with code {code}"
            text = f"its process ended {how} without a word; see {job.row.folder}/campaign.log. Out of memory?"
            job.row.state, job.row.error_type, job.row.error = "failed", "Crash", text
        job.row.ended = _now()
        self.tell(job)

    def _await(self, job: _Job) -> None:
        assert job.process is not None
        try:
            job.process.wait(20)
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()

    def _fail(self, job: _Job, kind: str, text: str) -> None:
        job.row.state, job.row.error_type, job.row.error, job.row.ended = "failed", kind, text, _now()
        self.tell(job)

    def _outcome(self, job: _Job) -> dict[str, Any]:
        """What the entry's process left; empty if nothing that can be read."""
        try:
            found = json.loads((self.folder / job.row.folder / "outcome.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and {"state", "error_type", "error"} <= set(found) else {}

    def _figures(self, job: _Job) -> None:
        try:
            found = json.loads((self.folder / job.row.folder / "figures.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(found, dict):
            job.row.figures(found, self.price)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
