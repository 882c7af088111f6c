"""Real MRML nodes from the slicer-core wheel; without it this ring is not collected."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if importlib.util.find_spec("slicer") is None:  # wheels exist for Python 3.10 to 3.13
    collect_ignore_glob = ["test_*.py"]

    def pytest_report_header() -> str:
        return "Testing/mrml: not run, slicer-core is not installed"


@pytest.fixture
def scene():
    """A scene with the module logics that the application always has."""
    from nodes import newScene

    made = newScene()
    yield made
    made.Clear(True)
