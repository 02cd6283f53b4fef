"""``cryoflow convert``: tables and images from any format to any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoflow.cli.app import app
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

__all__ = ["convert"]


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A file or URL of any format")],
    output: Annotated[Path, typer.Argument(help="File to write; its suffix tells the format (.star, .cs, .par, ...)")],
    format_in: Annotated[str | None, typer.Option(help="Format of SOURCE, where it does not tell it itself")] = None,
    format_out: Annotated[str | None, typer.Option(help="Format to write, where the suffix does not tell it")] = None,
    images: Annotated[Path | None, typer.Option(help="Write the images too, to this stack")] = None,
    root: Root = None,
    stack: Stack = None,
    pixel_size: PixelSize = None,
    voltage: Voltage = None,
    cs: Cs = None,
    amplitude_contrast: AmplitudeContrast = None,
    box: Annotated[int | None, typer.Option(help="Box, pixels; for .box and .cbox, and .cs without its images")] = None,
    allow_outside: Outside = False,
    trust_given: Trust = False,
    mixed_pixel_sizes: Mixed = False,
    option: Option = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT if it exists")] = False,
) -> None:
    """Convert a particle set, micrographs, coordinates or images; says what the target cannot hold.

    A name that ends in .json gets references to the images where they lie (kerchunk), for zarr and xarray.
    """
    from cryoflow.cli.names import far_from_images, refuse_existing
    from cryoflow.io.convert import convert as convert_file

    refuse_existing(output, images, overwrite=overwrite)
    options = given(
        option, root=root, stack=stack, pixel_size=pixel_size, voltage=voltage, cs=cs,
        amplitude_contrast=amplitude_contrast, allow_outside=allow_outside, trust_given=trust_given,
        mixed_pixel_sizes=mixed_pixel_sizes,
    )  # fmt: skip
    coordinates = format_out in ("eman-box", "cbox") or (not format_out and output.suffix in (".box", ".cbox"))
    write = given(overwrite=overwrite and output.suffix == ".zarr", **{"box_size" if coordinates else "box": box})
    done = convert_file(source, output, format_in=format_in, format_out=format_out, images=images,
                        write_options=write, **options)  # fmt: skip
    typer.echo(f"{output}: {done.rows} row{'' if done.rows == 1 else 's'}, {done.source} to {done.target}")
    if done.lost:
        typer.echo(f"warning: {done.target} does not hold: {', '.join(done.lost)}", err=True)
    told = far_from_images(done.files, source, output, root=root, rooted=done.target != "relion-micrographs")
    if told:
        typer.echo(told, err=True)
    for name, most in done.altered.items():
        typer.echo(f"warning: {name} comes back with differences of up to {most:.3g}", err=True)
