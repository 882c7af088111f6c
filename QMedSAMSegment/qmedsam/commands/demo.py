"""``qmedsam demo``: the shipped phantom, whose truth is known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional

import typer
from rich.markup import escape

from .options import MODEL, STRATEGY, THREADS
from .terminal import bar, console


def demo(
    output: Path = typer.Option(Path("demo"), "-o", "--output", help="Folder for the segmentation and the picture."),
    model: Optional[str] = MODEL,
    strategy: str = STRATEGY,
    threads: int = THREADS,
) -> None:
    """Segment six organs of the shipped phantom.

    It is an oblique, noisy CT that was generated, and whose truth is known.
    """
    from ..evaluation.scores import dsc
    from ..files import read_boxes, read_labels, read_volume, write_segmentation
    from ..geometry import Volume
    from ..models import shipped_folder
    from ..segmenter import Segmenter
    from .results import draw, print_objects

    sample = shipped_folder().parent / "SampleData"
    output.mkdir(parents=True, exist_ok=True)
    image = read_volume(sample / "QMedSAMPhantom.nrrd")
    image = Volume(image.array_kji, image.ijk_to_ras, "CT", image.name)
    prompts = read_boxes(sample / "QMedSAMPhantom-boxes.mrk.json", image)
    truth = read_labels(sample / "QMedSAMPhantom-truth.seg.nrrd")
    before = peak_mib()
    with bar("Segmenting") as progress:
        result = Segmenter(model, threads=threads).segment(image, prompts, strategy=strategy, progress=progress, keep_masks=True)
    _, segments = result.written(prompts)
    write_segmentation(output / "phantom.seg.nrrd", result.labels_kji, image, segments)
    scores = {o.label: dsc(result.labels_kji == o.label, truth == o.label) for o in result.objects}
    print_objects(result.objects, scores)
    draw(output / "phantom.png", image, result, segments, prompts, None, "QMedSAM phantom")
    total = result.seconds["total"]
    console.print(
        f"{sum(o.slices for o in result.objects)} masks on slices in {total:.2f} s "
        f"(of which {result.seconds['load']:.2f} s loading {result.model}), "
        f"mean DSC {sum(scores.values()) / len(scores):.3f}"
    )
    after = peak_mib()
    if before is not None and after is not None:
        console.print(f"Peak memory {after:.0f} MiB, of which the run added {after - before:.0f} MiB")
    for name in ("phantom.seg.nrrd", "phantom.png"):
        console.print(f"[green]{escape(str(output / name))}[/]")


def peak_mib() -> Optional[float]:
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
