"""The driver of the real application, without it: runner, command line, and the steps for which the shim has what they use."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List

import numpy as np
import pytest
import slicer
from clicks import ClickedView
from drawing import DrawnView
from editing import Editor
from nodes import logicOf
from PySide6 import QtWidgets
from QMedSAMSegmentLib.worker import Job

DRIVER = Path(__file__).resolve().parents[1] / "slicer"
sys.path.insert(0, str(DRIVER))

import run  # noqa: E402
from runner import NotRun, Runner, Step, Steps  # noqa: E402

STEP_FILES = sorted(DRIVER.glob("steps_*.py"))


class Nobody:
    """A person who does nothing."""

    def begin(self, name: str) -> None: ...

    def end(self, failed: bool) -> List[str]:
        return ["took a picture"] if failed else []


def test_every_step_is_named_and_tried_whatever_becomes_of_the_others(tmp_path: Path) -> None:
    steps, said = Steps(), []  # type: ignore[var-annotated]

    @steps("it works")
    def works(person: Any) -> None: ...

    @steps("it breaks")
    def breaks(person: Any) -> None:
        raise ZeroDivisionError("of all things")

    @steps("it cannot be run")
    def cannot(person: Any) -> None:
        raise NotRun("no network")

    @steps("it is wrong")
    def wrong(person: Any) -> None:
        assert 1 == 2, "one is not two"

    assert Runner(tmp_path, said.append).run(steps, Nobody()) == 2
    text = (tmp_path / "report.txt").read_text(encoding="utf-8")
    for part in ("[1/4] it works", "[2/4] it breaks", "[4/4] it is wrong", "of all things", "test_driver.py", "one is not two"):
        assert part in text, part
    assert "took a picture" in text and "1 ok, 2 FAILED, 1 not run" in text and "not run: it cannot be run" in text
    kept = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [one["state"] for one in kept] == ["ok", "FAILED", "not run", "FAILED"] and "Traceback" in kept[1]["why"]


def test_what_comes_up_around_a_step_fails_it(tmp_path: Path) -> None:
    class Surprised(Nobody):
        def end(self, failed: bool) -> List[str]:
            raise AssertionError("a dialog came")

    steps = [Step("a", lambda person: None), Step("b", lambda person: None)]
    runner = Runner(tmp_path, lambda line: None)
    assert runner.run(steps, Surprised()) == 2 and "a dialog came" in runner.outcomes[1].why


@pytest.mark.parametrize(("failing", "code"), [("", 0), ("raise ValueError('so')", 1), ("hang", 3), ("import", 2)])
def test_the_exit_code_tells_what_became_of_it(tmp_path: Path, failing: str, code: int) -> None:
    """In a process with stand-ins for the application and its steps."""
    step = "import time; time.sleep(60)" if failing == "hang" else failing if failing.startswith("raise") else "pass"
    around = "def __init__(self, folder, runner): ...\n    def begin(self, name): ...\n    def end(self, failed): return []\n"
    (tmp_path / "person.py").write_text("import nothing\n" if failing == "import" else f"class Person:\n    {around}")
    (tmp_path / "steps_one.py").write_text(
        f"from runner import Steps\nSTEPS = Steps()\n@STEPS('first')\ndef first(person):\n    {step}\n"
        "@STEPS('second')\ndef second(person): ...\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(DRIVER)!r}); import run\n"
        f"sys.path.insert(0, {str(tmp_path)!r}); run.FILES = ('steps_one',)\n"
        "run.Watch.begins.__defaults__ = (1,)  # seconds\n"
        f"sys.exit(run.main(['--output', {str(tmp_path / 'out')!r}, '--no-splash']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    if code == 3:
        assert "In: first" in (tmp_path / "out" / "hang.txt").read_text() and "time.sleep" not in done.stderr
    elif code != 2:
        assert "[2/2] second" in done.stdout


def test_steps_are_named_once_and_the_last_leaves_the_application_in_a_run(app) -> None:
    steps = run.allSteps()
    names = [step.name for step in steps]
    assert len(names) > 25 and len(set(names)) == len(names) and "when the application ends" in names[-1]
    assert {f"{path.stem}" for path in STEP_FILES} == set(run.FILES)


@pytest.mark.parametrize("path", sorted(DRIVER.glob("*.py")), ids=lambda path: path.name)
def test_the_driver_uses_what_slicer_has(app, path: Path) -> None:
    """Functions of ``slicer.util`` and MRML classes that exist, the syntax of the oldest Slicer, no foreign import."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    ours = {one.stem for one in DRIVER.glob("*.py")}
    known = {"numpy", "qt", "ctk", "vtk", "slicer", "qmedsam", "SampleData", "QMedSAMSegment", "QMedSAMSegmentLib", *ours}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "slicer.util":
            assert hasattr(slicer.util, node.attr), node.attr
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "slicer" and node.attr.startswith("vtk"):
            assert hasattr(slicer, node.attr), node.attr
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            name = (node.names[0].name if isinstance(node, ast.Import) else str(node.module)).split(".")[0]
            assert name in known or name in sys.stdlib_module_names, name


class ShimEditor:
    """The calls of ``qMRMLSegmentEditorWidget`` that the steps make, over :class:`editing.Editor`."""

    def __init__(self, editor: Editor) -> None:
        self._editor, self._active = editor, True

    def availableEffectNames(self) -> List[str]:
        return [self._editor.scripted.name]

    def activeEffect(self) -> Any:
        return self._editor.scripted if self._active else None

    def setActiveEffectByName(self, name: str) -> None:
        active = name == "QMedSAM"
        if active != self._active:
            self._active = active
            self._editor.effect.activate() if active else self._editor.effect.deactivate()

    def segmentationNode(self) -> Any:
        return self._editor.node.GetSegmentationNode()

    def sourceVolumeNode(self) -> Any:
        return self._editor.node.GetSourceVolumeNode()

    def mrmlSegmentEditorNode(self) -> Any:
        return self._editor.node

    def setCurrentSegmentID(self, segmentId: str) -> None:
        self._editor.logic.SetCurrentSegmentID(segmentId)

    def setSegmentationNode(self, node: Any) -> None:
        self.setActiveEffectByName("")
        self._editor.logic.SetSegmentationNode(node)


@pytest.fixture
def person(app, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Hands and eyes on the shim: widgets are pressed as in the application; views are Slicer's own, without a window."""
    from person import Person

    import QMedSAMSegment

    def load(file: str) -> Any:
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "QMedSAMPhantom")
        reader = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
        reader.SetFileName(file)
        assert reader.ReadData(volume)
        return volume

    class ShimPerson(Person):
        shown: Any = None

        @property
        def editor(self) -> Any:
            return self.shown

        def sample(self) -> None:
            slicer.mrmlScene.Clear(False)
            self.leave()
            for kind in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode"):
                assert slicer.mrmlScene.GetNodeByID(f"{kind}Singleton") is not None
            self.volume = QMedSAMSegment.loadSampleData()
            self.made = Editor(slicer.mrmlScene, self.volume, [], {})
            assert self.made.enabled
            self.made.effect.jobs = Job
            self.made.scripted.options.resize(520, 700)
            self.made.scripted.options.show()
            self.shown = ShimEditor(self.made)
            self.made.interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
            self.made.interaction.AddObserver("ModifiedEvent", lambda node, event: self.made.effect.interactionNodeModified(node))

        def leave(self) -> None:
            if self.shown is not None:
                self.shown.setActiveEffectByName("")
                self.made.scripted.options.hide()
                self.shown = None

        def undo(self) -> None:
            self.made.logic.Undo()
            self.settle()

        def redo(self) -> None:
            self.made.logic.Redo()
            self.settle()

        def show(self, ras: Any) -> None:
            from QMedSAMSegmentLib.geometry import ijkToWorld

            k = (np.linalg.inv(ijkToWorld(self.volume)) @ [*ras, 1])[2]
            self.view = ClickedView(self.volume, round(float(k)))

        def click(self, view: str, ras: Any, ctrl: bool = False) -> None:
            if self.effect.correcting.on:
                from QMedSAMSegmentLib.geometry import ijkToWorld

                node = self.view.node
                ijk = (np.linalg.inv(ijkToWorld(self.volume)) @ [*ras, 1])[:3]
                DrawnView(self.effect, self.volume, self.view.k, node=node).draw(ijk, ctrl=ctrl)
            else:
                self.view.clickRas(ras)
            self.settle()

        def drag(self, view: str, start: Any, end: Any, steps: int = 12) -> None:
            raise NotRun("nothing is drawn here")

        def picture(self, name: str) -> None: ...

        def _lookForDialogs(self) -> None: ...

    segmentations = SimpleNamespace(logic=lambda: logicOf("vtkSlicerSegmentationsModuleLogic"))
    monkeypatch.setattr(slicer.modules, "segmentations", segmentations, raising=False)
    volumes = slicer.vtkSlicerVolumesLogic()
    volumes.SetMRMLScene(slicer.mrmlScene)
    monkeypatch.setattr(slicer.modules, "volumes", SimpleNamespace(logic=lambda: volumes), raising=False)
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: made.shown.setActiveEffectByName(""))
    monkeypatch.setattr(slicer.util, "loadVolume", load)
    monkeypatch.setattr(slicer.util, "loadMarkups", slicer.modules.markups.logic().LoadMarkups)
    made = ShimPerson(tmp_path, SimpleNamespace())
    yield made
    made.leave()
    made._timer.stop()


#: Steps that need the application itself: other modules, files of the application, the installer, its pictures.
ELSEWHERE = {
    *("the module and the effect are registered, once", "versions of everything"),
    *("OpenVINO is installed, or gets installed from the module's page",),
    *("OpenVINO is tried in a process of its own before it is loaded", "keys of the effect: Shift+B, Shift+P, Shift+A"),
    *("a scene that is saved and loaded has its segments and bound boxes", "boxes come back from a .seg.nrrd"),
    "a scene that is closed during a run ends the run",
    "Correct: Shift and the wheel change the brush; with the effect the brush leaves the views",
    "Correct: strokes come back with a .seg.nrrd, on the segment of somebody else",
    "a broken model has a row and can be removed",
    "in a layout without slice views the preview is in 3D, and Add box says what is missing",
    "the volume that is segmented is named where another one is shown over it",
    "keys work while two Segment Editors have the effect",
    "a volume of 512 x 512 x 600: the window stays alive, and a shown preview holds nothing of it",
}
TRIED = [
    step
    for name in ("steps_start", "steps_boxes", "steps_runs", "steps_correct", "steps_scene", "steps_corners")
    for step in __import__(name).STEPS
    if step.name not in ELSEWHERE
]


@pytest.mark.parametrize("step", TRIED, ids=lambda step: step.name)
def test_the_steps_pass_on_the_shim(person, step: Step, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    runner = Runner(tmp_path, lambda line: None)
    runner.run([step], person)
    (outcome,) = runner.outcomes
    assert outcome.state == ("not run" if "pulled" in step.name else "ok"), outcome.why + "\n".join(outcome.notes)
    assert not any("click()" in note for note in outcome.notes), outcome.notes  # mouse events arrived
    assert QtWidgets.QApplication.activeModalWidget() is None
