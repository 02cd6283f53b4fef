"""``cryoflow table``: operations on the rows and columns of any table, in the order they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cryoflow.cli.app import app
from cryoflow.cli.names import refuse_existing
from cryoflow.cli.table_operations import OPERATIONS, Manner, open_table
from cryoflow.errors import ParameterError

_STEPS = "cryoflow.table"


class _Operations(TyperCommand):
    """Takes the operations out of the words, in their order and as often as they are given, and lists them in help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = []
        steps: list[tuple[str, tuple[str, ...]]] = []
        words = list(args)
        while words:
            flag, equals, value = words.pop(0).partition("=")
            operation = OPERATIONS.get(flag)
            if operation is None:
                rest.append(flag + equals + value)
                continue
            words = [value, *words] if equals else words
            count = len(operation.words)
            if len(words) < count:
                ctx.fail(f"{flag} needs {' '.join(operation.words)}")
            steps.append((flag, tuple(words[:count])))
            words = words[count:]
        ctx.meta[_STEPS] = steps
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Operations, done in the order they are given"):
            formatter.write_dl([(" ".join([flag, *o.words]), o.help) for flag, o in OPERATIONS.items()])
        super().format_options(ctx, formatter)


@app.command(cls=_Operations)
def table(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="IN", help="A table: STAR, .cs, a store, ... or its URL")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Table to write; its suffix tells the format")
    ] = None,
    split: Annotated[int | None, typer.Option(help="Write so many equal parts: OUT_1, OUT_2, ...", metavar="N")] = None,
    split_by: Annotated[str | None, typer.Option(help="Write a part for each value: OUT_VALUE")] = None,
    images: Annotated[Path | None, typer.Option(help="Write the images too, to this .mrcs")] = None,
    to: Annotated[str | None, typer.Option(help="Format of the output, where the suffix does not tell")] = None,
    format: Annotated[str | None, typer.Option(help="Format of the input")] = None,
    seed: Annotated[int, typer.Option(help="Seed of --sample, --halves and --split")] = 0,
    random: Annotated[bool, typer.Option("--random", help="Split at random")] = False,
    score: Annotated[str | None, typer.Option(help="What --dedupe keeps the largest of")] = None,
    missing: Annotated[str, typer.Option(help="Rows or columns without a partner: error, drop or fill")] = "error",
    basename: Annotated[bool, typer.Option("--basename", help="Compare file names without folders")] = False,
    defocus_hand: Annotated[int, typer.Option(help="1 or -1: --subparticles and --move-centre change the defocus")] = 0,
    root: Annotated[str | None, typer.Option(help="Folder that image names are relative to")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Angstrom; replaces what the input says")] = None,
    mixed_pixel_sizes: Annotated[bool, typer.Option("--mixed-pixel-sizes", help="Accept several")] = False,
    allow_outside: Annotated[bool, typer.Option("--allow-outside", help="Accept names that lead out of ROOT")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist")] = False,
) -> None:  # fmt: skip
    """Select, sort, join, edit, expand: operations on the rows and columns of any table.

    cryoflow table particles.star --query 'defocus_u < 20000 and half == 1' --sort -max_probability -o best.star

    Without -o the result is described. Formulas have columns, numbers, 'text', + - * / **, comparisons, and/or/not,
    rot, tilt, psi, and functions such as count(micrograph_name); see the documentation on tables.
    """
    _check(missing, output, split, split_by, images)
    if split is None and split_by is None:
        refuse_existing(output, images, overwrite=overwrite)
    opening = {"root": root, "pixel_size": pixel_size, "mixed_pixel_sizes": mixed_pixel_sizes,
               "allow_outside": allow_outside}  # fmt: skip
    with_images = images is not None or (output is not None and output.suffix == ".zarr")
    manner = Manner(seed, score, missing, basename, defocus_hand, with_images, opening)
    steps = context.meta[_STEPS]
    ds = open_table(source, manner, format)
    before = _rows(ds)
    for flag, words in steps:
        ds = OPERATIONS[flag].run(ds, manner, *words)
    for note in ds.attrs.pop("notes", ()):
        typer.echo(f"note: {note}", err=True)
    if output is None:
        _describe(ds)
        return
    from cryoflow.cli.table_output import write_parts

    done = {"source": source, "operations": [" ".join([flag, *words]) for flag, words in steps]}
    written = write_parts(
        ds, output, split=split, split_by=split_by, seed=seed if random else None, images=images, to=to,
        parameters=done, overwrite=overwrite,
    )  # fmt: skip
    for path, rows in written:
        typer.echo(f"{path}: {_count(rows)} from {_count(before)}")
    if images is None and output.suffix != ".zarr":
        from cryoflow.cli.names import far_from_images
        from cryoflow.io.convert import named_files

        told = far_from_images(named_files(ds), source, output, root=root, rooted="particle" in ds.dims)
        if told:
            typer.echo(told, err=True)


def _check(missing: str, output: Path | None, split: int | None, split_by: str | None, images: Path | None) -> None:
    if missing not in ("error", "drop", "fill"):
        raise ParameterError("--missing", expected="error, drop or fill", found=repr(missing))
    if output is None and (split is not None or split_by is not None or images is not None):
        raise ParameterError("--output", expected="a file to write", found="none")
    if split is not None and split_by is not None:
        raise ParameterError("--split", expected="either --split or --split-by", found="both")
    if images is not None and (split is not None or split_by is not None):
        raise ParameterError("--images", expected="one output", found="several parts")


def _rows(ds: Any) -> int:
    from cryoflow.io.expression import row_dim

    return int(ds.sizes[row_dim(ds, "table")])


def _count(rows: int) -> str:
    return f"{rows} row{'' if rows == 1 else 's'}"


def _describe(ds: Any) -> None:
    from cryoflow.tables.describe import describe_table

    for line in describe_table(ds):
        typer.echo(line)
