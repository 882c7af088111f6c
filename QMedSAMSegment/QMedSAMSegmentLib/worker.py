"""Long work beside the window: a thread computes, a timer on the main thread looks at it."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Optional, Protocol

from .signals import connected

Work = Callable[[Callable[[int, int], None], Callable[[], bool]], Any]


class Timer(Protocol):
    """Calls back on the main thread, again and again from start until it is closed."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class QtTimer:
    """The timer of the application."""

    INTERVAL_MS = 30

    def __init__(self, callback: Callable[[], None]) -> None:
        import qt

        self._timer = qt.QTimer()
        self._timer.setInterval(self.INTERVAL_MS)
        connected(self._timer, "timeout()", callback)

    def start(self) -> None:
        self._timer.start()

    def close(self) -> None:
        """Stop for good. PythonQt keeps the callback, unseen by Python's collector, until Qt deletes the timer."""
        self._timer.stop()
        self._timer.deleteLater()  # the connection with it; this may be called from within it


def onThread(function: Callable[[], None]) -> None:
    """Start a function on a thread of the usual priority that does not keep the application from closing."""
    from qmedsam.batch.priority import raise_priority

    def run() -> None:
        raise_priority()
        function()

    threading.Thread(target=run, name="QMedSAM", daemon=True).start()


class Job:
    """One piece of work and what is known of it. Every callback comes on the main thread; afterwards it holds nothing of them.

    Args:
        work: ``work(progress, cancelled)`` returns the result; runs where ``launch`` puts it and must not touch the scene.
        done: gets the result.
        failed: gets the exception.
        progress: gets done and total, and the seconds left (None while nobody can say).
        prepare: called on the main thread until it returns True, then the work begins; what it raises is the job's failure.
        launch: starts a function elsewhere; a test may call it at once.
        timer: made of a callback; a test may fire it by hand.
    """

    #: The application's event loop holds Python's lock; waiting here for some milliseconds lends it to the thread.
    YIELD_S = 0.01
    #: How long the preparation may keep the application from its events at a time.
    PREPARE_S = 0.03

    def __init__(
        self,
        work: Work,
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        progress: Optional[Callable[[int, int, Optional[float]], None]] = None,
        prepare: Optional[Callable[[], bool]] = None,
        launch: Callable[[Callable[[], None]], None] = onThread,
        timer: Callable[[Callable[[], None]], Timer] = QtTimer,
    ) -> None:
        self._work: Optional[Work] = work
        self._done: Optional[Callable[[Any], None]] = done
        self._failed: Optional[Callable[[Exception], None]] = failed
        self._progress, self._prepare = progress, prepare
        self._launch, self._timer = launch, timer(self.poll)
        self._cancel, self._finished = threading.Event(), threading.Event()
        self._state = (0, 0)
        self._result: Any = None
        self._error: Optional[Exception] = None
        self._over = False

    def start(self) -> None:
        """Begin, and look at it until it is over."""
        self._started = time.monotonic()
        self._timer.start()
        self._advance()

    def cancel(self) -> None:
        """Ask it to stop; what it has so far arrives as its result, within a slice."""
        self._cancel.set()

    def abandon(self) -> None:
        """Ask it to stop and never call back: its receiver is going away."""
        self._cancel.set()
        self._release()

    @property
    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def poll(self) -> None:
        """Pass on what is new; the timer calls this."""
        if self._prepare is not None:
            self._advance()
        finished = self._finished.wait(self.YIELD_S)
        done, total = self._state
        if self._progress and total:
            self._progress(done, total, self._seconds_left(done, total))
        if not finished or self._over:  # over: delivered, or abandoned, perhaps by the progress
            return
        deliver, value = (self._done, self._result) if self._error is None else (self._failed, self._error)
        self._release()
        deliver(value)

    def _release(self) -> None:
        """Never call back again, and let go of what it would have called with: a volume and its labels among it."""
        if not self._over:
            self._over = True
            self._timer.close()
            self._done = self._failed = self._progress = self._prepare = self._result = self._error = None

    def _advance(self) -> None:
        """Go on with the preparation for a moment; then begin."""
        end = time.monotonic() + self.PREPARE_S
        try:
            while self._prepare is not None and not self._prepare():
                if time.monotonic() > end:
                    return
        except Exception as error:
            self._error, self._prepare = error, None
            self._finished.set()
            return
        self._prepare = None
        self._started = time.monotonic()
        self._launch(self._run)

    def _seconds_left(self, done: int, total: int) -> Optional[float]:
        return (time.monotonic() - self._started) / done * (total - done) if done else None

    def _run(self) -> None:
        work, self._work = self._work, None
        try:
            result = work(self._report, self._cancel.is_set)
            if not self._over:
                self._result = result
        except Exception as error:  # of any kind: it must reach the user, not the thread's end
            if not self._over:
                self._error = error
        finally:
            self._finished.set()

    def _report(self, done: int, total: int) -> None:
        self._state = (done, total)
