"""``qmedsam challenge``: the challenge's npz cases."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from rich.markup import escape

from .options import FRAME, MODEL, STRATEGY, THREADS
from .terminal import bar, console


def challenge(
    source: Path = typer.Option(..., "-i", "--input", help="Folder of 2D*.npz and 3D*.npz with imgs, boxes and spacing."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder for the masks (segs) and seconds.csv."),
    model: Optional[str] = MODEL,
    strategy: str = STRATEGY,
    frame: Optional[str] = FRAME,
    threads: int = THREADS,
) -> None:
    """Segment a folder of challenge cases.

    In the format of the challenge "Segment Anything in Medical Images on Laptop".
    A case that fails is listed and the others go on; the exit code is then 1.
    """
    from ..evaluation.challenge import challenge_cases, run_challenge
    from ..segmenter import Segmenter

    cases = challenge_cases(source)
    segmenter = Segmenter(model, threads=threads)
    failed, total = [], 0.0
    with bar("Cases", "The masks written so far are whole.") as progress:
        progress(0, len(cases))
        for n, report in enumerate(run_challenge(cases, output, segmenter.segment, strategy=strategy, frame=frame), start=1):
            total += report.seconds
            if report.problem:
                failed.append(report)
                console.print(f"[red]{escape(report.case)}[/] " + escape(report.problem))
            else:
                boxes = "1 box" if report.boxes == 1 else f"{report.boxes} boxes"
                console.print(escape(f"{report.case}  {boxes}, {report.modality or 'no modality'}, {report.seconds:.2f} s"))
            progress(n, len(cases))
    console.print(f"{len(cases) - len(failed)} of {len(cases)} cases in {total:.1f} s: [green]{escape(str(output))}[/]")
    if failed:
        console.print("Without a mask: " + escape(", ".join(report.case for report in failed)))
        raise typer.Exit(1)
