"""Writes segments through the Segment Editor in which the effect is used."""

from __future__ import annotations

from typing import Any

from .segments import masksEdits


class EffectWriter:
    """A :class:`~QMedSAMSegmentLib.segments.SegmentWriter` over ``qSlicerSegmentEditorScriptedEffect``: its masking, its undo."""

    def __init__(self, scriptedEffect: Any) -> None:
        self._effect = scriptedEffect

    def saveStateForUndo(self) -> None:
        self._effect.saveStateForUndo()

    @property
    def masks(self) -> bool:
        return masksEdits(self._effect.parameterSetNode())

    def modify(self, segmentationNode: Any, segmentId: str, image: Any, add: bool) -> None:
        import slicer

        modes = slicer.qSlicerSegmentEditorAbstractEffect
        mode = modes.ModificationModeAdd if add else modes.ModificationModeSet
        # The editable area ("outside all segments") is that of the selected segment, whatever segment is modified.
        node = self._effect.parameterSetNode()
        selected = node.GetSelectedSegmentID()
        with slicer.util.NodeModify(node):  # the editor need not follow
            node.SetSelectedSegmentID(segmentId)
            try:
                self._effect.modifySegmentByLabelmap(segmentationNode, segmentId, image, mode)
            finally:
                node.SetSelectedSegmentID(selected)
