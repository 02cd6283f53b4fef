"""What an inspection says: facts, findings with their remedies, and the command that would import the data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cryoflow.errors import CryoflowError

__all__ = ["Finding", "Inspection", "Severity"]

Severity = Literal["error", "warning", "note"]
_ORDER = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (error), doubtful (warning) or worth knowing (note).

    >>> str(Finding("error", "p.star, row 3", "no such stack", "Give --root."))
    'error    p.star, row 3: no such stack. Give --root.'
    """

    severity: Severity
    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.severity:<8} {self.where}: {self.what}.{' ' + self.remedy if self.remedy else ''}"


@dataclass
class Inspection:
    """What a file or folder is.

    ``kind`` is that of ``cryoflow.io.formats`` (particles, micrographs, map, ...), ``model``, ``folder`` or
    ``unknown``; ``facts`` are plain values in the order of importance; ``command`` imports it, empty where nothing can
    (``refused``: an error stands against it); ``options`` are what it needs; ``thumbnail`` is a picture (rows, columns)
    uint8, or None.
    """

    address: str
    kind: str = "unknown"
    format: str = ""
    title: str = "unknown"
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    command: str = ""
    options: dict[str, str] = field(default_factory=dict)
    refused: bool = False
    thumbnail: Any = field(default=None, repr=False, compare=False)

    @property
    def broken(self) -> bool:
        """Whether there is an error among the findings."""
        return any(f.severity == "error" for f in self.findings)

    def add(self, severity: Severity, where: str, what: str, remedy: str = "") -> None:
        """Note a finding, once."""
        finding = Finding(severity, where, what, remedy)
        if finding not in self.findings:
            self.findings.append(finding)

    def fail(self, error: CryoflowError, *, severity: Severity = "error") -> None:
        """Note an error of cryoflow as a finding."""
        self.add(severity, error.where, f"expected {error.expected}; found {error.found}", error.remedy)

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Turn errors of the block into findings: a broken file has a report and no traceback."""
        try:
            yield
        except CryoflowError as error:
            self.fail(error)
        except (OSError, ValueError, MemoryError) as error:
            self.add("error", self.address, f"cannot be read ({type(error).__name__}: {str(error)[:200]})")

    def lines(self) -> list[str]:
        """The report as text."""
        out = [f"{self.address}: {self.title}"]
        for name, value in self.facts.items():
            if isinstance(value, dict):
                out.append(f"  {name}")
                out += [f"    {k:<26} {v}" for k, v in value.items()]
            else:
                out.append(f"  {name:<16} {value}")
        ranked = self.ranked()
        out += ["", *map(str, ranked)] if ranked else ["", "nothing wrong was found"]
        if self.command:
            what = "import" if self.command.startswith("cryoflow import") else "go on"
            out += ["", f"{what} with: {self.command}"]
        elif self.refused and self.broken:
            out += ["", "cryoflow import refuses it until the errors are put right"]
        return out

    def ranked(self) -> list[Finding]:
        """The findings, errors first."""
        return sorted(self.findings, key=lambda f: _ORDER.index(f.severity))

    def to_json(self) -> str:
        """The report as JSON."""
        values = {k: v for k, v in asdict(self).items() if k not in ("thumbnail", "findings", "options")}
        values |= {"findings": [asdict(f) for f in self.ranked()], "broken": self.broken}
        return json.dumps(values, indent=1, default=str, allow_nan=True)
