"""``qmedsam``: the engine on the command line."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from rich.markup import escape

from .. import __version__
from ..errors import QMedSAMError, lacks_memory
from .batch import batch
from .challenge import challenge
from .demo import demo
from .evaluate import evaluate
from .models import models_app
from .segment import segment
from .terminal import Interrupts, Stopped, console, errors, output

# Plain help: rich's takes a fifth of a second more to load.
_ABOUT = "Boxes on medical images become 3D masks, on a CPU."
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False, help=_ABOUT)
for _command in (segment, demo, batch, evaluate, challenge):
    app.command()(_command)
app.add_typer(models_app, name="models")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit()


def main() -> None:
    """Run what was typed: an error is one sentence and a hint on stderr, and the exit code is 2 (130 after Ctrl+C).

    ``QMEDSAM_DEBUG=1`` shows the traceback of an unexpected one.
    """
    interrupts = Interrupts()
    try:
        with interrupts.watched():
            code = app(standalone_mode=False)
        problem = ""
        if output.failed is not None:
            problem = f"What was to be printed could not be written to standard output ({output.failed.strerror}). "
            problem += "The files of the command are not touched by that."
        elif not (interrupts.happened and code == 130):  # typer's own answer to Ctrl+C, which says nothing
            raise SystemExit(code if isinstance(code, int) else 0)
    except QMedSAMError as error:
        problem = f"{error.message} {error.hint}"
    except Stopped as stopped:
        problem, interrupts.happened = str(stopped), True
    except (Exception, KeyboardInterrupt) as error:
        if hasattr(error, "exit_code") and hasattr(error, "show") and not interrupts.happened:  # click's, of what was typed
            raise SystemExit(_usage(error)) from None
        problem = "Stopped by you."
        if not interrupts.happened:
            if os.environ.get("QMEDSAM_DEBUG") or not isinstance(error, Exception):
                raise
            problem = _unexpected(error)
    if interrupts.happened:
        errors.print(escape(problem if problem.startswith("Stopped by you.") else "Stopped by you."))
        raise SystemExit(130) from None
    errors.print("[bold red]Error:[/] " + escape(problem))
    raise SystemExit(2) from None


def _unexpected(error: Exception) -> str:
    if lacks_memory(error):
        return "There was not enough memory. Crop the volume, or close other programs (or raise the limit that this one has)."
    what = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip() or type(error).__name__
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    hint = "" if isinstance(error, OSError) else " If this looks like a bug, please report it; QMEDSAM_DEBUG=1 shows where."
    return f"{what.splitlines()[0]}{where}.{hint}"


def _usage(error: Any) -> int:
    """Show what was wrong with the typed words, as typer does it."""
    try:
        from typer.rich_utils import rich_format_error

        rich_format_error(error)
    except ImportError:
        error.show()
    if "--box" in sys.argv and "extra argument" in str(error):
        errors.print("The numbers of a box are separated by commas, without spaces: --box 60,80,12,210,190,41")
    return int(error.exit_code)
