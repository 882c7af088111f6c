"""What a command loads before it says something: nothing that a help page does not need."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from qmedsam import ModelStore
from qmedsam.commands import batch, options
from qmedsam.files import FORMATS, read_labels
from qmedsam.intensity import CT_WINDOWS
from qmedsam.models import shipped_folder
from qmedsam.network.openvino_network import OpenVINONetwork
from qmedsam.strategies import Options

#: A tenth of a second each, or more.
HEAVY = {"numpy", "openvino", "SimpleITK", "scipy", "matplotlib", "rich.markdown", "rich.traceback"}
HEAVY |= {"qmedsam.files", "qmedsam.geometry"}
#: What the way to a mask does not need: together a second of processor time.
NOT_FOR_A_MASK = ("scipy", "matplotlib", "openvino.tools.ovc", "openvino_telemetry", "pydicom", "torch")
SAMPLE = Path(shipped_folder()).parent / "SampleData" / "QMedSAMPhantom.nrrd"
LOADED = """
import sys
sys.argv = ["qmedsam", *{words}]
from qmedsam.commands.app import main
try:
    main()
finally:
    print("LOADED", *(name for name, module in sys.modules.items() if module))
"""


@pytest.mark.parametrize("words", [(), ("segment",), ("batch",), ("evaluate",), ("models", "list")], ids=" ".join)
def test_help_loads_nothing_heavy(words: tuple) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(words=[*words, "--help"])], capture_output=True, text=True, check=True
    )
    loaded = next(line for line in done.stdout.splitlines() if line.startswith("LOADED")).split()
    assert "Usage" in done.stdout and "typer" in loaded
    assert not HEAVY & set(loaded)


def test_help_says_what_the_engine_knows() -> None:
    """It is written down, not computed: the engine would have to be loaded."""
    assert all(name in options.WINDOW.help for name in CT_WINDOWS)
    assert (options.VOTE_ON.default, options.WALK.default) == (Options().vote_on, Options().walk)
    said = next(option for option in batch.batch.__defaults__ if "Of the segmentations" in (option.help or "")).help
    assert all(suffix in said for suffix in FORMATS)


@pytest.mark.parametrize("words", [(), ("models",)], ids=" ".join)
def test_no_line_of_the_list_of_commands_is_cut(words: tuple) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qmedsam", *words, "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "80"}
    )
    assert "..." not in done.stdout.split("Commands:")[1]


@pytest.mark.parametrize("strategy", ["vote", "propagate"])
def test_a_mask_loads_only_what_it_needs(strategy: str, tmp_path: Path) -> None:
    """Whole: walks, votes, diameters and the file."""
    out = tmp_path / "liver.seg.nrrd"
    words = ["segment", str(SAMPLE), "--box", "50,45,20,62,57,25", "--modality", "CT", "--strategy", strategy, "-o", str(out)]
    code = LOADED.format(words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = next(line for line in done.stdout.splitlines() if line.startswith("LOADED")).split()[1:]
    assert read_labels(out).any() and {"openvino", "SimpleITK"} <= set(loaded)
    assert [name for name in loaded if name.startswith(NOT_FOR_A_MASK)] == []


def test_models_can_still_be_converted() -> None:
    """What OpenVINO's import leaves out comes when it is asked for."""
    code = """
import sys
from qmedsam.network.runtime import import_openvino
openvino = import_openvino()
assert "openvino.tools.ovc" not in sys.modules
try:
    openvino.convert_model("there-is-no-such-model.onnx")
except Exception as error:
    print(type(error).__module__, error)
from openvino.tools.ovc import convert_model
assert openvino.convert_model is convert_model
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "there-is-no-such-model" in done.stdout


def _until_done(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join()


def test_the_decoder_is_loaded_beside_the_encoder() -> None:
    network = OpenVINONetwork(ModelStore([shipped_folder()]).models()[0], ahead=True)
    _until_done("qmedsam-decoder")
    assert list(network._decoders) == [1]
    loaded = network._decoders[1]
    size = network.input_size
    network.decode(network.encode(np.zeros((3, size, size), np.float32)), np.array([[9, 9, size - 9, size - 9]]))
    assert network._decoders == {1: loaded}
