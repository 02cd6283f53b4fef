"""Single-stage commands. Their options are the fields of the stage's parameters, so they follow the Python functions.

``ctf``, ``simulate`` and ``refine`` on a STAR file begin a run's folder; ``pick``, ``extract`` and ``refine`` on a
folder go on in it, with the run's own values where none are given; ``postprocess`` takes any two half-maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cryoflow.cli.app import Cluster, Output, app
from cryoflow.cli.names import refuse_existing
from cryoflow.cli.options import with_options
from cryoflow.errors import FormatError, ParameterError, kind_of
from cryoflow.workflow import parameters as p

Run = Annotated[Path, typer.Argument(help="Folder of a run")]
Given = Mapping[str, Any]


def _run(values: dict[str, Any], output: Path, until: str, cluster: str | None) -> None:
    from cryoflow.workflow import load_workflow, run

    run(load_workflow(values), output=output, until=until, cluster=cluster, echo=True)


def _go_on(folder: Path, changes: dict[str, Any], until: str, cluster: str | None) -> None:
    """Run the workflow of a folder with one stage's parameters laid over it."""
    import yaml

    path = folder / "workflow.yaml"
    if not path.is_file():
        raise ParameterError(
            until, expected="the folder of a run (with its workflow.yaml)", found=str(folder),
            remedy="Begin one with `cryoflow ctf`, `cryoflow simulate` or `cryoflow run`.",
        )  # fmt: skip
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise FormatError(str(path), expected="YAML", found=str(error).replace("\n", " ")) from None
    if not isinstance(values, dict):
        raise FormatError(str(path), expected="a workflow", found=kind_of(values))
    over = {name: {**(values.get(name) or {}), **given} for name, given in changes.items()}
    _run(values | over, folder, until, cluster)


def _absolute(stage: Given, *names: str) -> dict[str, Any]:
    """File names relative to where the command is given, not to the run; references of archives stay."""
    paths = {n: str(Path(v).resolve()) for n in names if (v := stage.get(n)) and ":" not in str(v)[:5]}
    return {**stage, **paths}


@app.command()
@with_options(optics=p.Micrographs, stage=p.Ctf)
def ctf(
    path: Annotated[list[str], typer.Argument(help="Micrographs: files or quoted patterns")],
    output: Output,
    optics: Given,
    stage: Given,
    cluster: Cluster = None,
) -> None:
    """Estimate the CTF of micrographs."""
    files = [str(Path(name).resolve()) for name in path]
    for name in files:
        whole = Path(name)
        if not whole.exists() and not any(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor)))):
            raise ParameterError("ctf", expected="files, or a quoted pattern of files", found=f"none for {name}")
    _run({"micrographs": {"path": files, **_absolute(optics, "root")}, "ctf": dict(stage)}, output, "ctf", cluster)


@app.command()
@with_options(goes_on=True, stage=p.Pick)
def pick(run: Run, stage: Given, cluster: Cluster = None) -> None:
    """Pick particles in the micrographs of a run."""
    _go_on(run, {"pick": dict(stage)}, "pick", cluster)


@app.command()
@with_options(goes_on=True, stage=p.Extract)
def extract(run: Run, stage: Given, cluster: Cluster = None) -> None:
    """Extract the picked particles of a run."""
    _go_on(run, {"extract": dict(stage)}, "extract", cluster)


@app.command()
@with_options(goes_on=True, skip=("path",), stage=p.Refine, stack=p.Particles)
def refine(
    particles: Annotated[Path, typer.Argument(help="Folder of a run, or a particle stack (.star)")],
    stage: Given,
    stack: Given,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run, for a stack")] = None,
    cluster: Cluster = None,
) -> None:
    """Refine a map from the particles of a run or a stack."""
    values = _absolute(stage, "reference", "mask")
    if particles.suffix != ".star" and particles.is_file():
        raise ParameterError(
            "refine", expected="the folder of a run, or a particle stack (.star)", found=str(particles),
            remedy=f"If it holds particles of another program: cryoflow convert {particles} {particles.stem}.star",
        )  # fmt: skip
    if particles.suffix != ".star":
        if output is not None and output.resolve() != particles.resolve():
            raise ParameterError("--output", expected="none: a run goes on in its own folder", found=str(output))
        if stack:
            option = "--" + next(iter(stack)).replace("_", "-")
            raise ParameterError(option, expected="a particle stack (.star) to read with it", found=str(particles))
        _go_on(particles, {"refine": values}, "refine", cluster)
        return
    if output is None:
        raise ParameterError("--output", expected="the folder to refine in", found="none")
    source = {"path": str(particles.resolve()), **_absolute(stack, "root")}
    _run({"particles": source, "refine": values}, output, "refine", cluster)


@app.command()
@with_options(stage=p.Postprocess)
def postprocess(
    half1: Annotated[Path, typer.Argument(help="Folder of a run, or the first half-map (.mrc), unfiltered")],
    stage: Given,
    half2: Annotated[Path | None, typer.Argument(help="Second half-map")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to, for half-maps")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Pixel size, angstrom; the header's if not given")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results in --output if they exist")] = False,
) -> None:
    """Mask, FSC, resolution and sharpening of a run or of two half-maps."""
    from cryoflow.workflow import checked
    from cryoflow.workflow.maps import sharpen_files

    if half1.is_dir():
        if half2 is not None or pixel_size is not None or (output and output.resolve() != half1.resolve()):
            raise ParameterError("postprocess", expected="a run's folder alone", found="another file, folder or size")
        _go_on(half1, {"postprocess": _absolute(stage, "mask", "mtf")}, "postprocess", None)
        return
    if half2 is None or output is None:
        raise ParameterError(
            "postprocess", expected="a run's folder, or two half-maps and --output", found=str(half1),
            remedy="cryoflow postprocess half1.mrc half2.mrc -o FOLDER",
        )  # fmt: skip
    if (output / "workflow.yaml").exists():
        raise ParameterError(
            "--output", expected="a folder that is not a run's", found=str(output),
            remedy=f"Postprocess the run itself: cryoflow postprocess {output}",
        )  # fmt: skip
    parameters = checked(p.Postprocess, stage, "postprocess")
    results = [output / name for name in ("map_sharpened.mrc", "mask.mrc", "fsc.csv")]
    inputs = [path.resolve() for path in (half1, half2, parameters.mask, parameters.mtf) if path is not None]
    if taken := [path for path in results if path.resolve() in inputs]:
        raise ParameterError("--output", expected="another folder than that of the inputs", found=str(taken[0]))
    refuse_existing(*results, overwrite=overwrite)
    result = sharpen_files(half1, half2, output, parameters, pixel_size=pixel_size)
    for warning in result.attrs["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    found = result.attrs["resolution"]
    said = f"resolution {found:.2f} A" if math.isfinite(found) else "no resolution"
    typer.echo(f"{said}, B-factor {result.attrs['b_factor']:.0f} A^2: {output}")


@app.command()
@with_options(stage=p.Simulate)
def simulate(output: Output, stage: Given, cluster: Cluster = None) -> None:
    """Simulate micrographs of a known structure; the truth is kept beside them."""
    values = dict(stage)
    if values.get("source"):
        values["source"] = str(Path(values["source"]).resolve())
    _run({"simulate": values}, output, "micrographs", cluster)


@app.command()
def report(run: Run) -> None:
    """Write report.html of a run's folder."""
    from cryoflow.display.report import report as write_report

    if not (run / "workflow.yaml").is_file():
        raise ParameterError("report", expected="the folder of a run (with its workflow.yaml)", found=str(run))
    typer.echo(str(write_report(run)))
