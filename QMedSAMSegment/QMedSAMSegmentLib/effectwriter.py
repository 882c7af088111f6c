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
        self._modify(segmentationNode, segmentId, image, "Add" if add else "Set")

    def remove(self, segmentationNode: Any, segmentId: str, image: Any) -> None:
        self._modify(segmentationNode, segmentId, image, "Remove")

    def _modify(self, segmentationNode: Any, segmentId: str, image: Any, how: str) -> None:
        import slicer

        mode = getattr(slicer.qSlicerSegmentEditorAbstractEffect, f"ModificationMode{how}")
        # The editable area ("outside all segments") is that of the selected segment, whatever segment is modified.
        node = self._effect.parameterSetNode()
        selected = node.GetSelectedSegmentID()
        with slicer.util.NodeModify(node):  # the editor need not follow
            node.SetSelectedSegmentID(segmentId)
            try:
                self._effect.modifySegmentByLabelmap(segmentationNode, segmentId, image, mode)
            finally:
                node.SetSelectedSegmentID(selected)
