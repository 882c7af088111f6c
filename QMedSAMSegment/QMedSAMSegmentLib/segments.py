"""Masks to segments, through the Segment Editor's own writing: masking, overwrite rules and undo come with it."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar, Iterator, Optional, Protocol, Sequence, Tuple

import numpy as np
from qmedsam import QMedSAMError

from .geometry import arrayFromMatrix, matrixFromArray, nodeToWorld

Crop = Tuple[slice, slice, slice]

#: Voxels of a region that :func:`content` looks at.
LOOKED_AT = 30_000


class SegmentWriter(Protocol):
    """Where masks are written: the effect's editor, or the one of :class:`EditorWriter`."""

    def saveStateForUndo(self) -> None:
        """Once per user action, before the first change."""

    @property
    def masks(self) -> bool:
        """Whether voxels are kept from being edited: by an editable area, or a range of grey values."""

    def modify(self, segmentationNode: Any, segmentId: str, image: Any, add: bool) -> None:
        """Replace a segment by an oriented image, or add the image to it."""

    def remove(self, segmentationNode: Any, segmentId: str, image: Any) -> None:
        """Take an oriented image out of a segment."""


class EditorWriter:
    """Writes with ``vtkSlicerSegmentEditorLogic``: what the Segment Editor does, without its window.

    Args:
        scene: the scene.
        editorNode: whose masking and overwrite settings count; None for a node of its own, with which a segment may be
            everywhere and other segments are left alone.

    Raises:
        QMedSAMError: see :func:`requireEditorLogic`.
    """

    UNDO_STATES = 10
    _NODE_NAME = "QMedSAM writer"
    _writers: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, scene: Any, editorNode: Optional[Any] = None) -> None:
        import slicer

        requireEditorLogic()
        self._ownNode = editorNode is None
        self.editorNode = editorNode if editorNode is not None else self._leftNode(scene) or self._newNode(scene)
        self._writers.add(self)
        self.editor = slicer.vtkSlicerSegmentEditorLogic()
        self.editor.SetMRMLScene(scene)
        self.editor.SetSegmentEditorNode(self.editorNode)
        self.editor.SetMaximumNumberOfUndoStates(self.UNDO_STATES)

    @classmethod
    def _newNode(cls, scene: Any) -> Any:
        import slicer

        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetName(cls._NODE_NAME)
        node.SetSaveWithScene(False)
        node.SetHideFromEditors(True)
        node.SetOverwriteMode(node.OverwriteNone)
        return scene.AddNode(node)  # the editor finds segmentation and volume through the scene

    @classmethod
    def _leftNode(cls, scene: Any) -> Optional[Any]:
        """The node of a writer that is gone; not one in use, for two writers of one node would forget each other's undo."""
        used = [writer.editorNode for writer in cls._writers]
        count = scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode")
        nodes = [scene.GetNthNodeByClass(n, "vtkMRMLSegmentEditorNode") for n in range(count)]
        return next((node for node in nodes if node.GetName() == cls._NODE_NAME and node not in used), None)

    def serves(self, scene: Any, editorNode: Optional[Any]) -> bool:
        """Whether a new writer of these arguments would follow the same rules."""
        return self.editorNode.GetScene() is scene and (self._ownNode if editorNode is None else editorNode is self.editorNode)

    def aim(self, segmentationNode: Any, volumeNode: Any) -> None:
        """Choose what is edited; a change of the segmentation forgets what could be undone."""
        if self.editorNode.GetSegmentationNode() is not segmentationNode:
            self.editor.SetSegmentationNode(segmentationNode)
        if self.editorNode.GetSourceVolumeNode() is not volumeNode:
            self.editor.SetSourceVolumeNode(volumeNode)

    def saveStateForUndo(self) -> None:
        self.editor.SaveStateForUndo()

    @property
    def masks(self) -> bool:
        return masksEdits(self.editorNode)

    def modify(self, segmentationNode: Any, segmentId: str, image: Any, add: bool) -> None:
        mode = self.editor.ModificationModeAdd if add else self.editor.ModificationModeSet
        self._modify(segmentationNode, segmentId, image, mode)

    def remove(self, segmentationNode: Any, segmentId: str, image: Any) -> None:
        self._modify(segmentationNode, segmentId, image, self.editor.ModificationModeRemove)

    def _modify(self, segmentationNode: Any, segmentId: str, image: Any, mode: Any) -> None:
        import slicer

        # The editable area ("outside all segments") is that of the selected segment; the user's own selection stays.
        selected = self.editorNode.GetSelectedSegmentID()
        with slicer.util.NodeModify(self.editorNode):
            self.editor.SetCurrentSegmentID(segmentId)
            try:
                self.editor.UpdateReferenceGeometryImage()
                self.editor.ModifySegmentByLabelmap(segmentationNode, segmentId, image, mode, False, False)
            finally:
                self.editorNode.SetSelectedSegmentID(selected)

    def undo(self) -> bool:
        """Take back the last action; false when there is none."""
        possible = bool(self.editor.CanUndo())
        if possible:
            self.editor.Undo()
        return possible

    def redo(self) -> bool:
        """Repeat what was taken back; false when there is nothing."""
        possible = bool(self.editor.CanRedo())
        if possible:
            self.editor.Redo()
        return possible


def masksEdits(editorNode: Any) -> bool:
    """Whether the settings of a ``vtkMRMLSegmentEditorNode`` keep voxels from being edited."""
    import slicer

    everywhere = slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
    return editorNode.GetMaskMode() != everywhere or bool(editorNode.GetSourceVolumeIntensityMask())


def requireEditorLogic() -> None:
    """To be asked before anything is computed for a script.

    Raises:
        QMedSAMError: this Slicer cannot write segments without the Segment Editor's window (before 5.10).
    """
    import slicer

    if not hasattr(slicer, "vtkSlicerSegmentEditorLogic"):
        raise QMedSAMError(
            "Scripts that write segments need Slicer 5.10 or newer.", "Use the effect QMedSAM in the Segment Editor here."
        )


def orientedImage(mask_kji: np.ndarray, crop: Crop, ijkToRas: np.ndarray) -> Any:
    """A mask as ``vtkOrientedImageData`` that covers only its crop of a voxel grid.

    Args:
        mask_kji: of the crop, boolean.
        crop: its ``(k, j, i)`` slices in the grid.
        ijkToRas: ``4 x 4`` of the grid, into the coordinates of the segmentation node.
    """
    import slicer
    import vtk
    from vtk.util import numpy_support

    k, j, i = crop
    image = slicer.vtkOrientedImageData()
    image.SetExtent(i.start, i.stop - 1, j.start, j.stop - 1, k.start, k.stop - 1)
    image.SetGeometryFromImageToWorldMatrix(matrixFromArray(ijkToRas))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = mask_kji.ravel()
    return image


def maskOf(image: Any, segmentationNode: Any) -> Tuple[np.ndarray, np.ndarray]:
    """A labelmap as boolean ``(k, j, i)`` and the ``4 x 4`` matrix from its voxels to world RAS."""
    from vtk.util import numpy_support

    toWorld = nodeToWorld(segmentationNode) @ imageToWorld(image)
    extent, scalars = image.GetExtent(), image.GetPointData().GetScalars()
    if scalars is None or any(extent[2 * axis] > extent[2 * axis + 1] for axis in range(3)):
        return np.zeros((1, 1, 1), bool), toWorld
    mask = numpy_support.vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1]) > 0
    toWorld[:3, 3] += toWorld[:3, :3] @ [extent[0], extent[2], extent[4]]
    return mask, toWorld


def union(masks: Sequence[Tuple[np.ndarray, Crop]]) -> Tuple[np.ndarray, Crop]:
    """Several masks of one grid as one, on the smallest crop that holds them all."""
    crop = tuple(slice(min(c[axis].start for _, c in masks), max(c[axis].stop for _, c in masks)) for axis in range(3))
    result = np.zeros([c.stop - c.start for c in crop], bool)
    for mask, own in masks:
        part = tuple(slice(o.start - c.start, o.stop - c.start) for o, c in zip(own, crop))
        result[part] |= mask
    return result, crop  # type: ignore[return-value]


def ensureLabelmaps(segmentationNode: Any) -> None:
    """Make the binary labelmap what a segmentation stores; nothing else can be edited.

    Raises:
        QMedSAMError: its segments are stored as something else; converting them is the user's decision.
    """
    import slicer

    segmentation = segmentationNode.GetSegmentation()
    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    stored = segmentation.GetSourceRepresentationName()
    if stored == labelmap:
        return
    if segmentation.GetNumberOfSegments():
        raise QMedSAMError(
            f"'{segmentationNode.GetName()}' is stored as {stored}, which cannot be edited.",
            "Make the binary labelmap its source (Segmentations module).",
        )
    segmentation.SetSourceRepresentationName(labelmap)


def storedGrid(segmentationNode: Any, segmentId: str) -> Optional[np.ndarray]:
    """``4 x 4`` from the indices of a segment's own labelmap into the node's coordinates; None where it holds nothing."""
    stored = storedLabelmap(segmentationNode, segmentId)
    return None if stored is None or stored.IsEmpty() else imageToWorld(stored)


def content(segmentationNode: Any, segmentId: str, corners: np.ndarray) -> Iterator[np.ndarray]:
    """Where the voxels of a segment are, slice by slice; of a large region every second, third ... voxel along each axis.

    Enough for centre and extent: a hundred organs would else take a minute.

    Args:
        segmentationNode, segmentId: whose.
        corners: ``n x 3`` points in the node's coordinates; what lies outside of their bounds on the voxel grid is left out.

    Yields:
        ``m x 3`` voxel centres in the node's coordinates, for every slice that holds any.
    """
    found = labelArray(segmentationNode, segmentId)
    if found is None:
        return
    labels_kji, start_ijk, toNode = found
    indices = (np.linalg.inv(toNode) @ np.column_stack([corners, np.ones(len(corners))]).T)[:3] - start_ijk[:, None]
    size = np.array(labels_kji.shape[::-1])
    first = np.clip(np.floor(indices.min(axis=1)).astype(int), 0, size)
    stop = np.clip(np.ceil(indices.max(axis=1)).astype(int) + 1, first, size)
    label = segmentationNode.GetSegmentation().GetSegment(segmentId).GetLabelValue()
    extent = stop - first
    step = np.minimum(np.ceil((max(float(np.prod(extent)), 1.0) / LOOKED_AT) ** (1 / 3)), np.maximum(extent // 8, 1)).astype(int)
    for k in range(first[2], stop[2], step[2]):
        j, i = np.nonzero(labels_kji[k, first[1] : stop[1] : step[1], first[0] : stop[0] : step[0]] == label)
        if len(i):
            voxels = np.column_stack([i * step[0] + first[0], j * step[1] + first[1], np.full(len(i), k)]) + start_ijk
            yield voxels @ toNode[:3, :3].T + toNode[:3, 3]


def labelArray(segmentationNode: Any, segmentId: str) -> Optional[Tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The labelmap that a segment is stored in, which it may share with others: it is where the array has its label value.

    Returns:
        The labels ``(k, j, i)`` (not a copy), the grid index of the first voxel, and the ``4 x 4`` from grid indices into the
        node's coordinates; None where it holds nothing.
    """
    from vtk.util import numpy_support

    stored = storedLabelmap(segmentationNode, segmentId)
    if stored is None or stored.IsEmpty():
        return None
    labels = numpy_support.vtk_to_numpy(stored.GetPointData().GetScalars()).reshape(stored.GetDimensions()[::-1])
    return labels, np.array(stored.GetExtent()[::2]), imageToWorld(stored)


def ownExtent(segmentationNode: Any, segmentId: str) -> Optional[np.ndarray]:
    """``3 x 2`` first and last index (i, j, k) of a segment's own voxels in its labelmap; None where it has none."""
    found = labelArray(segmentationNode, segmentId)
    if found is None:
        return None
    labels_kji, start_ijk, _ = found
    label = segmentationNode.GetSegmentation().GetSegment(segmentId).GetLabelValue()
    used = [np.zeros(size, bool) for size in labels_kji.shape]
    for k, plane in enumerate(labels_kji):  # slice by slice: a comparison of the whole would take as much memory again
        mine = plane == label
        used[1] |= mine.any(axis=1)
        used[2] |= mine.any(axis=0)
        used[0][k] = mine.any()
    if not used[0].any():
        return None
    return np.array([[np.flatnonzero(one)[n] for n in (0, -1)] for one in used[::-1]]) + start_ijk[:, None]


def held(segmentationNode: Any, segmentId: str, image: Any) -> int:
    """How many voxels of an image on the segmentation's grid a segment holds."""
    from vtk.util import numpy_support

    found = labelArray(segmentationNode, segmentId)
    if found is None:
        return 0
    labels_kji, start_ijk, _ = found
    first = np.array(image.GetExtent()[::2])
    low = np.maximum(first, start_ijk)
    stop = np.minimum(first + image.GetDimensions(), start_ijk + labels_kji.shape[::-1])
    if (stop <= low).any():
        return 0
    mask_kji = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    mine, its = (tuple(slice(a, b) for a, b in zip((low - at)[::-1], (stop - at)[::-1])) for at in (first, start_ijk))
    label = segmentationNode.GetSegmentation().GetSegment(segmentId).GetLabelValue()
    return int(np.count_nonzero((labels_kji[its] == label) & (mask_kji[mine] > 0)))


def voxelsOf(image: Any) -> int:
    """How many voxels of an image are an object's."""
    from vtk.util import numpy_support

    return int(np.count_nonzero(numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())))


def voxelMl(image: Any) -> float:
    """Millilitres of a voxel."""
    return float(np.prod(image.GetSpacing())) / 1000


def ijkToSegmentation(ijkToWorld: np.ndarray, segmentationNode: Any) -> np.ndarray:
    """``4 x 4`` from voxel indices into a segmentation node's own coordinates.

    Raises:
        QMedSAMError: the segmentation's transform is not linear.
    """
    return np.linalg.inv(nodeToWorld(segmentationNode)) @ ijkToWorld


def storedLabelmap(segmentationNode: Any, segmentId: str) -> Any:
    """The ``vtkOrientedImageData`` that a segment is stored in, which it may share with others; None where it has none."""
    import slicer

    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    return segmentationNode.GetSegmentation().GetSegment(segmentId).GetRepresentation(labelmap)


def imageToWorld(image: Any) -> np.ndarray:
    """``4 x 4`` from the indices of an oriented image into the coordinates of its segmentation node."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return arrayFromMatrix(matrix)
