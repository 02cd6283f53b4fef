"""Typed errors. Each says where it happened, what was expected, what was found, and what to do about it."""

from __future__ import annotations

__all__ = [
    "ComputeError",
    "CryoflowError",
    "FormatError",
    "ParameterError",
    "ResourceError",
    "SchemaError",
    "StoreError",
    "kind_of",
]


class CryoflowError(Exception):
    """Base of all errors raised on purpose by cryoflow.

    Parameters
    ----------
    where : the function, file and row or byte, variable or stage at fault.
    expected : what would have been right.
    found : what was there instead.
    remedy : what the reader can do now.

    Examples
    --------
    >>> str(CryoflowError("refine", expected="a pixel size above 0", found="-1.5", remedy="Give --pixel-size."))
    'refine: expected a pixel size above 0; found -1.5. Give --pixel-size.'
    """

    def __init__(self, where: str, *, expected: str, found: str, remedy: str = "") -> None:
        self.where, self.expected, self.found, self.remedy = where, expected, found, remedy
        super().__init__(f"{where}: expected {expected}; found {found}.{' ' + remedy if remedy else ''}")

    def __reduce__(self) -> tuple[object, ...]:  # errors cross process borders by pickle
        return _rebuild, (type(self), self.where, self.expected, self.found, self.remedy)


def _rebuild(kind: type[CryoflowError], where: str, expected: str, found: str, remedy: str) -> CryoflowError:
    return kind(where, expected=expected, found=found, remedy=remedy)


class FormatError(CryoflowError):
    """A file breaks its format, or is truncated; ``where`` names the file and the row or byte."""


class SchemaError(CryoflowError):
    """A Dataset does not obey the schema."""


class StoreError(CryoflowError):
    """A store is incomplete, of another version, or disagrees with what is appended to it."""


class ParameterError(CryoflowError, ValueError):
    """A parameter or a workflow file is wrong; raised before any long work starts."""


class ComputeError(CryoflowError):
    """A task failed; ``where`` names the kernel and the chunk."""


class ResourceError(CryoflowError):
    """The disk is full, memory does not suffice, or a device is missing."""


def kind_of(value: object) -> str:
    """What a value is, as the one who wrote it in a file or typed it sees it.

    >>> kind_of({}), kind_of("a"), kind_of(None), kind_of(3)
    ('a mapping', 'text', 'nothing', 'a number')
    """
    kinds = {dict: "a mapping", list: "a list", tuple: "a list", str: "text", bool: "yes or no", int: "a number",
             float: "a number", type(None): "nothing"}  # fmt: skip
    return kinds.get(type(value), f"a {type(value).__name__}")
