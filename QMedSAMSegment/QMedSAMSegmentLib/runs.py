"""One segmentation of some boxes: taken from the scene, computed anywhere, written back into the scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from qmedsam import Box, QMedSAMError, Segmentation, Segmenter, Volume
from qmedsam.measures import diameters
from qmedsam.painting import ObjectResult

from .boxes import boxFromRoi
from .boxtags import codeOf, storeInTag
from .geometry import ijkToWorld
from .grids import coveringSegment, cutToGrid, ensureReferenceGeometry, onSegmentationGrid
from .installer import INSTALL_HINT, installed
from .segments import Crop, SegmentWriter, ensureLabelmaps, held, ijkToSegmentation, orientedImage, union, voxelMl, voxelsOf
from .settings import Settings
from .stroketags import storeSlices
from .volumes import VoxelCopy, volumeFromNode, windowOf

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
        prompts: at least one box, each with a segment of the segmentation. One that is no box (no size, under a bent transform)
            is named in the result; the others go on.
        settings: of the run.
        copy: take the voxels along (:meth:`prepare`); false only where nothing else can happen until the run is over.

    Attributes:
        task: what is computed, here (:meth:`compute`) or on a thread.
        result: of the task, once it is there; an object for every prompt, in their order. Its counts are of an object's own mask
            within the geometry of the segmentation, for segments may overlap.
        slices: that the boxes cut.
        flat: the image is a single slice, which has no millilitres.

    Raises:
        QMedSAMError: something about the nodes that the user can mend, or none of the prompts is a box.
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
        # Refused before anything is computed: a non-linear transform. Where the volume lies in the segmentation, not in the
        # world: the two may be moved together.
        self._toNode = ijkToSegmentation(ijkToWorld(volumeNode), segmentationNode)
        self._voxels = VoxelCopy(volumeNode) if copy else None
        volume = self._voxels.volume if self._voxels is not None else volumeFromNode(volumeNode)
        window = windowOf(volumeNode) if settings.window == "displayed" else None
        self._boxes: Dict[int, Box] = {}  # by number of the prompt, from 1
        self._failed: Dict[int, QMedSAMError] = {}
        self._names = {one.segmentId: _segmentName(segmentationNode, one) for one in self.prompts}
        for n, prompt in enumerate(self.prompts, start=1):
            try:
                name, code = prompt.roiNode.GetName() or f"box {n}", codeOf(segmentationNode, prompt.segmentId)
                about = {"name": name, "target": self._names[prompt.segmentId], "code": code}
                self._boxes[n] = boxFromRoi(prompt.roiNode, volumeNode, label=n, **about)
            except QMedSAMError as error:
                self._failed[n] = error
        if not self._boxes:
            raise self._failed[1]
        self.task = Task(volume, list(self._boxes.values()), settings.engineOptions(window))
        self.slices = sum(len(box.slices(2, volume.shape_ijk[2])) for box in self._boxes.values())
        self.flat = volume.shape_ijk[2] == 1
        self._ijkToRas = volume.ijk_to_ras
        self._voxelMl = abs(float(np.linalg.det(volume.ijk_to_ras[:3, :3]))) / 1000
        self.result: Optional[Segmentation] = None

    def prepare(self) -> bool:
        """Take the next piece of the voxels out of the scene; whether all are there. To be called until then.

        Raises:
            QMedSAMError: the image changed meanwhile.
        """
        if self._voxels is not None and self._voxels.step():
            self._voxels = None
        return self._voxels is None

    def compute(
        self,
        segmenter: Segmenter,
        progress: Optional[Callable[[int, int], None]] = None,
        cancelled: Optional[Callable[[], bool]] = None,
    ) -> Segmentation:
        """The masks, computed here and now: see :meth:`Task.compute`."""
        while not self.prepare():
            pass
        self.finish(self.task.compute(segmenter, progress, cancelled))
        assert self.result is not None
        return self.result

    def finish(self, result: Segmentation) -> None:
        """Take over what the task has computed, cut to the geometry in which the segmentation is edited; says what was cut.

        Raises:
            QMedSAMError: the segmentation's geometry cannot be read.
        """
        ensureReferenceGeometry(self.segmentationNode, self.volumeNode)
        found = {one.label: one for one in result.objects}
        nothing = {"crop": (slice(0, 0),) * 3, "mask_kji_crop": np.zeros((0, 0, 0), bool)}
        for n, error in self._failed.items():
            name = self.prompts[n - 1].roiNode.GetName()
            found[n] = ObjectResult(n, name, error=str(error), **nothing)
            result.messages.append(f"{error.message} The others were segmented.")
        result.objects = [found[n] for n in range(1, len(self.prompts) + 1)]
        for one in result.objects:
            assert one.mask_kji_crop is not None
            cut = cutToGrid(one.mask_kji_crop, one.crop, self._toNode, self.segmentationNode)
            if cut:
                size = self.sizeText(cut, cut * self._voxelMl)
                result.messages.append(
                    f"{size} of '{one.name}' lie outside the geometry of the segmentation and were cut. 'Specify geometry' "
                    "beside the source volume makes it larger."
                )
            one.voxels, one.covered = int(np.count_nonzero(one.mask_kji_crop)), 0
            one.volume_ml = one.voxels * self._voxelMl
            one.diameters = diameters(one.mask_kji_crop, self._ijkToRas, [part.start for part in one.crop])
        self.result = result

    def sizeText(self, voxels: int, ml: float) -> str:
        """How large something is, for the user: a single slice has no thickness."""
        return f"{voxels} pixels" if self.flat else f"{ml:.2f} ml" if ml < 0.95 else f"{ml:.1f} ml"

    def lengthText(self, one: ObjectResult) -> str:
        """How long and wide an object is on the slice where it is longest, after a comma; nothing of a picture."""
        size = one.diameters
        return "" if size is None or self.flat else f", {size.long_mm:.1f} x {size.short_mm:.1f} mm"

    def forget(self) -> None:
        """Let go of the voxels and the label array once the masks are there; what is shown and written needs neither."""
        assert self.result is not None, "computed first"
        self.task = Task(Volume(np.zeros((1, 1, 1), np.uint8)), self.task.boxes, {})
        self.result.labels_kji = np.zeros((0, 0, 0), np.uint8)

    @property
    def agreement(self) -> Optional[np.ndarray]:
        """Of a vote, where it was asked for: ``(k, j, i)`` uint8 of the volume, per cent of the directions for an object."""
        return getattr(self.result, "agreement_kji", None)

    @property
    def alive(self) -> bool:
        """Whether the nodes and a segment are still there to be written to."""
        if any(node.GetScene() is None for node in (self.volumeNode, self.segmentationNode)):
            return False
        return any(self._there(prompt) for prompt in self.prompts)

    def _there(self, prompt: Prompt) -> bool:
        return prompt.isNew or self.segmentationNode.GetSegmentation().GetSegment(prompt.segmentId) is not None

    def masks(self) -> Dict[str, Tuple[np.ndarray, Crop]]:
        """Per segment the union of its boxes' masks, in the order of the boxes; without segments that are gone."""
        assert self.result is not None, "computed first"
        found: Dict[str, List[Tuple[np.ndarray, Crop]]] = {}
        for prompt, one in zip(self.prompts, self.result.objects):
            if not one.error and self._there(prompt):
                assert one.mask_kji_crop is not None
                found.setdefault(prompt.segmentId, []).append((one.mask_kji_crop, one.crop))
        return {segmentId: union(masks) for segmentId, masks in found.items()}

    def images(self) -> Dict[str, Any]:
        """Per segment its mask as ``vtkOrientedImageData`` on the grid of the segmentation; none where nothing was found."""
        images = {
            segmentId: onSegmentationGrid(orientedImage(mask, crop, self._toNode), self.segmentationNode)
            for segmentId, (mask, crop) in self.masks().items()
        }
        return {segmentId: image for segmentId, image in images.items() if image.GetPointData().GetScalars().GetRange()[1] > 0}

    def write(self, writer: SegmentWriter) -> bool:
        """Write the masks into their segments, as one action that can be undone.

        What a stopped run has is added: to replace a segment by the few slices that were reached would destroy it. A segment
        in whose boxes nothing was found is left as it is. The result's messages say so, and name what could not be written:
        a segment that is gone, voxels that the editor's masking keeps.

        Returns:
            False when there was nothing to write: the scene was closed, the segments deleted, or every mask is empty.

        Raises:
            QMedSAMError: all that was found lies off the grid of the segmentation; nothing was changed.
        """
        if self.result is None or not self.alive:
            return False
        images = self.images()
        if not images:
            if any("were cut" in message for message in self.result.messages):
                raise QMedSAMError("What was found lies outside the grid of the segmentation.", "Use a new segmentation.")
            return False
        add = self.settings.mode == "add" or self.result.cancelled
        gone = [self._names[one] for one in dict.fromkeys(p.segmentId for p in self.prompts if not self._there(p))]
        writer.saveStateForUndo()
        self._addNewSegments()
        entered: Dict[str, int] = {}
        # Larger objects first: where overwriting is on, a lesion drawn inside an organ stays on top.
        for segmentId in sorted(images, key=lambda one: -images[one].GetNumberOfPoints()):
            image = images[segmentId]
            if writer.masks and not add:
                image = coveringSegment(image, self.segmentationNode, segmentId)
            writer.modify(self.segmentationNode, segmentId, image, add)
            entered[segmentId] = held(self.segmentationNode, segmentId, images[segmentId])
        found = self.masks()
        for segmentId in images:
            applied = [
                self._boxes[n]
                for n, (prompt, one) in enumerate(zip(self.prompts, self.result.objects), start=1)
                if prompt.segmentId == segmentId and not one.error
            ]
            storeInTag(self.segmentationNode, segmentId, applied, self._toNode)
            # Known only where the segment is nothing but this mask: what differs later was painted by hand.
            mask, crop = found[segmentId]
            whole = np.count_nonzero(mask) == held(self.segmentationNode, segmentId, images[segmentId])
            if whole and not add and not writer.masks:
                storeSlices(self.segmentationNode, segmentId, mask, self._toNode, first_kji=[part.start for part in crop])
        self._explain(images, entered, gone)
        return True

    def _explain(self, images: Dict[str, Any], entered: Dict[str, int], gone: List[str]) -> None:
        """Say what was not written, or not as it was shown."""
        assert self.result is not None
        tell = self.result.messages.append
        for name in gone:
            tell(f"The segment '{name}' is gone; the others were written.")
        for segmentId, image in images.items():
            name, kept = self._names[segmentId], held(self.segmentationNode, segmentId, image)
            missing, taken = voxelsOf(image) - entered[segmentId], entered[segmentId] - kept
            if missing > 0:
                size = self.sizeText(missing, missing * voxelMl(image))
                tell(f"{size} of '{name}' were not written: the editor's masking keeps them from being edited.")
            if taken > 0:
                size = self.sizeText(taken, taken * voxelMl(image))
                tell(f"{size} of '{name}' went to the other segments of this run, which overwrite it.")
        for segmentId in (one for one in self.masks() if one not in images):
            isNew = any(prompt.isNew for prompt in self.prompts if prompt.segmentId == segmentId)
            became = "its segment is empty" if isNew else "the segment was left as it was"
            tell(f"Nothing was found in the boxes of '{self._names[segmentId]}'; {became}.")

    def _addNewSegments(self) -> None:
        assert self.result is not None
        segmentation = self.segmentationNode.GetSegmentation()
        for prompt, one in zip(self.prompts, self.result.objects):
            if prompt.isNew and not one.error and segmentation.GetSegment(prompt.segmentId) is None:
                display = prompt.roiNode.GetDisplayNode()
                color = display.GetSelectedColor() if display is not None else DEFAULT_COLOR
                segmentation.AddEmptySegment(prompt.segmentId, prompt.roiNode.GetName() or prompt.segmentId, color)


def _segmentName(segmentationNode: Any, prompt: Prompt) -> str:
    segment = segmentationNode.GetSegmentation().GetSegment(prompt.segmentId)
    return segment.GetName() if segment is not None else prompt.roiNode.GetName() or prompt.segmentId
