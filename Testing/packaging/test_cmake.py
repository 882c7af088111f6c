"""The installed extension holds every file that is used, and the index's automatic checks pass."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "QMedSAMSegment"
TOP = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
SAMPLE = ROOT / "Resources" / "SampleData" / "QMedSAMPhantom.nrrd"
LISTS = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")


def _list(name: str) -> list:
    return re.search(rf"set\({name}\s(.*?)\)", LISTS, re.DOTALL).group(1).split()


def _files(folder: Path, *suffixes: str) -> set:
    found = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith("."))
    return {p for p in found if not suffixes or p.suffix in suffixes}


def _relative(files: set, to: Path) -> set:
    return {p.relative_to(to).as_posix() for p in files}


def test_every_script_is_listed_and_exists() -> None:
    listed = _list("MODULE_PYTHON_SCRIPTS")
    assert set(listed) == _relative(_files(MODULE, ".py"), MODULE) and len(listed) == len(set(listed))


def test_every_resource_is_listed_and_exists() -> None:
    """All but the vector sources of the icons, which only their renders are made of."""
    wanted = {p for p in _files(MODULE / "Resources") | _files(MODULE / "qmedsam", ".json") if p.suffix != ".svg"}
    assert set(_list("MODULE_PYTHON_RESOURCES")) == _relative(wanted, MODULE)


def test_models_and_sample_data_are_listed_and_exist() -> None:
    wanted = _files(ROOT / "Resources" / "Models") | _files(ROOT / "Resources" / "SampleData")
    assert set(_list("SHARED_FILES")) == _relative(wanted, ROOT)


def test_no_module_installs_a_package_of_a_common_name() -> None:
    """All extensions of a user share one Python path."""
    assert {path.split("/")[0] for path in _list("MODULE_PYTHON_SCRIPTS")} == {
        "QMedSAMSegment.py",
        "QMedSAMSegmentLib",
        "qmedsam",
    }


def test_the_indexs_own_checks() -> None:
    entry = json.loads((ROOT / "Resources" / "QMedSAM.json").read_text(encoding="utf-8"))
    assert {"$schema", "category", "scm_url"} <= set(entry) and entry["category"] == "Segmentation"
    assert re.search(r"^project\((\w+)\)", TOP, re.MULTILINE).group(1) == "QMedSAM" == Path("QMedSAM.json").stem
    assert entry["scm_url"].rsplit("/", 1)[1].startswith("Slicer")
    assert f'set(EXTENSION_HOMEPAGE "{entry["scm_url"]}")' in TOP
    assert (ROOT / "LICENSE").is_file() and "Apache-2.0" in TOP and "CC BY-SA 4.0" in TOP
    assert b"\r" not in (ROOT / "Resources" / "QMedSAM.json").read_bytes()


@pytest.mark.parametrize("name", ["EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
def test_pictures_that_the_index_shows_are_in_the_repository(name: str) -> None:
    (value,) = re.findall(rf'^set\({name} "([^"]*)"\)$', TOP, re.MULTILINE)
    for address in value.split():
        assert (ROOT / address.split("/main/")[1]).read_bytes()[:4] == b"\x89PNG"


def test_icons_have_the_size_that_they_are_drawn_at() -> None:
    sides = {"QMedSAMEffect.png": 42, "QMedSAMEffectDark.png": 42, "QMedSAMSegment.png": 128}
    for name, side in sides.items():
        png = (MODULE / "Resources" / "Icons" / name).read_bytes()
        assert struct.unpack(">II", png[16:24]) == (side, side)
        assert (MODULE / "Resources" / "Icons" / name).with_suffix(".svg").is_file()


STUB = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/empty.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/empty.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(Slicer_INSTALL_CLIMODULES_BIN_DIR lib/cli-modules)
"""
USE = """
include(CMakeParseArguments)
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(M "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(file ${M_SCRIPTS} ${M_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "${file} does not exist")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${file} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}/${folder})
  endforeach()
endfunction()
function(SlicerMacroBuildScriptedCLI)
  cmake_parse_arguments(M "NO_INSTALL;VERBOSE" "NAME;FOLDER" "" ${ARGN})
  if(M_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "Unknown keywords: ${M_UNPARSED_ARGUMENTS}")
  endif()
  install(FILES ${M_NAME}.py ${M_NAME}.xml DESTINATION ${Slicer_INSTALL_CLIMODULES_BIN_DIR})
endfunction()
"""


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_an_installed_extension_finds_its_models(tmp_path: Path) -> None:
    """Configured and installed by CMake with stand-ins for Slicer's macros; then the engine is asked from there."""
    import sys

    slicer = tmp_path / "slicer"
    slicer.mkdir()
    for name, text in (("SlicerConfig.cmake", STUB), ("use.cmake", USE), ("empty.cmake", "")):
        (slicer / name).write_text(text, encoding="utf-8")
    build, target = str(tmp_path / "build"), tmp_path / "installed"
    for command in (
        ["cmake", "-S", str(ROOT), "-B", build, f"-DSlicer_DIR={slicer}", f"-DCMAKE_INSTALL_PREFIX={target}"],
        ["cmake", "--install", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    scripts = target / "lib" / "qt-scripted-modules"
    code = (
        "from qmedsam import ModelStore; from qmedsam.models import shipped_folder\n"
        "from QMedSAMSegmentLib.selfcheck import sampleFolder\n"
        "store = ModelStore([shipped_folder()]); [m.verify() for m in store.models()]\n"
        "print(len(store.models()), (sampleFolder() / 'QMedSAMPhantom.nrrd').is_file(), shipped_folder())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=scripts, env={"PATH": ""}, capture_output=True, text=True, check=False
    )
    count, sample, folder = done.stdout.split()
    assert int(count) >= 1 and sample == "True" and Path(folder).resolve() == (scripts / "Resources" / "Models").resolve(), (
        done.stderr
    )

    # The command line module is run from where it lies, with a Python that knows of no other engine.
    box = ["--roi", "-60,0,0,20,20,20", "--strategy", "fixed", "--modality", "CT"]
    done = subprocess.run(
        [sys.executable, str(target / "lib" / "cli-modules" / "QMedSAMBatch.py"), "--volume", str(SAMPLE), *box]
        + ["--output", str(tmp_path / "out.seg.nrrd")],
        env={"PATH": "", "QMEDSAM_CACHE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if importlib.util.find_spec("openvino") is None:
        assert "OpenVINO" in done.stderr
    else:
        assert done.returncode == 0 and (tmp_path / "out.seg.nrrd").is_file(), done.stderr


def test_a_command_line_module_lies_apart_from_scripted_modules() -> None:
    """Slicer takes a .py directly in a scripted module's folder for a scripted module."""
    assert "add_subdirectory(QMedSAMBatch)" in TOP and not list(MODULE.glob("QMedSAMBatch*"))
    assert {path.name for path in (ROOT / "QMedSAMBatch").iterdir() if path.is_file()} == {
        "CMakeLists.txt",
        "QMedSAMBatch.py",
        "QMedSAMBatch.xml",
    }


def test_the_tutorials_pictures_exist_and_come_from_the_script() -> None:
    tutorial = ROOT / "Docs" / "GetStarted" / "Tutorial.md"
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", tutorial.read_text(encoding="utf-8"))
    made = re.findall(r'SCREENSHOTS / "(\w+\.png)"', (ROOT / "Testing" / "pictures" / "make.py").read_text(encoding="utf-8"))
    assert len(pictures) >= 5 and {Path(picture).name for picture in pictures} == set(made)
    assert all((tutorial.parent / picture).is_file() for picture in pictures)
