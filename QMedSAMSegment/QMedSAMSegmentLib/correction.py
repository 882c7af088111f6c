"""One correction of a segment: taken from the scene, computed anywhere, written back as what it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Collection, Dict, FrozenSet, List, Optional, Sequence

import numpy as np
from qmedsam import Box, QMedSAMError, Segmenter, Volume
from qmedsam.marks import Stroke

from .boxes import FIT_MARGIN, boundRois, boxFromRoi
from .boxtags import storedBoxes, storeInTag
from .geometry import ijkToWorld
from .grids import cutToGrid, ensureReferenceGeometry, onSegmentationGrid, onVolumeGrid
from .segments import Crop, SegmentWriter, ensureLabelmaps, held, ijkToSegmentation, orientedImage, voxelMl, voxelsOf
from .settings import Settings
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
        candidate: which of the network's answers.
        options: keyword arguments for ``Segmenter.correct``.
    """

    volume: Volume
    box: Box
    present_kji: np.ndarray
    shown: Optional[Slice]
    kept: FrozenSet[Slice]
    candidate: int
    options: Dict[str, Any]

    def compute(
        self,
        segmenter: Segmenter,
        first: Callable[[Any], None],
        progress: Optional[Callable[[int, int], None]] = None,
        cancelled: Optional[Callable[[], bool]] = None,
    ) -> Any:
        """The object, ``qmedsam.Correction``.

        Args:
            segmenter: the engine.
            first: gets the answer for the shown slice as soon as it is there.
            progress: called with done and total.
            cancelled: asked after every slice.

        Raises:
            QMedSAMError: what ``Segmenter.correct`` raises.
        """
        asked = {"kept": self.kept, "candidate": self.candidate, "cancelled": cancelled, **self.options}
        if self.shown is not None and min(self.volume.array_kji.shape[:3]) > 1:
            first(segmenter.correct(self.volume, self.box, self.present_kji, shown=self.shown, **asked))
        return segmenter.correct(self.volume, self.box, self.present_kji, progress=progress, **asked)


class CorrectionRun:
    """A stroke, another answer, or a hand-made slice on its way into a segment. All but :attr:`task` touches the scene.

    Args:
        volumeNode: what is seen; never changed.
        segmentationNode, segmentId: what is corrected.
        volume: the volume node's voxels.
        settings: modality, window and frame count.
        stroke: the new one; None for going on from what was painted.
        keep: slices that are to stay besides those with ``keepPainted``.
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
        keep: Collection[Slice] = (),
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
        self._boxes = _boxesOf(volumeNode, segmentationNode, segmentId, self._toNode, self._present)
        if before is not None:
            self.strokes, self.kept = before.strokes, before.kept
            shown, box = before.task.shown, before.task.box
        else:
            slices = slicesOf(segmentationNode, segmentId, self._now, self._toNode)
            kept = {*slices.kept, *(slices.painted if keepPainted else ()), *keep}
            earlier = strokesOf(segmentationNode, segmentId, self._toNode)
            self.strokes = earlier if stroke is None else (*earlier, stroke)
            shown = None if stroke is None else (stroke.axis, stroke.index)
            self.kept = frozenset(kept - {shown})  # who draws on a slice wants it changed
            box = _chosen(self._boxes, stroke, self._present)
            mine = tuple(one for one in self.strokes if _chosen(self._boxes, one, self._present) is box)
            box = replace(_grown(box, mine), strokes=mine)
        if stroke is None and before is None and len(box.slices(2, self._shape[0])) < 2 < self._shape[0]:
            raise QMedSAMError("The segment has no box that goes on.", "Press 'Add box' and draw one around the whole object.")
        options = settings.engineOptions(windowOf(volumeNode) if settings.window == "displayed" else None)
        engine = {name: options[name] for name in ("modality", "window", "frame")}
        self.task = CorrectionTask(volume, box, self._present, shown, self.kept, candidate, engine)
        self.result: Any = None
        self.written: Optional[np.ndarray] = None
        self.added = self.removed = 0
        self.notes: List[str] = []

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

    def sliceImages(self, answer: Any) -> Dict[str, Any]:
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

    def write(self, result: Any, writer: SegmentWriter) -> bool:
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
        wanted = self._present.copy()
        wanted[result.crop] = result.mask_kji_crop
        add, remove = (self._difference(a, b) for a, b in ((wanted, self._now), (self._now, wanted)))
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

    def _difference(self, mask_kji: np.ndarray, other_kji: np.ndarray) -> Any:
        """What is in one mask and not in the other as an image, or None."""
        found = mask_kji & ~other_kji
        crop = _bounds(found)
        return None if crop is None else self._image(found[crop], crop)


def _bounds(mask_kji: np.ndarray) -> Optional[Crop]:
    """The smallest crop that holds a mask."""
    parts: List[slice] = []
    for axis in range(3):  # narrowed axis by axis: all voxels are looked at once
        used = np.flatnonzero(mask_kji[tuple(parts)].any(axis=tuple(n for n in range(3) if n != axis)))
        if not len(used):
            return None
        parts.append(slice(int(used[0]), int(used[-1]) + 1))
    return parts[0], parts[1], parts[2]


def _boxesOf(volumeNode: Any, segmentationNode: Any, segmentId: str, toNode: np.ndarray, present: np.ndarray) -> List[Box]:
    """The boxes of a segment: its ROIs, else those that it carries, else one around what is in it.

    Raises:
        QMedSAMError: it has no box and nothing in it.
    """
    found: List[Box] = []
    for n, roiNode in enumerate(boundRois(segmentationNode, segmentId), start=1):
        try:
            found.append(boxFromRoi(roiNode, volumeNode, label=n))
        except QMedSAMError:  # not placed yet
            continue
    found = found or storedBoxes(segmentationNode, segmentId, toNode)
    if found:
        return found
    bounds = _bounds(present)
    if bounds is None:
        raise QMedSAMError("The selected segment is empty.", "Add a box and press Apply first, or paint a rough shape.")
    low = np.array([part.start - 0.5 for part in bounds[::-1]])
    high = np.array([part.stop - 0.5 for part in bounds[::-1]])
    room = FIT_MARGIN * (high - low)
    return [Box.from_edges(low - room, high + room, label=1)]


def _chosen(boxes: Sequence[Box], stroke: Optional[Stroke], present: np.ndarray) -> Box:
    """Of several boxes the one that a stroke is about: in which it lies deepest; without one that with most of the segment."""
    if len(boxes) == 1:
        return boxes[0]
    points = stroke.points_ijk if stroke is not None else np.argwhere(present)[:: max(int(present.sum()) // 1000, 1), ::-1]
    return min(boxes, key=lambda box: float(np.median(_inBox(box, points).max(axis=1))) if len(points) else 0.0)


def _inBox(box: Box, points_ijk: np.ndarray) -> np.ndarray:
    """How far points lie from the centre along each half axis, ``n x 3``: up to 1 inside."""
    return np.abs((points_ijk - box.center_ijk) @ np.linalg.pinv(box.half_axes_ijk).T)


def _grown(box: Box, strokes: Sequence[Stroke]) -> Box:
    """A box with room for what strokes add: what a user says is the object is not cut off by it."""
    for points in (stroke.points_ijk for stroke in strokes if stroke.adds):
        along = (points - box.center_ijk) @ np.linalg.pinv(box.half_axes_ijk).T
        low, high = np.minimum(along.min(axis=0), -1.0), np.maximum(along.max(axis=0), 1.0)
        room = 2 * FIT_MARGIN * (high - low)
        low, high = np.where(low < -1, low - room, low), np.where(high > 1, high + room, high)
        center = box.center_ijk + box.half_axes_ijk @ ((low + high) / 2)
        box = replace(box, center_ijk=center, half_axes_ijk=box.half_axes_ijk * ((high - low) / 2))
    return box
