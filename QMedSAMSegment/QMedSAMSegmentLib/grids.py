"""The voxel grid in which a segmentation is edited: masks are brought onto it and cut to it, as Slicer's own effects do."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
from qmedsam import QMedSAMError

from .geometry import matrixFromArray
from .segments import Crop, imageToWorld, labelArray, orientedImage, ownExtent, storedLabelmap


def gridOf(segmentationNode: Any) -> str:
    """The geometry in which a segmentation is edited, as the node stores it; empty where it has none yet."""
    import slicer

    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    return segmentationNode.GetSegmentation().GetConversionParameter(name)


def referenceGrid(segmentationNode: Any) -> Any:
    """The same as ``vtkOrientedImageData`` without voxels.

    Raises:
        QMedSAMError: it cannot be read.
    """
    import slicer

    reference = slicer.vtkOrientedImageData()
    if not slicer.vtkSegmentationConverter.DeserializeImageGeometry(gridOf(segmentationNode), reference, False):
        raise QMedSAMError("The geometry of the segmentation cannot be read.", "Set its source geometry in the Segment Editor.")
    return reference


def cutToGrid(mask_kji: np.ndarray, crop: Crop, ijkToNode: np.ndarray, segmentationNode: Any) -> int:
    """Take out of a mask what lies outside of the geometry in which the segmentation is edited, as Slicer's own effects do.

    Args:
        mask_kji: of the crop, boolean; changed.
        crop: its ``(k, j, i)`` slices in the grid.
        ijkToNode: ``4 x 4`` of the grid, into the coordinates of the segmentation node.
        segmentationNode: whose geometry.

    Returns:
        How many voxels were cut.

    Raises:
        QMedSAMError: the segmentation's geometry cannot be read.
    """
    reference = referenceGrid(segmentationNode)
    low, high = np.array(reference.GetExtent(), float).reshape(3, 2).T + [[-0.5], [0.5]]
    toGrid = np.linalg.inv(imageToWorld(reference)) @ ijkToNode
    ends = np.array([[(part.start, part.stop - 1)[bit] for part, bit in zip(crop[::-1], bits)] for bits in np.ndindex(2, 2, 2)])
    corners = ends @ toGrid[:3, :3].T + toGrid[:3, 3]
    if ((corners > low) & (corners < high)).all():
        return 0
    k, j, i = (np.arange(part.start, part.stop) for part in crop)
    cut = 0
    for mask, at in zip(mask_kji, k):  # slice by slice: coordinates of a whole box would take many times its memory
        inside = np.ones(mask.shape, bool)
        for axis in range(3):
            along = toGrid[axis, 0] * i[None, :] + toGrid[axis, 1] * j[:, None] + toGrid[axis, 2] * at + toGrid[axis, 3]
            inside &= (along > low[axis] - 1e-4) & (along < high[axis] + 1e-4)
        cut += int(np.count_nonzero(mask & ~inside))
        mask &= inside
    return cut


def ensureReferenceGeometry(segmentationNode: Any, volumeNode: Any) -> None:
    """Give a segmentation that has no geometry of its own the volume's."""
    if not gridOf(segmentationNode):
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)


def onSegmentationGrid(image: Any, segmentationNode: Any) -> Any:
    """The mask on the segmentation's own voxel grid and within its extent: as it is when the grids agree, else resampled.

    The editor's masking works on that grid. Nearest neighbour, as everywhere where Slicer moves labels between grids.
    """
    reference = referenceGrid(segmentationNode)
    if _sameGrid(image, reference):
        return _within(image, reference.GetExtent())
    reference.SetExtent(*_touchedExtent(image, reference))
    return _resampled(image, reference)


def _resampled(image: Any, reference: Any) -> Any:
    import slicer

    resampled, resample = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageDataResample
    if not resample.ResampleOrientedImageToReferenceOrientedImage(image, reference, resampled, False, False):
        raise QMedSAMError("The mask cannot be brought onto the grid of the segmentation.", "Use a new segmentation.")
    return resampled


def onVolumeGrid(segmentationNode: Any, segmentId: str, ijkToNode: np.ndarray, shape_kji: Sequence[int]) -> np.ndarray:
    """A segment in the voxels of a volume: as it is when the grids agree, else resampled (nearest neighbour).

    Args:
        segmentationNode, segmentId: whose.
        ijkToNode: ``4 x 4`` from the volume's voxels into the segmentation's coordinates.
        shape_kji: of the volume.

    Returns:
        Boolean, of that shape. Only the pages that hold the segment take memory.
    """
    from vtk.util import numpy_support

    present = np.zeros(tuple(shape_kji), bool)
    found, extent = labelArray(segmentationNode, segmentId), ownExtent(segmentationNode, segmentId)
    if found is None or extent is None:
        return present
    labels_kji, start_ijk, toNode = found
    label = segmentationNode.GetSegmentation().GetSegment(segmentId).GetLabelValue()
    part = tuple(slice(low - at, high + 1 - at) for (low, high), at in zip(extent[::-1], start_ijk[::-1]))
    mask, low = labels_kji[part] == label, extent[:, 0]
    step = np.linalg.inv(ijkToNode) @ toNode
    if np.abs(step[:3, :3] - np.eye(3)).max() < 1e-4 and np.abs(step[:3, 3] - np.rint(step[:3, 3])).max() < 1e-3:
        _paste(mask, low + np.rint(step[:3, 3]).astype(int), present)
        return present
    crop = tuple(slice(first, first + count) for first, count in zip(low[::-1], mask.shape))
    image, reference = orientedImage(mask, crop, toNode), _emptyGrid(ijkToNode, shape_kji)  # type: ignore[arg-type]
    reference.SetExtent(*_touchedExtent(image, reference))
    resampled = _resampled(image, reference)
    values = numpy_support.vtk_to_numpy(resampled.GetPointData().GetScalars()).reshape(resampled.GetDimensions()[::-1])
    _paste(values > 0, np.array(resampled.GetExtent()[::2]), present)
    return present


def _paste(mask_kji: np.ndarray, first_ijk: np.ndarray, present_kji: np.ndarray) -> None:
    """Put a mask into a larger one, whose first voxel has the index 0; what lies outside is left out."""
    size = np.array(present_kji.shape[::-1])
    low, stop = np.maximum(first_ijk, 0), np.minimum(first_ijk + mask_kji.shape[::-1], size)
    if (stop > low).all():
        target, source = (tuple(slice(a, b) for a, b in zip((low - at)[::-1], (stop - at)[::-1])) for at in (0, first_ijk))
        present_kji[target] = mask_kji[source]


def _emptyGrid(ijkToNode: np.ndarray, shape_kji: Sequence[int]) -> Any:
    """A ``vtkOrientedImageData`` without voxels."""
    import slicer

    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(*(value for size in shape_kji[::-1] for value in (0, int(size) - 1)))
    grid.SetGeometryFromImageToWorldMatrix(matrixFromArray(ijkToNode))
    return grid


def coveringSegment(image: Any, segmentationNode: Any, segmentId: str) -> Any:
    """An image on the segmentation's grid, with empty voxels around it as far as the segment's own voxels reach.

    For a writer that masks: replacing keeps what may not be edited (editable area, intensity range) only within the image;
    beyond it the whole segment would be lost (``vtkSlicerSegmentEditorLogic::ModifySegmentByLabelmap``).
    """
    stored = storedLabelmap(segmentationNode, segmentId)
    if stored is None or stored.IsEmpty() or not _sameGrid(stored, image):
        return image
    own = ownExtent(segmentationNode, segmentId)  # not the labelmap's: it may be the whole image's, shared by a hundred segments
    if own is None:
        return image
    extents = np.stack([np.array(image.GetExtent()).reshape(3, 2), own])
    return _onExtent(image, extents[..., 0].min(0), extents[..., 1].max(0))


def _sameGrid(image: Any, reference: Any) -> bool:
    """Equal spacing, directions and origin (not extent), within what a transform's inverse leaves."""
    step = np.linalg.inv(imageToWorld(reference)) @ imageToWorld(image)
    return bool(np.abs(step - np.eye(4)).max() < 1e-4)


def _within(image: Any, extent: Sequence[int]) -> Any:
    """The part of an image in an extent of its own grid; the nearest voxel, empty, when they do not meet."""
    own, whole = (np.array(one).reshape(3, 2) for one in (image.GetExtent(), extent))
    low, high = np.maximum(own[:, 0], whole[:, 0]), np.minimum(own[:, 1], whole[:, 1])
    if (low == own[:, 0]).all() and (high == own[:, 1]).all():
        return image
    low = np.minimum(low, whole[:, 1])
    return _onExtent(image, low, np.maximum(low, high))


def _onExtent(image: Any, low: np.ndarray, high: np.ndarray) -> Any:
    """An image on another extent of its grid, smaller or larger; empty where it has no voxels."""
    import slicer
    import vtk

    pad = vtk.vtkImageConstantPad()
    pad.SetInputData(image)
    pad.SetOutputWholeExtent(*np.stack([low, high], axis=1).ravel().tolist())
    pad.Update()
    changed = slicer.vtkOrientedImageData()
    changed.ShallowCopy(pad.GetOutput())
    changed.CopyDirections(image)
    return changed


def _touchedExtent(image: Any, reference: Any) -> Sequence[int]:
    """The part of the reference's extent that the image can reach; one voxel of it when they do not meet."""
    low, high = np.array(image.GetExtent()).reshape(3, 2).T
    corners = np.array([[*(np.where(bits, high + 0.5, low - 0.5)), 1.0] for bits in np.ndindex(2, 2, 2)])
    inReference = (np.linalg.inv(imageToWorld(reference)) @ imageToWorld(image) @ corners.T)[:3]
    whole = np.array(reference.GetExtent()).reshape(3, 2)
    first = np.clip(np.floor(inReference.min(axis=1)).astype(int), whole[:, 0], whole[:, 1])
    last = np.clip(np.ceil(inReference.max(axis=1)).astype(int), first, whole[:, 1])
    return np.stack([first, last], axis=1).ravel().tolist()
