"""One segmentation of some boxes: taken from the scene, computed anywhere, written back into the scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from qmedsam import Box, QMedSAMError, Segmentation, Segmenter, Volume

from .boxes import boxFromRoi
from .boxtags import storeInTag
from .geometry import ijkToWorld
from .installer import INSTALL_HINT, installed
from .segments import (
    Crop,
    SegmentWriter,
    coveringSegment,
    ensureLabelmaps,
    ensureReferenceGeometry,
    ijkToSegmentation,
    onSegmentationGrid,
    orientedImage,
    union,
)
from .settings import Settings
from .volumes import volumeFromNode, windowOf

#: Of a segment whose box is not displayed.
DEFAULT_COLOR = (0.43, 0.72, 0.82)


@dataclass(frozen=True)
class Prompt:
    """A box in the scene and the segment that it fills.

    Attributes:
        roiNode: the box.
        segmentId: of a segment of the segmentation, or (``isNew``) of one that writing makes, named after the box.
        isNew: see there. Made only when written, so that one undo takes it away again.
    """

    roiNode: Any
    segmentId: str
    isNew: bool = False


@dataclass(frozen=True)
class Task:
    """What of a run is computed: arrays and numbers, nothing of the scene, so that any thread may do it.

    A thread must not hold nodes either: the scene may be closed meanwhile, and who lets go of a node last destroys it.

    Attributes:
        volume: the voxels.
        boxes: in their coordinates.
        options: keyword arguments for ``Segmenter.segment``.
    """

    volume: Volume
    boxes: List[Box]
    options: Dict[str, Any]

    def compute(
        self,
        segmenter: Segmenter,
        progress: Optional[Callable[[int, int], None]] = None,
        cancelled: Optional[Callable[[], bool]] = None,
    ) -> Segmentation:
        """The masks; cancelled, those of the slices done so far. Raises what ``Segmenter.segment`` raises."""
        try:
            return segmenter.segment(
                self.volume, self.boxes, progress=progress, cancelled=cancelled, keep_masks=True, **self.options
            )
        except QMedSAMError as error:
            if not installed() and "OpenVINO" in error.message:  # pip's command line is not how it is done here
                raise QMedSAMError(error.message, INSTALL_HINT) from error
            raise


class Run:
    """Boxes of one volume on their way into segments.

    All of it touches the scene and belongs to the main thread, but for :attr:`task`.

    Args:
        volumeNode: is segmented; never changed.
        segmentationNode: gets the masks.
        prompts: at least one box, each with a segment of the segmentation.
        settings: of the run.
        copy: take the voxels along; false only where nothing else can happen until the run is over.

    Attributes:
        task: what is computed, here (:meth:`compute`) or on a thread.
        result: of the task, once it is there.
        slices: that the boxes cut.

    Raises:
        QMedSAMError: something about the nodes that the user can mend.
    """

    def __init__(
        self, volumeNode: Any, segmentationNode: Any, prompts: Sequence[Prompt], settings: Settings, copy: bool = True
    ) -> None:
        self.volumeNode, self.segmentationNode, self.prompts, self.settings = (
            volumeNode,
            segmentationNode,
            list(prompts),
            settings,
        )
        if not self.prompts:
            raise QMedSAMError("There is no box to segment.", "Add a box around the object first.")
        ensureLabelmaps(segmentationNode)
        volume = volumeFromNode(volumeNode, copy)
        window = windowOf(volumeNode) if settings.window == "displayed" else None
        self._ijkToWorld = ijkToWorld(volumeNode)
        ijkToSegmentation(self._ijkToWorld, segmentationNode)  # refuses a non-linear transform before anything is computed
        boxes = [
            boxFromRoi(prompt.roiNode, volumeNode, label=n, name=prompt.roiNode.GetName() or f"box {n}")
            for n, prompt in enumerate(self.prompts, start=1)
        ]
        self.task = Task(volume, boxes, settings.engineOptions(window))
        self.slices = sum(len(box.slices(2, volume.shape_ijk[2])) for box in boxes)
        self.result: Optional[Segmentation] = None

    def compute(
        self,
        segmenter: Segmenter,
        progress: Optional[Callable[[int, int], None]] = None,
        cancelled: Optional[Callable[[], bool]] = None,
    ) -> Segmentation:
        """The masks, computed here and now: see :meth:`Task.compute`."""
        self.result = self.task.compute(segmenter, progress, cancelled)
        return self.result

    @property
    def agreement(self) -> Optional[np.ndarray]:
        """Of a vote, where it was asked for: ``(k, j, i)`` uint8 of the volume, per cent of the directions for an object."""
        return getattr(self.result, "agreement_kji", None)

    @property
    def alive(self) -> bool:
        """Whether the nodes and segments are still there to be written to."""
        if any(node.GetScene() is None for node in (self.volumeNode, self.segmentationNode)):
            return False
        segmentation = self.segmentationNode.GetSegmentation()
        return all(prompt.isNew or segmentation.GetSegment(prompt.segmentId) is not None for prompt in self.prompts)

    def masks(self) -> Dict[str, Tuple[np.ndarray, Crop]]:
        """Per segment the union of its boxes' masks, in the order of the boxes."""
        assert self.result is not None, "computed first"
        found: Dict[str, List[Tuple[np.ndarray, Crop]]] = {}
        for prompt, one in zip(self.prompts, self.result.objects):
            assert one.mask_kji_crop is not None
            found.setdefault(prompt.segmentId, []).append((one.mask_kji_crop, one.crop))
        return {segmentId: union(masks) for segmentId, masks in found.items()}

    def images(self, segmentationNode: Any) -> Dict[str, Any]:
        """Per segment its mask as ``vtkOrientedImageData`` on the grid of a segmentation node; none where nothing was found."""
        ensureReferenceGeometry(segmentationNode, self.volumeNode)
        toNode = ijkToSegmentation(self._ijkToWorld, segmentationNode)
        images = {
            segmentId: onSegmentationGrid(orientedImage(mask, crop, toNode), segmentationNode)
            for segmentId, (mask, crop) in self.masks().items()
        }
        return {segmentId: image for segmentId, image in images.items() if image.GetPointData().GetScalars().GetRange()[1] > 0}

    def write(self, writer: SegmentWriter) -> bool:
        """Write the masks into their segments, as one action that can be undone.

        What a stopped run has is added: to replace a segment by the few slices that were reached would destroy it. A segment
        in whose boxes nothing was found is left as it is, and the result's messages say so.

        Returns:
            False when there was nothing to write: the scene was closed, a segment deleted, or every mask is empty.

        Raises:
            QMedSAMError: all that was found lies off the grid of the segmentation; nothing was changed.
        """
        if self.result is None or not self.alive or not any(mask.any() for mask, _ in self.masks().values()):
            return False
        images = self.images(self.segmentationNode)
        if not images:
            raise QMedSAMError("What was found lies outside the grid of the segmentation.", "Use a new segmentation.")
        add = self.settings.mode == "add" or self.result.cancelled
        writer.saveStateForUndo()
        self._addNewSegments()
        # Larger objects first: where overwriting is on, a lesion drawn inside an organ stays on top.
        for segmentId in sorted(images, key=lambda one: -images[one].GetNumberOfPoints()):
            image = images[segmentId] if add else coveringSegment(images[segmentId], self.segmentationNode, segmentId)
            writer.modify(self.segmentationNode, segmentId, image, add)
        for segmentId in images:
            applied = [box for prompt, box in zip(self.prompts, self.task.boxes) if prompt.segmentId == segmentId]
            storeInTag(self.segmentationNode, segmentId, applied, ijkToSegmentation(self._ijkToWorld, self.segmentationNode))
        segmentation = self.segmentationNode.GetSegmentation()
        for segmentId in (one for one in self.masks() if one not in images):
            name = segmentation.GetSegment(segmentId).GetName()
            isNew = any(prompt.isNew for prompt in self.prompts if prompt.segmentId == segmentId)
            became = "its segment is empty" if isNew else "the segment was left as it was"
            self.result.messages.append(f"Nothing was found in the boxes of '{name}'; {became}.")
        return True

    def _addNewSegments(self) -> None:
        segmentation = self.segmentationNode.GetSegmentation()
        for prompt in self.prompts:
            if prompt.isNew and segmentation.GetSegment(prompt.segmentId) is None:
                display = prompt.roiNode.GetDisplayNode()
                color = display.GetSelectedColor() if display is not None else DEFAULT_COLOR
                segmentation.AddEmptySegment(prompt.segmentId, prompt.roiNode.GetName() or prompt.segmentId, color)
