"""One run whose boxes are answered by several models: each its own boxes, put together as if one had answered all."""

from __future__ import annotations

from typing import Any, Dict, Hashable, List, Optional, Sequence, Tuple

import numpy as np

from .geometry import Box, Volume
from .painting import ObjectResult, Progress, repaint

#: In which a run of several parts tells how far it is.
_STEPS = 1000


def groups_of(chosen: Sequence[Hashable]) -> List[List[int]]:
    """Indices of equal choices together, in the order of their first."""
    groups: Dict[Hashable, List[int]] = {}
    for index, one in enumerate(chosen):
        groups.setdefault(one, []).append(index)
    return list(groups.values())


def part_of(progress: Optional[Progress], begin: float, share: float) -> Optional[Progress]:
    """What a part of a run tells, as the share of the whole that it is."""
    if progress is None:
        return None
    whole = progress

    def tell(done: int, total: int) -> None:
        whole(round(_STEPS * (begin + share * done / max(total, 1))), _STEPS)

    return tell


def failed(boxes: Sequence[Box], reason: str, keep_masks: bool) -> List[ObjectResult]:
    """Objects of a part that could not be segmented at all."""
    nothing = np.zeros((0, 0, 0), bool) if keep_masks else None
    return [ObjectResult(box.label, box.name, (slice(0, 0),) * 3, mask_kji_crop=nothing, error=reason) for box in boxes]


def joined(
    parts: Sequence[Tuple[Sequence[int], Any]],
    boxes: Sequence[Box],
    volume: Volume,
    keep_masks: bool,
    lost: Dict[int, ObjectResult],
) -> Dict[str, Any]:
    """The fields of one segmentation out of those of its parts.

    Args:
        parts: indices of the boxes, and the segmentation of these with its masks kept.
        boxes: all of them, with their labels.
        volume: the image.
        keep_masks: whether the objects keep their masks.
        lost: objects of boxes that are in no part, by index.
    """
    of_box = {index: found for indices, result in parts for index, found in zip(indices, result.objects)}
    objects = [of_box[index] if index in of_box else lost[index] for index in range(len(boxes))]
    top = max(box.label for box in boxes)
    labels_kji = np.zeros(volume.array_kji.shape[:3], np.uint8 if top <= 255 else np.uint16)
    repaint(labels_kji, objects, boxes, volume)
    if not keep_masks:
        for found in objects:
            found.mask_kji_crop = None
    results = [result for _, result in parts]
    agreements = [result.agreement_kji for result in results if result.agreement_kji is not None]
    return {
        "labels_kji": labels_kji,
        "objects": objects,
        "model": ", ".join(dict.fromkeys(result.model for result in results)),
        "modality": results[0].modality,
        "strategy": ", ".join(dict.fromkeys(result.strategy for result in results)),
        "seconds": _sums([result.seconds for result in results]),
        "messages": list(dict.fromkeys(message for result in results for message in result.messages)),
        "cancelled": any(result.cancelled for result in results),
        "cost": _sums([result.cost for result in results]),
        "agreement_kji": np.maximum.reduce(agreements) if agreements else None,
    }


def _sums(counts: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    return {key: sum(count.get(key, 0) for count in counts) for key in dict.fromkeys(key for count in counts for key in count)}
