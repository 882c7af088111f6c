"""Pages of the commands: what each of them prints with ``--help``."""

from __future__ import annotations

import os

os.environ["TYPER_USE_RICH"] = "0"  # plain text, no boxes; typer reads it once, when it is imported

import importlib
from typing import Iterator, Tuple

import typer
from typer.testing import CliRunner

#: Program and the place of its typer application.
PROGRAMS = {"qmedsam": "qmedsam.commands.app", "qmedsam-train": "qmedsam_training.cli"}


def commands_of(app: typer.Typer) -> Iterator[Tuple[str, ...]]:
    """The words after the program's name of every command, groups in front of theirs."""
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__.replace("_", "-") if command.callback else "")
        yield (name,)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for words in commands_of(group.typer_instance):
            yield (group.name or "", *words)


def page_of(program: str) -> str:
    """Markdown with the ``--help`` of every command of a program."""
    app = importlib.import_module(PROGRAMS[program]).app
    lines = [f"# {program}", ""]
    for words in [(), *commands_of(app)]:
        done = CliRunner().invoke(app, [*words, "--help"], prog_name=program, color=False)
        if done.exit_code:
            raise RuntimeError(f"{program} {' '.join(words)} --help ended with {done.exit_code}: {done.output}")
        if words:
            lines += [f"## {' '.join(words)}", ""]
        lines += ["```text", done.output.strip("\n"), "```", ""]
    return "\n".join(lines)
