"""Settings are checked where they are made: a typing error changes no segment."""

from __future__ import annotations

import numpy as np
import pytest
from nodes import addRoi, addSegmentation, addVolume, brightSegmenter, grid, labelmaps, segmentArray
from qmedsam import QMedSAMError
from qmedsam.intensity import CT_WINDOWS
from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic
from QMedSAMSegmentLib.settings import Settings

WRONG = {
    "mode": "Add",
    "window": "bones",
    "strategy": "Fixed",
    "frame": "box",
    "agreement": "maybe",
    "modality": "CTT",
    "model": "",
}


@pytest.mark.parametrize("name", WRONG)
def test_an_unknown_value_is_refused_by_name(name) -> None:
    with pytest.raises(QMedSAMError, match=name) as caught:
        Settings(**{name: WRONG[name]})
    assert caught.value.hint
    with pytest.raises(QMedSAMError):
        Settings().changed(**{name: WRONG[name]})


@pytest.mark.parametrize("value", [None, True, 1, ("yes",)])
def test_what_is_no_text_is_refused(value) -> None:
    with pytest.raises(QMedSAMError, match="agreement"):
        Settings(agreement=value)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(QMedSAMError, match="no setting 'strateg'") as caught:
        Settings().changed(strateg="fixed")
    assert "strategy" in caught.value.hint


def test_windows_by_the_engines_names_and_by_numbers() -> None:
    for name, window in CT_WINDOWS.items():
        assert Settings(window=name).engineOptions((1.0, 2.0))["window"] == window
    assert Settings(window="200,40").engineOptions((1.0, 2.0))["window"] == (200, 40)
    assert Settings(window="displayed").engineOptions((1.0, 2.0))["window"] == (1.0, 2.0)
    assert Settings().engineOptions((1.0, 2.0))["window"] is None
    for wrong in ("0,40", "nan,40", "200", "-1,2"):
        with pytest.raises(QMedSAMError, match="not a window"):
            Settings(window=wrong)


def test_a_parameter_that_was_never_set_is_the_default() -> None:
    assert Settings.of(dict.fromkeys(Settings.names(), "")) == Settings()
    assert Settings.of({"mode": "add", "model": ""}) == Settings(mode="add")
    with pytest.raises(QMedSAMError, match="mode"):
        Settings.of({"mode": "Add"})


@pytest.fixture
def study(scene):
    array = np.zeros((12, 40, 44), np.uint8)
    array[3:9, 10:30, 12:32] = 200
    volume = addVolume(scene, array, grid((1, 1, 2)))
    roi = addRoi(scene, (grid((1, 1, 2)) @ [21.5, 19.5, 5.5, 1])[:3], np.diag([11.0, 11, 7]))
    return volume, roi, addSegmentation(scene, volume, ["a"])


def test_a_typing_error_leaves_a_segment_as_it_was(study) -> None:
    volume, roi, segmentation = study
    logic = QMedSAMSegmentLogic(brightSegmenter)
    logic.segment(volume, [roi], segmentation, ["a"], strategy="fixed")
    before = labelmaps(segmentation)
    roi.SetSize(8, 8, 8)
    for changes in ({"mode": "Add"}, {"window": "bones"}, {"mod": "add"}):
        with pytest.raises(QMedSAMError):
            logic.segment(volume, [roi], segmentation, ["a"], **changes)
    assert labelmaps(segmentation) == before and segmentArray(segmentation, "a", volume).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda v, r, s: (v, r), "not a list"),
        (lambda v, r, s: (v, "box"), "not a list"),
        (lambda v, r, s: (v, [None]), "The box is None"),
        (lambda v, r, s: (v, ["box"]), "The box is the text 'box'"),
        (lambda v, r, s: (v, [v]), "a vtkMRMLScalarVolumeNode"),
        (lambda v, r, s: ("CT", [r]), "The volume is the text 'CT'"),
        (lambda v, r, s: (None, [r]), "The volume is None"),
        (lambda v, r, s: (s, [r]), "The volume is a vtkMRMLSegmentationNode"),
        (lambda v, r, s: (v, [r], "Segmentation"), "The segmentation is the text"),
        (lambda v, r, s: (v, [r], s, "a"), "The segments are the text 'a'"),
        (lambda v, r, s: (v, [r], s, ["a"], {"mode": "add"}), "The settings are a dict"),
        (lambda v, r, s: (v, [r], s, ["a"], None, v), "The Segment Editor node is a vtkMRMLScalarVolumeNode"),
    ],
)
def test_what_a_script_gives_by_mistake_gets_a_sentence(study, arguments, words) -> None:
    nodes = study[0].GetScene().GetNumberOfNodes()
    with pytest.raises(QMedSAMError, match=words) as caught:
        QMedSAMSegmentLogic(brightSegmenter).segment(*arguments(*study))
    assert caught.value.hint and study[0].GetScene().GetNumberOfNodes() == nodes
