"""Drives the effect and the module QMedSAM in a real 3D Slicer, as a person would.

    Slicer --python-script Testing/slicer/run.py [--output FOLDER] [--only TEXT] [--stay]

Needs a main window (a screen, or ``xvfb-run``) and nothing that Slicer does not have. Every step is named, a failing one gives
its traceback and a screenshot, and the others are still tried. Exit code: 0 all went well, 1 a step failed, 2 the driver itself
did, 3 a step, or the end of the application, hung (``hang.txt`` says where).
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, List, Sequence

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER)]

from runner import Runner, Step  # noqa: E402

#: Files of steps, in the order in which they are run; the last ends the application.
FILES = ("steps_start", "steps_boxes", "steps_runs", "steps_correct", "steps_scene", "steps_corners", "steps_module", "steps_end")
#: Seconds after which a step hangs.
HANGS_S = 900


def allSteps() -> List[Step]:
    """The steps of all files."""
    import importlib

    return [step for name in FILES for step in importlib.import_module(name).STEPS]


def arguments(argv: Sequence[str]) -> Any:
    """What was asked for; Slicer's own arguments may be among them. A Slicer that refuses ours takes the environment."""
    asked = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    output = asked("QMEDSAM_SLICER_REPORT")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(output) if output else None,
        help="folder for report and pictures (a new temporary one)",
    )
    parser.add_argument("--only", default=asked("QMEDSAM_SLICER_ONLY", ""), help="only steps whose name holds this")
    parser.add_argument("--stay", action="store_true", help="leave the application open")
    return parser.parse_known_args(argv)[0]


def say(line: str) -> None:
    """To the terminal at once: the application may end in the next step."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Watch:
    """Ends the application when nothing goes on any more, with the stacks of all threads in a file.

    Args:
        file: is written.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        # Slicer's own streams have no file number.
        self._file = open(file, "w", encoding="utf-8")  # noqa: SIM115
        threading.Thread(target=self._look, daemon=True).start()

    def begins(self, what: str, seconds: float = HANGS_S) -> None:
        """From now on, this is what may take so long."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"In: {what}\n")
        self._file.flush()
        faulthandler.dump_traceback_later(seconds, exit=False, file=self._file)

    def _look(self) -> None:
        """Exit code 3 once the stacks are written; by itself faulthandler would end with 1."""
        while "most recent call first" not in self._path.read_text(encoding="utf-8", errors="replace"):
            time.sleep(5)
        say(f"It hung: see {self._path}")
        os._exit(3)


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; the exit code."""
    chosen = arguments(argv)
    folder = chosen.output or Path(tempfile.mkdtemp(prefix="qmedsam-slicer-"))
    folder.mkdir(parents=True, exist_ok=True)
    watch = Watch(folder / "hang.txt")
    try:
        from person import Person

        steps = [step for step in allSteps() if chosen.only.lower() in step.name.lower()]
        runner = Runner(folder, say)
        failed = runner.run(steps, Person(folder, runner), lambda step: watch.begins(step.name))
        return 1 if failed or not steps else 0
    except Exception:
        say(traceback.format_exc())
        return 2
    finally:
        watch.begins("the end of the application", 3600 if chosen.stay else 180)


def start() -> None:
    """When the application has started: the script itself is read before its event loop runs."""
    import qt
    import slicer

    def begin() -> None:
        code = main(sys.argv[1:])
        if not arguments(sys.argv[1:]).stay:
            slicer.util.exit(code)

    qt.QTimer.singleShot(2000, begin)


if __name__ == "__main__":
    start()
