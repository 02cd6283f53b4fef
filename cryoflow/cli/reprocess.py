"""``cryoflow reprocess``: many entries as one campaign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoflow.cli.app import Cluster, app
from cryoflow.errors import ComputeError

if TYPE_CHECKING:
    from cryoflow.workflow.campaign_table import Row


@app.command()
def reprocess(
    entries: Annotated[
        list[str],
        typer.Argument(help="Entries or EMPIAR numbers, entry files (.yaml), folders of them, workflow files"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the campaign")] = Path("campaign"),
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of the data, in the archive's layout or flat")
    ] = None,
    cluster: Cluster = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="stage.name=value for every entry, ENTRY:stage.name=value for one; may be repeated"),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run these entries alone (names or patterns); may be repeated")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stop every entry after this stage")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most micrographs of each entry")] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Entries that run at the same time")] = 1,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is not there, resumably")] = False,
    price: Annotated[float | None, typer.Option(min=0, help="Price of an hour, for the column of costs")] = None,
) -> None:
    """Reprocess many entries as one campaign: a table of results grows, one failure stops no other.

    Run the same command again after a stop: finished entries are skipped, the rest goes on at its last stage.
    """
    from cryoflow.workflow.campaign import reprocess as run_campaign

    rows = run_campaign(
        entries, output=output, root=root, cluster=cluster, settings=settings or [], only=only or [], until=until,
        limit=limit, at_once=at_once, fetch=fetch, price=price, tell=lambda row: typer.echo(_line(row)),
    )  # fmt: skip
    done = sum(row.state == "finished" for row in rows)
    typer.echo(f"{done} of {len(rows)} finished; table: {output / 'campaign.html'}")
    failed = [row.entry for row in rows if row.state == "failed"]
    if failed:
        raise ComputeError(
            "reprocess", expected=f"{len(rows)} entries finished", found=f"{len(failed)} failed: {', '.join(failed)}",
            remedy=f"The reasons are in {output / 'campaign.csv'}; the same command tries them again.",
        )  # fmt: skip


def _line(row: Row) -> str:
    text = f"{row.entry:<18} {row.state}"
    if row.state == "finished":
        parts = [f"{row.particles} particles" if row.particles is not None else ""]
        parts += [f"{row.resolution:.2f} A" if row.resolution is not None else "no resolution"]
        parts += [f"published {row.published:g} A" if row.published is not None else ""]
        parts += [f"{row.wall_seconds:.0f} s" if row.wall_seconds is not None else ""]
        return f"{text}: {', '.join(p for p in parts if p)}"
    return f"{text}: {row.error_type}: {row.error}" if row.error else text
