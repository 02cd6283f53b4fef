"""The command-line application: its commands, and how errors end it.

Exit codes: 0 done; 1 an error inside cryoflow; 2 a wrong command, parameter or workflow; 3 a file or store that cannot
be used; 4 a computation that failed; 5 a resource that is missing or full; 130 interrupted.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from cryoflow import __version__
from cryoflow.errors import ComputeError, CryoflowError, FormatError, ParameterError, ResourceError, SchemaError
from cryoflow.errors import StoreError as _StoreError

__all__ = ["app", "as_options", "exit_code", "main"]

app = typer.Typer(
    name="cryoflow",
    help="Single-particle cryo-EM: from micrographs to a validated map.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run")]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", help="Where to compute: local:N, cuda, tcp://HOST:PORT, ssh:..., slurm:...; see docs"),
]


def exit_code(error: BaseException) -> int:
    """The exit code an error ends the command with.

    >>> exit_code(ParameterError("refine", expected="a", found="b"))
    2
    """
    if isinstance(error, KeyboardInterrupt):
        return 130
    kinds = ((ParameterError, 2), (FormatError, 3), (SchemaError, 3), (_StoreError, 3), (ComputeError, 4))
    codes = [code for kind, code in (*kinds, (ResourceError, 5)) if isinstance(error, kind)]
    return codes[0] if codes else 1


# Python's arguments that a command calls by another name, and those of readers that go through --option
_NAMES = {"box_size": ("box",), "reads.format": ("format_in", "format"), "writes.format": ("format_out", "to")}
_OTHERS = ("anisotropic", "detector_pixel", "flip_y", "fractions", "frames_per_fraction", "passthrough", "shift_unit",
           "signed", "upsampling", "volume")  # fmt: skip
# arguments of readers that a workflow has in its source
_OF_SOURCES = ("trust_given", "allow_outside", "pixel_size", "root")
_FOR_PYTHON = re.compile(
    r",? or (?:pass|open) [^.,]*\b(?:images=False|check_size=False|mixed_pixel_sizes=True)[^.,]*"
    r"| ?\bPass (?:images|check_size)=False[^.]*\."
)


def as_options(message: str, command: str | None = None) -> str:
    """Python's arguments in an error as the options of ``command``: ``root=`` is ``--root`` there.

    ``command`` is the one that was typed, where it is not given. What it has no option for stays as it is.
    """
    commands = {str(c.name or getattr(c.callback, "__name__", "")): c.callback for c in app.registered_commands}
    words = sys.argv[1:]
    callback = commands.get(command or next((word for word in words if word in commands), ""))
    if callback is None and "workflow" in words:
        callback = commands.get("run")  # takes what ``workflow validate`` takes
    options = inspect.signature(callback).parameters if callback is not None else {}
    doing = "writes" if message.startswith(("write_", "save_")) else "reads"

    def option(found: re.Match[str]) -> str:
        value = found[2]
        names = (*_NAMES.get(f"{doing}.{found[1]}", ()), *_NAMES.get(found[1], ()), str(found[1]))
        name = next((n for n in names if n in options), names[-1])
        source = "particles" if any(word.endswith(".star") for word in words) else "micrographs"
        if "settings" in options and name in _OF_SOURCES:
            return f"--set {source}.{name}={value.lower()}"
        if name in options:
            return f"--{'no-' if value == 'False' else ''}{name.replace('_', '-')}"
        return f"--option {name}={value.lower()}" if "option" in options and name in _OTHERS else found[0]

    def setting(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')} {found[2]}" if found[1] in options else found[0]

    if "settings" not in options:
        message = re.sub(r"--set [a-z]+\.([a-z_]+)=(\w+)", setting, message)
    if not {"images", "mixed_pixel_sizes"} & set(options):  # what only Python can be told
        message = _FOR_PYTHON.sub("", message)
    return re.sub(r"(?<![\w.-])([a-z_]+)=(True\b|False\b|(?=[\s,.;:)]|$))", option, message)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cryoflow {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")] = False,
    version: Annotated[  # noqa: ARG001 - acts by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """Single-particle cryo-EM: from micrographs to a validated map."""
    if debug:
        os.environ["CRYOFLOW_DEBUG"] = "1"


_ROOMS = ("catalog", "convert", "import_data", "inspect", "reprocess", "run", "stages", "table")
# commands that answer without the libraries of the others
_ALONE = {"catalog": "catalog", "convert": "convert", "import": "import_data", "inspect": "inspect", "table": "table"}


def main() -> None:
    """Run the command; an error of use ends it with one line and its exit code."""
    word = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    for module in [_ALONE[word]] if word in _ALONE else _ROOMS:
        importlib.import_module(f"cryoflow.cli.{module}")
    try:
        app()
    except BrokenPipeError:  # `cryoflow ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if os.environ.get("CRYOFLOW_DEBUG"):
            raise
        where = error.filename if isinstance(error.filename, str) else "the operating system"
        told = ResourceError(where, expected="a file or folder that can be used", found=error.strerror or str(error))
        sys.stderr.write(f"cryoflow: {told}\n")
        sys.exit(exit_code(told))
    except (CryoflowError, KeyboardInterrupt) as error:
        if os.environ.get("CRYOFLOW_DEBUG"):
            raise
        interrupted = isinstance(error, KeyboardInterrupt)
        message = "interrupted; run the same command again to go on" if interrupted else as_options(str(error))
        sys.stderr.write(f"cryoflow: {message}\n")
        sys.exit(exit_code(error))
