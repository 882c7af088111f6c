"""What commands write to: the terminal, and a progress bar that Ctrl+C ends with a sentence."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Callable, Iterator

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Windows encodes redirected output as cp1252: a name with other letters must not end a run.
for _stream in (sys.stdout, sys.stderr):
    getattr(_stream, "reconfigure", lambda **_: None)(errors="backslashreplace")

# No emoji codes: ":cat:" in a file name is a file name. What comes from files and users goes through ``escape``.
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


@contextmanager
def bar(title: str, kept: str = "Nothing was written.") -> Iterator[Callable[[int, int], None]]:
    """A progress bar; Ctrl+C while it is shown ends the command with a sentence."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task(title, total=None)
            yield lambda done, total: shown.update(task, completed=done, total=total)
    except KeyboardInterrupt:
        errors.print(f"Stopped by you. {kept}")
        raise typer.Exit(130) from None
