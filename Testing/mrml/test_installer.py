"""OpenVINO is installed only when the user agrees, without its dependencies, and a failure says what to do."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
from contextlib import nullcontext

import pytest
import slicer
from nodes import LAUNCHER, Pip
from qmedsam import QMedSAMError
from QMedSAMSegmentLib import installer
from QMedSAMSegmentLib.installer import Installer, explained, pipArguments


def test_dependencies_are_never_installed_and_pip_accepts_the_arguments(tmp_path) -> None:
    arguments = pipArguments()
    assert "--no-deps" in arguments and str(installer.REQUIREMENTS) in arguments
    assert installer.REQUIREMENTS.is_file()
    offline = pipArguments(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pip", *offline, "--dry-run", "--ignore-installed"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "no matching distribution" in done.stderr.lower(), done.stderr  # the folder is empty
    assert "no such option" not in done.stderr


def test_the_user_is_asked_once() -> None:
    questions = []
    refusing = Installer(Pip(), lambda: False)
    assert not refusing.agreed(lambda text: questions.append(text) or False)
    assert not refusing.agreed(lambda text: questions.append(text) or True)
    assert len(questions) == 1 and "60 MB" in questions[0]
    assert Installer(Pip(), lambda: False).agreed(lambda text: True)


def test_an_installation_logs_and_checks_that_it_worked() -> None:
    pip, log = Pip(["Collecting openvino", "Successfully installed"]), []
    assert Installer(pip, lambda: True).install(log=log.append)
    assert log == ["Collecting openvino", "Successfully installed"] and "--no-index" not in pip.calls[0]
    with pytest.raises(QMedSAMError, match="not there"):
        Installer(Pip(), lambda: False).install()


@pytest.mark.parametrize("code", [0, 1])
def test_there_is_one_pip_at_a_time(code) -> None:
    """The effect and the module have an installer each."""
    second = Pip()

    def meanwhile(line: str) -> None:
        with pytest.raises(QMedSAMError, match="already"):
            Installer(second, lambda: True).install()

    first = Installer(Pip(["Collecting openvino"], code), lambda: True)
    with pytest.raises(QMedSAMError, match="could not install") if code else nullcontext():
        assert first.install(log=meanwhile)
    assert second.calls == []
    assert Installer(second, lambda: True).install() and len(second.calls) == 1  # the first has ended


def test_cancelling_kills_pip() -> None:
    pip = Pip(["one", "two", "three"])
    assert not Installer(pip, lambda: True).install(cancelled=lambda: True)
    assert pip.killed.is_set()


@pytest.fixture
def deafIndex(monkeypatch):
    """A package index that takes connections and never answers, as behind a firewall that drops packets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        for name, value in {
            "INDEX_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
            "CONFIG_FILE": os.devnull,
            "TIMEOUT": "600",
            "IGNORE_INSTALLED": "1",
        }.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_cancelling_ends_pip_behind_its_launcher_while_it_says_nothing(deafIndex, monkeypatch) -> None:
    """``PythonSlicer`` passes no signal on: without it pip would go on."""

    def launch(arguments, **_):
        return subprocess.Popen(
            [*LAUNCHER, sys.executable, *arguments[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def reached() -> bool:
        return bool(connections) or bool(
            select.select([deafIndex], [], [], 0)[0] and not connections.append(deafIndex.accept()[0])
        )

    connections, log = [], []
    monkeypatch.setattr(shutil, "which", lambda _name: "PythonSlicer")
    monkeypatch.setattr(slicer.util, "launchConsoleProcess", launch)
    assert not Installer(installer.launchPip, lambda: True).install(log=log.append, cancelled=reached)
    connections[0].settimeout(60)
    while connections[0].recv(4096):  # what it asked for; then the end of a connection whose process has gone
        pass
    assert log[0].startswith("Looking in indexes"), log


def test_what_a_stopped_pip_has_unpacked_is_no_openvino(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    described = tmp_path / "openvino-2026.4.1.dist-info"
    for folder in (tmp_path / "openvino", described):
        folder.mkdir()
    (tmp_path / "openvino" / "__init__.py").touch()
    assert not installer.installed()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino\nVersion: 2026.4.1\n")
    assert installer.installed()


def test_a_name_in_another_encoding_ends_nothing() -> None:
    """A user's folder in a path of pip's; a reader that gave up would leave pip, and the user, waiting."""
    code = r"import sys; sys.stdout.buffer.write(b'M\xfcller\n' + b'more\n' * 30000)"

    def launch(arguments):
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, encoding="utf-8")

    log = []
    assert Installer(launch, lambda: True).install(log=log.append)
    assert len(log) == 30001 and log[0].startswith("M") and log[0].endswith("ller")


def test_offline_needs_a_wheel_in_the_folder(tmp_path) -> None:
    pip = Pip()
    with pytest.raises(QMedSAMError, match="no OpenVINO wheel") as caught:
        Installer(pip, lambda: True).install(tmp_path)
    assert "pip download" in caught.value.hint and pip.calls == []
    (tmp_path / "openvino-2026.4.1-cp312-cp312-win_amd64.whl").touch()
    assert Installer(pip, lambda: True).install(tmp_path)
    assert pip.calls[0][pip.calls[0].index("--find-links") + 1] == str(tmp_path) and "--no-index" in pip.calls[0]


@pytest.mark.parametrize(
    ("line", "sentence", "hint"),
    [
        ("WARNING: Retrying after connection broken by 'ProxyError(...)'", "cannot be reached", "in the module QMedSAM"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "secure connection", "in the module QMedSAM"),
        ("ERROR: [Errno 28] No space left on device", "disk is full", "Free some space"),
        ("ERROR: [Errno 13] Permission denied: '/opt'", "cannot be written", "folder of your own"),
        (
            "ERROR: No matching distribution found for openvino>=2025.3",
            "no OpenVINO wheel for this system",
            "in the module QMedSAM",
        ),
        ("ERROR: something new", "something new", "in the module QMedSAM"),
    ],
)
def test_every_failure_says_what_to_do(line, sentence, hint) -> None:
    with pytest.raises(QMedSAMError) as caught:
        Installer(Pip(["Collecting openvino", line], code=1), lambda: True).install()
    assert sentence in caught.value.message and hint in caught.value.hint


def test_a_wheel_for_another_system_says_which_one_is_needed() -> None:
    error = explained(["ERROR: No matching distribution found for openvino"], offline=True)
    assert "wheel in the folder" in error.message and "--python-version" in error.hint
