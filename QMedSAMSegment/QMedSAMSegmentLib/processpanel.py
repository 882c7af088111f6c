"""What the module's sections have in common whose work is a process of its own: start it, follow it, stop it."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence

from qmedsam import QMedSAMError

from .batchprocess import BatchProcess, Ended
from .worker import Job


class ProcessPanel:
    """A section with a progress bar and a line of text. Its own part: :meth:`updateButtons`, :meth:`_show`, :meth:`_finished`.

    Args:
        jobs: makes a job; a test makes one without a thread.
        bar: shows how far the process is.
        label: says what happens.
    """

    def __init__(self, jobs: Callable[..., Job], bar: Any, label: Any) -> None:
        self._jobs, self._bar, self._label = jobs, bar, label
        self._job: Optional[Job] = None
        self._process: Optional[BatchProcess] = None

    def close(self) -> None:
        """Ask a run to end; nothing calls back afterwards."""
        if self._job is not None and self._process is not None:
            self._job.abandon()
            self._process.stop()
        self._job = self._process = None

    @property
    def running(self) -> bool:
        return self._job is not None

    def updateButtons(self) -> None:
        """Only what can be done now can be pressed."""
        raise NotImplementedError

    def _start(self, arguments: Sequence[str], launch: Callable[[Sequence[str]], Any], text: str) -> None:
        self._bar.setRange(0, 0)
        self._label.setText(text)
        try:
            self._process = BatchProcess(arguments, launch)
        except (QMedSAMError, OSError) as error:
            self._ended(str(error))
            return
        self._job = self._jobs(self._process.read, self._finished, self._failed, self._progress)
        self.updateButtons()
        self._job.start()

    def _stop(self, text: str) -> None:
        if self._process is not None:
            self._label.setText(text)
            self._process.stop()

    def _progress(self, done: int, total: int, secondsLeft: Optional[float]) -> None:
        self._bar.setRange(0, total)
        self._bar.setValue(done)
        self._show()

    def _show(self) -> None:
        """What the process told since the last time."""
        raise NotImplementedError

    def _finished(self, ended: Ended) -> None:
        raise NotImplementedError

    def _failed(self, error: Exception) -> None:
        self._ended(str(error))

    def _ended(self, text: str) -> None:
        self._job = self._process = None
        self._label.setText(text)
        self.updateButtons()
