"""Rows of scores as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import Any


def rows_csv(kind: type, rows: Sequence[Any], decimals: int | None = None) -> str:
    """The rows as CSV text, headed by their fields.

    Args:
        kind: data class of the rows.
        rows: any number.
        decimals: of numbers that are not whole; None for all.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    for row in rows:
        writer.writerow([round(v, decimals) if decimals is not None and isinstance(v, float) else v for v in astuple(row)])
    return out.getvalue()
