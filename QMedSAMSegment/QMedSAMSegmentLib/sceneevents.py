"""What the effect has to hear of the scene while it is active."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _


class SceneEvents:
    """Observes the scene and what is edited in it; the observations are the effect's and end with its activation.

    Args:
        effect: whose panel, boxes, session and observations are used.
    """

    def __init__(self, effect: Any) -> None:
        self._effect = effect

    def observeScene(self) -> None:
        """Follow nodes that come and go, and the saving and closing of the scene."""
        scene = slicer.mrmlScene
        for event, method in (
            (scene.StartCloseEvent, self.sceneClosing),
            (scene.StartSaveEvent, self.sceneSaving),
            (scene.EndSaveEvent, self.sceneSaved),
            (scene.NodeAddedEvent, self.nodeAdded),
            (scene.NodeRemovedEvent, self.nodeRemoved),
        ):
            self._effect.observations.addObserver(scene, event, method)

    def observeEdited(self) -> None:
        """Follow selection and segments: the editor itself tells an effect only of parameters."""
        segments, observations = slicer.vtkSegmentation, self._effect.observations
        moved = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
        watched = [
            (self._effect.scriptedEffect.parameterSetNode(), (vtk.vtkCommand.ModifiedEvent,)),
            (self._effect.segmentationNode, (segments.SegmentAdded, segments.SegmentRemoved, segments.SegmentModified, moved)),
            (self._effect.volumeNode, (moved, slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent)),  # it may be used as displayed
        ]
        for node, events in watched:
            for event in events if node is not None else ():
                if not observations.hasObserver(node, event, self.edited):
                    observations.addObserver(node, event, self.edited)
        volume = self._effect.volumeNode
        # Voxels that a script changes in place are told of by the node alone.
        for event in (volume.ImageDataModifiedEvent, vtk.vtkCommand.ModifiedEvent) if volume is not None else ():
            if not observations.hasObserver(volume, event, self.imageChanged):
                observations.addObserver(volume, event, self.imageChanged)

    def edited(self, caller: Any, event: Any) -> None:
        """Something was chosen or moved, or segments came, went or got another name or colour."""
        shown = self._effect.session.shown
        if shown is not None and not shown.alive:
            self._effect.drop(_("The segment of this preview is gone."))
        self._effect.panel.updateSoon()

    def imageChanged(self, volume: Any, event: Any) -> None:
        """Another frame of a sequence, say: a mask of the earlier one is neither shown on it nor written into it."""
        if volume is self._effect.volumeNode and self._effect.correcting.imageChanged():
            self._effect.panel.idle()
            self._effect.panel.say(_("The image has changed; nothing was written."))
        if self._effect.session.uses(volume):
            if self._effect.session.outdated:
                self._effect.drop(_("The image has changed; nothing was written."))
            else:
                self._effect.panel.updateSoon()  # another origin, say

    def sceneClosing(self, scene: Any, event: Any) -> None:
        """Nothing of the run will be left."""
        self._effect.drop()
        self._effect.boxes.placing = None

    def sceneSaving(self, scene: Any, event: Any) -> None:
        """The file gets the slice views' own foreground, not the agreement, which is not saved."""
        self._effect.session.agreement.clear()

    def sceneSaved(self, scene: Any, event: Any) -> None:
        """The agreement is shown again."""
        if self._effect.session.shown is not None:
            self._effect.session.agreement.show(self._effect.session.shown)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def nodeAdded(self, scene: Any, event: Any, node: Any) -> None:
        """A new ROI can be used as a box, and so can a line."""
        if node is not None and node.IsA("vtkMRMLMarkupsROINode"):
            self._effect.panel.updateSoon()  # it is still without its place
        elif node is not None and node.IsA("vtkMRMLMarkupsLineNode"):
            self._effect.observations.addObserver(node, node.PointPositionDefinedEvent, self.edited)
            self._effect.panel.updateSoon()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def nodeRemoved(self, scene: Any, event: Any, node: Any) -> None:
        """A box is gone, or what a run needs."""
        if node is not None and (self._effect.session.uses(node) or self._effect.correcting.uses(node)):
            self._effect.drop()
        if node is not None and node.IsA("vtkMRMLMarkupsROINode"):
            if node is self._effect.boxes.placing:
                self._effect.boxes.placing = None
            self._effect.updateGUIFromMRML()
        elif node is not None and node.IsA("vtkMRMLMarkupsLineNode"):
            self._effect.panel.updateSoon()
