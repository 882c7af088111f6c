"""Dependencies point one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "QMedSAMSegment" / "qmedsam"
FORBIDDEN = {"slicer", "qt", "ctk", "vtk", "torch", "brevitas", "qmedsam_training", "QMedSAMSegmentLib"}


def _imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda p: str(p.relative_to(ENGINE)))
def test_the_engine_knows_neither_slicer_nor_torch(path: Path) -> None:
    assert not FORBIDDEN & set(_imports(path))


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda p: str(p.relative_to(ENGINE)))
def test_the_engine_keeps_python_39_syntax(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    assert "from __future__ import annotations" in path.read_text(encoding="utf-8")


def test_training_does_not_know_slicer() -> None:
    for path in (ROOT / "Training" / "qmedsam_training").rglob("*.py"):
        assert not {"slicer", "qt", "ctk", "vtk", "QMedSAMSegmentLib"} & set(_imports(path)), path


def test_importing_the_engine_is_light() -> None:
    """Slicer imports it at start-up: numpy is there already, everything else waits until it is used."""
    code = (
        "import sys; import qmedsam; heavy = {'openvino', 'SimpleITK', 'scipy', 'matplotlib', 'slicerio', 'typer', 'rich'}"
        " & {name.split('.')[0] for name in sys.modules}; print(sorted(heavy)); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ENGINE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_that_is_not_there_is_a_sentence() -> None:
    """A Slicer that somebody built had no SciPy: "No module named 'scipy'" was all that its user read."""
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['scipy.ndimage'] = None\n"
        "import numpy as np\n"
        "from qmedsam import Box, QMedSAMError, Segmenter, Volume\n"
        "from qmedsam.network.fake import FakeNetwork\n"
        "volume = Volume(np.zeros((8, 20, 20), np.uint8))\n"
        "volume.array_kji[2:6, 5:15, 5:15] = 200\n"
        "try:\n"
        "    Segmenter(network=FakeNetwork(64)).segment(volume, [Box.from_voxels((4, 4, 1), (16, 16, 6))], strategy='vote')\n"
        "except QMedSAMError as error:\n"
        "    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'scipy' is not there" in done.stdout and "pip install scipy" in done.stdout
