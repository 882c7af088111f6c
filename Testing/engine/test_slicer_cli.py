"""The command line module under plain Python, with the command lines that Slicer's execution model writes."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from qmedsam import Box, Segmenter, Volume, __version__
from qmedsam.files import FORMATS, image_of, read_boxes, read_labels, read_volume, write_boxes
from qmedsam.intensity import MODALITIES
from qmedsam.models import shipped_folder
from qmedsam.strategies import STRATEGIES, Options

pytestmark = pytest.mark.slow  # a process each
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "QMedSAMBatch" / "QMedSAMBatch.py"
SAMPLE = shipped_folder().parent / "SampleData"
PHANTOM = SAMPLE / "QMedSAMPhantom.nrrd"

_spec = importlib.util.spec_from_file_location("QMedSAMBatch", SCRIPT)
module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(module)

GROUPS = ElementTree.parse(SCRIPT.with_suffix(".xml")).getroot().findall("parameters")
PARAMETERS = [element for group in GROUPS for element in group if element.find("name") is not None]

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def run(*arguments: object, script: Path = SCRIPT, **keywords) -> subprocess.CompletedProcess:
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, **keywords)


@pytest.fixture
def kidneys(tmp_path) -> Path:
    volume = read_volume(PHANTOM)
    boxes = [b for b in read_boxes(SAMPLE / "QMedSAMPhantom-boxes.mrk.json", volume) if "kidney" in b.name]
    boxes = [Box(b.center_ijk, b.half_axes_ijk, n, b.name, b.color) for n, b in enumerate(boxes, 1)]
    write_boxes(tmp_path / "kidneys.mrk.json", boxes, volume)
    return tmp_path / "kidneys.mrk.json"


# The description


def _text(element: ElementTree.Element, child: str) -> str:
    return str(element.findtext(child) or "")


def test_the_description_has_what_every_parser_of_it_expects() -> None:
    """The order of the header as in the execution model's schema; its own parser runs in Testing/mrml."""
    root = ElementTree.parse(SCRIPT.with_suffix(".xml")).getroot()
    header = ["category", "title", "description", "version", "documentation-url", "license", "contributor", "acknowledgements"]
    assert root.tag == "executable" and [e.tag for e in root][: len(header)] == header
    assert root.findtext("version") == __version__
    for group in GROUPS:
        assert [e.tag for e in group][:2] == ["label", "description"] and group.get("advanced", "true") == "true"
    names = [_text(e, "name") for e in PARAMETERS]
    flags = [_text(e, "longflag") for e in PARAMETERS if e.find("longflag") is not None]
    assert len(set(names)) == len(names) and len(set(flags)) == len(flags)
    # The execution model accepts no dash in a long flag and none before it is needed.
    assert all(re.fullmatch(r"[A-Za-z_]\w*", text) for text in names + flags)


@pytest.mark.parametrize("element", PARAMETERS, ids=lambda e: _text(e, "name"))
def test_every_parameter_is_complete(element: ElementTree.Element) -> None:
    assert _text(element, "label") and _text(element, "description")
    children = [child.tag for child in element]
    assert len(set(children) - {"element"}) == len([c for c in children if c != "element"])
    if element.find("longflag") is None:  # a result: simple, and written to the parameter file
        assert _text(element, "channel") == "output" and element.tag in ("integer", "double")
        return
    assert element.tag == "boolean" or element.tag in module._TYPES
    if element.tag in ("image", "file", "directory"):
        assert _text(element, "channel") in ("input", "output") and element.find("default") is None
    elif element.tag != "region":
        assert element.find("default") is not None
    if element.tag.endswith("enumeration"):
        assert _text(element, "default") in [e.text for e in element.findall("element")]
    constraints = element.find("constraints")
    if constraints is not None:
        low, high, step = (float(_text(constraints, key)) for key in ("minimum", "maximum", "step"))
        assert [c.tag for c in constraints] == ["minimum", "maximum", "step"]
        assert low <= float(_text(element, "default")) <= high and step > 0


def test_defaults_and_choices_are_the_engines() -> None:
    values, options = module.parse([]), Options()
    assert module.options_of(values) == options and module.window_of(values.window) is None
    choices = {_text(e, "name"): {x.text for x in e.findall("element")} for e in PARAMETERS}
    assert choices["modality"] == {"auto", *MODALITIES.values()}
    assert choices["strategy"] == {"auto", *STRATEGIES} and choices["frame"] == {"auto", "roi", "slice"}
    for walk in choices["walk"]:
        Options(walk=walk)
    for vote_on in choices["voteOn"]:
        Options(vote_on=vote_on)


@pytest.mark.parametrize("path", [SCRIPT, ROOT / "Docs" / "HowTo" / "segment_folder.py"], ids=lambda p: p.name)
def test_slicer_58_understands_it(path: Path) -> None:
    """Python 3.9."""
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


# The command line


def test_values_arrive_as_the_execution_model_writes_them() -> None:
    line = (
        "--returnparameterfile /t/1.params --volume /t/AB_vtkMRMLScalarVolumeNodeB.nrrd --roi -1.5,-2,3e+02,4,5,6 "
        "--roi 1,2,3,4,5,6 --output /t/x.seg.nrrd --modality CT --strategy vote --names left,right --every 3 "
        "--least_iou 0.25 --fill_holes --view_weights 1,0.5,0 --threads 2 --workers 4 --again"
    )
    values = module.parse(line.split())
    assert values.roi == [[-1.5, -2, 300, 4, 5, 6], [1, 2, 3, 4, 5, 6]] and values.names == ["left", "right"]
    assert values.inputVolume == Path("/t/AB_vtkMRMLScalarVolumeNodeB.nrrd") and values.boxesFile is None
    assert values.returnparameterfile == Path("/t/1.params") and values.workers == 4 and values.again
    assert module.options_of(values) == Options(3, 0.25, True, (1.0, 0.5, 0.0))


def test_every_flag_is_accepted_and_no_other(capsys) -> None:
    samples = {"integer": "2", "double": "0.5", "double-vector": "1,1,0", "region": "-1,2,3,4,5,6"}
    defaults = vars(module.parse([]))
    for element in PARAMETERS:
        if element.find("longflag") is not None:
            choices = [e.text for e in element.findall("element")]
            value = choices[-1] if choices else samples.get(element.tag, "-x")  # a text may start with a minus, too
            flag, name = "--" + _text(element, "longflag"), _text(element, "name")
            parsed = vars(module.parse([flag] if element.tag == "boolean" else [flag, value]))
            assert {key for key in parsed if parsed[key] != defaults[key]} == {name}
    for line in (["--rois", "1"], ["--strat", "vote"], ["--strategy", "guess"], ["--every", "x"], ["--volume"]):
        with pytest.raises(SystemExit) as stop:
            module.parse(line)
        assert stop.value.code == 2
    capsys.readouterr()


def test_the_description_is_printed_as_it_is() -> None:
    done = run("--xml")
    assert done.returncode == 0 and done.stdout == SCRIPT.with_suffix(".xml").read_text(encoding="utf-8") and not done.stderr
    assert run("--version").stdout.strip() == f"QMedSAMBatch {__version__}"
    assert "--roi" in run("--help").stdout


@pytest.mark.parametrize("turned", [False, True])
def test_a_region_is_a_box_in_ras(turned: bool) -> None:
    matrix = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3.0, 11], [0, 0, 0, 1]])
    volume = Volume(np.zeros((4, 5, 6), np.uint8), matrix)
    angle = np.deg2rad(30)
    axes = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    region = [1, 2, 3, 4, 5, 6, *(axes.ravel() if turned else ())]
    (box,) = module.boxes_of_regions([region], ["x"], volume)
    wanted = Box.from_ras((1, 2, 3), (axes if turned else np.eye(3)) @ np.diag((4, 5, 6)), matrix)
    assert np.allclose(box.corners_ijk, wanted.corners_ijk) and box.name == "x"


# Running it


@needs_openvino
def test_the_same_voxels_as_qmedsam_segment(tmp_path, kidneys) -> None:
    options = ["--modality", "CT", "--strategy", "propagate", "--every", "2", "--threads", "1"]
    results = tmp_path / "results.params"
    done = run(
        *("--returnparameterfile", results, "--volume", PHANTOM, "--boxes", kidneys, "--output", tmp_path / "cli.seg.nrrd"),
        *(*options, "--frame", "auto", "--least_iou", "0", "--view_weights", "1,1,1"),
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    command = [sys.executable, "-m", "qmedsam", "segment", PHANTOM, "--boxes", kidneys, "-o", tmp_path / "plain.seg.nrrd"]
    subprocess.run([*map(str, command), *options], check=True, capture_output=True, cwd=ROOT / "QMedSAMSegment")
    labels = read_labels(tmp_path / "cli.seg.nrrd")
    assert np.array_equal(labels, read_labels(tmp_path / "plain.seg.nrrd")) and len(np.unique(labels)) == 3
    values = dict(line.split(" = ") for line in results.read_text().splitlines())
    assert int(values["voxels"]) == np.count_nonzero(labels) and values["objects"] == "2" and float(values["volumeMl"]) > 100
    tags = re.findall(r"<filter-progress>(.*?)</filter-progress>", done.stdout)
    assert [float(t) for t in tags] == sorted(map(float, tags)) and tags[-1] == "1.00" and len(tags) > 10
    assert done.stdout.index("<filter-start>") < done.stdout.index("<filter-progress>") < done.stdout.index("<filter-end>")


@needs_openvino
def test_a_bad_box_gives_a_terminal_an_exit_code_and_the_others_their_segments(tmp_path) -> None:
    """With a return parameter file Slicer asks, and would not load what was written: see Testing/mrml/test_cli_module.py."""
    (tmp_path / "b.json").write_text('{"boxes": [{"ijk": [900, 9, 1, 950, 29, 5], "name": "away"}]}')
    line = ["--volume", PHANTOM, "--roi", "-60,0,0,20,20,20", "--names", "good", "--boxes", tmp_path / "b.json"]
    done = run(*line, "--strategy", "fixed", "--modality", "CT", "--output", tmp_path / "o.seg.nrrd")
    assert done.returncode == 1 and "'away' lies outside" in done.stderr and "good: " in done.stdout
    assert b"Segment0_Name:=good" in (tmp_path / "o.seg.nrrd").read_bytes()


@needs_openvino
def test_names_that_the_console_cannot_write(tmp_path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    line = ["--volume", PHANTOM, "--roi", "-60,0,0,20,20,20", "--names", "játra", "--strategy", "fixed", "--modality", "CT"]
    done = run(*line, "--output", tmp_path / "o.seg.nrrd", env=environment)
    assert done.returncode == 0 and "j\\xe1tra: " in done.stdout, done.stderr
    assert "Segment0_Name:=játra".encode() in (tmp_path / "o.seg.nrrd").read_bytes()


def test_json_is_ascii_whatever_is_said(tmp_path) -> None:
    done = run("--cases", tmp_path / "játra", "--output_folder", tmp_path / "out", "--json")
    assert done.returncode == 2 and done.stdout.isascii() and done.stderr.isascii()
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [event["event"] for event in told] == ["process", "error"] and "játra" in told[1]["message"]


@pytest.fixture
def slicers_python(tmp_path_factory) -> dict:
    """Environment of a Python that has what Slicer's has, and no more."""
    folder = tmp_path_factory.mktemp("site")
    missing = (
        "slicerio",
        "nrrd",
        "typer",
        "rich",
        "matplotlib",
        "dask",
        "distributed",
        "surface_distance",
        "highdicom",
        "pydicom",
    )
    code = f"import sys\nsys.modules.update(dict.fromkeys({missing!r}))\n"
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}


@needs_openvino
def test_existing_segments_are_boxes_again(tmp_path, kidneys, slicers_python) -> None:
    common = ["--volume", PHANTOM, "--modality", "CT", "--strategy", "fixed"]
    for name, source in (("first", ["--boxes", kidneys]), ("second", ["--segmentation", tmp_path / "first.seg.nrrd"])):
        done = run(*common, *source, "--margin", "0", "--output", tmp_path / f"{name}.seg.nrrd", env=slicers_python)
        assert done.returncode == 0, done.stderr
    first, second = (read_labels(tmp_path / f"{name}.seg.nrrd") for name in ("first", "second"))
    volume, extents = read_volume(PHANTOM), [np.argwhere(first == label)[:, ::-1] for label in (1, 2)]
    boxes = [Box.from_voxels(ijk.min(axis=0), ijk.max(axis=0)) for ijk in extents]
    assert np.array_equal(second, Segmenter().segment(volume, boxes, "CT", "fixed").labels_kji) and second.any()
    assert "right kidney" in done.stdout and b"Segment0_Name:=right kidney" in (tmp_path / "second.seg.nrrd").read_bytes()


@needs_openvino
@pytest.mark.parametrize("workers", [0, 1])
def test_a_cohort_with_a_bad_case(tmp_path, kidneys, slicers_python, workers: int) -> None:
    cases, out = tmp_path / "cases", tmp_path / "out"
    cases.mkdir()
    volume = read_volume(PHANTOM)
    for name in ("a", "b"):
        shutil.copy(PHANTOM, cases / f"{name}.nrrd")
        write_boxes(cases / f"{name}.mrk.json", read_boxes(kidneys, volume)[:1], volume)
    (cases / "b.nrrd").write_bytes(PHANTOM.read_bytes()[:4000])
    line = ["--cases", cases, "--output_folder", out, "--strategy", "fixed", "--modality", "CT", "--workers", workers]
    line += ["--returnparameterfile", tmp_path / "r.params", "--model", "qmedsam-compact", "--least_iou", "0"]
    done = run(*line, env=slicers_python)
    assert done.returncode == 1 and "1 of 2 cases failed" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert "a: done" in done.stdout and "b: failed" in done.stdout and "<filter-progress>1.00" in done.stdout
    direct = run(
        "--volume",
        PHANTOM,
        "--boxes",
        cases / "a.mrk.json",
        "--output",
        tmp_path / "o.nrrd",
        *line[4:8],
        "--model",
        "qmedsam-compact",
    )
    assert direct.returncode == 0 and np.array_equal(read_labels(out / "a.seg.nrrd"), read_labels(tmp_path / "o.nrrd"))
    results = dict(text.split(" = ") for text in (tmp_path / "r.params").read_text().splitlines())
    assert results["objects"] == "1" and int(results["voxels"]) == np.count_nonzero(read_labels(out / "a.seg.nrrd"))
    assert (out / "index.html").is_file() and str(out / "index.html") in done.stdout
    again = run(*line, env=slicers_python)
    assert again.returncode == 1 and "a: unchanged" in again.stdout


def test_formats_are_the_engines() -> None:
    (element,) = (e for e in PARAMETERS if _text(e, "name") == "format")
    assert {e.text for e in element.findall("element")} <= set(FORMATS) and _text(element, "default") == "seg.nrrd"


def _bad(tmp_path: Path, kind: str) -> list:
    good = ["--volume", PHANTOM, "--roi", "0,0,0,20,20,20", "--output", tmp_path / "o.nrrd"]
    if kind == "nothing":
        return []
    if kind == "no output":
        return good[:-2]
    if kind == "no box":
        return [*good[:2], *good[4:]]
    if kind == "missing":
        return ["--volume", tmp_path / "gone.nrrd", *good[2:]]
    if kind == "truncated":
        (tmp_path / "half.nrrd").write_bytes(PHANTOM.read_bytes()[:5000])
        return ["--volume", tmp_path / "half.nrrd", *good[2:]]
    if kind == "nan":
        sitk.WriteImage(image_of(np.full((4, 20, 20), np.nan, np.float32), np.eye(4)), str(tmp_path / "nan.nrrd"))
        return ["--volume", tmp_path / "nan.nrrd", "--roi", "8,8,2,4,4,1", *good[4:]]
    if kind == "over its boxes":
        shutil.copy(SAMPLE / "QMedSAMPhantom-truth.seg.nrrd", tmp_path / "o.nrrd")
        return [*good, "--segmentation", tmp_path / "o.nrrd"]
    changed = {
        "outside": [*good[:3], "9000,0,0,2,2,2", *good[4:]],
        "numbers": [*good[:3], "1,2,3", *good[4:]],
        "model": [*good, "--model", "no-such-model"],
        "window": [*good, "--window", "wide"],
        "weights": [*good, "--view_weights", "1,1"],
        "suffix": [*good[:5], tmp_path / "o.jpeg"],
        "folder": [*good[:5], tmp_path / "none" / "o.nrrd"],
        "cohort without output": ["--cases", tmp_path],
    }
    return changed[kind]


@needs_openvino
@pytest.mark.parametrize(
    "kind",
    ["nothing", "no output", "no box", "missing", "truncated", "nan", "outside", "numbers", "model", "window", "weights"]
    + ["suffix", "folder", "over its boxes", "cohort without output"],
)
def test_an_error_is_one_sentence_and_no_file(tmp_path, kind: str) -> None:
    arguments = _bad(tmp_path, kind)
    before = sorted(tmp_path.iterdir())
    done = run(*arguments)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.rstrip().endswith((".", "?", ")")), (
        done.stderr
    )
    assert "Traceback" not in done.stderr and "bug" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@posix
@needs_openvino
@pytest.mark.parametrize("number, code", [("SIGTERM", 130), ("SIGINT", 130), ("SIGKILL", -9)])
def test_stopping_leaves_no_file(tmp_path, number: str, code: int) -> None:
    boxes = SAMPLE / "QMedSAMPhantom-boxes.mrk.json"
    line = ["--volume", PHANTOM, "--boxes", boxes, "--output", tmp_path / "o.nrrd", "--strategy", "vote", "--modality", "CT"]
    line += ["--returnparameterfile", tmp_path / "r.params"]
    command = [sys.executable, str(SCRIPT), *map(str, line)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for text in process.stdout:  # arrives while it runs
            if "<filter-progress>0.02" in text:
                break
        process.send_signal(getattr(signal, number))
        _out, errors = process.communicate(timeout=60)
    assert process.returncode == code and list(tmp_path.iterdir()) == []
    if code == 130:
        assert errors == "Stopped. Nothing half-written was left.\n"


# Where the engine is found

LAYOUTS = {
    "source tree": ("QMedSAMBatch", "QMedSAMSegment"),
    "installed": ("lib/Slicer-5.12/cli-modules", "lib/Slicer-5.12/qt-scripted-modules"),
    "build with configurations": ("lib/Slicer-5.12/cli-modules/Release", "lib/Slicer-5.12/qt-scripted-modules"),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_engine_that_came_with_it_goes_before_any_other(tmp_path, layout: str) -> None:
    scripts, packages = (tmp_path / folder for folder in LAYOUTS[layout])
    (packages / "qmedsam").mkdir(parents=True)
    (packages / "qmedsam" / "__init__.py").write_text("raise ImportError('the one of the layout')")
    scripts.mkdir(parents=True)
    for suffix in (".py", ".xml"):
        shutil.copy(SCRIPT.with_suffix(suffix), scripts)
    done = run("--volume", PHANTOM, script=scripts / SCRIPT.name)
    assert done.returncode == 2 and "the one of the layout" in done.stderr and "install the extension" in done.stderr


def test_without_an_engine_it_says_so(tmp_path) -> None:
    for suffix in (".py", ".xml"):
        shutil.copy(SCRIPT.with_suffix(suffix), tmp_path)
    command = [sys.executable, "-S", "-E", str(tmp_path / SCRIPT.name), "--volume", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "install the extension" in done.stderr
