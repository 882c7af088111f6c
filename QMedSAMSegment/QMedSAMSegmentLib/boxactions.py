"""What the effect's buttons do with boxes, and what happens when a box is placed, pulled or let go."""

from __future__ import annotations

from typing import Any, Dict, Sequence

import slicer
import vtk
from qmedsam import QMedSAMError
from slicer.i18n import tr as _

from . import boxes, drawn
from .boxtags import restoreBoxes
from .foreign import adopt, candidates
from .geometry import arrayFromMatrix
from .runs import DEFAULT_COLOR
from .segments import maskOf


class BoxActions:
    """Boxes of the segmentation that an effect edits.

    Args:
        effect: whose panel, table, selection and observations are used.

    Attributes:
        placing: the box that waits for its clicks, or None.
    """

    def __init__(self, effect: Any) -> None:
        self._effect = effect
        self.placing: Any = None
        self._firstCorner: Any = None
        self._held = False
        self._changed: Any = None  # a box since the last rest
        self._places: Dict[str, Any] = {}  # of boxes, when they were last let go

    def add(self) -> None:
        """A new box for the selected segment, else for a new one, to be placed with two clicks."""
        self.endPlacing()  # of an earlier press
        with self._effect.panel.mendable():
            self._effect.chooseOnlyVolume()
            roiNode = self._newBox()
            self._effect.observations.addObserver(roiNode, roiNode.PointPositionDefinedEvent, self.placed)
            slicer.modules.markups.logic().SetActiveList(roiNode)
            # Not the logic's StartPlaceMode: it sets what is placed back to control points.
            _interactionNode().SwitchToSinglePlaceMode()
            self.placing = roiNode  # not before: the switch may pass through the arrow, which gives a box up
            if boxes.onlyViewsIn3D(slicer.mrmlScene):
                self._effect.panel.say(_("This layout has no slice view: choose one that has, then click two opposite corners."))
            else:
                self._effect.panel.say(_("Click two opposite corners of the object in a slice view."))

    def useAllRois(self) -> None:
        """Every ROI of the scene that is meant as a box becomes that of a new segment of its name and colour."""
        with self._effect.panel.mendable():
            if self._effect.segmentationNode is None:
                raise QMedSAMError(_("There is no segmentation."), _("Choose one, or make a new one, above."))
            segmentation, made = self._effect.segmentationNode.GetSegmentation(), []
            self._effect.scriptedEffect.saveStateForUndo()
            for roiNode, objection in candidates(slicer.mrmlScene, self._effect.volumeNode):
                if objection:
                    continue
                color = roiNode.GetDisplayNode().GetSelectedColor() if roiNode.GetDisplayNode() else DEFAULT_COLOR
                made.append(segmentation.AddEmptySegment("", roiNode.GetName(), color))
                adopt(roiNode, self._effect.segmentationNode, made[-1])
            if made and segmentation.GetSegment(self._effect.segmentId) is None:
                self._select(made[0])
            self._made()

    def useRoi(self, nodeId: str) -> None:
        """An ROI of the scene becomes the box of the selected segment, else of a new one; a line gives one its place."""
        with self._effect.panel.mendable():
            node = slicer.mrmlScene.GetNodeByID(nodeId)
            if node.IsA("vtkMRMLMarkupsLineNode"):
                center, halfAxes, corners = drawn.boxOfLine(node, self._effect.volumeNode)
                roiNode = self._newBox()
                boxes.setRoi(roiNode, center, halfAxes)
                drawn.remember(roiNode, corners)
            else:
                adopt(node, self._effect.segmentationNode, self._segment())
            self._made()

    def fit(self) -> None:
        """Fit the chosen box to what is in the selected segment; a segment without one gets one."""
        with self._effect.panel.mendable():
            roiNode = self._effect.table.current
            isNew = roiNode is None or roiNode.GetAttribute(boxes.SEGMENT_ATTRIBUTE) != self._effect.segmentId
            image = self._effect.scriptedEffect.selectedSegmentLabelmap()
            mask, toWorld = maskOf(image, self._effect.segmentationNode)
            if not mask.any():
                raise QMedSAMError(_("The selected segment is empty."), _("Paint a rough shape first, or draw the box."))
            fitted = self._newBox() if isNew else roiNode
            try:
                boxes.fitToMask(fitted, mask, toWorld)
            except QMedSAMError:
                if isNew:
                    slicer.mrmlScene.RemoveNode(fitted)
                raise
            self._made()

    def flatten(self) -> None:
        """Make the chosen box one slice thick, on the slice that is shown."""
        with self._effect.panel.mendable():
            k = boxes.flattenToSlice(self._chosen(), self._effect.volumeNode)
            self._effect.updateGUIFromMRML()
            self._effect.panel.say(_("The box covers the slice {k}.").format(k=k))

    def duplicate(self) -> None:
        """A second box for the chosen one's segment."""
        with self._effect.panel.mendable():
            twin = boxes.duplicate(self._chosen())
            self._made()
            self._effect.table.choose(twin)

    def delete(self) -> None:
        """Take the chosen box out of the scene; its segment stays."""
        with self._effect.panel.mendable():
            slicer.mrmlScene.RemoveNode(self._chosen())

    def restore(self) -> None:
        """Make the boxes again that segments carry in their tags."""
        with self._effect.panel.mendable():
            _rois, problems = restoreBoxes(self._effect.segmentationNode)
            self._made()
            if problems:
                self._effect.panel.say("\n".join(problems))

    def showHandles(self, shown: bool) -> None:
        """Show or hide the handles of every box of the segmentation."""
        for roiNode in boxes.boundRois(self._effect.segmentationNode):
            if roiNode.GetDisplayNode() is not None:
                roiNode.GetDisplayNode().SetHandlesInteractive(shown)

    def chosen(self, roiNode: Any) -> None:
        """The user has chosen a row: its segment becomes the selected one."""
        self._select(roiNode.GetAttribute(boxes.SEGMENT_ATTRIBUTE))

    def placed(self, roiNode: Any, event: Any) -> None:
        """A click has landed; after the second one the box is there, and as deep as it is wide."""
        try:
            boxes.boxFromRoi(roiNode, self._effect.volumeNode)
        except QMedSAMError:
            self._firstCorner = [0.0, 0.0, 0.0]  # kept here: the second click puts the box's centre in its place
            roiNode.GetNthControlPointPositionWorld(0, self._firstCorner)
            return
        corner = self._firstCorner
        self.endPlacing()
        if corner is not None:
            boxes.squareToView(roiNode, corner, self._effect.volumeNode)
        self._effect.panel.say(_("Pull the box's handles in the other views until it holds the whole object, then Preview."))
        self._effect.updateGUIFromMRML()
        self.released(roiNode, event)

    def modeChanged(self, interactionNode: Any) -> None:
        """Who goes back to the arrow before the second click has given the box up."""
        if self.placing is not None and interactionNode.GetCurrentInteractionMode() != interactionNode.Place:
            self.endPlacing()
            self._effect.panel.say(_("No box was placed."))

    def grasped(self, roiNode: Any, event: Any) -> None:
        """A handle is held."""
        self._held = True

    def released(self, roiNode: Any, event: Any) -> None:
        """A box was let go: the time to preview it, if that is wanted; its segment becomes the selected one."""
        self._held = False
        if roiNode is not self.placing:
            self._redraw(roiNode)
        self._places[roiNode.GetID()] = _place(roiNode)
        bound = boxes.boundSegmentId(roiNode, self._effect.segmentationNode) is not None
        if self._effect.scriptedEffect.integerParameter("autoUpdate") and bound and roiNode is not self.placing:
            self.chosen(roiNode)
            self._effect.onPreview()

    def _redraw(self, roiNode: Any) -> None:
        if self._effect.volumeNode is None:
            return
        try:
            box = boxes.boxFromRoi(roiNode, self._effect.volumeNode)
        except QMedSAMError:
            return  # said where it is used
        drawn.redraw(roiNode, self._effect.volumeNode, box, boxes.shownViews(slicer.mrmlScene))

    def modified(self, roiNode: Any, event: Any) -> None:
        """A box is being pulled, or was changed by numbers or by a script: sizes are shown anew when it rests."""
        self._changed = roiNode
        self._effect.panel.updateSoon()

    def rested(self) -> None:
        """A box that was changed by no handle is at rest: as if it had been let go."""
        roiNode, self._changed = self._changed, None
        if roiNode is None or self._held or roiNode.GetScene() is None:
            return
        if self._places.get(roiNode.GetID()) not in (None, _place(roiNode)):
            self.released(roiNode, None)

    def _made(self) -> None:
        self._effect.updateGUIFromMRML()
        self.showHandles(self._effect.panel.ui.handlesCheck.checked)

    def _newBox(self) -> Any:
        roiNode = boxes.createRoi(slicer.mrmlScene, self._effect.segmentationNode, self._segment())
        roiNode.GetDisplayNode().SetHandlesInteractive(self._effect.panel.ui.handlesCheck.checked)
        return roiNode

    def _segment(self) -> str:
        """The selected segment; without one a new one is added and selected, as the editor's button *Add* does."""
        if self._effect.segmentationNode is None:
            raise QMedSAMError(_("There is no segmentation."), _("Choose one, or make a new one, above."))
        segmentation = self._effect.segmentationNode.GetSegmentation()
        if segmentation.GetSegment(self._effect.segmentId) is None:
            self._effect.scriptedEffect.saveStateForUndo()
            self._select(segmentation.AddEmptySegment(""))
        return self._effect.segmentId

    def _select(self, segmentId: str) -> None:
        self._effect.scriptedEffect.parameterSetNode().SetSelectedSegmentID(segmentId)

    def _chosen(self) -> Any:
        roiNode = self._effect.table.current
        if roiNode is not None and roiNode.GetAttribute(boxes.SEGMENT_ATTRIBUTE) != self._effect.segmentId:
            self._effect.updateGUIFromMRML()  # the table follows a new selection only after a short rest
            raise QMedSAMError(_("The chosen box was another segment's."), _("Look at the table, and press again."))
        if roiNode is None:
            raise QMedSAMError(_("No box is chosen."), _("Choose one in the table."))
        return roiNode

    def observe(self, rois: Sequence[Any]) -> None:
        """Follow boxes until the effect is left."""
        for roiNode in rois:
            for event, method in (
                (roiNode.PointStartInteractionEvent, self.grasped),
                (roiNode.PointEndInteractionEvent, self.released),
                (roiNode.TransformModifiedEvent, self.modified),
                (vtk.vtkCommand.ModifiedEvent, self.modified),
            ):
                self._places.setdefault(roiNode.GetID(), _place(roiNode))
                if not self._effect.observations.hasObserver(roiNode, event, method):
                    self._effect.observations.addObserver(roiNode, event, method)

    def endPlacing(self) -> None:
        """Stop waiting for clicks; a box that has none goes."""
        roiNode, self.placing, self._firstCorner = self.placing, None, None
        self._held, self._changed = False, None
        if roiNode is None or roiNode.GetScene() is None:
            return
        self._effect.observations.removeObserver(roiNode, roiNode.PointPositionDefinedEvent, self.placed)
        if max(roiNode.GetSize()) <= 0:  # never placed
            slicer.mrmlScene.RemoveNode(roiNode)
            if _interactionNode() is not None:
                _interactionNode().SwitchToViewTransformMode()


def _place(roiNode: Any) -> Any:
    return arrayFromMatrix(roiNode.GetObjectToWorldMatrix()).round(4).tolist(), [round(length, 4) for length in roiNode.GetSize()]


def _interactionNode() -> Any:
    return slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
