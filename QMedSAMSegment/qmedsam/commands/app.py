"""``qmedsam``: the engine on the command line."""

from __future__ import annotations

import os

import typer
from rich.markup import escape

from .. import __version__
from ..errors import QMedSAMError
from .batch import batch
from .challenge import challenge
from .demo import demo
from .evaluate import evaluate
from .models import models_app
from .segment import segment
from .terminal import console, errors

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Boxes on medical images become 3D masks, on a CPU.")
for _command in (segment, demo, batch, evaluate, challenge):
    app.command()(_command)
app.add_typer(models_app, name="models")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit()


def main() -> None:
    """Entry point: an error is one sentence and a hint on stderr, and the exit code is 2.

    ``QMEDSAM_DEBUG=1`` shows the traceback of an unexpected one.
    """
    try:
        app()
    except QMedSAMError as error:
        errors.print("[bold red]Error:[/] " + escape(f"{error.message} {error.hint}"))
        raise SystemExit(2) from None
    except Exception as error:
        if os.environ.get("QMEDSAM_DEBUG"):
            raise
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip() or type(error).__name__
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        hint = "" if isinstance(error, OSError) else " If this looks like a bug, please report it; QMEDSAM_DEBUG=1 shows where."
        errors.print("[bold red]Error:[/] " + escape(f"{what.splitlines()[0]}{where}.{hint}"))
        raise SystemExit(2) from None
