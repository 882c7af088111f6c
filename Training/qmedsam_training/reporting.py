"""Progress that is seen everywhere: a bar on a terminal, a line a minute where there is none (a log of SLURM, a pipe)."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Callable, Iterator, Optional

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tell = Callable[[float, str], None]

#: What commands say goes to stdout, what went wrong to stderr.
console = Console()
errors = Console(stderr=True)


class Lines:
    """Tells at once where it begins, then once every so often, and the end.

    Args:
        write: takes a line.
        seconds: between two of them.
        clock: in seconds.
    """

    def __init__(self, write: Callable[[str], None], seconds: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._seconds, self._clock = write, seconds, clock
        self._began: Optional[float] = None
        self._first = self._said = 0.0

    def __call__(self, share: float, text: str) -> None:
        now = self._clock()
        if self._began is None:
            self._began, self._first = now, share
        elif now - self._said < self._seconds and share < 1:
            return
        self._said = now
        done = share - self._first  # a resumed run does not begin at 0
        left = f", {_minutes((now - self._began) * (1 - share) / done)} left" if done > 0 and share < 1 else ""
        self._write(f"{time.strftime('%H:%M:%S')} {100 * share:3.0f} % {text} ({_minutes(now - self._began)}{left})")


@contextmanager
def shown(what: str, quiet: bool = False) -> Iterator[Tell]:
    """Something to tell the share done and a line of text to, while this context lasts.

    Args:
        what: is being done, until there is a line.
        quiet: nothing is shown (another process shows it).
    """
    if quiet:
        yield lambda share, text: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=1.0)
            yield lambda share, text: bar.update(task, completed=share, description=text)
    else:
        console.print(what)
        yield Lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
