"""Options of the readers, shared by the commands that open anything."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = ["given"]

PixelSize = Annotated[float | None, typer.Option(help="Pixel size, angstrom; replaces what the files say")]
Voltage = Annotated[float | None, typer.Option(help="Acceleration voltage, kV")]
Cs = Annotated[float | None, typer.Option("--cs", help="Spherical aberration, mm")]
AmplitudeContrast = Annotated[float | None, typer.Option(help="Amplitude contrast, a fraction such as 0.1")]
Root = Annotated[str | None, typer.Option(help="Folder or URL that file names in SOURCE are relative to")]
Stack = Annotated[str | None, typer.Option(help="Stack of a table that names none (.par, cisTEM)")]
Outside = Annotated[bool, typer.Option("--allow-outside", help="Follow names that lead out of the project's folder")]
Trust = Annotated[bool, typer.Option("--trust-given", help="Accept a pixel size that headers contradict")]
Mixed = Annotated[bool, typer.Option("--mixed-pixel-sizes", help="Accept optics groups of several pixel sizes")]
Option = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Any other option of the format's reader; may be repeated"),
]


def given(option: list[str] | None = None, /, **options: Any) -> dict[str, Any]:
    """The options that were given, for the reader.

    >>> given(["signed=true", "detector_pixel=7.2"], root=None, pixel_size=1.5, trust_given=False)
    {'pixel_size': 1.5, 'signed': True, 'detector_pixel': 7.2}
    """
    from cryoflow.errors import ParameterError

    chosen = {name: value for name, value in options.items() if value not in (None, False)}
    for text in option or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise ParameterError("--option", expected="NAME=VALUE", found=repr(text))
        chosen[name] = _value(value.strip())
    return chosen


def _value(text: str) -> bool | int | float | str:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
