"""The first load of OpenVINO happens in a process of its own, and a crash there stays there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nodes import LAUNCHER
from qmedsam import QMedSAMError
from qmedsam.network import runtime
from QMedSAMSegmentLib import trial
from QMedSAMSegmentLib.trial import Trial


class Python:
    """Stands for PythonSlicer behind its launcher; ``instead`` runs in the place of what it is told."""

    def __init__(self, instead: str = "") -> None:
        self.instead, self.starts = instead, 0

    def __call__(self, arguments: Any) -> Any:
        self.starts += 1
        command = [sys.executable, *(["-c", self.instead] if self.instead else arguments)]
        return subprocess.Popen([*LAUNCHER, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _trial(folder: Path, python: Python, state: str = "1") -> Trial:
    return Trial(folder / "deep" / "tried.txt", lambda: sys.executable, python, lambda: state)


def test_what_works_is_tried_once_for_every_version(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    python = Python()
    for state in ("1", "1", "2", "2", "1"):
        _trial(tmp_path, python, state)()
    assert python.starts == 2


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("import os, sys; print('free(): invalid pointer', flush=True); os.abort()", "free(): invalid pointer"),
        ("import sys; sys.exit(7)", "exit code 7"),
        ("print('QMedSAM: works'); raise SystemExit(1)", "exit code 1"),
    ],
)
def test_a_crash_is_a_sentence_and_is_tried_again(tmp_path: Path, end: str, said: str) -> None:
    python = Python(end)
    for _ in range(2):
        with pytest.raises(QMedSAMError, match="ended the process in which it was tried") as caught:
            _trial(tmp_path, python)()
        assert said in caught.value.message
    assert python.starts == 2
    python.instead = "print('QMedSAM: works')"
    _trial(tmp_path, python)()
    _trial(tmp_path, python)()
    assert python.starts == 3


def test_what_the_user_can_mend_is_said_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(QMedSAMError, match="No wheel of this kind"):
        _trial(tmp_path, Python("import sys; print('QMedSAM: No wheel of this kind.'); sys.exit(3)"))()


def test_one_that_hangs_is_ended_with_its_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TIMEOUT_S", 1)
    hang = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(QMedSAMError, match="ended the process"):
        _trial(tmp_path, Python(hang))()


def test_without_slicers_python_there_is_nothing_to_try_with(tmp_path: Path) -> None:
    python = Python()
    Trial(tmp_path / "tried.txt", lambda: None, python, lambda: "1")()
    assert python.starts == 0


def test_a_crash_reaches_a_run_as_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through the only place that imports OpenVINO, from where every run comes by."""
    monkeypatch.setattr(runtime, "guard", _trial(tmp_path, Python("import os; os.abort()")))
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(QMedSAMError, match="nothing is lost"):
        runtime.import_openvino()
    assert "openvino" not in sys.modules


@pytest.mark.parametrize("application", [True, False])
def test_who_segments_for_the_application_is_guarded(monkeypatch: pytest.MonkeyPatch, application: bool) -> None:
    """Outside of it there is nobody's scene to lose."""
    import slicer
    from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic

    app = SimpleNamespace(repositoryRevision="34567") if application else SimpleNamespace()
    monkeypatch.setattr(slicer, "app", app, raising=False)
    monkeypatch.setattr(runtime, "guard", None)
    QMedSAMSegmentLogic()
    assert isinstance(runtime.guard, Trial) == application
    assert ("34567" in trial.stateOfThis()) == application
