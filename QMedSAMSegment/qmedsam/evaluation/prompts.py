"""The boxes that a case's masks give: as a user would draw them, or with more told than any user says (oracles)."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..files.labelled import LabelMap
from ..geometry import Box, Volume, extent_of
from ..lines import box_of_line
from ..marks import SliceRectangle
from ..measures import diameters
from .cases import Case, components

Crop = tuple[slice, slice, slice]

#: What objects in volumes are asked by; see :func:`prompts_of`.
PROMPTS = ("volume", "rectangle", "line", "lines", "slice")

#: What a run may be told of every object beyond its 3D box, to see what is lost where.
ORACLES = {
    "extent": "every slice has the object's own rectangle, and slices without the object are known",
    "presence": "slices without the object are known; the others have the 3D box's rectangle",
}


@dataclass(frozen=True)
class Prompt:
    """A box and the object it asks for: ``truth`` is the object's mask within ``crop`` (kji), False outside."""

    label: int
    component: int
    truth: np.ndarray
    crop: Crop
    box: Box


def prompts_of(
    case: Case,
    labels: LabelMap | np.ndarray,
    prompt: str = "volume",
    jitter: float = 0.0,
    left_out: Counter[str] | None = None,
    volume: Volume | None = None,
) -> list[Prompt]:
    """The prompts of a case, numbered from 1 in their boxes' labels.

    Args:
        case: where the labels come from; its id seeds the jitter.
        labels: the case's, or one array ``(k, j, i)``.
        prompt: ``volume`` for the component's tight 3D box, ``slice`` for the tight rectangle on its largest axial slice,
            ``rectangle`` for the 3D box with that rectangle in it, ``line`` for the component's longest axial diameter,
            ``lines`` for that and the one across it.
        jitter: every side moves outward by 0..jitter of the box's length along it (inward below 0), at most to the
            image's border; along k only in 3D. Depends on case, label and component alone.
        left_out: counts the objects that get no prompt, by reason.
        volume: the case's image; lines are measured by its voxels.
    """
    result: list[Prompt] = []
    seen: dict[int, int] = {}
    for label, mask, crop in components(labels, case.is_3d, left_out):
        component = seen[label] = seen.get(label, 0) + 1
        flat = prompt == "slice" or not case.is_3d
        if flat:
            mask, crop = _largest_slice(mask, crop)
        random = np.random.default_rng([zlib.crc32(case.case_id.encode()), label, component])
        lower, upper = _moved(crop, labels.shape, jitter, random, flat)
        about: dict[str, Any] = {"label": len(result) + 1, "name": f"{label}.{component}"}
        if prompt in ("line", "lines") and not flat:
            assert volume is not None, "measured by its voxels"
            box = _lines(mask, crop, volume, jitter, random, both=prompt == "lines", about=about)
            result.append(Prompt(label, component, mask, crop, box))
            continue
        drawn: tuple[SliceRectangle, ...] = ()
        if prompt == "rectangle" and not flat:
            tight = _largest_slice(mask, crop)[1]
            (x0, y0, _), (x1, y1, _) = _moved(tight, labels.shape, jitter, random, flat=True)
            drawn = (SliceRectangle(2, tight[0].start, (x0, y0, x1, y1)),)
        box = Box.from_edges(lower, upper, rectangles=drawn, **about)
        result.append(Prompt(label, component, mask, crop, box))
    return result


def _lines(
    mask: np.ndarray, crop: Crop, volume: Volume, jitter: float, random: np.random.Generator, both: bool, about: dict[str, Any]
) -> Box:
    """The box of an object's axes, each longer by 0..jitter of itself at either end."""
    size = diameters(mask, volume.ijk_to_ras, [part.start for part in crop])
    assert size is not None, "a component is not empty"
    ends = []
    for line in (size.long_ijk, size.short_ijk):
        out = (line[1] - line[0]) * jitter
        ends.append(np.clip(line + np.outer([-1, 1] * random.random(2), out), -0.5, np.array(volume.shape_ijk) - 0.5))
    return box_of_line(ends[0], ends[1] if both else None, volume, **about)


def told(case: Case, prompt: Prompt, shape_kji: Sequence[int], oracle: str, jitter: float = 0.0) -> list[Box]:
    """What an oracle says of an object: a box one axial slice thick for every slice that holds it, numbered from 1.

    Args:
        case: its id seeds the jitter.
        prompt: a 3D one of :func:`prompts_of`.
        shape_kji: of the image.
        oracle: one of :data:`ORACLES`.
        jitter: of the rectangles of ``extent``, drawn anew on every slice; those of ``presence`` are the 3D box's.
    """
    corners = prompt.box.corners_ijk
    low, high = corners.min(axis=0), corners.max(axis=0)
    boxes: list[Box] = []
    for n in np.flatnonzero(prompt.truth.any(axis=(1, 2))):
        k = prompt.crop[0].start + int(n)
        if oracle == "extent":
            crop = _tight(prompt.truth[n], k, prompt.crop)
            random = np.random.default_rng([zlib.crc32(case.case_id.encode()), prompt.label, prompt.component, k])
            lower, upper = _moved(crop, shape_kji, jitter, random, flat=True)
        else:
            lower, upper = np.array([*low[:2], k - 0.5]), np.array([*high[:2], k + 0.5])
        boxes.append(Box.from_edges(lower, upper, label=len(boxes) + 1, name=f"{prompt.box.name} on {k}"))
    return boxes


def _moved(
    crop: Crop, shape_kji: Sequence[int], jitter: float, random: np.random.Generator, flat: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Edges (ijk) around a crop, every side moved by its own share of the jitter; ``flat``: not along k."""
    lower = np.array([c.start for c in crop[::-1]]) - 0.5
    upper = np.array([c.stop for c in crop[::-1]]) - 0.5
    moves = jitter * random.random((2, 3)) * (upper - lower) * (1, 1, not flat)
    return np.maximum(lower - moves[0], -0.5), np.minimum(upper + moves[1], np.array(shape_kji[::-1]) - 0.5)


def _largest_slice(mask: np.ndarray, crop: Crop) -> tuple[np.ndarray, Crop]:
    """The cross-section of a component with the largest area, and the crop tight around it."""
    n = int(mask.sum(axis=(1, 2)).argmax())
    tight = _tight(mask[n], crop[0].start + n, crop)
    j, i = (slice(t.start - c.start, t.stop - c.start) for t, c in zip(tight[1:], crop[1:]))
    return mask[n : n + 1, j, i], tight


def _tight(plane: np.ndarray, k: int, crop: Crop) -> Crop:
    """The crop of a slice that is tight around what it holds; ``plane`` is the part of slice ``k`` in ``crop``."""
    extent = extent_of(plane)
    assert extent is not None
    i0, j0, i1, j1 = (int(np.ceil(edge)) for edge in extent)
    j, i = (c.start for c in crop[1:])
    return slice(k, k + 1), slice(j + j0, j + j1), slice(i + i0, i + i1)
