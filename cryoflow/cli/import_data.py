"""``cryoflow import``: any particle set, micrographs, movies or map becomes a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cryoflow.cli.app import Cluster, app

__all__ = ["given", "import_"]

PixelSize = Annotated[float | None, typer.Option(help="Pixel size, angstrom; replaces what the files say")]
Voltage = Annotated[float | None, typer.Option(help="Acceleration voltage, kV")]
Cs = Annotated[float | None, typer.Option("--cs", help="Spherical aberration, mm")]
AmplitudeContrast = Annotated[float | None, typer.Option(help="Amplitude contrast, a fraction such as 0.1")]
Root = Annotated[str | None, typer.Option(help="Folder or URL that file names in SOURCE are relative to")]
Format = Annotated[str | None, typer.Option("--format", help="Format of SOURCE, where it does not tell it itself")]
Outside = Annotated[bool, typer.Option("--allow-outside", help="Follow names that lead out of the project's folder")]
Trust = Annotated[bool, typer.Option("--trust-given", help="Accept a pixel size that headers contradict")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, for the reader."""
    return {name: value for name, value in options.items() if value not in (None, False)}


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A file, a folder or quoted pattern of micrographs, a store, or a URL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The store to write, NAME.zarr")],
    format: Format = None,
    root: Root = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
    gain: Annotated[Path | None, typer.Option(help="Gain reference of movies (multiplies the frames)")] = None,
    dose_per_frame: Annotated[float | None, typer.Option(help="Exposure of a movie frame, e/A^2")] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Store images in half the space")] = False,
    chunk_bytes: Annotated[float, typer.Option(help="Bytes of a chunk of images")] = 16_000_000,
    allow_outside: Outside = False,
    trust_given: Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store of that name")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an unfinished import")] = False,
    cluster: Cluster = None,
) -> None:
    """Turn a particle set, micrographs, movies or a map into a store; run it again after an interruption to go on."""
    from cryoflow.engine import connect
    from cryoflow.errors import ParameterError
    from cryoflow.workflow.importing import import_data

    if output.suffix != ".zarr":
        raise ParameterError("--output", expected="a name that ends in .zarr", found=str(output))
    if not chunk_bytes >= 1:
        raise ParameterError("--chunk-bytes", expected="at least 1", found=f"{chunk_bytes:g}")
    options = given(
        root=root, pixel_size=pixel_size, voltage=voltage, cs=cs, amplitude_contrast=amplitude_contrast, gain=gain,
        dose_per_frame=dose_per_frame, allow_outside=allow_outside, trust_given=trust_given,
    )  # fmt: skip
    with connect(cluster) as client:
        done = import_data(
            source, output, format=format, image_dtype="float16" if float16 else "float32", chunk_bytes=chunk_bytes,
            overwrite=overwrite, restart=restart, client=client, **options,
        )  # fmt: skip
    if done.chunks == 0 and done.kind != "map" and not overwrite:
        typer.echo(f"{output}: {_count(done.rows, done.kind)}, as imported before or without images")
        return
    kept = f", {done.kept} of {done.chunks} chunks from an earlier run" if done.kept else ""
    typer.echo(f"{output}: {_count(done.rows, done.kind)}, {done.bytes / 1e9:.2f} GB of images{kept}")
    for name, rows in done.bad_rows.items():
        first = ", ".join(str(row + 1) for row in rows[:10]) + (", ..." if len(rows) > 10 else "")
        typer.echo(
            f"warning: {name}: NaN or infinity in {_count(len(rows), 'image')} (row {first}); "
            "marked usable=False in the store", err=True,
        )  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
