"""*Correct* in the effect: strokes wait for each other, each is computed beside the window and written once."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import slicer
from qmedsam import QMedSAMError, Segmenter, Volume
from qmedsam.correction import Correction
from qmedsam.marks import Stroke
from slicer.i18n import tr as _

from .boxes import shownSlice
from .correction import CorrectionRun
from .correctpanel import told
from .effectwriter import EffectWriter
from .geometry import ijkToWorld
from .preview import Preview
from .segments import ijkToSegmentation
from .strokemarks import StrokeMarks
from .strokes import StrokeTool, strokeFrom
from .stroketags import strokesOf
from .volumes import VoxelCopy, voxelState
from .worker import Job

#: Answers that a network gives for one prompt, where nothing else is known yet.
ANSWERS = 3


class _Shown:
    """The answer for the shown slice, as a :class:`~QMedSAMSegmentLib.preview.Preview` takes it."""

    def __init__(self, run: CorrectionRun, answer: Any) -> None:
        self.segmentationNode, self._images = run.segmentationNode, run.sliceImages(answer)

    def images(self) -> Dict[str, Any]:
        return self._images


class Correcting:
    """At most one correction computes; further strokes wait for it.

    Args:
        effect: whose nodes, settings, engine, jobs and panel are used.

    Attributes:
        tool: what the mouse does.
        preview: of the shown slice, while the whole object computes.
        strokes: of the selected segment.
    """

    def __init__(self, effect: Any) -> None:
        self._effect = effect
        self.marks = StrokeMarks(effect.scriptedEffect)
        self.tool = StrokeTool(self.drawn, self._adding, self._allowed, self.marks)
        self.preview = Preview()
        self._job: Optional[Job] = None
        self._run: Optional[CorrectionRun] = None  # computing, or the last that was written
        self._waiting: List[Callable[[], CorrectionRun]] = []
        self._answers: List[Any] = []  # for the shown slice, from the thread
        self._voxels: Any = None  # (state, place, volume): the same arrays for every stroke, which the engine knows again
        self._asked: List[Segmenter] = []
        self._total = ANSWERS
        self.strokes: Tuple[Stroke, ...] = ()

    # What the user does

    @property
    def on(self) -> bool:
        return self.tool.on

    def turn(self, on: bool) -> None:
        """Start or end correcting. What is shown as a preview is applied first: strokes correct a segment."""
        if on == self.on:
            return
        self.tool.on = on
        if on:
            if self._effect.session.shown is not None:
                self._effect.onApplyClicked()
            else:
                self._effect.panel.say("")  # the line says what to do
        else:
            self.drop()
            self.marks.close()
            self._voxels = self._run = None
            for segmenter in self._asked:
                segmenter.forget()  # the slices' embeddings, and the image with them
            self._asked.clear()
        self._effect.updateGUIFromMRML()

    def drawn(self, path: List[np.ndarray], sliceToRas: np.ndarray, adds: bool, radius_mm: float) -> None:
        """A stroke was drawn."""
        effect = self._effect
        with effect.panel.mendable():
            volumeNode, segmentationNode, segmentId = effect.volumeNode, effect.segmentationNode, effect.segmentId
            stroke = strokeFrom(path, sliceToRas, volumeNode, adds, radius_mm)
            self._add(lambda: self._new(volumeNode, segmentationNode, segmentId, stroke=stroke))

    def another(self) -> None:
        """The network's next answer to the last stroke, in place of the last one."""
        effect = self._effect
        if self._job is not None or not effect.ready():
            return
        with effect.panel.mendable():
            last = self._run
            nodes = effect.volumeNode, effect.segmentationNode, effect.segmentId
            asked = last is not None and (last.volumeNode, last.segmentationNode, last.segmentId) == nodes and last.stands
            candidate = (last.task.candidate + 1) % self._total if asked and last is not None else 1
            self._add(lambda: self._new(*nodes, candidate=candidate, before=last if asked else None))

    def goOn(self) -> None:
        """From the slice that is shown, as it was painted, into the others."""
        effect = self._effect
        if self._job is not None or not effect.ready():
            return
        with effect.panel.mendable():
            nodes = effect.volumeNode, effect.segmentationNode, effect.segmentId
            k = shownSlice(nodes[0])
            if k is None:
                raise QMedSAMError("No view shows a slice of the image.", "Show the slice that you have painted.")
            self._add(lambda: self._new(*nodes, start=(2, k)))

    def cancel(self) -> bool:
        """Stop what computes, and forget what waits; whether anything did."""
        self._waiting.clear()
        if self._job is None:
            return False
        self._job.cancel()
        return True

    # What the effect tells

    @property
    def running(self) -> bool:
        return self._job is not None

    @property
    def lost(self) -> bool:
        """Whether what computes has nothing left to be written to or from."""
        return self.running and self._run is not None and not self._run.alive

    def uses(self, node: Any) -> bool:
        """Whether what computes, or could be answered anew, is about this volume or segmentation."""
        return self._run is not None and any(node is one for one in (self._run.volumeNode, self._run.segmentationNode))

    def imageChanged(self) -> bool:
        """Forget the voxels where they are not the image's any more; whether something computed with them."""
        try:
            stale = self._voxels is not None and self._voxels[0] != voxelState(self._effect.volumeNode)
        except QMedSAMError:  # no image any more
            stale = True
        if not stale:
            return False
        running = self.running
        self.drop()
        return running

    def drop(self) -> None:
        """Stop and forget everything; nothing calls back afterwards, and nothing of the scene is held."""
        if self._job is not None:
            self._job.abandon()
        self._job = self._run = self._voxels = None
        self._waiting.clear()
        self._answers.clear()
        self.preview.clear()
        self.tool.giveUp()

    def update(self) -> None:
        """The selected segment, its strokes or the image may be others now."""
        effect = self._effect
        if not self.on:
            return
        self.strokes = ()
        if effect.volumeNode is not None and self._segment() is not None:
            try:
                toNode = ijkToSegmentation(ijkToWorld(effect.volumeNode), effect.segmentationNode)
                self.strokes = strokesOf(effect.segmentationNode, effect.segmentId, toNode)
            except QMedSAMError:  # a bent transform: said when something is drawn
                pass
        self.marks.list(self.strokes, effect.volumeNode)

    # Runs

    def _segment(self) -> Any:
        node = self._effect.segmentationNode
        return None if node is None else node.GetSegmentation().GetSegment(self._effect.segmentId)

    def _adding(self) -> bool:
        return not self._effect.panel.ui.removeStrokesButton.checked

    def _allowed(self) -> bool:
        """Whether a stroke may begin; says why not."""
        effect = self._effect
        if effect.session.shown is not None:
            effect.onApplyClicked()
        # A dialog about a hidden segment takes the release of the button: the stroke is drawn again.
        if effect.session.running or effect.scriptedEffect.confirmCurrentSegmentVisible() != 1 or not effect.ready():
            return False
        if self._segment() is None:
            effect.panel.say(_("Choose a segment to correct."))
            return False
        return True

    def _add(self, make: Callable[[], CorrectionRun]) -> None:
        self._waiting.append(make)
        if self._job is None:
            self._next()

    def _new(self, volumeNode: Any, segmentationNode: Any, segmentId: str, **what: Any) -> CorrectionRun:
        if segmentationNode.GetScene() is None or segmentationNode.GetSegmentation().GetSegment(segmentId) is None:
            raise QMedSAMError("The segment of this stroke is gone.", "Choose another.")
        keepPainted = self._effect.scriptedEffect.integerParameter("keepPainted") != 0
        volume = self._volume(volumeNode)
        return CorrectionRun(
            volumeNode, segmentationNode, segmentId, volume, self._effect.settings, keepPainted=keepPainted, **what
        )

    def _volume(self, volumeNode: Any) -> Volume:
        state, place = voxelState(volumeNode), ijkToWorld(volumeNode).round(6).tolist()
        if self._voxels is None or self._voxels[:2] != (state, place):
            copy = VoxelCopy(volumeNode)
            while not copy.step():  # once for all strokes
                pass
            self._voxels = state, place, copy.volume
        return self._voxels[2]

    def _next(self) -> None:
        """Begin with the stroke that has waited longest."""
        effect = self._effect
        self._run = None
        with effect.panel.mendable():
            run = self._waiting.pop(0)()
            task, answers = run.task, self._answers
            segmenter = effect.logic.segmenter(effect.settings.model)
            if segmenter not in self._asked:
                self._asked.append(segmenter)

            def work(report: Callable[[int, int], None], stop: Callable[[], bool]) -> Any:
                def first(answer: Any) -> None:
                    answers.append(answer)
                    report(0, 1)  # the timer looks at what is there

                return task.compute(segmenter, first, report, stop)

            self._run = run
            self._job = effect.jobs(work, self._arrived, self._failed, self._progress)
            effect.panel.started(1)
            effect.panel.say(_("Correcting..."))
            self._job.start()
            return
        self._waiting.clear()

    def _progress(self, done: int, total: int, secondsLeft: Optional[float]) -> None:
        run = self._run
        if self._answers and run is not None and run.alive:
            self.preview.show(_Shown(run, self._answers[-1]))
        self._answers.clear()
        if done and self._job is not None and not self._job.cancelled:
            self._effect.panel.progress(done, total, secondsLeft)

    def _failed(self, error: Exception) -> None:
        self._ended()
        self._run = None
        self._waiting.clear()
        self._effect.panel.fail(error)

    def _ended(self) -> None:
        self._job = None
        self._answers.clear()
        self.preview.clear()

    def _arrived(self, result: Correction) -> None:
        run = self._run
        assert run is not None
        self._ended()
        panel = self._effect.panel
        with panel.mendable():
            if result.cancelled:
                self._run = None
                panel.idle()
                panel.say(_("Stopped; the segment is as it was."))
                return
            if not run.alive:
                raise QMedSAMError("The image or the segment of this correction is gone.", "Nothing was changed.")
            if self._voxels is None or self._voxels[0] != voxelState(run.volumeNode) or not run.untouched:
                raise QMedSAMError("The image or the segment changed during the correction.", "Nothing was written; draw again.")
            with slicer.util.RenderBlocker():
                changed = run.write(result, EffectWriter(self._effect.scriptedEffect))
            self._total = max(len(result.candidates), 1)  # none where no network was asked
            self._effect.updateGUIFromMRML()
            panel.idle()
            panel.say(told(run, result, changed, self._total))
            if self._waiting:
                self._next()
            return
        self._run = None
        self._waiting.clear()
        panel.updateButtons()
