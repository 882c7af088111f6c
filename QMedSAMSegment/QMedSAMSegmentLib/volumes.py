"""Volume nodes to the engine's volumes."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np
from qmedsam import QMedSAMError, Volume

from .geometry import ijkToWorld


def volumeFromNode(volumeNode: Any, copy: bool = True) -> Volume:
    """The image of a volume node, placed in the world; what is shown of a sequence is its current frame.

    Args:
        volumeNode: grey or RGB(A), one slice or many, under no or a linear transform.
        copy: take the voxels along, so that another thread may read them while the scene changes.

    Returns:
        Voxels ``(k, j, i)`` or ``(k, j, i, 3)``, ``ijk_to_ras`` to world RAS, the modality where the scene knows it.

    Raises:
        QMedSAMError: no image, a non-linear transform, or components that are not grey or RGB.
    """
    import slicer

    imageOf(volumeNode)
    matrix = ijkToWorld(volumeNode)
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
    return Volume(array.copy() if copy else array, matrix, modalityOf(volumeNode), volumeNode.GetName() or "")


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
    return "CT" if units is not None and units.GetCodeValue() == "[hnsf'U]" else ""
