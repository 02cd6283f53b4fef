"""The table of docs/data_table.md: every file of the test data, opened. ``python tests/data_table.py`` writes it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cryoflow.errors import CryoflowError
from cryoflow.io.formats import open_data
from cryoflow.workflow.inspection import Inspection, inspect_data

HEAD = """# The shared test data, file by file

Every file of the data that tests read, with what it opens as, or the reason why it is refused. The table is made by
`python tests/data_table.py`, and a test holds it against the files.

"""
_SHOWN = ("particles", "micrographs", "size", "box", "pixel size", "half-sets", "stacks", "atoms", "blocks")


def generate(data: Path) -> str:
    """The page."""
    lines = [HEAD + "| file | opens as | holds | refused because, or what to know |", "|---|---|---|---|"]
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        found = inspect_data(path)
        reason = refusal(path, found)
        what = [reason] if reason else [str(f.what) for f in found.findings if f.severity != "note"]
        opens = found.title if found.kind == "model" or not reason else ""
        if reason and found.kind not in ("unknown", "model"):
            opens = f"{found.title}: {'header' if found.kind in ('map', 'images') else 'metadata'} alone"
        row = (str(path.relative_to(data)), opens or "-", holds(found), "; ".join(what))
        lines.append("| " + " | ".join(_plain(text, data) for text in row) + " |")
    return "\n".join(lines) + "\n"


def refusal(path: Path, found: Inspection) -> str:
    """Why ``open_data`` refuses it; empty where it opens."""
    if found.kind == "model":
        return ""
    try:
        open_data(path)
    except CryoflowError as error:
        known = error.expected.startswith("a known format")
        reason = f"expected {'a known format' if known else error.expected}; found {error.found}"
        return reason if known else f"{reason}. {error.remedy}"
    return ""


def holds(found: Inspection) -> str:
    shown = []
    for name in _SHOWN:
        if name in found.facts:
            value = found.facts[name]
            if isinstance(value, dict):
                names = list(value)
                value = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            shown.append(f"{name} {value}")
    return ", ".join(shown)


def _plain(text: str, data: Path) -> str:
    for folder in (str(data.resolve()), str(data)):
        text = text.replace(folder + os.sep, "").replace(folder, "the data folder")
    return text.replace("|", "/").replace("\n", " ").replace("<", "&lt;")


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("CRYOFLOW_DATA", root.parent / "shared" / "data"))
    (root / "docs" / "data_table.md").write_text(generate(folder), encoding="utf-8")
    sys.stdout.write("wrote docs/data_table.md\n")
