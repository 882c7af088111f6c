"""Volume nodes to the engine's volumes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional, Tuple

import numpy as np
from qmedsam import QMedSAMError, Volume

from .geometry import ijkToWorld

#: Bytes that a copy takes out of the scene at a time: some milliseconds, also on a busy machine.
PIECE = 8 * 2**20


def volumeFromNode(volumeNode: Any) -> Volume:
    """The image of a volume node, placed in the world; what is shown of a sequence is its current frame.

    Args:
        volumeNode: grey or RGB(A), one slice or many, under no or a linear transform.

    Returns:
        The scene's own voxels, which change with it (:class:`VoxelCopy` takes them along), ``(k, j, i)`` or ``(k, j, i, 3)``;
        ``ijk_to_ras`` to world RAS; the modality where the scene knows it.

    Raises:
        QMedSAMError: no image, a non-linear transform, or components that are not grey or RGB.
    """
    return Volume(_voxelsOf(volumeNode), ijkToWorld(volumeNode), modalityOf(volumeNode), volumeNode.GetName() or "")


def _voxelsOf(volumeNode: Any) -> np.ndarray:
    """The scene's own voxels, grey or RGB; see :func:`volumeFromNode`."""
    import slicer

    imageOf(volumeNode)
    array = slicer.util.arrayFromVolume(volumeNode)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    elif array.ndim == 4 and array.shape[3] in (3, 4) and array.dtype == np.uint8:
        array = array[..., :3]  # the fourth is opacity
    elif array.ndim != 3:
        raise QMedSAMError(
            f"The volume '{volumeNode.GetName()}' has {array.shape[-1]} components of the type {array.dtype}.",
            "Use a grey image or RGB of 8 bits per channel; the module Vector to Scalar Volume extracts a component.",
        )
    return array


class VoxelCopy:
    """A volume on its way out of the scene: copied piece by piece, so that the window does not wait for a large one.

    Args:
        volumeNode: as for :func:`volumeFromNode`.

    Attributes:
        volume: whose voxels are there once :meth:`step` has said so; another thread may read them then, whatever the scene does.

    Raises:
        QMedSAMError: as :func:`volumeFromNode`.
    """

    def __init__(self, volumeNode: Any) -> None:
        shared = volumeFromNode(volumeNode)
        self._node, self._state, self._next = volumeNode, voxelState(volumeNode), 0
        array = np.empty(shared.array_kji.shape, shared.array_kji.dtype)
        self._rows = max(1, PIECE // max(array[0].nbytes, 1))
        self.volume = replace(shared, array_kji=array)

    def step(self) -> bool:
        """Copy the next piece; whether all is there.

        Raises:
            QMedSAMError: the image has gone or changed since the first piece.
        """
        if self._node.GetScene() is None or voxelState(self._node) != self._state:
            raise QMedSAMError("The image changed before the run had its voxels.", "Nothing was written; start again.")
        array, stop = self.volume.array_kji, self._next + self._rows
        # Asked for anew each time: nothing of the scene's memory is held between two pieces.
        array[self._next : stop] = _voxelsOf(self._node)[self._next : stop]
        self._next = stop
        return stop >= len(array)


def voxelState(volumeNode: Any) -> Any:
    """Which voxels a volume node shows: another frame of a sequence, or a voxel edited in place, make another state.

    Raises:
        QMedSAMError: the volume holds no image.
    """
    return volumeNode.GetID(), imageOf(volumeNode).GetMTime()


def imageOf(volumeNode: Any) -> Any:
    """The ``vtkImageData`` of a volume node.

    Raises:
        QMedSAMError: no volume, or one without an image.
    """
    if volumeNode is None:
        raise QMedSAMError("There is no volume to segment.", "Choose a source volume in the Segment Editor.")
    image = volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise QMedSAMError(f"The volume '{volumeNode.GetName()}' holds no image.", "Load it again.")
    return image


def modalityOf(volumeNode: Any) -> str:
    """DICOM's modality of a volume, from the scene, the DICOM database or the unit of its voxels; ``""`` when nobody says."""
    return _fromSubjectHierarchy(volumeNode) or _fromDatabase(volumeNode) or _fromUnits(volumeNode)


def onlyVolume(scene: Any) -> Optional[Any]:
    """The volume of a scene that holds a single one, not counting label maps and what other modules hide; else None."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    volumes = [scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode") for n in range(count)]
    found = [one for one in volumes if not one.GetHideFromEditors() and not one.IsA("vtkMRMLLabelMapVolumeNode")]
    return found[0] if len(found) == 1 else None


def showsAnother(volumeNode: Any) -> bool:
    """Whether a slice view on the screen shows another volume, over this one or in its place."""
    scene = volumeNode.GetScene()
    count = scene.GetNumberOfNodesByClass("vtkMRMLSliceNode") if scene is not None else 0
    views = [scene.GetNthNodeByClass(n, "vtkMRMLSliceNode") for n in range(count)]
    mapped = {view.GetLayoutName() for view in views if view.IsMappedInLayout()}
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode") if mapped else 0):
        composite = scene.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode")
        shown = [composite.GetBackgroundVolumeID()]
        if composite.GetForegroundOpacity() > 0:
            shown.append(composite.GetForegroundVolumeID())
        nodes = [scene.GetNodeByID(one) for one in shown if one]
        # A node that is hidden from choosers is an overlay of a module's own: the agreement of a vote, say.
        if composite.GetLayoutName() in mapped and any(
            one is not None and one is not volumeNode and not one.GetHideFromEditors() for one in nodes
        ):
            return True
    return False


def windowOf(volumeNode: Any) -> Tuple[float, float]:
    """Width and level with which a volume is shown now.

    Raises:
        QMedSAMError: it is not shown with a window (an RGB image, or nothing that can be shown).
    """
    display = volumeNode.GetDisplayNode() if volumeNode is not None else None
    if display is None or not hasattr(display, "GetWindow"):
        raise QMedSAMError("The volume is not shown with a window.", "Let the modality choose it.")
    return float(display.GetWindow()), float(display.GetLevel())


def _fromSubjectHierarchy(volumeNode: Any) -> str:
    import slicer

    scene = volumeNode.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) if scene else None
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy else 0
    return hierarchy.GetItemAttribute(item, "DICOM.Modality") or "" if item else ""


def _fromDatabase(volumeNode: Any) -> str:
    import slicer

    uids = (volumeNode.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)  # absent without the application
    if not uids or database is None or not database.isOpen:
        return ""
    return database.fileValue(database.fileForInstance(uids[0]), "0008,0060") or ""


def _fromUnits(volumeNode: Any) -> str:
    units = volumeNode.GetVoxelValueUnits() if hasattr(volumeNode, "GetVoxelValueUnits") else None
    code = (units.GetCodeValue() or "") if units is not None else ""
    if code == "[hnsf'U]":
        return "CT"
    # Standardized uptake values by body weight, lean mass, surface ..., and activity: what Slicer's DICOM plugins write for PET.
    return "PET" if code.startswith("{SUV") or code.lower() == "bq/ml" else ""
