"""What happens between pressing a button of the effect and a segment that has changed. Knows no widget."""

from __future__ import annotations

from typing import Any, Callable, Optional

from qmedsam import QMedSAMError, Segmentation, Segmenter

from .agreement import AgreementOverlay
from .geometry import arrayFromMatrix, ijkToWorld
from .preview import Preview
from .runs import Run
from .volumes import imageOf, windowOf
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
        self._imageState: Any = None  # of the run's volume when its voxels were taken
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
    def outdated(self) -> bool:
        """Whether the run is of other voxels than its volume shows now: another frame of a sequence, another place."""
        try:
            return self._run is not None and imageState(self._run.volumeNode) != self._imageState
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
            self._job, run.result = None, result
            if not run.alive:
                broke(QMedSAMError("The image or the segmentation of this run is gone.", "Nothing was changed."))
                return
            if self.outdated:
                broke(QMedSAMError("The image changed during the run.", "Nothing was written."))
                return
            try:
                done(run, result)
            except Exception as error:  # a grid that became non-linear meanwhile, say: the user hears of it, the panel goes on
                broke(error)

        def broke(error: Exception) -> None:
            self.close()
            failed(error)

        task = run.task  # not the run: the thread may be the last to let go of what it holds, and nodes die on the main thread
        self._run, self._imageState = run, imageState(run.volumeNode)
        self._job = self._jobs(lambda report, stop: task.compute(segmenter, report, stop), arrived, broke, progress)
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


def fingerprint(volumeNode: Any, segmentationNode: Any, prompts: Any, settings: Any) -> Any:
    """What a result depends on, for telling whether a preview still shows what an Apply would write.

    Raises:
        QMedSAMError: the volume holds no image, is not shown with the window that is to be used, or its transform is not linear.
    """

    def place(roiNode: Any) -> Any:
        return arrayFromMatrix(roiNode.GetObjectToWorldMatrix()).round(6).tobytes(), tuple(roiNode.GetSize())

    return (
        imageState(volumeNode),
        windowOf(volumeNode) if settings.window == "displayed" else None,
        segmentationNode.GetID(),
        tuple((prompt.roiNode.GetID(), prompt.segmentId, place(prompt.roiNode)) for prompt in prompts),
        settings,
    )


def imageState(volumeNode: Any) -> Any:
    """Which voxels a volume node shows and where: another frame of a sequence or another origin make another state.

    Raises:
        QMedSAMError: the volume holds no image, or its transform is not linear.
    """
    return volumeNode.GetID(), imageOf(volumeNode).GetMTime(), ijkToWorld(volumeNode).tobytes()
