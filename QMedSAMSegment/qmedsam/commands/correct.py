"""``qmedsam segment --correct``: going on from a segmentation with a user's strokes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..files import read_segments
from ..files.labelled import read_label_map
from ..geometry import Box, Volume
from ..painting import ObjectResult
from ..segmenter import Segmentation, Segmenter


def corrected(
    segmenter: Segmenter,
    image: Volume,
    segmentation: Path,
    prompts: Sequence[Box],
    modality: str,
    frame: Optional[str],
    window: Optional[Tuple[float, float]],
    progress: Callable[[int, int], None],
) -> Tuple[Segmentation, List[Box]]:
    """The segmentation with the strokes of the prompts heard; segments without strokes stay as they are, voxel for voxel.

    Args:
        segmenter: that corrects.
        image: that the segmentation is of.
        segmentation: the file; its segments must not overlap.
        prompts: their names, else their labels, say which segment each is of.
        modality, frame, window, progress: as for :meth:`~qmedsam.segmenter.Segmenter.segment`.

    Returns:
        All segments as a result, and a box for each.

    Raises:
        QMedSAMError: no prompt has a stroke, a prompt names no segment, or segments overlap.
    """
    labels = read_label_map(segmentation, image)
    if len(labels.layers) > 1:
        raise QMedSAMError(f"The segments of '{segmentation.name}' overlap.", "Save the one to correct by itself.")
    labels_kji = labels.layers[0].copy()
    boxes = {box.label: box for box in read_segments(segmentation, image)}
    wanted = {_label_of(prompt, boxes, labels.names, segmentation): prompt for prompt in prompts if prompt.strokes}
    if not wanted:
        raise QMedSAMError(
            "No box has a stroke, so that there is nothing to correct.",
            'Give an object of the boxes file points: {"ijk": [...], "name": "liver", "positive": [[90, 70, 20]]}.',
        )
    messages, seconds = list(labels.notes), {"total": 0.0}
    confidence: Dict[int, float] = {}
    model = ""
    for done, (label, prompt) in enumerate(wanted.items()):
        progress(done, len(wanted))
        present = labels_kji == label
        found = segmenter.correct(image, replace(prompt, label=label), present, modality, frame, window)
        inside = labels_kji[found.crop]
        inside[inside == label] = 0
        free = found.mask_kji_crop & (inside == 0)
        lost = int(np.count_nonzero(found.mask_kji_crop & ~free))
        if lost:
            messages.append(
                f"{lost} voxels found for '{labels.names.get(label, label)}' belong to other segments and stay theirs."
            )
        inside[free] = label
        confidence[label], model = found.confidence, found.model
        messages += [message for message in found.messages if message not in messages]
        for stage, time in found.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + time
    progress(len(wanted), len(wanted))
    objects, kept = [], []
    voxel_ml = abs(np.linalg.det(image.ijk_to_ras[:3, :3])) / 1000
    for label, box in boxes.items():
        mask = labels_kji == label
        voxels = int(np.count_nonzero(mask))
        whole = tuple(slice(0, n) for n in mask.shape)
        slices = int(np.count_nonzero(mask.any(axis=(1, 2))))
        sure = confidence.get(label, 1.0)
        objects.append(ObjectResult(label, box.name, whole, voxels, voxels * voxel_ml, 0, sure, slices))  # type: ignore[arg-type]
        kept.append(box)
    return Segmentation(labels_kji, objects, model, modality, "correct", seconds, messages), kept


def _label_of(prompt: Box, boxes: Dict[int, Box], names: Dict[int, str], path: Path) -> int:
    """Which segment a prompt is of."""
    named = [label for label, name in names.items() if name == prompt.name and name]
    label = named[0] if named else prompt.label
    if label not in boxes:
        there = ", ".join(f"{box.label} {box.name}".strip() for box in boxes.values())
        raise QMedSAMError(f"'{path.name}' has no segment '{prompt.name or prompt.label}' to correct.", f"It has: {there[:500]}.")
    return label
