"""What a run would write, shown beside the segmentation until it is applied or dropped."""

from __future__ import annotations

from typing import Any, Optional

from .boxes import onlyViewsIn3D
from .geometry import removeWithDisplay
from .runs import DEFAULT_COLOR, Run

NAME = "QMedSAM preview"
#: Opacities of fill and outline, of what an Apply would write and of what is out of date.
FRESH, STALE = (0.35, 1.0), (0.08, 0.35)


class Preview:
    """A temporary segmentation node: not saved with the scene, not listed in choosers, gone with :meth:`clear`."""

    def __init__(self) -> None:
        self.node: Optional[Any] = None

    @property
    def shown(self) -> bool:
        return self.node is not None and self.node.GetScene() is not None

    def show(self, run: Run) -> Any:
        """Show the masks of a computed run, each in the colour of its segment; what was shown before goes.

        Returns:
            The temporary node.
        """
        import slicer

        self.clear()
        target = run.segmentationNode
        node = slicer.vtkMRMLSegmentationNode()
        node.SetName(NAME)
        node.SetSaveWithScene(False)
        self.node = node = target.GetScene().AddNode(node)
        node.SetAndObserveTransformNodeID(target.GetTransformNodeID())
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        if display is not None:
            display.SetSaveWithScene(False)
            self.dim(False)
            display.SetSliceIntersectionThickness(3)
        representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        for segmentId, image in run.images().items():
            original = target.GetSegmentation().GetSegment(segmentId)
            segment = slicer.vtkSegment()
            segment.SetName(original.GetName() if original else segmentId)
            segment.SetColor(original.GetColor() if original else DEFAULT_COLOR)
            segment.AddRepresentation(representation, image)
            node.GetSegmentation().AddSegment(segment, segmentId)
        # Last: the subject hierarchy knows no item for a hidden node, and every change of its segments becomes a critical error.
        node.SetHideFromEditors(True)
        self.suitLayout()
        return node

    def suitLayout(self) -> None:
        """In 3D only where the layout has nothing else: a surface of every preview would cost more than the masks."""
        display = self.node.GetDisplayNode() if self.shown else None
        if display is not None:
            in3D = onlyViewsIn3D(self.node.GetScene())
            if in3D:
                self.node.CreateClosedSurfaceRepresentation()
            display.SetVisibility3D(in3D)

    def dim(self, stale: bool) -> None:
        """Show that this is not what an Apply would write any more, or that it is again."""
        display = self.node.GetDisplayNode() if self.shown else None
        if display is not None:
            fill, outline = STALE if stale else FRESH
            display.SetOpacity2DFill(fill)
            display.SetOpacity2DOutline(outline)

    def clear(self) -> None:
        """Take it away; a scene that was closed has done so already."""
        node, self.node = self.node, None
        if node is not None:
            removeWithDisplay(node)
