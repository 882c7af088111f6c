"""Teaching in a Python of its own, which has torch: found or asked for, never made without the user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence

from qmedsam import QMedSAMError

#: Where the user's Python is remembered.
_KEY = "QMedSAM/TeachPython"
#: Seconds in which a Python says whether it has what is needed.
_PATIENCE = 20.0
#: Exit code of a teaching that gained nothing and wrote nothing.
NOTHING_GAINED = 1
_ASK = "import sys, importlib.util as u; sys.exit(0 if all(map(u.find_spec, ('torch', 'qmedsam_training'))) else 3)"

#: What makes such a Python, anywhere; shown, and run by the user.
SET_UP = (
    "git clone https://github.com/QMedSAM/SlicerQMedSAM && cd SlicerQMedSAM && python3 -m venv .venv && "
    ".venv/bin/pip install torch -e . -e Training && "
    ".venv/bin/pip install --no-deps -r QMedSAMSegment/Resources/requirements.txt"
)


def teaches(python: str) -> bool:
    """Whether a Python has torch and ``qmedsam_training``; no longer than some seconds."""
    import subprocess

    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, timeout=_PATIENCE, env=environment(), check=False)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return False
    return done.returncode == 0


def foundPython(teach: Callable[[str], bool] = teaches) -> Optional[str]:
    """The Python that the user chose last, else one of the search path that can teach; None where there is none."""
    return next((python for python in dict.fromkeys(_candidates()) if teach(python)), None)


def rememberPython(python: str) -> None:
    """For the next time."""
    import qt

    qt.QSettings().setValue(_KEY, python)


def _candidates() -> Iterator[str]:
    import shutil

    import qt

    remembered = str(qt.QSettings().value(_KEY, "") or "")
    if remembered:
        yield remembered
    command = shutil.which("qmedsam-train", path=environment().get("PATH"))
    if command:  # it lies beside its Python
        yield str(Path(command).with_name("python.exe" if os.name == "nt" else "python"))
    for name in ("python3", "python"):
        found = shutil.which(name, path=environment().get("PATH"))
        if found:
            yield found


def environment() -> Any:
    """Of the application before it added its own libraries, which another Python must not find."""
    import slicer

    application = getattr(slicer, "app", None)  # absent without the application
    found = dict(slicer.util.startupEnvironment() if hasattr(application, "startupEnvironment") else os.environ)
    for name in ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE"):
        if "slicer" in found.get(name, "").lower():
            found.pop(name)
    return found


def teachArguments(cases: Path, model: Path, anyway: bool = False) -> List[str]:
    """The command line behind ``python``."""
    return ["-m", "qmedsam_training", "teach", str(cases), "-o", str(model), "--json", *(["--write-anyway"] if anyway else [])]


def shownCommand(cases: Path, model: Path) -> str:
    """The same for a terminal, here or on another computer."""
    return f'qmedsam-train teach "{cases}" -o "{model}"'


def launcher(python: str) -> Callable[[Sequence[str]], Any]:
    """What starts a teaching; a ``Popen`` whose ``stdout`` gives lines.

    Args:
        python: that has torch and ``qmedsam_training``.
    """

    def launch(arguments: Sequence[str]) -> Any:
        import subprocess

        try:
            return subprocess.Popen(
                [python, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment(),
            )
        except OSError as error:
            raise QMedSAMError(f"'{python}' cannot be started ({error.strerror}).", "Choose another Python.") from error

    return launch
