"""What commands write to: a terminal that may go away, and a progress bar that Ctrl+C ends with a sentence."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import Any, Callable, Iterator, Optional

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Windows encodes redirected output as cp1252: a name with other letters must not end a run.
for _stream in (sys.stdout, sys.stderr):
    getattr(_stream, "reconfigure", lambda **_: None)(errors="backslashreplace")


class Stopped(Exception):
    """Ctrl+C, with the sentence for the user."""


class _Out:
    """A standard stream. Its reader may leave (``| head``), its disk be full: that ends the printing, not the work.

    Attributes:
        failed: why it could not be written to; None while it can, and when the reader left.
    """

    def __init__(self, name: str) -> None:
        self._name, self._gone = name, False
        self.failed: Optional[OSError] = None

    def write(self, text: str) -> int:
        if not self._gone:
            self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        if not self._gone:
            self._try(lambda stream: stream.flush())

    def _try(self, action: Callable[[Any], Any]) -> None:
        stream = getattr(sys, self._name)
        try:
            action(stream)
        except OSError as error:
            self._gone = True
            # What is still in its buffer would fail again when Python ends, with a traceback and another exit code.
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if not isinstance(error, BrokenPipeError):
                self.failed = error

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys, self._name), name)


# No emoji codes: ":cat:" in a file name is a file name. What comes from files and users goes through ``escape``.
output = _Out("stdout")
console = Console(emoji=False, file=output)  # type: ignore[arg-type]
errors = Console(emoji=False, file=_Out("stderr"))  # type: ignore[arg-type]


class Interrupts:
    """Notices Ctrl+C: libraries turn the exception that it raises within them into errors of their own."""

    def __init__(self) -> None:
        self.happened = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it Ctrl+C raises KeyboardInterrupt, as ever, and is remembered."""

        def stop(number: int, frame: Any) -> None:
            self.happened = True
            raise KeyboardInterrupt

        self.happened = False
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def bar(title: str, kept: str = "Nothing was written.") -> Iterator[Callable[[int, int], None]]:
    """A progress bar.

    Raises:
        Stopped: Ctrl+C while it is shown.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task(title, total=None)
            yield lambda done, total: shown.update(task, completed=done, total=total)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped by you. {kept}") from None
