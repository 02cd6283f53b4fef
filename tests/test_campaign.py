"""Campaigns: many entries, one broken; killed and gone on with; a table that is whole at every moment."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import command

from cryoflow.errors import ParameterError, ResourceError
from cryoflow.workflow.campaign import reprocess
from cryoflow.workflow.campaign_table import Row, read_rows, write_table
from cryoflow.workflow.folder import RunFolder

TINY: dict[str, Any] = {
    "simulate": {
        "n": 2, "shape": [256, 256], "pixel_size": 5.0, "particles_per_micrograph": 6, "symmetry": "D2",
        "diameter": 100.0, "snr": 0.5, "contaminants": 0,
    },
    "ctf": {"box": 128, "max_resolution": 11.0}, "pick": {"diameter": 100.0}, "extract": {"box": 32},
    "refine": {"symmetry": "D2", "diameter": 120.0, "ini_high": 30.0, "limit": 1, "order": 1},
}  # fmt: skip


def entry(folder: Path, name: str, workflow: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The file of a tiny simulated entry."""
    folder.mkdir(exist_ok=True)
    values = {
        "entry": name, "title": f"Tiny <{name}>", "licence": "CC0-1.0", "source": "here", "citation": "",
        "imagesets": {}, "specimen": {"symmetry": "D2", "published_resolution": 9.5}, "workflow": workflow or TINY,
        "verified": {"all": "simulated"}, **changes,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "campaign.csv").open(newline="") as stream:
        return {row["entry"]: row for row in csv.DictReader(stream)}


def test_one_entry_fails_and_the_others_finish_and_are_skipped_the_next_time(tmp_path: Path) -> None:
    catalog = tmp_path / "catalogs"
    entry(catalog, "good")
    entry(catalog, "typo", {**TINY, "pick": {"diameter": 100.0, "treshold": 3}})
    no_model = {**TINY, "simulate": {**TINY["simulate"], "source": "none.pdb"}}
    entry(catalog, "broken", no_model)
    told: list[tuple[str, str]] = []

    def run(**changes: Any) -> list[Row]:
        told.clear()
        return reprocess(
            [catalog], output=tmp_path / "campaign", until="micrographs", limit=1, price=10.0, at_once=2,
            tell=lambda row: told.append((row.entry, row.state)), **changes,
        )  # fmt: skip

    broken, good, typo = run()
    assert (good.state, good.error, good.stage, good.micrographs, good.usable) == ("finished", "", "micrographs", 1, 1)
    assert (good.published, good.title) == (9.5, "Tiny <good>")
    assert good.wall_seconds is not None
    assert good.cost == pytest.approx(10 * good.wall_seconds / 3600, abs=1e-4)
    assert (typo.state, typo.error_type) == ("failed", "ParameterError")
    assert "Did you mean threshold?" in typo.error
    assert ("typo", "running") not in told  # refused before anything started
    assert (broken.state, broken.error_type) == ("failed", "ParameterError")
    assert "none.pdb" in broken.error
    rows = table(tmp_path / "campaign")
    assert {name: row["state"] for name, row in rows.items()} == {
        "broken": "failed",
        "good": "finished",
        "typo": "failed",
    }
    page = (tmp_path / "campaign/campaign.html").read_text()
    assert "3 entries, 1 finished, 2 failed" in page
    assert "Tiny &lt;good&gt;" in page

    record = tmp_path / "campaign/good/stages/simulate.json"
    before = record.stat().st_mtime_ns
    entry(catalog, "typo")
    run(only=["typo", "good"])
    assert told[0] == ("good", "finished")  # at once, without a process
    assert ("good", "running") not in told
    assert ("broken", "running") not in told
    assert record.stat().st_mtime_ns == before
    assert {n: r["state"] for n, r in table(tmp_path / "campaign").items()} == {
        "broken": "failed", "good": "finished", "typo": "finished",
    }  # fmt: skip

    run(only=["good"], settings=["good:simulate.seed=7"])  # other parameters are another run
    assert ("good", "running") in told
    assert record.stat().st_mtime_ns != before


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_campaign_goes_on_at_its_last_stage(tmp_path: Path, how: signal.Signals) -> None:
    """The campaign is ended in the midst of its second entry; its process ends too, and a second run finishes."""
    catalog, output = tmp_path / "catalogs", tmp_path / "campaign"
    entry(catalog, "a")
    slow = {**TINY, "simulate": {**TINY["simulate"], "n": 40}}
    entry(catalog, "b", slow)
    call = [sys.executable, "-m", "cryoflow", "reprocess", str(catalog), "-o", str(output), "--until", "micrographs"]
    campaign = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    record = output / "b/stages/simulate.json"
    until = time.monotonic() + 300
    while not record.exists() and time.monotonic() < until and campaign.poll() is None:
        time.sleep(0.05)
    campaign.send_signal(how)  # to the campaign alone
    campaign.wait(120)
    until = time.monotonic() + 120
    while time.monotonic() < until:  # its entry's process has let go of the folder
        try:
            with RunFolder(output / "b").lock():
                break
        except ResourceError:
            time.sleep(0.1)
    else:
        pytest.fail("the entry's process went on without its campaign")
    rows = table(output)
    assert rows["a"]["state"] == "finished"
    assert rows["b"]["state"] == ("running" if how is signal.SIGKILL else "stopped")
    entry(catalog, "b")  # its own parameters, so that the rest is quick
    before = (output / "a/stages/micrographs.json").stat().st_mtime_ns
    states = {row.entry: row.state for row in reprocess([catalog], output=output, until="micrographs")}
    assert states == {"a": "finished", "b": "finished"}
    assert (output / "a/stages/micrographs.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_stages_that_were_finished_before_a_failure_are_not_done_again(tmp_path: Path) -> None:
    path = entry(tmp_path / "catalogs", "a")
    reprocess([path], output=tmp_path / "campaign", until="simulate")
    record = tmp_path / "campaign/a/stages/simulate.json"
    before = record.stat().st_mtime_ns
    (row,) = reprocess([path], output=tmp_path / "campaign", until="micrographs")
    assert (row.state, row.stage) == ("finished", "micrographs")
    assert record.stat().st_mtime_ns == before
    # the run of an entry that only its file knows goes on by itself, wherever the command is given
    ended = command("run", str(tmp_path / "campaign/a/workflow.yaml"), "-o", str(tmp_path / "campaign/a"), "--until",
                    "micrographs", folder=tmp_path)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert record.stat().st_mtime_ns == before
    assert command("report", str(tmp_path / "campaign")).returncode == 2  # a campaign is no run


def test_a_process_that_dies_is_told_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the interpreter itself, as by memory that ran out."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import os, sys\n"
        "if any(a.endswith('dies/job.json') for a in sys.orig_argv): os.kill(os.getpid(), 9)\n"
    )  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    for name in ("dies", "lives"):
        entry(tmp_path / "catalogs", name, {**TINY, "simulate": {**TINY["simulate"], "source": "none.pdb"}})
    dies, lives = reprocess([tmp_path / "catalogs"], output=tmp_path / "campaign")
    assert (dies.state, dies.error_type) == ("failed", "Crash")
    assert "by signal 9" in dies.error
    assert (lives.state, lives.error_type) == ("failed", "ParameterError")


def test_what_cannot_start_is_refused(tmp_path: Path) -> None:
    path = entry(tmp_path / "catalogs", "a")
    output = tmp_path / "campaign"
    cases: list[tuple[list[str | Path], dict[str, Any], str]] = [
        ([], {}, "at least one entry"),
        ([path, path], {}, "a more than once"),
        (["nothing.yaml"], {}, "existing entry or workflow file"),
        ([path], {"only": ["b"]}, "one of a"),
        ([path], {"settings": ["b:refine.symmetry=O"]}, "a pattern that fits one of a"),
        ([path], {"settings": ["refine.symmetry"]}, "stage.name=value"),
        ([path], {"at_once": 0}, "at least 1"),
    ]
    for entries, options, says in cases:
        with pytest.raises(ParameterError, match=says):
            reprocess(entries, output=output, **options)
    output.mkdir()
    with RunFolder(output).lock(), pytest.raises(ResourceError, match="no other run in this folder"):
        reprocess([path], output=output)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a folder that can be written"):
        reprocess([path], output=tmp_path / "file")


def test_entries_without_data_name_what_they_lack(tmp_path: Path) -> None:
    """The real entries, with no data and no network: each says what is missing, none starts."""
    names = ["EMPIAR-10061", "EMPIAR-10028:micrographs", "EMPIAR-10499"]
    rows = reprocess(names, output=tmp_path / "campaign", root=tmp_path)
    says = ["Motion correction is not part", "--set micrographs.cs=VALUE", "Tomography is not part"]
    for row, text in zip(rows, says, strict=True):
        assert row.state == "failed"
        assert text in row.error
        assert row.title
    assert not [p for p in (tmp_path / "campaign").iterdir() if p.is_dir()]


def test_the_table_goes_through_its_file(tmp_path: Path) -> None:
    rows = [Row("a", error='=cmd("x")\nand more, "quoted"', resolution=3.5), Row("b", state="finished", particles=7)]
    write_table(tmp_path, rows)
    assert list(read_rows(tmp_path).values()) == rows
    read = table(tmp_path)
    assert read["a"]["error"] == '\'=cmd("x") and more, "quoted"'  # no formula, one row
    assert read["b"]["particles"] == "7"
    (tmp_path / "campaign.json").write_text('{"rows": [{"nothing": 1}]}')
    assert read_rows(tmp_path) == {}
    (tmp_path / "campaign.json").write_text(json.dumps([1]))
    assert read_rows(tmp_path) == {}
