"""``qmedsam batch``: a cohort on the command line."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Iterator, List, Optional

import typer
from rich.markup import escape

from .options import (
    EVERY,
    FILL_HOLES,
    FRAME,
    FRAME_INDEX,
    LEAST_IOU,
    MODALITY,
    MODEL,
    STRATEGY,
    THREADS,
    VIEW_WEIGHTS,
    VOTE_ON,
    WALK,
    WINDOW,
)
from .terminal import Stopped, bar, console

_STYLES = {"done": "green", "unchanged": "dim", "failed": "red", "not run": "yellow"}


def batch(
    source: List[str] = typer.Argument(
        ..., help="Folders, globs, single volumes, or lists (.csv, .jsonl) of volumes with boxes or segmentations."
    ),
    output: Path = typer.Option(..., "-o", "--output", help="Folder for segmentations, summary.csv, index.html, batch.jsonl."),
    format: str = typer.Option(
        "auto",
        help="Of the segmentations: seg.nrrd, nii.gz, nii, nrrd, mha, npz, png, rtstruct, dicom-seg; auto: seg.nrrd for volumes, "
        "png for pictures.",
    ),
    modality: str = MODALITY,
    strategy: str = STRATEGY,
    model: Optional[str] = MODEL,
    frame: Optional[str] = FRAME,
    window: Optional[str] = WINDOW,
    frame_index: Optional[str] = FRAME_INDEX,
    margin: float = typer.Option(
        0.0, min=0, max=1, help="Move every side of boxes that a segmentation gives outward by this share of its length."
    ),
    workers: int = typer.Option(1, min=0, help="Processes that share the cores; 0 works in this one."),
    scheduler: Optional[str] = typer.Option(None, help="Address of a Dask cluster that does the work instead."),
    memory: Optional[str] = typer.Option(None, help="What a worker may take, e.g. 4G; default: the machine's, shared."),
    again: bool = typer.Option(False, "--again", help="Also do what an earlier run has done."),
    pictures: bool = typer.Option(True, help="Write an overlay per case."),
    lines: bool = typer.Option(False, "--json", help="Say what happens as JSON, an object a line."),
    every: int = EVERY,
    least_iou: float = LEAST_IOU,
    fill_holes: bool = FILL_HOLES,
    view_weights: str = VIEW_WEIGHTS,
    vote_on: str = VOTE_ON,
    walk: str = WALK,
    threads: int = THREADS,
) -> None:
    """Segment many volumes into a folder.

    With a table, a log and a page to look through.

    Boxes lie beside the volumes under their names (ct.nii.gz: ct.mrk.json, ct-liver.mrk.json, or ct.seg.nrrd to take them
    from). What an earlier run has done is recognised by content and not done again. The exit code is 1 when a case failed
    and 130 after Ctrl+C, which ends the run cleanly.

    Example: qmedsam batch scans -o results --workers 2
    """
    from ..batch import Outcome, Settings, collect, parse_memory, run_batch
    from ..batch.report import one_line
    from ..following import parse_frame_index
    from ..intensity import parse_window
    from .parsing import strategy_options

    options = strategy_options(every, least_iou, fill_holes, view_weights, vote_on, walk)
    chosen = parse_window(window) if window else None
    settings = Settings(
        model, modality, strategy, frame, chosen, options, margin, format, pictures, parse_frame_index(frame_index)
    )
    limit = parse_memory(memory) if memory else None
    cases = collect(source, output, format)
    count = 0

    def say(outcome: Outcome) -> None:
        nonlocal count
        count += 1
        if lines:
            _line({"event": "case", "done": count, "total": len(cases), **outcome.to_json()})
            return
        size = "" if outcome.volume_ml is None else f", {outcome.volume_ml:.1f} ml"
        about = (
            f"{len(outcome.objects)} object{'s' * (len(outcome.objects) > 1)}{size}, {outcome.seconds:.1f} s"
            if outcome.objects
            else ""
        )
        text = "  ".join(filter(None, [about, one_line(outcome.message)]))
        console.print(f"[{_STYLES[outcome.state]}]{outcome.state:9}[/] {escape(one_line(outcome.case))}  {escape(text)}")

    folder = output.absolute()
    if lines:
        _line({"event": "start", "total": len(cases), "folder": str(folder)})
    # Not both: the bar ends with a line of its own.
    with _terminable(), nullcontext() if lines else bar("Cases", "What was done is in the folder.") as progress:
        result = run_batch(
            cases,
            folder,
            settings,
            workers=workers,
            threads=threads,
            scheduler=scheduler,
            memory=limit,
            again=again,
            progress=progress,
            report=say,
        )
    page = folder / "index.html"
    if lines:
        _line({"event": "end", "cancelled": result.cancelled, "exit_code": result.exit_code, "report": str(page)})
    else:
        states = [outcome.state for outcome in result.outcomes]
        said = ", ".join(f"{states.count(state)} {state}" for state in _STYLES if state in states)
        console.print(f"{said} in {result.seconds:.0f} s: [green]{escape(str(page))}[/]")
    if result.cancelled:
        raise Stopped("Stopped by you. The same command goes on where it stopped.")
    raise typer.Exit(result.exit_code)


def _line(values: Any) -> None:
    from ..files.tables import finite

    sys.stdout.write(json.dumps(finite(values)) + "\n")  # who asked for it and has gone ends the run: not through ``out``
    sys.stdout.flush()


@contextmanager
def _terminable() -> Iterator[None]:
    """A cluster's manager and a window's Cancel button send SIGTERM: it ends a run as Ctrl+C does."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
