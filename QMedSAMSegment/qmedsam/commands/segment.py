"""``qmedsam segment``: one volume, its boxes, one segmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import List, Optional

import typer
from rich.markup import escape

from .. import __version__
from ..errors import QMedSAMError
from ..geometry import Box, Volume
from ..intensity import parse_window
from .options import (
    EVERY,
    FILL_HOLES,
    FRAME,
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
from .parsing import parse_box, strategy_options
from .results import draw, print_notes, print_objects
from .terminal import bar, console

#: Suffixes of an agreement map: images in one file that keep their place.
_MAPS = (".nii.gz", ".nii", ".nrrd", ".mha")


def segment(
    volume: Path = typer.Argument(..., help="NIfTI, NRRD, MHA, DICOM folder, PNG, JPEG or challenge .npz."),
    output: Path = typer.Option(..., "-o", "--output", help="Segmentation to write: .seg.nrrd, or .nii.gz, .nrrd, .mha, .npz."),
    box: List[str] = typer.Option(
        [], "--box", help="Voxel indices from 0, i0,j0,k0,i1,j1,k1, both ends included (2D: i0,j0,i1,j1). Repeat for more."
    ),
    boxes: Optional[Path] = typer.Option(None, "--boxes", help="Boxes file: Slicer ROI .mrk.json, plain .json, or .npz."),
    modality: str = MODALITY,
    strategy: str = STRATEGY,
    model: Optional[str] = MODEL,
    frame: Optional[str] = FRAME,
    window: Optional[str] = WINDOW,
    series: Optional[str] = typer.Option(
        None, help="Of a DICOM folder with several: its number, description, UID, or the beginning of it."
    ),
    png: Optional[Path] = typer.Option(None, help="Also write a picture of the result."),
    report: Optional[Path] = typer.Option(None, help="Also write what was done, as JSON."),
    agreement: Optional[Path] = typer.Option(None, help="vote: also write the map of the votes (0 to 100 %), .nii.gz or .nrrd."),
    every: int = EVERY,
    least_iou: float = LEAST_IOU,
    fill_holes: bool = FILL_HOLES,
    view_weights: str = VIEW_WEIGHTS,
    vote_on: str = VOTE_ON,
    walk: str = WALK,
    threads: int = THREADS,
) -> None:
    """Segment the object inside every box of a volume.

    Example: qmedsam segment liver.nii.gz --modality CT --box 60,80,12,210,190,41 -o liver.seg.nrrd --png liver.png
    """
    from ..files import Origin, check_targets, format_of, read_boxes, read_volume, write_segmentation
    from ..segmenter import Segmenter

    check_targets((output, png, report, agreement), volume, boxes)
    format_of(output)
    if agreement and not agreement.name.lower().endswith(_MAPS):
        raise QMedSAMError(f"The map of the votes cannot be written to '{agreement.name}'.", f"Use one of {', '.join(_MAPS)}.")
    if png and png.suffix.lower() != ".png":
        raise QMedSAMError(f"The picture cannot be written to '{png.name}'.", "Use .png.")
    options = strategy_options(every, least_iou, fill_holes, view_weights, vote_on, walk, agreement is not None)
    image = read_volume(volume, series)
    prompts = [parse_box(text, image, n) for n, text in enumerate(box, start=1)]
    if boxes:
        prompts += read_boxes(boxes, image)
    if box and boxes:  # numbered anew: the file's labels start at 1 as well
        prompts = [Box(p.center_ijk, p.half_axes_ijk, n, p.name, p.color) for n, p in enumerate(prompts, start=1)]
    chosen = parse_window(window) if window else None
    segmenter = Segmenter(model, threads=threads)
    with bar("Segmenting") as progress:
        result = segmenter.segment(image, prompts, modality, strategy, frame, chosen, progress, options=options)
    segments = [(o.label, o.name, p.color) for o, p in zip(result.objects, prompts)]
    write_segmentation(output, result.labels_kji, image, segments, Origin(volume, series, result.model))
    # All files before anything is printed: whoever reads along may leave. A picture that cannot be drawn costs nothing else.
    if agreement:
        _write_agreement(agreement, image, result)
    if report:
        from ..files import writing

        content = {
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
            "objects": [
                {key: getattr(o, key) for key in ("label", "name", "voxels", "covered", "volume_ml", "confidence", "slices")}
                for o in result.objects
            ],
        }
        with writing(report) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    undrawn = None
    if png:
        try:
            draw(png, image, result, segments, prompts, chosen, volume.name)
        except Exception as error:
            undrawn = error
    print_notes(result)
    print_objects(result.objects, flat=image.array_kji.shape[0] == 1)
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


def _write_agreement(path: Path, image: Volume, result) -> None:
    import SimpleITK as sitk

    from ..files import image_of, writing

    if result.agreement_kji is None:
        return
    with writing(path) as beside:
        sitk.WriteImage(image_of(result.agreement_kji, image.ijk_to_ras), str(beside), True)
