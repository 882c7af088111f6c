"""``qmedsam``: the engine on the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import List, Optional

import typer
from rich.markup import escape
from rich.table import Table

from . import __version__
from .cli_batch import batch
from .cli_models import models_app
from .cli_options import (
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
from .errors import QMedSAMError
from .geometry import Box, Volume
from .intensity import Intensity, known_modality, parse_window
from .models import shipped_folder
from .parsing import parse_box, strategy_options
from .terminal import bar, console, errors

#: Suffixes of an agreement map: images in one file that keep their place.
_MAPS = (".nii.gz", ".nii", ".nrrd", ".mha")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Boxes on medical images become 3D masks, on a CPU.")
app.add_typer(models_app, name="models")
app.command()(batch)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit()


@app.command()
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
    series: Optional[str] = typer.Option(None, help="DICOM series UID, where a folder holds several."),
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

    Example: qmedsam segment liver.nii.gz --box 60,80,12,210,190,41 -o liver.seg.nrrd --png liver.png
    """
    from .files import Origin, check_targets, format_of, read_boxes, read_volume, write_segmentation
    from .segmenter import Segmenter

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
    for message in result.messages:
        console.print(f"[yellow]Note:[/] {escape(message)}")
    _print_objects(result.objects, flat=image.array_kji.shape[0] == 1)
    about = f"{result.model}, {result.modality or 'no modality'}, {result.strategy}, {result.seconds['total']:.2f} s"
    console.print(f"[green]{escape(str(output))}[/]  {escape(about)}")
    if result.strategy in ("propagate", "vote"):
        cost = result.cost
        console.print(
            f"{cost['encodes']} slices encoded and {cost['decodes']} prompts decoded; "
            f"one look at every slice takes {cost['single_encodes']} and {cost['single_decodes']}."
        )
    if agreement:
        _write_agreement(agreement, image, result)
    if report:
        from .files import writing

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
    if png:  # last: a picture that cannot be drawn costs nothing else
        _draw(png, image, result, segments, prompts, chosen, volume.name)


@app.command()
def demo(
    output: Path = typer.Option(Path("demo"), "-o", "--output", help="Folder for the segmentation and the picture."),
    model: Optional[str] = MODEL,
    strategy: str = STRATEGY,
    threads: int = THREADS,
) -> None:
    """Segment the shipped phantom: six organs of an oblique, noisy CT that was generated and whose truth is known."""
    from .files import read_boxes, read_labels, read_volume, write_segmentation
    from .scores import dsc
    from .segmenter import Segmenter

    sample = shipped_folder().parent / "SampleData"
    output.mkdir(parents=True, exist_ok=True)
    image = read_volume(sample / "QMedSAMPhantom.nrrd")
    image = Volume(image.array_kji, image.ijk_to_ras, "CT", image.name)
    prompts = read_boxes(sample / "QMedSAMPhantom-boxes.mrk.json", image)
    truth = read_labels(sample / "QMedSAMPhantom-truth.seg.nrrd")
    before = _peak_mib()
    with bar("Segmenting") as progress:
        result = Segmenter(model, threads=threads).segment(image, prompts, strategy=strategy, progress=progress, keep_masks=True)
    segments = [(o.label, o.name, p.color) for o, p in zip(result.objects, prompts)]
    write_segmentation(output / "phantom.seg.nrrd", result.labels_kji, image, segments)
    scores = {o.label: dsc(result.labels_kji == o.label, truth == o.label) for o in result.objects}
    _print_objects(result.objects, scores)
    _draw(output / "phantom.png", image, result, segments, prompts, None, "QMedSAM phantom")
    total = result.seconds["total"]
    console.print(
        f"{sum(o.slices for o in result.objects)} masks on slices in {total:.2f} s "
        f"(of which {result.seconds['load']:.2f} s loading {result.model}), "
        f"mean DSC {sum(scores.values()) / len(scores):.3f}"
    )
    if before is not None:
        console.print(f"Peak memory {_peak_mib():.0f} MiB, of which the run added {_peak_mib() - before:.0f} MiB")
    for name in ("phantom.seg.nrrd", "phantom.png"):
        console.print(f"[green]{escape(str(output / name))}[/]")


@app.command()
def evaluate(
    manifest: Path = typer.Argument(..., help="CSV of labelled cases."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder for scores.csv, summary.json, summary.md and sheet.png."),
    split: Optional[str] = typer.Option(None, help="Only the cases of this split."),
    modality: Optional[List[str]] = typer.Option(None, help="Only these modalities."),
    source: Optional[List[str]] = typer.Option(None, help="Only these sources."),
    model: Optional[str] = MODEL,
    strategy: str = STRATEGY,
    frame: Optional[str] = FRAME,
    prompt: str = typer.Option("volume", help="volume: the object's 3D box; slice: its 2D box on its largest axial slice."),
    jitter: float = typer.Option(0.0, min=-0.25, help="Move every side outward by up to this share of its length; below 0: in."),
    official: bool = typer.Option(False, "--official", help="Also score by the challenge's own conventions (official.csv)."),
    threads: int = THREADS,
) -> None:
    """Score a model on labelled cases, beside the ellipse (2D) or ellipsoid (3D) inscribed in the prompt.

    The exit code is 1 when a case could not be scored.
    """
    from .cases import read_manifest
    from .evaluation import evaluate as run
    from .segmenter import Segmenter

    cases = read_manifest(manifest, split)
    if modality:
        wanted = {known_modality(m) for m in modality}
        cases = [c for c in cases if c.modality in wanted]
    if source:
        cases = [c for c in cases if c.source in source]
    if not cases:
        raise QMedSAMError("No case is left to evaluate.", "Check --split, --modality and --source.")
    with bar("Evaluating") as progress:
        summary = run(
            cases,
            Segmenter(model, threads=threads),
            output,
            strategy=strategy,
            frame=frame,
            prompt=prompt,
            jitter=jitter,
            official=official,
            progress=progress,
        )
    console.print((output / "summary.md").read_text(encoding="utf-8"), markup=False)
    if summary["failed"]:
        raise typer.Exit(1)


@app.command()
def challenge(
    source: Path = typer.Option(..., "-i", "--input", help="Folder of 2D*.npz and 3D*.npz with imgs, boxes and spacing."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder for the masks (segs) and seconds.csv."),
    model: Optional[str] = MODEL,
    strategy: str = STRATEGY,
    frame: Optional[str] = FRAME,
    threads: int = THREADS,
) -> None:
    """Segment every case of a folder in the format of the challenge "Segment Anything in Medical Images on Laptop".

    A case that fails is listed and the others go on; the exit code is then 1.
    """
    from .challenge import challenge_cases, run_challenge
    from .segmenter import Segmenter

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


def _write_agreement(path: Path, image: Volume, result) -> None:
    import SimpleITK as sitk

    from .files import image_of, writing

    if result.agreement_kji is None:
        console.print(f"[yellow]Note:[/] only 'vote' has votes to map; '{result.strategy}' was used.")
        return
    with writing(path) as beside:
        sitk.WriteImage(image_of(result.agreement_kji, image.ijk_to_ras), str(beside), True)
    console.print(f"[green]{escape(str(path))}[/]")


def _print_objects(objects: list, scores: Optional[dict] = None, flat: bool = False) -> None:
    table = Table("label", "segment", "slices", "voxels", "ml", "confidence", *(["DSC"] if scores else []))
    for o in objects:
        size = "-" if flat else f"{o.volume_ml:.2f}"  # a picture has no thickness
        row = [str(o.label), escape(o.name), str(o.slices), str(o.voxels), size, f"{o.confidence:.2f}"]
        table.add_row(*row, *([f"{scores[o.label]:.3f}"] if scores else []))
    console.print(table)
    covered = [f"{escape(o.name)} {o.covered}" for o in objects if o.covered]
    if covered:
        console.print(f"Voxels found in a box that belong to a smaller one over it, not counted above: {', '.join(covered)}.")


def _draw(path: Path, image: Volume, result, segments, prompts, window, title: str) -> None:
    from .pictures import overlay_png

    overlay_png(path, image, result.labels_kji, segments, prompts, Intensity.of(image, result.modality, window), title)


def _peak_mib() -> Optional[float]:
    """Peak resident memory of this process so far; None where the system does not tell (Windows)."""
    try:  # Linux: getrusage would begin with what the process held that started this one
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    """Entry point: an error is one sentence and a hint on stderr, and the exit code is 2.

    ``QMEDSAM_DEBUG=1`` shows the traceback of an unexpected one.
    """
    try:
        app()
    except QMedSAMError as error:
        errors.print("[bold red]Error:[/] " + escape(f"{error.message} {error.hint}"))
        raise SystemExit(2) from None
    except Exception as error:
        if os.environ.get("QMEDSAM_DEBUG"):
            raise
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip() or type(error).__name__
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        hint = "" if isinstance(error, OSError) else " If this looks like a bug, please report it; QMEDSAM_DEBUG=1 shows where."
        errors.print("[bold red]Error:[/] " + escape(f"{what.splitlines()[0]}{where}.{hint}"))
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
