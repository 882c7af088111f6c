"""Ends a Python that Slicer's launcher started."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any, Optional


class Launched:
    """A process behind a launcher, which has to say its process id.

    ``PythonSlicer`` starts Python with Qt, lets it inherit the output and handles no signal: ending the launcher leaves that
    Python running (``ctkAppLauncher.cpp``, ``runProcess``).

    Args:
        launcher: its ``Popen``.
    """

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self._lock = threading.Lock()  # one thread reads what is said, another stops
        self._pid: Optional[int] = None
        self._stops = 0

    def said(self, pid: int) -> None:
        """Which process it is; what was asked of it before reaches it now."""
        with self._lock:
            self._pid = pid
            if self._stops:
                self._signal()

    def stop(self) -> None:
        """Ask it to end; the second time it is ended at once, and its launcher, too."""
        with self._lock:
            self._stops += 1
            self._signal()
            if self._stops > 1:
                self._launcher.kill()

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        code = int(self._launcher.wait())
        with self._lock:
            self._pid = None  # another process may get the number
        return code

    def _signal(self) -> None:
        import signal

        if self._pid is None:
            return
        number = signal.SIGTERM if self._stops == 1 else getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL
        with suppress(OSError):  # it has ended meanwhile
            os.kill(self._pid, number)
