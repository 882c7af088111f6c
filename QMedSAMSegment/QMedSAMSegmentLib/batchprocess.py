"""A cohort in a process of its own: the command line module, its lines read as they come."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from qmedsam import QMedSAMError

from .launched import Launched

MODULE = "QMedSAMBatch.py"

#: Exit codes of the module.
FINISHED, SOME_FAILED = 0, 1


class Ended(NamedTuple):
    """How a run ended: the module's exit code, and the last thing that it said in words."""

    code: int
    message: str


def moduleFile(beside: Optional[Path] = None) -> Path:
    """The command line module: in ``cli-modules`` of an installed or built extension, or in the source tree.

    Raises:
        QMedSAMError: it is not there.
    """
    scripts = (beside or Path(__file__)).resolve().parents[1]
    for folder in (scripts.parent / "cli-modules", scripts.parent / "QMedSAMBatch"):
        for found in (folder / MODULE, *sorted(folder.glob(f"*/{MODULE}"))):  # a build may have a folder per configuration
            if found.is_file():
                return found
    raise QMedSAMError(f"The command line module {MODULE} is not there.", "Install the extension QMedSAM again.")


def launchModule(arguments: Sequence[str]) -> Any:
    """Start the module with Slicer's Python beside the application; a ``Popen`` whose ``stdout`` gives lines."""
    import shutil

    import slicer

    python = shutil.which("PythonSlicer")
    if python is None:
        raise QMedSAMError("Slicer's Python cannot be found.", "Run 'qmedsam batch' in a terminal instead.")
    return slicer.util.launchConsoleProcess([python, str(moduleFile()), *arguments], useStartupEnvironment=False)


def moduleArguments(
    cases: Path, folder: Path, modality: str = "auto", strategy: str = "auto", workers: int = 1, again: bool = False
) -> List[str]:
    """The module's command line for a cohort."""
    source = ["--cases" if cases.is_dir() else "--cases_file", str(cases)]
    settings = ["--modality", modality, "--strategy", strategy, "--workers", str(workers)]
    return [*source, "--output_folder", str(folder), *settings, *(["--again"] if again else []), "--json"]


class BatchProcess:
    """One run of the module; ``read`` belongs to a thread, the rest to the main thread.

    Args:
        arguments: the module's command line.
        launch: starts it.

    Attributes:
        stopped: whether it was asked to end.
    """

    def __init__(self, arguments: Sequence[str], launch: Callable[[Sequence[str]], Any] = launchModule) -> None:
        self._lock = threading.Lock()
        self._events: List[Dict[str, Any]] = []
        self._message = ""
        self.stopped = False
        self._process = launch(arguments)
        self._launched = Launched(self._process)

    def read(self, progress: Callable[[int, int], None], cancelled: Callable[[], bool]) -> Ended:
        """Follow the module to its end. ``cancelled`` is not asked: ``stop`` ends the process and with it its lines."""
        for line in self._process.stdout:
            self._take(line.strip(), progress)
        return Ended(self._launched.wait(), self._message)

    def stop(self) -> None:
        """Ask it to end, so that it writes its summary; the second time it is ended at once. What is done stays done."""
        self.stopped = True
        self._launched.stop()

    def events(self) -> List[Dict[str, Any]]:
        """What the module told since this was last asked, oldest first (see ``qmedsam batch --json``)."""
        with self._lock:
            taken, self._events = self._events, []
        return taken

    def _take(self, line: str, progress: Callable[[int, int], None]) -> None:
        import json

        opened, closed = "<filter-progress>", "</filter-progress>"
        if line.startswith(opened) and line.endswith(closed):
            progress(round(100 * float(line[len(opened) : -len(closed)])), 100)
        elif line.startswith("{"):
            event = json.loads(line)
            if event["event"] == "process":
                self._launched.said(event["pid"])
            elif event["event"] == "progress":
                progress(round(1000 * event["share"]), 1000)
            elif event["event"] == "error":
                self._message = event["message"]
            with self._lock:
                self._events.append(event)
        elif line and not line.startswith("<"):
            self._message = line
