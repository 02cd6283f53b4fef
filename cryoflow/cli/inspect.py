"""``cryoflow inspect``: what a file or folder is, what is wrong with it, and the command that imports it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cryoflow.cli.app import app, as_options

__all__ = ["inspect"]


@app.command()
def inspect(
    address: Annotated[str, typer.Argument(metavar="PATH_OR_URL", help="Any file, folder, 'pattern', store or URL")],
    full: Annotated[bool, typer.Option("--full", help="Look at every image and file, not at a sample")] = False,
    thumbnail: Annotated[Path | None, typer.Option(help="Write a picture of it to this PNG")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    format: Annotated[str | None, typer.Option(help="Its format, where the file does not tell it")] = None,
    root: Annotated[str | None, typer.Option(help="Folder that names of images are relative to")] = None,
) -> None:
    """Tell what a file, folder or pattern is, what is wrong with it, and how to import it.

    Ends with 0 where no error was found (warnings and notes may be), else with 3.
    """
    import cryoflow.cli.import_data  # noqa: F401 - its options are those that remedies name
    from cryoflow.workflow.inspection import inspect_data

    found = inspect_data(address, full=full, format=format, root=root)
    found.findings = [replace(f, remedy=as_options(f.remedy, "import")) for f in found.findings]
    if json:
        typer.echo(found.to_json())
    else:
        for line in found.lines():
            typer.echo(line)
    if thumbnail is not None and found.thumbnail is not None:
        from cryoflow.display.picture import write_png

        write_png(thumbnail, found.thumbnail)
        typer.echo(f"wrote {thumbnail}", err=True)
    elif thumbnail is not None:
        typer.echo("there is nothing to show", err=True)
    if found.broken:
        raise typer.Exit(3)
