"""Networks that train in seconds, and commands typed within this process."""

from __future__ import annotations

from typing import Any

import typer
from typer.testing import CliRunner

#: Options of qmedsam-compact at 64 pixels.
TINY = {"widths": [8, 16, 16, 24, 24], "depths": [1, 1, 1, 1], "embed": 16, "width": 32, "deep": 32}
#: Options of litemedsam: a narrow TinyViT; prompt encoder and mask decoder are the real ones.
NARROW = {"widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "windows": [4, 4, 4, 4]}


def invoke(app: typer.Typer, *arguments: Any) -> str:
    """What a command prints; it must succeed, and its own errors come through as they are."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output
