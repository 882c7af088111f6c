"""``qmedsam segment``: one volume, its boxes, one segmentation."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from rich.markup import escape

from .. import __version__
from ..errors import QMedSAMError
from .options import (
    DEVICE,
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
from .terminal import bar, console

if TYPE_CHECKING:
    from ..geometry import Box, Volume
    from ..segmenter import Segmentation

#: Suffixes of an agreement map: images in one file that keep their place.
_MAPS = (".nii.gz", ".nii", ".nrrd", ".mha")


def segment(
    volume: Path = typer.Argument(..., help="NIfTI, NRRD, MHA, DICOM folder, PNG, JPEG or challenge .npz."),
    output: Path = typer.Option(
        ...,
        "-o",
        "--output",
        help="Segmentation to write: .seg.nrrd, .nii.gz, .nrrd, .mha, .npz, .png (a mask), .dcm (DICOM SEG), .rtstruct.dcm.",
    ),
    box: List[str] = typer.Option(
        [], "--box", help="Voxel indices from 0, i0,j0,k0,i1,j1,k1, both ends included (2D: i0,j0,i1,j1). Repeat for more."
    ),
    boxes: Optional[Path] = typer.Option(None, "--boxes", help="Boxes file: Slicer ROI .mrk.json, plain .json, or .npz."),
    line: List[str] = typer.Option(
        [],
        "--line",
        help="In place of a box: both ends of its long axis on a slice, i0,j0,k0,i1,j1,k1; of both axes, twelve numbers.",
    ),
    candidate: int = typer.Option(
        0, min=0, help="Take another of the network's answers: 1 for the second surest, 2 for the third."
    ),
    correct: Optional[Path] = typer.Option(
        None, help="Go on from this segmentation with the strokes (positive, negative) of the boxes file."
    ),
    modality: str = MODALITY,
    strategy: str = STRATEGY,
    model: Optional[str] = MODEL,
    frame: Optional[str] = FRAME,
    window: Optional[str] = WINDOW,
    series: Optional[str] = typer.Option(
        None, help="Of a DICOM folder with several: its number, its description or a part of it, its UID or the beginning of it."
    ),
    frame_index: Optional[str] = FRAME_INDEX,
    png: Optional[Path] = typer.Option(None, help="Also write a picture of the result (an overlay)."),
    report: Optional[Path] = typer.Option(None, help="Also write what was done, as JSON."),
    diameters: Optional[Path] = typer.Option(
        None, help="Also write both axes of every object as Slicer line markups, .mrk.json."
    ),
    agreement: Optional[Path] = typer.Option(None, help="vote: also write the map of the votes (0 to 100 %), .nii.gz or .nrrd."),
    every: int = EVERY,
    least_iou: float = LEAST_IOU,
    fill_holes: bool = FILL_HOLES,
    view_weights: str = VIEW_WEIGHTS,
    vote_on: str = VOTE_ON,
    walk: str = WALK,
    threads: int = THREADS,
    device: str = DEVICE,
) -> None:
    """Segment the object inside every box of a volume.

    A box that cannot be segmented is named and the others are written; the exit code is then 1.

    Example: qmedsam segment liver.nii.gz --modality CT --box 60,80,12,210,190,41 -o liver.seg.nrrd --png liver.png
    """
    from ..files import (
        Origin,
        check_fits,
        check_output,
        check_targets,
        format_of,
        read_boxes,
        read_frames,
        read_volume,
        write_diameters,
        write_segmentation,
        writing,
    )
    from ..following import ALL, frame_path, parse_frame_index
    from ..intensity import parse_window
    from ..segmenter import Segmenter
    from .correct import corrected
    from .parsing import parse_box, parse_line, strategy_options
    from .results import draw, notes_of, print_notes, print_objects
    from .timeseries import segment_all

    check_targets((output, png, report, agreement, diameters), volume, boxes)
    if diameters and (diameters.suffix.lower() != ".json" or frame_index == "all"):
        raise QMedSAMError("Diameters are written of one image, as line markups.", "Give a name that ends in .mrk.json.")
    check_output(output, volume, series)
    if agreement and not agreement.name.lower().endswith(_MAPS):
        raise QMedSAMError(f"The map of the votes cannot be written to '{agreement.name}'.", f"Use one of {', '.join(_MAPS)}.")
    if png and png.suffix.lower() != ".png":
        raise QMedSAMError(f"The picture cannot be written to '{png.name}'.", "Use .png.")
    options = strategy_options(every, least_iou, fill_holes, view_weights, vote_on, walk, agreement is not None)
    number = parse_frame_index(frame_index)
    if correct and (number == ALL or agreement):
        raise QMedSAMError(
            "A correction is of one image, and nobody votes on it.", "Leave out --agreement and --frame-index all."
        )
    chosen = parse_window(window) if window else None
    segmenter = Segmenter(model, threads=threads, device=device.upper())

    def prompts_on(image: Volume) -> List[Box]:
        prompts = [parse_box(text, image, n) for n, text in enumerate(box, start=1)]
        prompts += [parse_line(text, image, n) for n, text in enumerate(line, start=len(box) + 1)]
        if boxes:
            prompts += read_boxes(boxes, image)
        if boxes and (box or line):  # numbered anew: the file's labels start at 1 as well
            prompts = [replace(p, label=n) for n, p in enumerate(prompts, start=1)]
        if candidate:
            prompts = [replace(p, candidate=candidate) for p in prompts]
        return prompts

    if number == ALL:
        if agreement:
            raise QMedSAMError("The votes of all time points make no one map.", "Choose a time point with --frame-index.")
        frames = list(read_frames(volume, series))
        check_fits(output, frames[0])

        def write(at: int, image: Volume, result: Segmentation, prompts: List[Box]) -> Path:
            prompts, segments = result.written(prompts)
            place = frame_path(output, at, format_of(output))
            check_targets((place,), volume, boxes)
            write_segmentation(place, result.labels_kji, image, segments, Origin(volume, series, result.model, at))
            if png:
                draw(frame_path(png, at, ".png"), image, result, segments, prompts, chosen, f"{volume.name}, time point {at}")
            return place

        run = partial(segmenter.segment, modality=modality, strategy=strategy, frame=frame, window=chosen, options=options)
        done = segment_all(frames, prompts_on, run, write)
        if report:
            with writing(report) as beside:
                told = {"volume": str(volume), "version": __version__, "time_points": done}
                beside.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        return
    image = read_volume(volume, series, number)
    for path in filter(None, (output, agreement)):
        check_fits(path, image)
    prompts = prompts_on(image)
    with bar("Correcting" if correct else "Segmenting") as progress:
        if correct:
            result, prompts = corrected(segmenter, image, correct, prompts, modality, frame, chosen, progress)
        else:
            result = segmenter.segment(image, prompts, modality, strategy, frame, chosen, progress, options=options)
    prompts, segments = result.written(prompts)
    objects = [o for o in result.objects if not o.error]
    write_segmentation(output, result.labels_kji, image, segments, Origin(volume, series, result.model, number or 0))
    # All files before anything is printed: whoever reads along may leave. A picture that cannot be drawn costs nothing else.
    if agreement:
        _write_agreement(agreement, image, result, volume)
    if report:
        content: Dict[str, Any] = {
            "volume": str(volume),
            "output": str(output),
            "model": result.model,
            "modality": result.modality,
            "strategy": result.strategy,
            "frame": frame or "the model's own",
            "window": chosen,
            "version": __version__,
            "seconds": result.seconds,
            "cost": result.cost,
            "messages": result.messages,
            "objects": [one.facts(not image.has_ml) for one in result.objects],
        }
        with writing(report) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if diameters:
        found = {one.label: one.diameters for one in objects if one.diameters}
        write_diameters(diameters, found, {one.label: one.name for one in objects}, image)
    undrawn = None
    if png:
        try:
            draw(png, image, result, segments, prompts, chosen, volume.name)
        except Exception as error:
            undrawn = error
    print_notes(notes_of(result))
    print_objects(objects, flat=not image.has_ml)
    about = f"{result.model}, {result.modality or 'no modality'}, {result.strategy}, {result.seconds['total']:.2f} s"
    console.print(f"[green]{escape(str(output))}[/]  {escape(about)}")
    if result.strategy in ("propagate", "vote"):
        cost = result.cost
        console.print(
            f"{cost['encodes']} slices encoded and {cost['decodes']} prompts decoded; "
            f"one look at every slice takes {cost['single_encodes']} and {cost['single_decodes']}."
        )
    if agreement:
        if result.agreement_kji is None:
            console.print(f"[yellow]Note:[/] only 'vote' has votes to map; '{result.strategy}' was used.")
        else:
            console.print(f"[green]{escape(str(agreement))}[/]")
    if undrawn is not None:
        raise undrawn
    if result.errors:
        raise typer.Exit(1)


def _write_agreement(path: Path, image: Volume, result: Any, source: Path) -> None:
    from ..files import write_image

    if result.agreement_kji is None:
        return
    write_image(path, result.agreement_kji, image, source)
