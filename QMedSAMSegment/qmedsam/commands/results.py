"""A run's result on the terminal and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from rich.markup import escape
from rich.table import Table

from ..geometry import Volume
from ..intensity import Intensity
from .terminal import console


def print_objects(objects: list, scores: Optional[dict] = None, flat: bool = False) -> None:
    """A row per object; ``scores``: DSC by label; ``flat``: a picture, which has no millilitres."""
    table = Table("label", "segment", "slices", "voxels", "ml", "confidence", *(["DSC"] if scores else []))
    for o in objects:
        size = "-" if flat else f"{o.volume_ml:.2f}"  # a picture has no thickness
        row = [str(o.label), escape(o.name), str(o.slices), str(o.voxels), size, f"{o.confidence:.2f}"]
        table.add_row(*row, *([f"{scores[o.label]:.3f}"] if scores else []))
    console.print(table)
    covered = [f"{escape(o.name)} {o.covered}" for o in objects if o.covered]
    if covered:
        console.print(f"Voxels found in a box that belong to a smaller one over it, not counted above: {', '.join(covered)}.")


def draw(path: Path, image: Volume, result, segments, prompts, window, title: str) -> None:
    """The overlay of a result, windowed as the network saw it."""
    from ..pictures.overlays import overlay_png

    overlay_png(path, image, result.labels_kji, segments, prompts, Intensity.of(image, result.modality, window), title)
