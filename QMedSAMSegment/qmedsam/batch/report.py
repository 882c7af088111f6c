"""``summary.csv``: a line per case, for a spreadsheet."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Sequence

from ..files import writing
from .settings import Outcome

SUMMARY = "summary.csv"

_COLUMNS = ("case", "state", "seconds", "voxels", "volume_ml", "confidence", "message", "output", "model", "modality", "strategy")


def write_summary(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the table of a run, all or nothing."""
    with writing(folder / SUMMARY) as beside, beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(_COLUMNS)
        for outcome in outcomes:
            table.writerow([_cell(getattr(outcome, column)) for column in _COLUMNS])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    # A spreadsheet would run what begins like this as a formula, and a case is named by whoever named the file.
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def one_line(text: str) -> str:
    """Text of unknown origin on a terminal or a page: no line breaks, no control characters, nothing that has no encoding."""
    shown = "".join(c if c.isprintable() else " " for c in text if not 0xD800 <= ord(c) <= 0xDFFF)
    return " ".join(shown.split())
