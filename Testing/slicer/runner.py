"""Runs steps one after another, whatever becomes of each, and tells everything. Knows nothing of Slicer."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

OK, FAILED, SKIPPED = "ok", "FAILED", "not run"


class NotRun(Exception):
    """A step that cannot be run here, and why: no network, a version without the function."""


@dataclass(frozen=True)
class Step:
    """A thing that a person does and what must come of it."""

    name: str
    do: Callable[[Any], None]


@dataclass
class Outcome:
    """What became of a step. ``notes`` are numbers and other things worth reading also where it went well."""

    name: str
    state: str
    seconds: float
    why: str = ""
    notes: List[str] = field(default_factory=list)


class Steps(List[Step]):
    """The steps of a file; used as a decorator: ``@STEPS("two clicks place a box")``."""

    def __call__(self, name: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        def added(do: Callable[[Any], None]) -> Callable[[Any], None]:
            self.append(Step(name, do))
            return do

        return added


class Runner:
    """Runs steps and keeps a report, written anew after each step: who ends the application finds all that was known.

    Args:
        folder: for ``report.txt`` and ``report.json``.
        say: gets every line.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self._folder, self._say = folder, say
        self.outcomes: List[Outcome] = []
        self._lines: List[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, steps: Sequence[Step], person: Any, begins: Optional[Callable[[Step], None]] = None) -> int:
        """Try every step.

        Args:
            steps: in their order.
            person: is handed to each; its ``begin(name)`` and ``end(failed)`` are called around it, ``end`` returns notes.
            begins: called before each step.

        Returns:
            How many failed.
        """
        self.say(f"{len(steps)} steps, report in {self._folder}")
        for n, step in enumerate(steps, start=1):
            if begins is not None:
                begins(step)
            self.say(f"[{n}/{len(steps)}] {step.name} ...")
            self._tell(self._tried(step, person))
        self.say(self.summary())
        self.write()
        return sum(one.state == FAILED for one in self.outcomes)

    def _tried(self, step: Step, person: Any) -> Outcome:
        start, state, why, notes = time.monotonic(), OK, "", []  # type: ignore[var-annotated]
        try:
            person.begin(step.name)
            step.do(person)
        except NotRun as reason:
            state, why = SKIPPED, str(reason)
        except Exception:
            state, why = FAILED, traceback.format_exc()
        try:
            notes = list(person.end(state == FAILED))
        except Exception:
            state, why = FAILED, why + traceback.format_exc()
        return Outcome(step.name, state, time.monotonic() - start, why, notes)

    def _tell(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        for note in outcome.notes:
            self.say(f"      {note}")
        if outcome.why:
            self.say("\n".join(f"      {line}" for line in outcome.why.rstrip().splitlines()))
        self.say(f"      {outcome.state} ({outcome.seconds:.1f} s)")
        self.write()

    def say(self, line: str) -> None:
        """Into the report and to whoever looks on."""
        self._lines.append(line)
        self._say(line)

    def write(self) -> None:
        """Write the report so far."""
        (self._folder / "report.txt").write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        (self._folder / "report.json").write_text(json.dumps([asdict(one) for one in self.outcomes], indent=1), encoding="utf-8")

    def summary(self) -> str:
        """One line, and one for every step that failed or was not run."""
        states = [one.state for one in self.outcomes]
        counts = ", ".join(f"{states.count(state)} {state}" for state in (OK, FAILED, SKIPPED))
        return "\n".join([counts, *(f"{one.state}: {one.name}" for one in self.outcomes if one.state != OK)])
