"""Real MRML nodes from the slicer-core wheel; without it this ring is skipped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("slicer", reason="slicer-core is not installed (Python 3.10 to 3.13 only)")

from nodes import newScene


@pytest.fixture
def scene():
    """A scene with the module logics that the application always has."""
    made = newScene()
    yield made
    made.Clear(True)
