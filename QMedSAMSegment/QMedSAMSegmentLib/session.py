"""What happens between pressing a button of the effect and a segment that has changed. Knows no widget."""

from __future__ import annotations

from typing import Any, Callable, Optional

from qmedsam import QMedSAMError, Segmentation, Segmenter

from .agreement import AgreementOverlay
from .boxes import boxFromRoi
from .geometry import ijkToWorld
from .grids import gridOf
from .preview import Preview
from .runs import Run
from .segments import ijkToSegmentation
from .volumes import voxelState, windowOf
from .worker import Job

#: Makes a :class:`Job`; a test makes one without a thread.
JobFactory = Callable[..., Job]


class Session:
    """At most one run: computing, or computed and shown.

    Args:
        jobs: makes a job.
    """

    def __init__(self, jobs: JobFactory = Job) -> None:
        self._jobs = jobs
        self._job: Optional[Job] = None
        self._run: Optional[Run] = None
        self._voxels: Any = None  # of the run's volume when they were taken
        self._place: Any = None
        self.preview, self.agreement = Preview(), AgreementOverlay()

    @property
    def running(self) -> bool:
        return self._job is not None

    @property
    def shown(self) -> Optional[Run]:
        """The computed run whose preview is shown."""
        return self._run if self._job is None and self.preview.shown else None

    def uses(self, node: Any) -> bool:
        """Whether the run that computes or is shown needs this volume or segmentation."""
        return self._run is not None and any(node is one for one in (self._run.volumeNode, self._run.segmentationNode))

    @property
    def lost(self) -> bool:
        """Whether the run that computes or is shown has nothing left to be written to or from."""
        return self._run is not None and not self._run.alive

    @property
    def outdated(self) -> bool:
        """Whether the run is of other voxels than its volume shows now: another frame of a sequence, say."""
        try:
            return self._run is not None and voxelState(self._run.volumeNode) != self._voxels
        except QMedSAMError:  # no image any more
            return True

    def start(
        self,
        run: Run,
        segmenter: Segmenter,
        done: Callable[[Run, Segmentation], None],
        failed: Callable[[Exception], None],
        progress: Callable[[int, int, Optional[float]], None],
    ) -> None:
        """Compute a run beside the window; what was computing or shown before is dropped."""
        self.close()

        def arrived(result: Segmentation) -> None:
            self._job = None
            if not run.alive:
                broke(QMedSAMError("The image or the segmentation of this run is gone.", "Nothing was changed."))
                return
            try:
                if self.outdated or place(run.volumeNode, run.segmentationNode) != self._place:
                    raise QMedSAMError("The image, or its place, changed during the run.", "Nothing was written.")
                run.finish(result)
                run.forget()  # a preview may be looked at for an hour
                done(run, result)
            except Exception as error:  # a grid that became non-linear meanwhile, say: the user hears of it, the panel goes on
                broke(error)

        def broke(error: Exception) -> None:
            self.close()
            failed(error)

        task = run.task  # not the run: the thread may be the last to let go of what it holds, and nodes die on the main thread
        self._run, self._voxels = run, voxelState(run.volumeNode)
        self._place = place(run.volumeNode, run.segmentationNode)
        work = task.compute
        self._job = self._jobs(lambda report, stop: work(segmenter, report, stop), arrived, broke, progress, run.prepare)
        self._job.start()

    def show(self, run: Run) -> None:
        """Show a computed run."""
        self._run = run
        self.preview.show(run)
        self.agreement.show(run)

    def cancel(self) -> bool:
        """Stop a run that is computing (it arrives with what it has), else drop the preview.

        Returns:
            Whether a run was stopped.
        """
        if self._job is not None:
            self._job.cancel()
            return True
        self.close()
        return False

    @property
    def cancelling(self) -> bool:
        return self._job is not None and self._job.cancelled

    def close(self) -> None:
        """Stop and forget everything; nothing calls back afterwards."""
        if self._job is not None:
            self._job.abandon()
        self._job = self._run = None
        self.preview.clear()
        self.agreement.clear()


def place(volumeNode: Any, segmentationNode: Any) -> Any:
    """Where a volume lies in a segmentation, and on which grid that is edited; the same when both are moved together.

    Raises:
        QMedSAMError: a transform is not linear.
    """
    return ijkToSegmentation(ijkToWorld(volumeNode), segmentationNode).round(4).tolist(), gridOf(segmentationNode)


def fingerprint(volumeNode: Any, segmentationNode: Any, prompts: Any, settings: Any) -> Any:
    """What a result depends on, for telling whether a preview still shows what an Apply would write.

    Raises:
        QMedSAMError: the volume holds no image, is not shown with the window that is to be used, or its transform is not linear.
    """

    def boxOf(roiNode: Any) -> Any:
        try:
            box = boxFromRoi(roiNode, volumeNode)
        except QMedSAMError as error:
            return str(error)
        return box.center_ijk.round(4).tolist(), box.half_axes_ijk.round(4).tolist()

    return (
        voxelState(volumeNode),
        place(volumeNode, segmentationNode),
        windowOf(volumeNode) if settings.window == "displayed" else None,
        segmentationNode.GetID(),
        tuple((prompt.roiNode.GetID(), prompt.segmentId, boxOf(prompt.roiNode)) for prompt in prompts),
        settings,
    )
