"""Installs OpenVINO: when the user says so, without its declared dependencies, from the network or from a folder of wheels."""

from __future__ import annotations

import importlib
import platform
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Optional, Sequence

from qmedsam import QMedSAMError

from .launched import Launched

REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"

#: What pip says, in lower case, and what it means for the user. The first that fits counts.
_CAUSES = (
    (
        ("certificate_verify_failed", "sslerror", "ssl:"),
        "A secure connection to the package index cannot be made; a firewall may read the traffic.",
    ),
    (
        (
            "proxyerror",
            "connection refused",
            "newconnectionerror",
            "connecttimeout",
            "name resolution",
            "getaddrinfo",
            "connection broken",
            "403 client error",
        ),
        "The package index cannot be reached; a firewall or a proxy may block it, or there is no network.",
    ),
    (("no space left",), "The disk is full; OpenVINO needs about 200 MB."),
    (("permission denied", "access is denied"), "Slicer's Python folder cannot be written to."),
    (("no matching distribution", "could not find a version"), "There is no OpenVINO wheel for this system and Python."),
)
_HINTS = {
    "The disk is full; OpenVINO needs about 200 MB.": "Free some space and try again.",
    "Slicer's Python folder cannot be written to.": "Start Slicer from a folder of your own, or once as administrator.",
}


#: For who tries to run without it.
INSTALL_HINT = "Open the module QMedSAM and press 'Install OpenVINO...', or call QMedSAMSegmentLogic().install() in a script."

#: Runs pip after a line with the process id (see :class:`Launched`).
_PIP = "import os, runpy; print('pid', os.getpid(), flush=True); runpy.run_module('pip', run_name='__main__', alter_sys=True)"

#: Seconds between two looks at whether the user has had enough.
POLL_S = 0.2

#: The effect and the module may both ask for it: two pips would write into the same folder.
_ONE_PIP = threading.Lock()


def installed() -> bool:
    """Whether OpenVINO is there; does not import it. Its wheel holds the metadata last: a pip that was stopped leaves none."""
    from importlib import metadata

    try:
        return bool(metadata.distribution("openvino").read_text("METADATA"))
    except metadata.PackageNotFoundError:
        return False


def pipArguments(wheelFolder: Optional[Path] = None, requirements: Path = REQUIREMENTS) -> List[str]:
    """Arguments for pip. ``--no-deps``: the declared dependencies hold a telemetry package and could change Slicer's numpy."""
    offline = ["--no-index", "--find-links", str(wheelFolder)] if wheelFolder else []
    common = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    return ["install", *common, *offline, "-r", str(requirements)]


def downloadCommand() -> str:
    """For a computer of the same system that has a network: fills a folder of wheels for the one that has none."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return f'python -m pip download --no-deps --only-binary=:all: --python-version {version} "openvino>=2025.3" -d wheels'


def launchPip(arguments: Sequence[str]) -> Any:
    """Start pip in Slicer's Python beside the application; a ``Popen`` whose ``stdout`` gives lines, first its ``pid``."""
    import shutil

    import slicer

    python = shutil.which("PythonSlicer")
    if python is None:
        raise QMedSAMError("Slicer's Python cannot be found.", "Install OpenVINO by hand: " + " ".join(["pip", *arguments]))
    return slicer.util.launchConsoleProcess([python, "-c", _PIP, *arguments], useStartupEnvironment=False)


class Installer:
    """Installs once and remembers a refusal for the session.

    Args:
        launch: starts pip with arguments.
        present: whether OpenVINO is there.
    """

    def __init__(self, launch: Callable[[Sequence[str]], Any] = launchPip, present: Callable[[], bool] = installed) -> None:
        self._launch, self.present = launch, present
        self.declined = False

    def agreed(self, ask: Callable[[str], bool]) -> bool:
        """Ask the user, once per session; false when OpenVINO is missing and the user does not want it now."""
        if self.declined:
            return False
        agreed = ask(QUESTION)
        self.declined = not agreed
        return agreed

    def install(
        self,
        wheelFolder: Optional[Path] = None,
        log: Optional[Callable[[str], None]] = None,
        cancelled: Optional[Callable[[], bool]] = None,
    ) -> bool:
        """Run pip to its end; may be called on any thread.

        Args:
            wheelFolder: take the wheel from there, without a network.
            log: gets pip's lines.
            cancelled: asked several times a second: a firewall that drops packets keeps pip silent for minutes.

        Returns:
            False when cancelled.

        Raises:
            QMedSAMError: with what the user can do: no wheel in the folder, blocked by a firewall, disk full ...
        """
        if wheelFolder is not None and not any(Path(wheelFolder).glob("openvino-*.whl")):
            raise QMedSAMError(f"There is no OpenVINO wheel in '{wheelFolder}'.", f"Fill the folder with: {downloadCommand()}")
        if not _ONE_PIP.acquire(blocking=False):
            raise QMedSAMError("OpenVINO is being installed already.", "Wait until that has ended.")
        try:
            return self._runPip(wheelFolder, log, cancelled)
        finally:
            _ONE_PIP.release()

    def _runPip(
        self, wheelFolder: Optional[Path], log: Optional[Callable[[str], None]], cancelled: Optional[Callable[[], bool]]
    ) -> bool:
        process = self._launch(pipArguments(wheelFolder))
        if hasattr(process.stdout, "reconfigure"):  # a name in a path may not be in the console's encoding
            process.stdout.reconfigure(errors="replace")
        launched, stopped = Launched(process), False
        lines: List[str] = []
        for line in _spoken(process.stdout):  # to the end: only then pip has let go of Slicer's Python folder
            if line is not None and line.startswith("pid "):
                launched.said(int(line[4:]))
            elif line is not None:
                lines.append(line)
                if log:
                    log(line)
            if cancelled and cancelled():
                stopped = True
                launched.stop()
        code = launched.wait()
        if stopped:
            return False
        if code != 0:
            raise explained(lines, wheelFolder is not None)
        importlib.invalidate_caches()
        if not self.present():
            raise QMedSAMError("pip finished, but OpenVINO is not there.", "Restart Slicer and try again.")
        return True


def _spoken(stream: Iterable[str]) -> Iterator[Optional[str]]:
    """A process's lines as they come, and None in every :data:`POLL_S` of its silence."""
    import queue

    heard: queue.SimpleQueue = queue.SimpleQueue()
    end = object()

    def listen() -> None:
        try:
            for line in stream:
                heard.put(line.rstrip())
        finally:
            heard.put(end)

    threading.Thread(target=listen, name="QMedSAM pip", daemon=True).start()
    while True:
        try:
            line = heard.get(timeout=POLL_S)
        except queue.Empty:
            yield None
            continue
        if line is end:
            return
        yield line


QUESTION = (
    "QMedSAM runs its networks with OpenVINO (by Intel, Apache-2.0). It is not part of Slicer: a package of about 60 MB is "
    "downloaded and takes about 180 MB on disk. Nothing else is installed, and nothing is ever sent.\n\nInstall it now?"
)


def explained(lines: Sequence[str], offline: bool) -> QMedSAMError:
    """A failed pip as a sentence and what to do about it."""
    text = "\n".join(lines).lower()
    cause = next((cause for marks, cause in _CAUSES if any(mark in text for mark in marks)), "")
    if offline:
        system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        return QMedSAMError(
            "The wheel in the folder cannot be installed" + (f": {cause[0].lower()}{cause[1:]}" if cause in _HINTS else "."),
            _HINTS.get(cause, f"It must be one for {system}: {downloadCommand()}"),
        )
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return QMedSAMError(
        cause or f"pip could not install OpenVINO ({last[:200]}).",
        _HINTS.get(
            cause,
            f"On a computer with a network run: {downloadCommand()} - then press 'Install from folder...' in the module QMedSAM.",
        ),
    )
