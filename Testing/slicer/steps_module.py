"""The module: self-check, a cohort, the command line module, and its own self test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import slicer
from runner import NotRun, Steps

STEPS = Steps()


def _panel(person: Any) -> Any:
    slicer.util.selectModule("QMedSAMSegment")
    person.settle()
    return slicer.util.getModuleWidget("QMedSAMSegment").panel


def _sample() -> Path:
    from QMedSAMSegmentLib.selfcheck import sampleFolder

    return Path(sampleFolder())


@STEPS("the self-check gives milliseconds and a DSC")
def checks(person: Any) -> None:
    panel = _panel(person)
    person.press(panel.ui.checkButton)
    person.wait(lambda: panel._job is None, "the self-check is over", 300)
    text = panel.ui.checkLabel.text
    person.note(text)
    assert "ms per slice" in text and float(text.split("DSC ")[1].split(" ")[0]) >= 0.9, text


@STEPS("the models' names can be read, the shipped one is whole")
def models(person: Any) -> None:
    panel = _panel(person)
    table = panel.ui.modelsTable
    wide = table.fontMetrics().boundingRect(table.item(0, 0).text()).width()
    person.note(f"the name needs {wide} px, its column has {table.columnWidth(0)}")
    assert table.columnWidth(0) >= wide
    person.press(panel.ui.verifyButton)
    assert "equals its checksum" in panel.ui.modelLabel.text, panel.ui.modelLabel.text


@STEPS("a cohort: two cases are done, a third is named as broken")
def batch(person: Any) -> None:
    panel = _panel(person)
    cases, results = person.folder / "cases", person.folder / "results"
    for folder in (cases, results):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    volume = _sample() / "QMedSAMPhantom.nrrd"
    for name in ("one", "two", "three"):
        shutil.copy(volume, cases / f"{name}.nrrd")
        shutil.copy(volume.with_name("QMedSAMPhantom-boxes.mrk.json"), cases / f"{name}.mrk.json")
    (cases / "three.nrrd").write_bytes(volume.read_bytes()[:9000])
    panel.ui.batchButton.collapsed = False
    panel.ui.batchCasesEdit.setText(str(cases))
    panel.ui.batchOutputEdit.setText(str(results))
    person.settle()
    panel.ui.batchRunButton.click()
    person.wait(lambda: not panel.batch.running, "the cohort is done", 600)
    text = panel.ui.batchLabel.text
    person.note(text)
    person.picture("batch")
    assert "2 cases are done, 1 failed" in text, text
    assert (results / "index.html").is_file() and len(list(results.rglob("*.seg.nrrd"))) == 2


@STEPS("the command line module runs by slicer.cli.runSync")
def cli(person: Any) -> None:
    module = getattr(slicer.modules, "qmedsambatch", None)
    if module is None:
        raise NotRun("the folder QMedSAMBatch is not among the module paths")
    person.sample()
    person.only("right kidney")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by the module")
    (roi,) = person.rois()
    node = slicer.cli.runSync(module, None, {"inputVolume": person.volume, "roi": roi, "outputSegmentation": labels})
    person.note(f"{node.GetStatusString()}: {node.GetOutputText()[-300:]}")
    assert not node.GetStatus() & node.ErrorsMask, node.GetErrorText()
    assert labels.GetSegmentation().GetNumberOfSegments() >= 1


@STEPS("the module's own self test passes")
def selfTest(person: Any) -> None:
    import QMedSAMSegment

    test = QMedSAMSegment.QMedSAMSegmentTest()
    test.setUp()
    test.runTest()
