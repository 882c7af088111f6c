"""Nothing heavy is imported before it is needed. (Who may import whom: the contracts in pyproject.toml.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2] / "QMedSAMSegment" / "qmedsam"


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
        "from qmedsam.strategies import Options\n"
        "volume = Volume(np.zeros((8, 20, 20), np.uint8))\n"
        "volume.array_kji[2:6, 5:15, 5:15] = 200\n"
        "try:\n"
        "    segment, box = Segmenter(network=FakeNetwork(64)).segment, Box.from_voxels((4, 4, 1), (16, 16, 6))\n"
        "    assert segment(volume, [box], strategy='vote').objects[0].voxels\n"  # which needs none
        "    segment(volume, [box], strategy='propagate', options=Options(every=2))\n"  # shapes between slices do
        "except QMedSAMError as error:\n"
        "    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'scipy' is not there" in done.stdout and "pip install scipy" in done.stdout
