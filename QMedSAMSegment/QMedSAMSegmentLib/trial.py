"""OpenVINO is tried in a process of its own before it is loaded into the application: a crash must not take the user's scene."""

from __future__ import annotations

import os
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

from qmedsam import QMedSAMError
from qmedsam.models import user_folder
from qmedsam.network import runtime

from .launched import Launched

#: What is tried: the shipped model on one slice, beside Slicer's libraries. In the application these are searched first for
#: every symbol, in Python they are not: hence RTLD_GLOBAL.
_SCRIPT = """
import os, sys
print("pid", os.getpid(), flush=True)
flags = sys.getdlopenflags() if hasattr(os, "RTLD_GLOBAL") else None
if flags is not None:
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
for name in ("vtk", "mrml", "vtkSegmentationCorePython", "vtkITK"):
    try:
        __import__(name)
    except ImportError:
        pass
if flags is not None:
    sys.setdlopenflags(flags)
sys.path.insert(0, sys.argv[1])
import numpy as np
from qmedsam import Box, QMedSAMError, Segmenter, Volume
try:
    ramp = Volume(np.arange(64 * 64, dtype=np.int16).reshape(1, 64, 64))
    Segmenter(threads=1).segment(ramp, [Box.from_voxels((8, 8, 0), (40, 40, 0))])
except QMedSAMError as error:
    print("QMedSAM:", error)
    sys.exit(3)
print("QMedSAM: works")
"""
_SAID = "QMedSAM: "
#: Seconds that the trial may take: it loads the libraries of a slow disk for the first time.
TIMEOUT_S = 300


def pythonSlicer() -> Optional[str]:
    """Slicer's Python with its libraries; None where there is none."""
    import shutil

    return shutil.which("PythonSlicer")


def launchPython(arguments: Sequence[str]) -> Any:
    """Start Slicer's Python beside the application; a ``Popen`` whose ``stdout`` gives lines."""
    import slicer

    return slicer.util.launchConsoleProcess([str(pythonSlicer()), *arguments], useStartupEnvironment=False)


class Trial:
    """Tried once per version of OpenVINO and build of Slicer; what went well is remembered in a file.

    Args:
        remembered: the file.
        python: finds the interpreter; without one nothing is tried.
        launch: starts it.
        state: names what a result is for.
    """

    def __init__(
        self,
        remembered: Optional[Path] = None,
        python: Callable[[], Optional[str]] = pythonSlicer,
        launch: Callable[[Sequence[str]], Any] = launchPython,
        state: Optional[Callable[[], str]] = None,
    ) -> None:
        self._remembered = remembered or user_folder().parent / "OpenVINO-works.txt"
        self._python, self._launch, self._state = python, launch, state or stateOfThis
        self._lock = threading.Lock()  # two editors may ask at once

    def __call__(self) -> None:
        """Any thread may call it; it returns when OpenVINO may be loaded.

        Raises:
            QMedSAMError: OpenVINO cannot be loaded here, or would have ended the application.
        """
        with self._lock:
            state = self._state()
            if self._python() is None or state in self._known():
                return
            self._try()
            self._remember(state)

    def _try(self) -> None:
        process = self._launch(["-c", _SCRIPT, str(Path(runtime.__file__).resolve().parents[2])])
        launched, lines = Launched(process), []
        watch = threading.Timer(TIMEOUT_S, launched.stop)
        watch.daemon = True
        watch.start()
        for line in process.stdout:
            if line.startswith("pid "):
                launched.said(int(line[4:]))
            else:
                lines.append(line.rstrip())
        code = launched.wait()
        watch.cancel()
        said = next((line[len(_SAID) :] for line in reversed(lines) if line.startswith(_SAID)), "")
        if said == "works" and code == 0:
            return
        if code == 3 and said:
            raise QMedSAMError(said, "Nothing was lost: it was tried in a process of its own.")
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        raise QMedSAMError(
            f"OpenVINO ended the process in which it was tried ({last[:200]}; exit code {code}). It was not loaded into Slicer: "
            "nothing is lost.",
            "Install it again in the module QMedSAM. If that does not help, tell the developers this sentence and your system.",
        )

    def _known(self) -> List[str]:
        try:
            return self._remembered.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []

    def _remember(self, state: str) -> None:
        try:
            self._remembered.parent.mkdir(parents=True, exist_ok=True)
            self._remembered.write_text("\n".join([*self._known()[-9:], state, ""]), encoding="utf-8")
        except OSError:  # a read-only home is tried in again
            return


def stateOfThis() -> str:
    """OpenVINO's version and where Slicer's libraries are: another of either is tried anew."""
    try:
        version = metadata.version("openvino")
    except metadata.PackageNotFoundError:
        version = "none"
    return f"openvino {version}, Python {sys.version.split()[0]}, {os.environ.get('SLICER_HOME', sys.prefix)}, {_revision()}"


def _revision() -> str:
    """Of the application; empty where there is none, only its libraries."""
    import slicer

    return str(getattr(getattr(slicer, "app", None), "repositoryRevision", ""))


def guardThisApplication() -> None:
    """Try OpenVINO before it is loaded for the first time into the application."""
    if runtime.guard is None and _revision():
        runtime.guard = Trial()
