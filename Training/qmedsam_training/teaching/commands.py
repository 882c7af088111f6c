"""``qmedsam-train teach``: the command, what it says on a terminal, and what it says to a program."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import typer
from qmedsam import QMedSAMError
from rich.markup import escape
from rich.table import Table

from ..interruption import Interruption
from ..reporting import Tell, console, shown
from .settings import LESSON, Lesson

#: Seconds between two lines of progress for a program.
_EVERY = 0.5
#: Exit codes: no gain that is believed and nothing written, and stopped by the user.
NOTHING_GAINED, STOPPED = 1, 130


def teach(
    folders: List[Path] = typer.Argument(
        ..., metavar="FOLDER...", exists=True, help="Folders (or lists) of images with their segmentations; several are joined."
    ),
    output: Path = typer.Option(..., "-o", "--output", help="Model folder to write; its name is the model's."),
    start: Optional[Path] = typer.Option(None, "--from", help="Float checkpoint to start from; default: the shipped one."),
    name: List[str] = typer.Option(
        [], help="VALUE=NAME for masks that do not name their labels; again for each. NAME alone: all that have none."
    ),
    steps: int = typer.Option(LESSON.steps, min=1, help="Of learning, for every fold."),
    rate: float = typer.Option(LESSON.rate, min=0, help="Highest learning rate."),
    seed: int = typer.Option(0, min=0, help="Of everything that is drawn."),
    threads: int = typer.Option(0, min=0, help="Of the processor; 0: one or all cores, whichever is quicker."),
    cache_mib: float = typer.Option(512.0, min=64, help="What frames may take, in memory and on the disk."),
    work: Optional[Path] = typer.Option(None, help="Folder for what is kept between runs; default: beside the model."),
    write_anyway: bool = typer.Option(
        False, "--write-anyway", help="Write the model even if nothing was gained, or by too few patients to show it."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the plan and stop."),
    as_json: bool = typer.Option(False, "--json", help="Say everything as lines of JSON, for programs."),
) -> None:
    """Teach a model the structures of your own cases: minutes on a laptop, with an honest table before anything is written.

    Ctrl+C keeps what is done: the same command goes on.
    """
    say: Any = _Json() if as_json else _Text()
    try:
        with Interruption() as interruption:
            how = {"steps": steps, "rate": rate, "seed": seed}
            code = _teach(
                folders, output, start, _named(name), how, threads, cache_mib, work, write_anyway, dry_run, say, interruption
            )
    except QMedSAMError as error:
        if not as_json:
            raise
        say.event("error", message=f"{error.message} {error.hint}".strip())
        code = 2
    if code:
        raise SystemExit(code)


def _teach(
    folders: List[Path],
    output: Path,
    start: Optional[Path],
    names: Dict[int, str],
    how: Dict[str, Any],
    threads: int,
    cache_mib: float,
    work: Optional[Path],
    write_anyway: bool,
    dry_run: bool,
    say: Any,
    interruption: Interruption,
) -> int:
    import torch

    from ..export import check_replaceable
    from ..networks import compact_of
    from ..recipes import checked_name
    from .folders import read_lessons
    from .frames import habits_for
    from .plan import planned
    from .run import Stopped, Teaching, shipped_base, work_folder

    checked_name(output.resolve().name)
    check_replaceable(output)
    torch.set_num_threads(threads or 1)
    with say.progress("Reading the cases") as tell:
        lessons = read_lessons(folders, names, lambda done, total: tell(done / total, f"{done} of {total} cases read"))
    base = start or shipped_base(lessons.is_3d)
    model, network = compact_of(base)
    habits = habits_for(network)
    plan = planned(lessons, model, habits, Lesson(**how), cache_mib, threads)
    say.plan(plan.rows(lessons), lessons.notes)
    if dry_run:
        return 0
    teaching = Teaching(lessons, model, network, base.stem, plan, work or work_folder(output), lambda: interruption.asked)
    teaching.prepare()
    try:
        with say.progress("Teaching") as tell:
            frames, scenes = teaching.frames(tell)
            found, model = teaching.findings(frames, scenes, tell)
        say.table(found)
        if not found.believed and not write_anyway:
            say.text(f"No model was written. --write-anyway writes it; what was learned so far is kept in '{teaching.work}'.")
            return NOTHING_GAINED
        with say.progress("Writing") as tell:
            teaching.hand_over(found, model, frames, scenes, output, tell)
            tell(1.0, "Done")
    except Stopped:
        say.text("Stopped. The same command goes on from what is done.")
        return STOPPED
    teaching.clean()
    say.written(output, lessons.targets)
    return 0


def _named(given: List[str]) -> Dict[int, str]:
    """Names by label values; 0: of all others that have none."""
    names = {}
    for one in given:
        value, equals, name = one.partition("=") if "=" in one else ("0", "", one)
        if not value.strip().isdecimal() or not name.strip() or (equals and int(value) == 0):
            raise QMedSAMError(f"'{one}' does not name a label.", "Write its value and its name: --name 1=kidney.")
        names[int(value)] = name.strip()
    return names


class _Text:
    """For a terminal."""

    def progress(self, what: str) -> Any:
        return shown(what)

    def plan(self, rows: List[Tuple[str, str]], notes: Any) -> None:
        table = Table(show_header=False, box=None)
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        for note in notes:
            console.print(f"[yellow]Note:[/] {escape(note)}", highlight=False)

    def table(self, found: Any) -> None:
        from .report import head

        table = Table(*head())
        for row in found.cells():
            table.add_row(*map(escape, row))
        console.print(table)
        for sentence in found.sentences():
            self.text(sentence)

    def text(self, sentence: str) -> None:
        console.print(escape(sentence), highlight=False)

    def written(self, output: Path, targets: List[str]) -> None:
        self.text(f"Wrote '{output}'. It is used for {', '.join(targets)} after: qmedsam models add {output}")


class _Json:
    """For a program: an object a line, with what it is in ``event``. The first one says the process."""

    def __init__(self) -> None:
        self.event("process", pid=os.getpid())

    def event(self, kind: str, **facts: Any) -> None:
        sys.stdout.write(json.dumps({"event": kind, **facts}) + "\n")
        sys.stdout.flush()

    @contextmanager
    def progress(self, what: str) -> Iterator[Tell]:
        said = 0.0

        def tell(share: float, text: str) -> None:
            nonlocal said
            now = time.monotonic()
            if now - said >= _EVERY or share >= 1:
                said = now
                self.event("progress", share=round(share, 4), text=text)

        self.event("progress", share=0.0, text=what)
        yield tell

    def plan(self, rows: List[Tuple[str, str]], notes: Any) -> None:
        self.event("plan", rows=[list(row) for row in rows], notes=list(notes))

    def table(self, found: Any) -> None:
        from .report import head

        self.event("table", head=list(head()), rows=found.cells(), sentences=found.sentences(), gained=found.believed)

    def text(self, sentence: str) -> None:
        self.event("text", message=sentence)

    def written(self, output: Path, targets: List[str]) -> None:
        self.event("written", folder=str(output), targets=targets)
