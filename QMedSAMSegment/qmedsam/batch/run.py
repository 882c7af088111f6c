"""A run over many cases: what is done already, who does the rest, and the reports."""

from __future__ import annotations

import datetime
import shutil
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional, Sequence, Tuple

from .. import __version__
from ..errors import QMedSAMError
from ..files import PathLike
from ..files.header import machine_memory
from ..models import ModelStore
from ..network.processor import available_cores
from .cluster import on_cluster
from .identity import sizes_of
from .journal import Journal, only_run
from .memory import BASE, in_words
from .one import OVERLAYS, Bench, SegmenterLike, bench_json
from .page import write_page
from .pool import on_workers
from .report import write_summary
from .reuse import Earlier
from .settings import FAILED, NOT_RUN, Case, Outcome, Settings

#: Seconds between two writings of the reports while a run goes on.
_REPORT_EVERY = 30.0
#: Part of the machine's memory that its workers may take together by their cases' headers, where nothing else is said.
_SHARE = 0.9


@dataclass
class Result:
    """What :func:`run_batch` returns.

    Attributes:
        folder: of the run.
        outcomes: one per case, in their order.
        seconds: of the whole run.
        cancelled: stopped before its end.
    """

    folder: Path
    outcomes: List[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    cancelled: bool = False

    @property
    def failed(self) -> List[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state == FAILED]

    @property
    def exit_code(self) -> int:
        """0: every case has its result; 1: some failed; 130: stopped."""
        return 130 if self.cancelled else int(bool(self.failed))


def run_batch(
    cases: Sequence[Case],
    folder: PathLike,
    settings: Optional[Settings] = None,
    *,
    workers: int = 0,
    threads: int = 0,
    scheduler: Optional[str] = None,
    memory: Optional[int] = None,
    again: bool = False,
    progress: Optional[Callable[[int, int], None]] = None,
    cancelled: Optional[Callable[[], bool]] = None,
    report: Optional[Callable[[Outcome], None]] = None,
    segmenter: Optional[SegmenterLike] = None,
) -> Result:
    """Segment many cases into a folder; one that cannot be segmented is listed, and the others go on.

    A case that an earlier run into the folder has done is not done again while its inputs (by content), the settings, the
    model and the engine's version are the same and its segmentation is as it was written. Under another name it is copied.

    Args:
        cases: from :func:`~qmedsam.batch.collect.collect`.
        folder: made if missing. Gets the segmentations, ``overlays/``, ``summary.csv``, ``index.html`` and ``batch.jsonl``.
        settings: of the run.
        workers: processes; 0 works in this one.
        threads: CPU threads of all workers together (of one Dask worker, with ``scheduler``); 0 for all there are.
        scheduler: address of a Dask cluster that does the work instead.
        memory: bytes that a worker may take. A case that needs more by its header is refused, a worker process that holds
            more is ended. None: what the machine has, shared among the workers, or the Dask worker's own limit. Workers for
            whom there is no case count neither here nor for the threads.
        again: do every case anew.
        progress: called with the number of finished and of all cases.
        cancelled: asked all the time.
        report: called with every outcome as it comes.
        segmenter: use this one in place of :class:`qmedsam.Segmenter`; in this process only.

    Returns:
        The result. Ctrl+C (KeyboardInterrupt) and ``cancelled`` end the run early: its reports are written, the cases that
        were running are dropped.

    Raises:
        QMedSAMError: before anything is done: no case, the folder cannot be written to or another run holds it, a model that
            is not there, workers or a cluster that cannot be reached. At the end, when all is done: a report cannot be written.
    """
    settings = settings or Settings()
    if not cases:
        raise QMedSAMError("There is no case to segment.", "Give volumes, a folder of them, or a list.")
    if memory is not None and memory < BASE:
        raise QMedSAMError(f"{in_words(memory)} of memory are too few for a worker.", f"It takes {in_words(BASE)} by itself.")
    if segmenter is None and settings.model:
        ModelStore().get(settings.model)
    folder = Path(folder).absolute()
    start = time.perf_counter()
    result = Result(folder, [Outcome(case.name, NOT_RUN) for case in cases])
    note = {}
    if settings.pictures and not scheduler and find_spec("matplotlib") is None:  # Slicer's own Python lacks it
        settings, note = replace(settings, pictures=False), {"pictures": "none, matplotlib is not installed"}
    about = {"QMedSAM": __version__, "started": _now(), **_in_words(settings), **note}

    def write_reports() -> None:
        result.seconds = time.perf_counter() - start
        try:
            write_summary(folder, result.outcomes)
        finally:
            write_page(folder, result.outcomes, about, result.seconds)

    with only_run(folder):
        _sweep(folder, cases)
        earlier = None if again else Earlier(folder, settings, routed=segmenter is None)
        journal = Journal(folder)
        book = _Book(result, cases, journal, progress, report, write_reports)
        asked = {"workers": scheduler or workers, "threads": threads, "memory": memory, "again": again}
        journal.write("run", {**about, "settings": settings.to_json(), **asked, "cases": len(cases)})
        try:
            todo = list(_unsettled(cases, earlier, book, cancelled))
            if workers > 1 or scheduler:
                todo.sort(key=lambda n: -_bytes(cases[n]))  # a large one begun last would keep the others waiting
            crew = min(workers, len(todo))
            share, limit = (threads, memory) if scheduler else _share(crew, threads, memory)
            each = f"{share} thread{'s' * (share > 1)}"
            about["workers"] = f"Dask at {scheduler}" if scheduler else f"{crew} with {each} each" if crew else f"none, {each}"
            bench = bench_json(settings, folder, share, limit)
            jobs = [cases[n] for n in todo]
            answers: Generator[Tuple[int, Outcome], None, None]
            if scheduler and jobs:
                answers = on_cluster(jobs, bench, scheduler, cancelled)
            elif workers and jobs:
                answers = on_workers(jobs, bench, workers, memory, cancelled)
            else:
                answers = _here(jobs, Bench(settings, folder, share, limit, segmenter, apart=True), cancelled)
            with closing(answers):  # ends the workers, whatever happens
                for position, outcome in answers:
                    book.enter(todo[position], outcome)
        except KeyboardInterrupt:
            pass
        finally:
            result.cancelled = book.missing > 0
            _sweep(folder, cases)
            try:
                write_reports()
            finally:
                journal.write("end", {"seconds": result.seconds, "cancelled": result.cancelled, "exit_code": result.exit_code})
                journal.close()
    return result


class _Book:
    """Enters outcomes: into the result, the journal, the reports, and to who wants to hear of them."""

    def __init__(
        self,
        result: Result,
        cases: Sequence[Case],
        journal: Journal,
        progress: Optional[Callable[[int, int], None]],
        report: Optional[Callable[[Outcome], None]],
        write_reports: Callable[[], None],
    ) -> None:
        self._result, self._cases, self._journal = result, cases, journal
        self._progress, self._report, self._write_reports = progress, report, write_reports
        self._written = time.monotonic()
        self._before = [_stamp(case) for case in cases]  # a worker may also be ended after it has written
        self.missing = len(cases)

    def enter(self, n: int, outcome: Outcome) -> None:
        if outcome.state == NOT_RUN:
            return
        if outcome.state == FAILED and self._before[n] and _stamp(self._cases[n]) == self._before[n]:
            outcome.message += f" '{self._cases[n].output.name}' is still that of an earlier run."
        self._result.outcomes[n] = outcome
        self.missing -= 1
        values = outcome.to_json()
        with suppress(ValueError):  # an output elsewhere stays absolute
            values["output"] = Path(outcome.output).relative_to(self._result.folder).as_posix() if outcome.output else ""
        self._journal.write("case", values)
        if time.monotonic() - self._written > _REPORT_EVERY:
            with suppress(QMedSAMError):  # on Windows a table that is open in a spreadsheet is locked: it is tried again
                self._write_reports()
            self._written = time.monotonic()
        if self._report:
            self._report(outcome)
        if self._progress:
            self._progress(len(self._cases) - self.missing, len(self._cases))


def _unsettled(
    cases: Sequence[Case], earlier: Optional[Earlier], book: _Book, cancelled: Optional[Callable[[], bool]]
) -> Iterator[int]:
    """Positions of the cases that have to be done; the others are entered."""
    for n, case in enumerate(cases):
        if cancelled and cancelled():
            return
        found = Outcome(case.name, FAILED, message=case.problem) if case.problem else earlier and earlier.result_of(case)
        if found:
            book.enter(n, found)
        else:
            yield n


def _share(workers: int, threads: int, memory: Optional[int]) -> Tuple[int, Optional[int]]:
    """Threads and memory of one of the workers that have something to do; of this process for 0."""
    machine = machine_memory() if memory is None else None
    if machine:
        memory = int(machine * _SHARE / max(workers, 1))
    return max((threads or available_cores()) // max(workers, 1), 1), memory


def _stamp(case: Case) -> Optional[Tuple[int, int]]:
    """What changes when a case's output is written again; None while there is none."""
    try:
        found = case.output.stat()
        return found.st_mtime_ns, found.st_ino
    except OSError:
        return None


def _bytes(case: Case) -> int:
    try:
        return sum(sizes_of(case))
    except OSError:
        return 0


def _here(
    cases: Sequence[Case], bench: Bench, cancelled: Optional[Callable[[], bool]]
) -> Generator[Tuple[int, Outcome], None, None]:
    try:
        for n, case in enumerate(cases):
            if cancelled and cancelled():
                return
            yield n, bench.do(case, cancelled)
    finally:
        bench.close()


def _sweep(folder: Path, cases: Sequence[Case]) -> None:
    """Remove what writers left behind that were killed. Only below the folder, which this run alone holds."""
    places = {folder, folder / OVERLAYS, *(case.output.parent for case in cases)}
    for place in places:
        if place == folder or folder in place.parents:
            for left in place.glob(".qmedsam-*"):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)


def _in_words(settings: Settings) -> Dict[str, str]:
    """What of the settings is not the default."""
    default = Settings()
    values: Dict[str, Any] = {
        "model": settings.model,
        "modality": settings.modality,
        "strategy": settings.strategy,
        "frame": settings.frame,
    }
    values.update(window=settings.window, margin=settings.margin, format=settings.format)
    values.update({f.name: getattr(settings.options, f.name) for f in fields(settings.options)})
    plain = {**default.to_json(), **default.to_json()["options"]}
    return {key: str(value) for key, value in values.items() if value != plain[key]}


def _now() -> str:
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
