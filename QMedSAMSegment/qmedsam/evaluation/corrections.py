"""What corrections are worth: a user who clicks where the mask is most wrong, simulated.

The rule: on the slice with the most wrong pixels (a volume; axial slices), in the largest connected error there, the pixel that
lies deepest in it; a click there adds where the truth has the object and removes where it has not. Nothing is random.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..geometry import Box, Volume
from ..marks import Stroke
from .prompts import Crop, Prompt
from .scores import dsc, nsd


@dataclass(frozen=True)
class Corrected:
    """An object's scores after so many clicks; 0 is the box alone. ``seconds``: of the last correction."""

    case: str
    source: str
    modality: str
    kind: str
    label: int
    component: int
    clicks: int
    dsc: float
    nsd: float
    seconds: float


def next_click(found_kji: np.ndarray, truth_kji: np.ndarray) -> Stroke | None:
    """Where a user would click next; None where nothing is wrong.

    Args:
        found_kji, truth_kji: boolean, of the same shape; the click is in their voxels.
    """
    from scipy import ndimage

    wrong = found_kji ^ truth_kji
    k = int(wrong.sum(axis=(1, 2)).argmax())
    parts, count = ndimage.label(wrong[k])
    if not count:
        return None
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    j, i = np.unravel_index(int(depth.argmax()), depth.shape)
    return Stroke(np.array([i, j, k]), 2, bool(truth_kji[k, j, i]))


def click_through(
    segmenter: Any,
    volume: Volume,
    prompt: Prompt,
    found: tuple[np.ndarray, Crop],
    count: int,
    about: tuple[str, str, str, str],
    settings: dict[str, Any],
    tolerance: float,
    spacing_kji: np.ndarray,
) -> list[Corrected]:
    """An object clicked right, step by step.

    Args:
        segmenter: has ``correct``.
        volume: the image.
        prompt: the object and its box.
        found: what the box gave: a mask in a crop (kji).
        count: of clicks.
        about: case, source, modality and kind, as in the rows.
        settings: ``modality`` and ``frame`` of the run.
        tolerance, spacing_kji: of the NSD.
    """
    flat = about[-1] != "volume"
    shape = volume.array_kji.shape[:3]
    truth_kji, present_kji = np.zeros(shape, bool), np.zeros(shape, bool)
    truth_kji[prompt.crop][prompt.truth] = True
    present_kji[found[1]] = found[0]
    box: Box = prompt.box
    rows, seconds = [], 0.0
    for clicks in range(count + 1):
        if clicks:
            stroke = next_click(present_kji, truth_kji)
            if stroke is not None:
                box = replace(box, strokes=(*box.strokes, stroke))
                done = segmenter.correct(volume, box, present_kji, **settings)
                present_kji[:] = False
                present_kji[done.crop] = done.mask_kji_crop
                seconds = done.seconds["total"]
        part = _around(truth_kji | present_kji)
        truth, mask = truth_kji[part], present_kji[part]
        one, other, spacing = (truth[0], mask[0], spacing_kji[1:]) if flat else (truth, mask, spacing_kji)
        surface = nsd(one, other, spacing, tolerance)
        rows.append(Corrected(*about, prompt.label, prompt.component, clicks, dsc(truth, mask), surface, seconds))
    return rows


def clicks_markdown(rows: Sequence[Corrected], left_out: Sequence[str]) -> str:
    """Means over sources by number of clicks: volumes, their slices and pictures apart, and by modality.

    Args:
        rows: of all objects.
        left_out: sources that a box cannot prompt; not in the means, listed apart.
    """
    text = ["", "## Corrected by simulated clicks", ""]
    for kind, title in (("volume", "Volumes"), ("slice", "Slices of volumes"), ("picture", "Pictures")):
        mine = [row for row in rows if row.kind == kind]
        if not mine:
            continue
        steps = sorted({row.clicks for row in mine})
        text += [f"### {title}", "", "| | sources | " + " | ".join(f"{n} clicks" for n in steps) + " |"]
        text += ["| --- | --- |" + " --- |" * len(steps)]
        fair = [row for row in mine if row.source not in left_out]
        groups = [("DSC, mean over promptable sources", fair, "dsc"), ("NSD", fair, "nsd"), ("seconds, median", fair, "seconds")]
        groups += [(f"DSC, {m}", [r for r in fair if r.modality == m], "dsc") for m in sorted({r.modality for r in fair})]
        groups += [(f"DSC, {s} (not promptable)", [r for r in mine if r.source == s], "dsc") for s in left_out]
        for name, some, what in groups:
            if some:
                cells = [f"{_mean([r for r in some if r.clicks == n], what):.3f}" for n in steps]
                sources = len({(r.modality, r.source) for r in some})
                text.append(f"| {name} | {sources} | " + " | ".join(cells) + " |")
        worse = _worse(fair, steps)
        text += ["", f"Sources that are worse after {steps[-1]} clicks than with the box alone: {worse or 'none'}.", ""]
    return "\n".join(text) + "\n"


def _by_source(rows: Sequence[Corrected], what: str) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        values[row.modality, row.source].append(getattr(row, what))
    return {source: float(np.nanmean(some)) for source, some in values.items()}


def _mean(rows: Sequence[Corrected], what: str) -> float:
    if what == "seconds":
        return float(np.median([row.seconds for row in rows]))
    return float(np.mean(list(_by_source(rows, what).values())))


def _worse(rows: Sequence[Corrected], steps: Sequence[int]) -> str:
    first, last = (_by_source([row for row in rows if row.clicks == n], "dsc") for n in (steps[0], steps[-1]))
    lost = {at: 100 * (last[at] - first[at]) for at in first if last[at] < first[at]}
    return ", ".join(f"{source} ({points:+.1f})" for (_, source), points in lost.items())


def _around(mask_kji: np.ndarray) -> Crop:
    """The smallest crop with all of a mask; its first voxel where it is empty."""
    sides = [np.flatnonzero(mask_kji.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    return tuple(slice(int(s[0]), int(s[-1]) + 1) if len(s) else slice(0, 1) for s in sides)  # type: ignore[return-value]
