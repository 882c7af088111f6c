"""``qmedsam evaluate``: a model scored on labelled cases."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer

from ..errors import QMedSAMError
from .options import FRAME, MODEL, STRATEGY, THREADS
from .terminal import bar


def evaluate(
    manifest: Path = typer.Argument(..., help="Labelled cases: CSV, folder (nnU-Net, BIDS...) or dataset.json."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder for scores.csv, summary.json, summary.md and sheet.png."),
    split: Optional[str] = typer.Option(None, help="Only the cases of this split."),
    modality: Optional[List[str]] = typer.Option(None, help="Only these; cases that tell none are of the one named."),
    source: Optional[List[str]] = typer.Option(None, help="Only these sources."),
    model: Optional[str] = MODEL,
    strategy: str = STRATEGY,
    frame: Optional[str] = FRAME,
    prompt: str = typer.Option(
        "volume",
        help="volume: the object's 3D box; slice: its 2D box on its largest axial slice; rectangle: both, as a user who draws on "
        "that slice gives them; line, lines: its longest axial diameter, or both axes, in place of a box.",
    ),
    jitter: float = typer.Option(0.0, min=-0.25, help="Move every side outward by up to this share of its length; below 0: in."),
    oracle: Optional[str] = typer.Option(
        None,
        help="Tell the run more than a 3D box does, to see what is lost where. extent: the object's own rectangle on every "
        "slice, the others empty; presence: the slices that hold the object, with the 3D box's rectangle.",
    ),
    dim: Optional[str] = typer.Option(None, help="Only volumes (3D) or only pictures (2D)."),
    official: bool = typer.Option(False, "--official", help="Also score by the challenge's own conventions (official.csv)."),
    candidates: bool = typer.Option(False, help="Also score the network's second and third answer, and the best of the three."),
    clicks: int = typer.Option(0, min=0, help="Also correct every object by so many simulated clicks, where it is most wrong."),
    threads: int = THREADS,
) -> None:
    """Score a model on labelled cases.

    Beside it stands the ellipse (2D) or ellipsoid (3D) inscribed in the prompt.
    Volumes (3D sources, 3D boxes) and pictures have means of their own; the volumes' is the headline.
    The exit code is 1 when a case could not be scored.
    """
    from ..evaluation.cases import of_modalities, read_manifest
    from ..evaluation.loop import evaluate as run
    from ..segmenter import Segmenter
    from .results import print_page

    cases = read_manifest(manifest, split)
    if modality:
        cases = of_modalities(cases, modality)
    if source:
        cases = [c for c in cases if c.source in source]
    if dim is not None:
        if dim.upper() not in ("2D", "3D"):
            raise QMedSAMError(f"There is no dimension '{dim}'.", "Use --dim 3D for volumes, 2D for pictures.")
        cases = [c for c in cases if c.is_3d == (dim.upper() == "3D")]
    if not cases:
        raise QMedSAMError("No case is left to evaluate.", "Check --split, --modality, --source and --dim.")
    with bar("Evaluating") as progress:
        summary = run(
            cases,
            Segmenter(model, threads=threads),
            output,
            strategy=strategy,
            frame=frame,
            prompt=prompt,
            jitter=jitter,
            oracle=oracle,
            official=official,
            clicks=clicks,
            candidates=candidates,
            progress=progress,
        )
    print_page(output / "summary.md")
    if summary["failed"]:
        raise typer.Exit(1)
