"""One correction of a segment: taken from the scene, computed anywhere, written back as what it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple

import numpy as np
from qmedsam import Box, QMedSAMError, Segmenter, Volume
from qmedsam.correction import Correction
from qmedsam.geometry import extent_of
from qmedsam.marks import SliceRectangle, Stroke

from .boxtags import storeInTag
from .geometry import ijkToWorld
from .grids import cutToGrid, ensureReferenceGeometry, onSegmentationGrid, onVolumeGrid
from .segments import Crop, SegmentWriter, ensureLabelmaps, held, ijkToSegmentation, orientedImage, voxelMl, voxelsOf
from .settings import Settings
from .strokeboxes import boundsOf, boxesOf, chosenBox, grownBox
from .stroketags import Slice, slicesOf, storeSlices, storeStrokes, strokesOf
from .volumes import windowOf


@dataclass(frozen=True)
class CorrectionTask:
    """What of a correction is computed: arrays and numbers, nothing of the scene, so that any thread may do it.

    Attributes:
        volume: the voxels.
        box: with all strokes so far.
        present_kji: the object so far, of the volume's shape.
        shown: the slice that is answered first, for the user's eyes.
        kept: slices that are not to be changed.
        candidate: which of the network's answers on the last stroke's slice.
        walks: go on from the kept slices along k, in place of what is on the others.
        options: keyword arguments for ``Segmenter.correct`` and ``Segmenter.segment``.
    """

    volume: Volume
    box: Box
    present_kji: np.ndarray
    shown: Optional[Slice]
    kept: FrozenSet[Slice]
    candidate: int
    walks: bool
    options: Dict[str, Any]

    def compute(
        self,
        segmenter: Segmenter,
        first: Callable[[Correction], None],
        progress: Optional[Callable[[int, int], None]] = None,
        cancelled: Optional[Callable[[], bool]] = None,
    ) -> Correction:
        """The object.

        Args:
            segmenter: the engine.
            first: gets the answer for the shown slice as soon as it is there.
            progress: called with done and total.
            cancelled: asked after every slice.

        Raises:
            QMedSAMError: what the engine raises.
        """
        if self.walks:
            return self._walked(segmenter, progress, cancelled)
        asked = {"kept": self.kept, "candidate": self.candidate, "cancelled": cancelled, **self.options}
        if self.shown is not None and min(self.volume.array_kji.shape[:3]) > 1:
            first(segmenter.correct(self.volume, self.box, self.present_kji, shown=self.shown, **asked))
        return segmenter.correct(self.volume, self.box, self.present_kji, progress=progress, **asked)

    def _walked(self, segmenter: Segmenter, progress: Any, cancelled: Any) -> Correction:
        """The walk from the kept slices, which are told as rectangles; they and what is beside the box stay."""
        found = segmenter.segment(
            self.volume, [self.box], strategy="propagate", progress=progress, cancelled=cancelled, keep_masks=True, **self.options
        )
        (one,) = found.objects
        if one.error:
            raise QMedSAMError(one.error)
        mask_kji = self.present_kji.copy()
        mask_kji[one.crop] = one.mask_kji_crop
        for axis, index in self.kept:
            at = (slice(None),) * (2 - axis) + (index,)
            mask_kji[at] = self.present_kji[at]
        crop = tuple(slice(0, size) for size in mask_kji.shape)
        about = (self.box, one.confidence, (), found.messages, found.seconds, found.cancelled, found.model)
        return Correction(crop, mask_kji, *about)  # type: ignore[arg-type]


class CorrectionRun:
    """A stroke, another answer, or a hand-made slice on its way into a segment. All but :attr:`task` touches the scene.

    Args:
        volumeNode: what is seen; never changed.
        segmentationNode, segmentId: what is corrected.
        volume: the volume node's voxels.
        settings: modality, window and frame count.
        stroke: the new one; None for another answer to the last, or with ``start``.
        start: the slice, as it was painted, from which the others are found anew.
        keepPainted: slices that were painted by hand since the last run stay.
        candidate: which of the network's answers.
        before: a written run in place of which another answer is wanted: it starts from what that one started from.

    Attributes:
        task: what is computed.
        strokes: all of the segment, with the new one.
        result: of the task, once it is there.
        written: the segment in the voxels of the volume as it was left.
        added, removed: voxels of the segmentation's grid that were written.
        notes: sentences for the user about what was not.

    Raises:
        QMedSAMError: the segment is empty or has no box, or something about the nodes that the user can mend.
    """

    def __init__(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        segmentId: str,
        volume: Volume,
        settings: Settings,
        stroke: Optional[Stroke] = None,
        start: Optional[Slice] = None,
        keepPainted: bool = True,
        candidate: int = 0,
        before: Optional[CorrectionRun] = None,
    ) -> None:
        self.volumeNode, self.segmentationNode, self.segmentId = volumeNode, segmentationNode, segmentId
        ensureLabelmaps(segmentationNode)
        ensureReferenceGeometry(segmentationNode, volumeNode)
        self._toNode = ijkToSegmentation(ijkToWorld(volumeNode), segmentationNode)
        self._shape = volume.array_kji.shape[:3]
        self._now = self._inVolume()
        self._present = self._now if before is None else before._present
        self._boxes = boxesOf(volumeNode, segmentationNode, segmentId, self._toNode, self._present)
        if before is not None:
            self.strokes, self.kept = before.strokes, before.kept
            shown, box, fixed = before.task.shown, before.task.box, before.task.kept
        else:
            slices = slicesOf(segmentationNode, segmentId, self._now, self._toNode)
            earlier = strokesOf(segmentationNode, segmentId, self._toNode)
            self.strokes = earlier if stroke is None else (*earlier, stroke)
            shown = (self.strokes[-1].axis, self.strokes[-1].index) if self.strokes and start is None else None
            kept = {*slices.kept, *(slices.painted if keepPainted else ()), *([start] if start is not None else [])}
            self.kept = frozenset(kept - {shown})  # who draws on a slice wants it changed
            fixed = self.kept | {(one.axis, one.index) for one in self.strokes} - {shown}  # what was corrected stays so
            chosen = chosenBox(self._boxes, stroke, self._present)
            mine = tuple(one for one in self.strokes if chosenBox(self._boxes, one, self._present) is chosen)
            box = replace(grownBox(chosen, mine), strokes=mine)
            if start is not None:
                box = replace(box, rectangles=self._rectangles(start, box))
        options = settings.engineOptions(windowOf(volumeNode) if settings.window == "displayed" else None)
        engine = {name: options[name] for name in ("modality", "window", "frame")}
        self.task = CorrectionTask(volume, box, self._present, shown, fixed, candidate, start is not None, engine)
        self.result: Optional[Correction] = None
        self.written: Optional[np.ndarray] = None
        self.added = self.removed = 0
        self.notes: List[str] = []

    def _rectangles(self, start: Slice, box: Box) -> Tuple[SliceRectangle, ...]:
        """The object's extent on the slices from which it goes on."""
        if len(box.slices(2, self._shape[0])) < 2:
            raise QMedSAMError("The segment has no box that goes on.", "Press 'Add box' and draw one around the whole object.")
        if not self._now[start[1]].any():
            raise QMedSAMError("Nothing is painted on the shown slice.", "Paint the object there first.")
        extents = ((axis, index, extent_of(self._now[index])) for axis, index in sorted(self.kept) if axis == 2)
        return tuple(SliceRectangle(axis, index, found) for axis, index, found in extents if found is not None)

    def _inVolume(self) -> np.ndarray:
        return onVolumeGrid(self.segmentationNode, self.segmentId, self._toNode, self._shape)

    @property
    def alive(self) -> bool:
        """Whether the nodes and the segment are still there to be written to."""
        if any(node.GetScene() is None for node in (self.volumeNode, self.segmentationNode)):
            return False
        return self.segmentationNode.GetSegmentation().GetSegment(self.segmentId) is not None

    @property
    def untouched(self) -> bool:
        """Whether the segment is what the run began with: no undo, no brush, no transform since."""
        return self._holds(self._now)

    @property
    def stands(self) -> bool:
        """Whether the segment is what this run wrote, so that another answer can take its place."""
        return self.written is not None and self.alive and self._holds(self.written)

    def _holds(self, mask_kji: np.ndarray) -> bool:
        moved = ijkToSegmentation(ijkToWorld(self.volumeNode), self.segmentationNode) - self._toNode
        return bool(np.abs(moved).max() < 1e-4) and np.array_equal(self._inVolume(), mask_kji)

    def sliceImages(self, answer: Correction) -> Dict[str, Any]:
        """The shown slice of an answer as an oriented image, by the segment's ID; none where nothing is on it."""
        assert self.task.shown is not None
        axis, index = self.task.shown
        along = 2 - axis
        at = index - answer.crop[along].start
        if not 0 <= at < answer.mask_kji_crop.shape[along]:
            return {}
        part = (slice(None),) * along + (slice(at, at + 1),)
        crop = list(answer.crop)
        crop[along] = slice(index, index + 1)
        mask = np.ascontiguousarray(answer.mask_kji_crop[part])
        image = self._image(mask, tuple(crop)) if mask.any() else None  # type: ignore[arg-type]
        return {} if image is None else {self.segmentId: image}

    def _image(self, mask_kji: np.ndarray, crop: Crop) -> Any:
        """A mask within the geometry of the segmentation, or None where nothing of it lies there."""
        mask_kji = mask_kji.copy()
        cutToGrid(mask_kji, crop, self._toNode, self.segmentationNode)
        if not mask_kji.any():
            return None
        return onSegmentationGrid(orientedImage(mask_kji, crop, self._toNode), self.segmentationNode)

    def write(self, result: Correction, writer: SegmentWriter) -> bool:
        """Write what the correction changes, as one action that can be undone, and the strokes with it.

        Only what changes is written: nothing else can be moved by resampling, and the editor's masking and overwrite rules hold
        for what is added as for what is taken away.

        Args:
            result: of the task.
            writer: its masking and overwrite rules count.

        Returns:
            False where the object stays as it was; a new stroke is stored all the same, as an action of its own.

        Raises:
            QMedSAMError: the segmentation's geometry cannot be read.
        """
        self.result = result
        bounds = [found for found in map(boundsOf, (self._present, self._now)) if found is not None]
        crop: Crop = tuple(  # type: ignore[assignment]
            slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(result.crop, *bounds)
        )
        wanted, now = self._present[crop].copy(), self._now[crop]
        wanted[tuple(slice(a.start - c.start, a.stop - c.start) for a, c in zip(result.crop, crop))] = result.mask_kji_crop
        add, remove = (self._difference(a, b, crop) for a, b in ((wanted, now), (now, wanted)))
        writer.saveStateForUndo()
        refused = 0
        if remove is not None:
            writer.remove(self.segmentationNode, self.segmentId, remove)
            refused = held(self.segmentationNode, self.segmentId, remove)
            self.removed = voxelsOf(remove) - refused
        if add is not None:
            writer.modify(self.segmentationNode, self.segmentId, add, True)
            self.added = held(self.segmentationNode, self.segmentId, add)
            refused += voxelsOf(add) - self.added
        self._voxelMl = next((voxelMl(one) for one in (add, remove) if one is not None), 0.0)
        if refused:
            size = self.sizeText(refused)
            self.notes.append(f"{size} were not written: the editor's masking keeps them from being edited.")
        self.written = self._inVolume()
        storeInTag(self.segmentationNode, self.segmentId, self._boxes, self._toNode)
        storeStrokes(self.segmentationNode, self.segmentId, self.strokes, self._toNode)
        storeSlices(self.segmentationNode, self.segmentId, self.written, self._toNode, self.kept)
        return add is not None or remove is not None

    def sizeText(self, voxels: int) -> str:
        """How large something is, for the user: a single slice has no thickness."""
        return f"{voxels} pixels" if self._shape[0] == 1 else f"{voxels * self._voxelMl:.2f} ml"

    def _difference(self, mask_kji: np.ndarray, other_kji: np.ndarray, crop: Crop) -> Any:
        """What is in one mask of a crop and not in the other, as an image, or None."""
        found = mask_kji & ~other_kji
        bounds = boundsOf(found)
        if bounds is None:
            return None
        placed = tuple(slice(part.start + c.start, part.stop + c.start) for part, c in zip(bounds, crop))
        return self._image(found[bounds], placed)  # type: ignore[arg-type]
