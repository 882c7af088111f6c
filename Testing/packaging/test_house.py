"""The house itself: contracts that catch what they are for, workflows and forms that parse, one version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[2]
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("qmedsam/geometry.py", "from .segmenter import Segmenter", "way of the data"),
        ("qmedsam/segmenter.py", "from .files import read_volume", "way of the data"),
        ("qmedsam/files/paths.py", "from .volumes import read_volume", "No circles"),
        ("qmedsam/strategies/items.py", "import torch", "neither Slicer nor torch"),
        ("qmedsam/batch/run.py", "from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic", "neither is known to it"),
        ("qmedsam/somewhere.py", "", "way of the data"),
    ],
)
def test_the_contracts_catch_a_wrong_import(file: str, line: str, said: str, tmp_path: Path) -> None:
    """Inside of a function too."""
    pytest.importorskip("importlinter")
    shutil.copytree(
        ROOT / "QMedSAMSegment", tmp_path / "QMedSAMSegment", ignore=shutil.ignore_patterns("__pycache__", "Resources")
    )
    shutil.copytree(ROOT / "Training" / "qmedsam_training", tmp_path / "Training" / "qmedsam_training")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "QMedSAMSegment" / file
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.write_text(before + f"\n\ndef _wrong() -> None:\n    {line or 'pass'}\n", encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path / 'QMedSAMSegment'}:{tmp_path / 'Training'}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    listed = re.sub(r"\s+", " ", done.stdout.partition("dependencies.")[2].replace("-" * 38, ""))
    broken = [
        name for name, state in re.findall(r"(\S.*?) (KEPT|BROKEN)(?: \(\d+ ignored imports\))?", listed) if state == "BROKEN"
    ]
    assert done.returncode != 0 and any(said in name for name in broken), done.stdout


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_workflows_and_forms_parse(path: Path) -> None:
    """What GitHub insists on: jobs with steps that use a version or run something; forms with fields of known kinds and ids."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "workflows":
        assert content["name"] and (True in content or "on" in content)  # YAML 1.1 reads "on" as true
        for job in content["jobs"].values():
            assert job["runs-on"] and job["steps"]
            for step in job["steps"]:
                assert ("uses" in step) != ("run" in step)
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/checkout@v4"))
        assert "NOT run" in path.read_text(encoding="utf-8")
    elif path.name != "config.yml":
        assert content["name"] and content["description"] and content["body"]
        ids = [field["id"] for field in content["body"] if field["type"] != "markdown"]
        assert len(set(ids)) == len(ids)
        assert {field["type"] for field in content["body"]} <= {"markdown", "input", "textarea", "dropdown", "checkboxes"}


def test_workflows_name_files_and_targets_that_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"run: make ([\w-]+)", text)) <= targets, path.name
        for named in re.findall(r"(?:-r|-c) ([\w/.-]+\.txt)|pytest (Testing/\w+)", text):
            assert (ROOT / "".join(named)).exists(), f"{path.name}: {named}"


def test_the_version_is_said_once() -> None:
    """Elsewhere it is read from the engine (the XML's copy: Testing/engine/test_slicer_cli.py)."""
    from qmedsam import __version__

    for path in ("pyproject.toml", "Training/pyproject.toml"):
        text = (ROOT / path).read_text(encoding="utf-8")
        assert (
            'dynamic = ["version"]' in text and "qmedsam/__init__.py" in text and not re.search(r"^version =", text, re.MULTILINE)
        )
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    releases = re.findall(r"^\| (\d\S+)", (ROOT / "Docs" / "Releases.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changelog[0] == __version__ and changelog == releases


def test_both_packages_say_that_they_are_typed() -> None:
    for package in ("QMedSAMSegment/qmedsam", "Training/qmedsam_training"):
        assert (ROOT / package / "py.typed").is_file()
