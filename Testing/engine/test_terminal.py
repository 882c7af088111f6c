"""The command line when the user or the terminal does not wait for it: Ctrl+C, a pipe that closes, a full disk, little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qmedsam.errors import lacks_memory
from shapes import ball

sitk = pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, devices and limits")

ENGINE = Path(__file__).resolve().parents[2] / "QMedSAMSegment"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    truth = ball((6, 60, 70), (36, 30, 3), (16, 14, 2))
    array = (np.random.default_rng(0).normal(20, 10, truth.shape) + 100 * truth).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "scan.nrrd"))
    return tmp_path / "scan.nrrd"


def command(*arguments) -> list:
    return [sys.executable, "-m", "qmedsam", *map(str, arguments)]


def environment(tmp_path: Path) -> dict:
    return {**os.environ, "PYTHONPATH": str(ENGINE), "XDG_DATA_HOME": str(tmp_path / "home"), "COLUMNS": "300"}


def segment(scan: Path, *more) -> list:
    return command("segment", scan, "--box", "19,15,1,53,45,5", "--modality", "MR", "-o", scan.parent / "a.nrrd", *more)


def test_ctrl_c_while_the_command_line_is_loaded_is_one_sentence(tmp_path: Path) -> None:
    """The interrupt comes when a module of the command line begins to load, whatever the speed of the machine."""
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    env = environment(tmp_path)
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ENGINE}"
    done = subprocess.run(command("models", "list"), env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped by you. Nothing was written.\n")


def test_ctrl_c_that_a_library_turns_into_its_own_error_blames_nobody(tmp_path: Path) -> None:
    """In a process of its own: a signal in one that has loaded OpenVINO ended it with a segmentation fault."""
    code = (
        "import os, signal, sys, time\n"
        "from qmedsam import models\n"
        "from qmedsam.commands import app\n"
        "def library(*arguments):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(10)\n"
        "    except KeyboardInterrupt:\n"
        "        raise RuntimeError('Cannot load plugin') from None\n"
        "models.ModelStore.models = library\n"
        "sys.argv = ['qmedsam', 'models', 'list']\n"
        "try:\n"
        "    app.main()\n"
        "except SystemExit as end:\n"
        "    print(end.code, signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr.strip()) == ("130 True", "Stopped by you.")


@pytest.mark.slow
def test_a_reader_that_leaves_costs_no_file(scan: Path, tmp_path: Path) -> None:
    """``| head -1``"""
    names = ("a.nrrd", "a.json", "a.png")
    line = segment(scan, "--report", tmp_path / names[1], "--png", tmp_path / names[2])
    with subprocess.Popen(line, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # type: ignore[union-attr]
        said = process.stderr.read()  # type: ignore[union-attr]
    assert process.returncode == 0 and said == b""
    assert all((tmp_path / name).stat().st_size for name in names)
    assert json.loads((tmp_path / "a.json").read_text())["objects"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_standard_output_is_named_and_costs_no_file(scan: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            segment(scan), env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2 and "standard output (No space left on device)" in done.stderr
    assert (tmp_path / "a.nrrd").stat().st_size


@pytest.mark.parametrize(
    "error,memory",
    [
        (MemoryError(), True),
        (RuntimeError("Exception from src/core.cpp:100:\nstd::bad_alloc"), True),
        (RuntimeError("can't alloc"), True),
        (ImportError("x.so: failed to map segment from shared object"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("Unsupported operation"), False),
    ],
)
def test_memory_is_told_from_other_faults(error: Exception, memory: bool) -> None:
    assert lacks_memory(error) is memory


def test_too_little_memory_for_the_model_blames_no_version(tmp_path: Path, monkeypatch) -> None:
    from qmedsam import ModelStore, QMedSAMError
    from qmedsam.network import openvino_network

    openvino = openvino_network.import_openvino()

    class Core(openvino.Core):
        def read_model(self, *arguments):
            raise RuntimeError("Check 'x' failed at src/y.cpp:1:\nstd::bad_alloc")

    monkeypatch.setattr(openvino, "Core", Core)
    monkeypatch.setenv("QMEDSAM_CACHE", str(tmp_path))  # a network that is compiled already is not read
    with pytest.raises(QMedSAMError, match="not enough memory") as refused:
        openvino_network.OpenVINONetwork(ModelStore().models()[0])
    assert "Update" not in str(refused.value)


def test_numbers_with_spaces_between_them_are_explained(scan: Path, tmp_path: Path) -> None:
    line = command("segment", scan, "--box", "19", "15", "1", "53", "45", "5", "-o", tmp_path / "a.nrrd")
    done = subprocess.run(line, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "separated by commas" in done.stderr


def test_nothing_found_and_doubtful_boxes_get_a_note(monkeypatch, capsys) -> None:
    from types import SimpleNamespace as N

    from qmedsam.commands.results import notes_of, print_notes

    objects = [N(name=n, voxels=v, covered=c, confidence=p, error="") for n, v, c, p in
               (("a", 0, 0, 0.0), ("b", 0, 50, 0.9), ("c", 9, 0, 0.41), ("d", 9, 0, 0.9), ("e", 0, 0, 0.0))]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "300")
    print_notes(notes_of(N(objects=objects, messages=["Nothing was found in the box 'e': the network sees it 2.0 pixels thin."])))
    said = " ".join(capsys.readouterr().out.split())
    assert "Nothing was found in the box 'a'. Check the numbers" in said
    assert "doubts what it found: 'c' (0.41)" in said and "'b'" not in said and said.count("'e'") == 1


def test_figures_are_whole_on_a_terminal_of_80_columns(monkeypatch, capsys) -> None:
    from types import SimpleNamespace as N

    from qmedsam.commands.results import print_objects

    sizes = N(long_mm=123.4, short_mm=45.2)
    about = {"slices": 123, "voxels": 12345678, "volume_ml": 1234.56, "diameters": sizes, "confidence": 0.93, "covered": 0}
    monkeypatch.setenv("COLUMNS", "80")
    for scores in (None, {12: 0.913}):
        print_objects([N(label=12, name="left_hippocampus_anterior part", **about)], scores)
        text = capsys.readouterr().out
        row = next(line for line in text.splitlines() if "12345678" in line)
        assert all(word in row for word in ("1234.56", "123 x 45", "0.93", *(["0.913"] if scores else [])))
        assert "confidence" in text and "…" not in text and max(map(len, text.splitlines())) <= 80


def test_pages_of_scores_leave_columns_out_on_a_narrow_terminal(monkeypatch, capsys, tmp_path: Path) -> None:
    from qmedsam.commands.results import print_page
    from qmedsam.evaluation.summary import Score, markdown, summarize

    rows = [
        Score(f"c{n}", f"p{n}", 1, "", 1, "a_source_of_a_long_name", "CT", "volume", 9, 0.1, 0.812, 0.7, 0.6, 0.9, 1)
        for n in (1, 2)
    ]
    (tmp_path / "summary.md").write_text(markdown(summarize(rows)))
    for columns, has_all in ((80, False), (220, True)):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_page(tmp_path / "summary.md")
        text = capsys.readouterr().out
        assert text.count("s / prompt") == (3 if has_all else 0) and ("all columns" in " ".join(text.split())) is not has_all
        assert max(map(len, text.splitlines())) <= columns
        assert all("0.700" in line for line in text.splitlines() if "0.812" in line and "│" in line)


def test_a_checkpoint_is_pointed_to_the_command_that_takes_it(tmp_path: Path) -> None:
    for name, word in (("lite_medsam.pth", "one of it"), ("encoder.onnx", "the checkpoint that it was exported from")):
        (tmp_path / name).write_bytes(b"x")
        done = subprocess.run(
            command("models", "add", tmp_path / name), env=environment(tmp_path), capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and "qmedsam-train import-checkpoint" in done.stderr and word in done.stderr
