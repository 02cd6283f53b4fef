"""``cryoflow import``: any particle set, micrographs, movies or map becomes a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoflow.cli.app import Cluster, app
from cryoflow.cli.source_options import (
    AmplitudeContrast,
    Cs,
    Mixed,
    Option,
    Outside,
    PixelSize,
    Root,
    Stack,
    Trust,
    Voltage,
    given,
)  # fmt: skip

__all__ = ["import_"]

Format = Annotated[str | None, typer.Option("--format", help="Format of SOURCE, where it does not tell it itself")]


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A file, a folder or quoted pattern of micrographs, a store, or a URL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The store to write, NAME.zarr")],
    format: Format = None,
    root: Root = None,
    stack: Stack = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Or the table alone")] = True,
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
    mixed_pixel_sizes: Mixed = False,
    option: Option = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store of that name")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an unfinished import")] = False,
    cluster: Cluster = None,
) -> None:
    """Turn a particle set, micrographs, movies or a map into a store; run it again after an interruption to go on."""
    from cryoflow.engine import connect
    from cryoflow.errors import ParameterError
    from cryoflow.io.amounts import human_bytes
    from cryoflow.workflow.importing import import_data

    if output.suffix != ".zarr":
        raise ParameterError("--output", expected="a name that ends in .zarr", found=str(output))
    if not chunk_bytes >= 1:
        raise ParameterError("--chunk-bytes", expected="at least 1", found=f"{chunk_bytes:g}")
    options = given(
        option, root=root, stack=stack, pixel_size=pixel_size, voltage=voltage, cs=cs, gain=gain,
        amplitude_contrast=amplitude_contrast, dose_per_frame=dose_per_frame, allow_outside=allow_outside,
        trust_given=trust_given, mixed_pixel_sizes=mixed_pixel_sizes,
    ) | ({} if images else {"images": False})  # fmt: skip
    with connect(cluster) as client:
        done = import_data(
            source, output, format=format, image_dtype="float16" if float16 else "float32", chunk_bytes=chunk_bytes,
            overwrite=overwrite, restart=restart, client=client, **options,
        )  # fmt: skip
    if done.chunks == 0 and done.kind != "map" and not overwrite:
        typer.echo(f"{output}: {_count(done.rows, done.kind)}, as imported before or without images")
        return
    kept = f", {done.kept} of {done.chunks} chunks from an earlier run" if done.kept else ""
    typer.echo(f"{output}: {_count(done.rows, done.kind)}, {human_bytes(done.bytes)} of images{kept}")
    for name, rows in done.bad_rows.items():
        first = ", ".join(str(row + 1) for row in rows[:10]) + (", ..." if len(rows) > 10 else "")
        typer.echo(
            f"warning: {name}: NaN or infinity in {_count(len(rows), 'image')} (row {first}); "
            "marked usable=False in the store", err=True,
        )  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
