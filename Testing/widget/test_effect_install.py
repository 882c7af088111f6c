"""Installing OpenVINO from within the effect: asked once, said what is wrong, stopped, never twice at a time."""

from __future__ import annotations

import pytest
from nodes import HandTimer, Pip
from QMedSAMSegmentLib.installer import Installer
from QMedSAMSegmentLib.worker import Job


@pytest.fixture
def withoutOpenVINO(editor):
    """The engine is missing until pip ends well."""
    state = {"present": False}
    pip = Pip(["Collecting openvino"], 0)
    editor.effect.installer = Installer(pip, lambda: state["present"] or (bool(pip.calls) and pip.code == 0))
    editor.effect.updateGUIFromMRML()
    return pip


def test_the_user_is_asked_once_and_may_decline(editor, withoutOpenVINO, answers) -> None:
    answers.answer = False
    frame = editor.ui.installFrame
    assert frame.isVisibleTo(frame.parentWidget())
    for _ in range(2):
        editor.ui.previewButton.click()
    assert len(answers.asked) == 1 and not withoutOpenVINO.calls and "not installed" in editor.status
    editor.ui.installButton.click()  # asking for it asks again
    assert len(answers.asked) == 2 and not withoutOpenVINO.calls


def test_the_user_accepts_and_goes_on(editor, withoutOpenVINO, answers) -> None:
    editor.ui.previewButton.click()
    assert "Installing" in editor.status
    editor.finish()
    assert len(withoutOpenVINO.calls) == 1 and "--no-deps" in withoutOpenVINO.calls[0]
    frame = editor.ui.installFrame
    assert not frame.isVisibleTo(frame.parentWidget()) and "installed" in editor.status
    editor.ui.previewButton.click()
    editor.finish()
    assert editor.effect.session.preview.shown


def test_a_blocked_installation_says_what_to_do(editor, withoutOpenVINO, answers) -> None:
    withoutOpenVINO.lines, withoutOpenVINO.code = ["ProxyError: cannot connect"], 1
    editor.ui.installButton.click()
    editor.finish()
    assert "firewall" in editor.status and "pip download" in editor.status and editor.ui.installButton.enabled


def test_an_installation_can_be_stopped_and_asked_for_again(editor, withoutOpenVINO, answers) -> None:
    button = editor.ui.installButton

    def silence():
        yield "Collecting openvino"
        withoutOpenVINO.killed.wait(60)

    withoutOpenVINO.lines = silence()
    atOnce = editor.effect.jobs
    editor.effect.jobs = lambda *work: Job(*work, timer=HandTimer)  # a thread, as in the application
    button.click()
    assert "Stop" in button.text
    editor.ui.previewButton.click()  # no second pip, and nothing half installed is loaded
    assert "being installed" in editor.status and len(withoutOpenVINO.calls) == 1
    button.click()
    assert withoutOpenVINO.killed.wait(60)
    while editor.effect.panel.installing:
        editor.finish()
    assert "stopped" in editor.status and button.text.startswith("Install")
    editor.effect.jobs = atOnce
    withoutOpenVINO.lines = ["Collecting openvino"]
    button.click()
    editor.finish()
    assert "OpenVINO is installed" in editor.status
