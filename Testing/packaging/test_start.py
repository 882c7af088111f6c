"""What a command loads before it says something: nothing that a help page does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from qmedsam.commands import batch, options
from qmedsam.files import FORMATS
from qmedsam.intensity import CT_WINDOWS
from qmedsam.strategies import Options

#: A tenth of a second each, or more.
HEAVY = {"numpy", "openvino", "SimpleITK", "scipy", "matplotlib", "rich.markdown", "rich.traceback"}
HEAVY |= {"qmedsam.files", "qmedsam.geometry"}
LOADED = """
import sys
sys.argv = ["qmedsam", *{words}, "--help"]
from qmedsam.commands.app import main
try:
    main()
finally:
    print("LOADED", *sys.modules)
"""


@pytest.mark.parametrize("words", [(), ("segment",), ("batch",), ("evaluate",), ("models", "list")], ids=" ".join)
def test_help_loads_nothing_heavy(words: tuple) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED.format(words=list(words))], capture_output=True, text=True, check=True)
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
