"""``cryoflow catalog ...``: what is known of public data sets, and their files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoflow.cli.app import app
from cryoflow.errors import ParameterError

if TYPE_CHECKING:
    from cryoflow.catalog.model import Entry

catalogs = typer.Typer(
    help="What is known of public data sets: list, show, search and fetch them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(catalogs, name="catalog")

Name = Annotated[str, typer.Argument(help="Name of an entry, any EMPIAR number, or an entry's file (.yaml)")]


def _line(entry: Entry) -> str:
    kinds = ", ".join(dict.fromkeys(s.kind for s in entry.imagesets.values())) or "simulated"
    resolution = entry.specimen.published_resolution
    said = f"{resolution:g} A" if resolution is not None else "-"
    return f"{entry.entry:<16} {said:>6}  {entry.specimen.symmetry or '-':<3} {kinds:<32} {entry.title}"


@catalogs.command("list")
def catalog_list() -> None:
    """List the entries that come with cryoflow. Any other EMPIAR number is read from the archive."""
    from cryoflow.catalog import entry_names, read_entry

    for name in entry_names():
        typer.echo(_line(read_entry(name)))


@catalogs.command("search")
def catalog_search(text: Annotated[list[str], typer.Argument(help="Words that must all occur")]) -> None:
    """Search the entries: titles, citations, image sets, specimens, references."""
    from cryoflow.catalog import search_entries

    found = search_entries(" ".join(text))
    for entry in found:
        typer.echo(_line(entry))
    if not found:
        typer.echo("none; any EMPIAR number can be shown with `cryoflow catalog show NUMBER`")


@catalogs.command("show")
def catalog_show(
    entry: Name,
    refresh: Annotated[bool, typer.Option("--refresh", help="Read the archive's record again")] = False,
) -> None:
    """Show what is known of an entry as YAML, and what is not."""
    import yaml

    from cryoflow.catalog import archive_number, entry_names, read_entry
    from cryoflow.catalog.start import unsaid

    number = archive_number(entry)
    if refresh and number is not None and f"EMPIAR-{number}" not in entry_names():
        from cryoflow.catalog.empiar import fetch_record

        fetch_record(number, refresh=True)
    known = read_entry(entry)
    typer.echo(yaml.safe_dump(known.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip())
    missing = unsaid(known)
    if missing:
        typer.echo(f"# not known: {', '.join(missing)}")


@catalogs.command("fetch")
def catalog_fetch(
    entry: Annotated[str, typer.Argument(help="Entry, EMPIAR number, entry file, pdb:ID or emdb:NUMBER")],
    root: Annotated[Path, typer.Option("--root", help="Folder to fetch into, in the archive's layout")] = Path(),
    imageset: Annotated[
        list[str] | None, typer.Option("--imageset", help="Image set; may be repeated [the one the workflow needs]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most files of each image set")] = None,
    mirror: Annotated[str | None, typer.Option(help="Address of a mirror instead of the archive")] = None,
    reference: Annotated[bool, typer.Option(help="Fetch the reference the workflow needs too")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be fetched")] = False,
) -> None:
    """Fetch image sets of an entry. A fetch that was stopped goes on when the same command runs again."""
    if re.match(r"(pdb|emdb|emd)[:-]", entry, re.IGNORECASE):
        _fetch_reference(entry, root)
        return
    from cryoflow.catalog import read_entry
    from cryoflow.catalog.fetch import fetch, plan_fetch
    from cryoflow.catalog.start import split_name

    name, one = (entry, None) if Path(entry).suffix in {".yaml", ".yml"} else split_name(entry)
    known = read_entry(name)
    wanted = [*([one] if one is not None else []), *(imageset or [])]
    plan = plan_fetch(known, wanted, root=root, mirror=mirror, limit=limit)
    typer.echo(f"{known.entry}: {plan}")
    if not dry_run:
        with _Bar(plan.bytes) as bar:
            fetch(plan, progress=bar)
    given = (known.workflow.get("refine") or {}).get("reference")
    if reference and isinstance(given, dict) and not dry_run:
        ((archive, identifier),) = given.items()
        _fetch_reference(f"{archive}:{identifier}", root)


def _fetch_reference(name: str, root: Path) -> None:
    from cryoflow.catalog import fetch_reference, find_reference

    try:
        path = find_reference(name, root)
    except ParameterError:
        folder = root / ("models" if name.lower().startswith("pdb") else "maps")
        path = fetch_reference(name, folder)
    typer.echo(f"{name}: {path}")


class _Bar:
    """A line with bytes, rate and time left on a terminal; nothing elsewhere."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        console = Console(stderr=True)
        self._line = Progress(
            BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=console, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._task = self._line.add_task("", total=total or None)

    def __enter__(self) -> _Bar:
        self._line.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._line.stop()

    def __call__(self, done: int, total: int | None) -> None:
        if total:
            self._line.update(self._task, total=total)
        self._line.update(self._task, completed=done)
