"""The table of a campaign: one row an entry, as CSV and as a page, rewritten whole after every entry."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from cryoflow.workflow.folder import write_text

__all__ = ["Row", "State", "read_rows", "write_table"]

State = Literal["waiting", "running", "finished", "failed", "stopped"]


@dataclass(slots=True)
class Row:
    """What is known of one entry of a campaign. Times are those of its stages, over all runs it took."""

    entry: str
    title: str = ""
    state: State = "waiting"
    stage: str = ""  # the last one that is finished
    resolution: float | None = None  # angstrom, gold-standard FSC 0.143
    published: float | None = None  # angstrom
    micrographs: int | None = None
    usable: int | None = None
    particles: int | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    cost: float | None = None  # wall hours times the price of an hour
    error_type: str = ""
    error: str = ""
    began: str = ""
    ended: str = ""
    folder: str = ""

    def figures(self, figures: dict[str, Any], price: float | None) -> None:
        """Take over what a run's ``figures.json`` says."""
        stages = figures.get("stages") or {}
        self.stage = next(reversed(stages), "")
        seen = stages.get("micrographs") or {}
        self.micrographs, self.usable = seen.get("micrographs"), seen.get("usable")
        self.resolution, self.particles = figures.get("resolution"), figures.get("particles")
        self.wall_seconds, self.cpu_seconds = figures.get("wall_seconds"), figures.get("cpu_seconds")
        if price is not None and self.wall_seconds is not None:
            self.cost = round(price * self.wall_seconds / 3600, 4)


def read_rows(folder: Path) -> dict[str, Row]:
    """The rows of an earlier run of the campaign by entry; empty if there are none that can be read."""
    try:
        raw = json.loads((folder / "campaign.json").read_text(encoding="utf-8"))
        names = {f.name for f in fields(Row)}
        rows = [Row(**{k: v for k, v in row.items() if k in names}) for row in raw["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {row.entry: row for row in rows}


def write_table(folder: Path, rows: Iterable[Row]) -> None:
    """``campaign.csv``, ``campaign.html`` and ``campaign.json``, each whole or not at all."""
    table = list(rows)
    write_text(folder / "campaign.json", json.dumps({"rows": [asdict(r) for r in table]}, indent=1) + "\n")
    lines = io.StringIO()
    writer = csv.DictWriter(lines, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else _one_line(v) for k, v in asdict(r).items()} for r in table)
    write_text(folder / "campaign.csv", lines.getvalue())
    write_text(folder / "campaign.html", _page(folder, table))


def _one_line(value: Any) -> Any:
    """Text that no spreadsheet takes for a formula or for two rows."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text


_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Campaign</title>
<style>body{font:15px/1.4 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:.3em .7em;
border-bottom:1px solid #ddd;text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}
.finished{color:#176f2c}.failed{color:#a40e26}.error{color:#555;font-size:13px;max-width:60em}</style>
"""


def _page(folder: Path, rows: list[Row]) -> str:
    done = sum(r.state == "finished" for r in rows)
    failed = sum(r.state == "failed" for r in rows)
    names = ("entry", "state", "last stage", "resolution, A", "published, A", "micrographs", "particles", "wall, h",
             "CPU, h", "cost")  # fmt: skip
    lines = [_HEAD, f"<h1>{len(rows)} entries, {done} finished, {failed} failed</h1><table><tr>"]
    lines += [f"<th>{name}</th>" for name in names]
    lines.append("</tr>")
    for row in rows:
        report = folder / row.folder / "report.html"
        name = html.escape(row.entry)
        if row.folder and report.is_file():
            name = f'<a href="{html.escape(row.folder)}/report.html">{name}</a>'
        hours = [None if s is None else s / 3600 for s in (row.wall_seconds, row.cpu_seconds)]
        numbers = (_number(row.resolution), _number(row.published), _count(row), _number(row.particles, 0),
                   _number(hours[0], 3), _number(hours[1], 3), _number(row.cost))  # fmt: skip
        lines.append(f'<tr><td>{name}<br><span class="error">{html.escape(row.title)}</span></td>')
        lines.append(f'<td class="{row.state}">{row.state}</td><td>{html.escape(row.stage)}</td>')
        lines += [f'<td class="n">{text}</td>' for text in numbers]
        lines.append("</tr>")
        if row.error:
            text = html.escape(f"{row.error_type}: {row.error}")
            lines.append(f'<tr><td></td><td colspan="{len(names) - 1}" class="error">{text}</td></tr>')
    return "\n".join(lines) + "\n</table></html>\n"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _count(row: Row) -> str:
    if row.micrographs is None:
        return ""
    return f"{row.usable} of {row.micrographs}" if row.usable is not None else f"{row.micrographs}"
