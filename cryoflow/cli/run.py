"""``cryoflow run`` and ``cryoflow workflow ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cryoflow.cli.app import Cluster, Output, app
from cryoflow.errors import ParameterError

Source = Annotated[
    str, typer.Argument(help="A catalog entry, an EMPIAR number, a workflow (.yaml) or a particle stack (.star)")
]
Root = Annotated[Path | None, typer.Option("--root", help="Folder of the data; file names are relative to it")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="stage.name=value laid over the workflow; may be repeated")
]

workflows = typer.Typer(help="Write and check workflow files.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(workflows, name="workflow")


@app.command()
def run(
    source: Source,
    output: Output,
    root: Root = None,
    settings: Settings = None,
    cluster: Cluster = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage")] = None,
    performance_report: Annotated[
        Path | None, typer.Option(help="Write Dask's performance report of the run to this HTML file")
    ] = None,
) -> None:
    """Run a workflow; what is finished already is not done again."""
    from cryoflow.workflow import load_workflow, parse_settings
    from cryoflow.workflow import run as run_workflow

    workflow = load_workflow(source, settings=parse_settings(settings or []))
    figures = run_workflow(
        workflow,
        root=root,
        output=output,
        cluster=cluster,
        until=until,
        performance_report=performance_report,
        echo=True,
    )
    for line in _summary(output, figures):
        typer.echo(line)


def _summary(output: Path, figures: dict[str, Any]) -> list[str]:
    """Where the results are, and how good."""
    lines = [f"run      {figures['wall_seconds']:.0f} s, {figures['cpu_seconds']:.0f} CPU-s"]
    names = {"report": "report.html", "map": "map_sharpened.mrc", "poses": "particles.star"}
    lines += [f"{label:<9}{output / name}" for label, name in names.items() if (output / name).exists()]
    for label, key in (("gold-standard FSC 0.143", "resolution"), ("map against truth, FSC 0.5", "truth_resolution")):
        if key in figures:
            value = figures[key]
            lines.append(f"{label}: {f'{value:.2f} A' if value is not None else 'no resolution'}")
    return lines


@workflows.command("init")
def workflow_init(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write")] = Path("workflow.yaml"),
    settings: Settings = None,
) -> None:
    """Write the workflow file of a catalog entry or a particle stack, every value spelled out, to be edited."""
    from cryoflow.workflow import load_workflow, parse_settings, to_yaml

    if output.exists():
        raise ParameterError("workflow init", expected="a new file", found=f"{output} exists already")
    if not output.parent.is_dir():
        raise ParameterError("workflow init", expected="a folder to write in", found=str(output.parent))
    output.write_text(to_yaml(load_workflow(source, settings=parse_settings(settings or []))), encoding="utf-8")
    typer.echo(f"wrote {output}")


@workflows.command("validate")
def workflow_validate(source: Source, root: Root = None, settings: Settings = None) -> None:
    """Check a workflow in full, files included; nothing is run."""
    from cryoflow.workflow import check_files, load_workflow, parse_settings

    workflow = check_files(load_workflow(source, settings=parse_settings(settings or [])), root=root)
    typer.echo(f"valid: {' -> '.join(workflow.stages)}")
