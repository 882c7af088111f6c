"""``--frame-index``: one time point of a series, or all of them with boxes that follow their objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

from rich.markup import escape

from ..following import follow
from ..geometry import Box, Volume
from .results import notes_of, print_notes, print_objects
from .terminal import bar, console


def segment_all(
    frames: Sequence[Volume],
    boxes: Callable[[Volume], List[Box]],
    segment: Callable[..., Any],
    write: Callable[[int, Volume, Any, List[Box]], Path],
) -> List[Dict[str, Any]]:
    """Segment every time point.

    Args:
        frames: the time points, in their order.
        boxes: of the first one.
        segment: ``Segmenter.segment`` with all but the volume, the boxes, ``progress`` and ``keep_masks`` filled in.
        write: puts a time point's result on disk; returns its file.

    Returns:
        What was done at each, for the report.
    """
    done = []
    last: List[str] = []
    with bar("Time points", "The time points written so far are whole.") as progress:
        progress(0, len(frames))
        for number, (volume, prompts, result) in enumerate(follow(iter(frames), boxes, segment)):
            path = write(number, volume, result, prompts)
            progress(number + 1, len(frames))
            notes = notes_of(result)
            print_notes(note for note in notes if note not in last)  # said once, not at every time point
            last = notes
            print_objects(result.objects, flat=not volume.has_ml)
            console.print(f"[green]{escape(str(path))}[/]  time point {number}, {result.seconds['total']:.2f} s")
            done.append(
                {
                    "frame_index": number,
                    "output": str(path),
                    "seconds": result.seconds,
                    "messages": result.messages,
                    "boxes_ijk": [_edges(box) for box in prompts],
                    "objects": [one.facts(not volume.has_ml) for one in result.objects],
                }
            )
    return done


def _edges(box: Box) -> List[float]:
    """Least and largest ijk of a box's corners."""
    corners = box.corners_ijk
    return [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]
