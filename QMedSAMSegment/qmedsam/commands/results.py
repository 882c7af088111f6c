"""A run's result on the terminal and as a picture."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, List, Optional, Sequence, Tuple

from rich.markup import escape
from rich.table import Table

from ..geometry import Box, Volume
from ..intensity import Intensity
from ..painting import unexplained
from ..segmenter import Segmentation
from .terminal import console

if TYPE_CHECKING:
    from ..files import Segment

#: Mean predicted IoU below which a result is worth a look: 10 of 79 objects of the validation's volumes, with a mean DSC of
#: 0.35 and none above 0.8.
DOUBTFUL = 0.6
#: Columns of an evaluation's tables in the order in which a narrow terminal goes without them; the last of a name first.
_DISPENSABLE = ("s / prompt", "95 % interval", "median", "gain over ellipse", "95 % interval", "ellipse DSC", "cases", "sources")
#: Letters of a row's name below which columns are left out.
_NAME = 16


def notes_of(result: Segmentation) -> List[str]:
    """What the user should know of a result, an object's finding once; also which boxes gave nothing, and which ones little."""
    notes = list(result.messages)
    empty = unexplained(result.objects, notes)
    if empty:
        names = ", ".join(f"'{o.name}'" for o in empty)
        notes.append(
            f"Nothing was found in the box{'es' * (len(empty) > 1)} {names}. Check the numbers (voxel indices from 0, "
            "i0,j0,k0,i1,j1,k1) and the modality (--modality)."
        )
    doubtful = [f"'{o.name}' ({o.confidence:.2f})" for o in result.objects if o.voxels and o.confidence < DOUBTFUL]
    if doubtful:
        notes.append(f"The network doubts what it found: {', '.join(doubtful)}. Look at it, and check box and modality.")
    return notes


def print_notes(notes: Iterable[str]) -> None:
    """Before the table of a result."""
    for note in notes:
        console.print(f"[yellow]Note:[/] {escape(note)}")


def print_objects(objects: list, scores: Optional[dict] = None, flat: bool = False) -> None:
    """A row per object (mm: its axial diameters); ``scores``: DSC by label; ``flat``: a picture, which has no millilitres."""
    table = Table()
    for head in ("label", "segment", "slices", "voxels", "ml", "mm", "confidence", *(["DSC"] if scores else [])):
        is_figure = head != "segment"  # on a narrow terminal names are broken, figures never
        table.add_column(head, no_wrap=is_figure, justify="right" if is_figure else "left", overflow="fold")
    for o in objects:
        size = "-" if flat else f"{o.volume_ml:.2f}"  # a picture has no thickness
        axes = "-" if o.diameters is None else f"{o.diameters.long_mm:.0f} x {o.diameters.short_mm:.0f}"
        row = [str(o.label), escape(o.name), str(o.slices), str(o.voxels), size, axes, f"{o.confidence:.2f}"]
        table.add_row(*row, *([f"{scores[o.label]:.3f}"] if scores else []))
    console.print(table)
    covered = [f"{escape(o.name)} {o.covered}" for o in objects if o.covered]
    if covered:
        console.print(f"Voxels found in a box that belong to a smaller one over it, not counted above: {', '.join(covered)}.")


def print_page(path: Path) -> None:
    """A page with tables: of those that are too wide for the terminal the columns that say least are left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    left_out = False
    for is_table, block in groupby(lines, lambda line: line.startswith("|")):
        if not is_table:
            console.print("\n".join(block), markup=False)
            continue
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block)
        widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
        kept = list(range(len(head)))
        for name in _DISPENSABLE:
            if sum(min(widths[n], _NAME) if not n else widths[n] for n in kept) + 3 * len(kept) + 1 <= console.width:
                break
            kept = [n for n in kept if not n or n != max((m for m in kept if head[m] == name), default=-1)]
            left_out = True
        table = Table()
        for n in kept:
            is_figure = bool(rows) and rows[0][n][:1] in tuple("+-0123456789")
            table.add_column(head[n], no_wrap=is_figure, justify="right" if is_figure else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(row[n]) for n in kept))
        console.print(table)
    console.print(f"[green]{escape(str(path))}[/]" + ("  with all columns" if left_out else ""))


def draw(
    path: Path,
    image: Volume,
    result: Segmentation,
    segments: Sequence[Segment],
    prompts: Sequence[Box],
    window: Optional[Tuple[float, float]],
    title: str,
) -> None:
    """The overlay of a result, windowed as the network saw it."""
    from ..pictures.overlays import overlay_png

    overlay_png(path, image, result.labels_kji, segments, prompts, Intensity.of(image, result.modality, window), title)
