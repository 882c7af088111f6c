"""Slicer's traps, as rules over the source: each has broken somebody's extension."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "QMedSAMSegment"
LIBRARY = MODULE / "QMedSAMSegmentLib"
FILES = [MODULE / "QMedSAMSegment.py", *sorted(LIBRARY.rglob("*.py"))]
#: What may be imported while Slicer starts: the standard library's light parts, numpy, VTK, Qt and what is ours.
LIGHT = {
    *(
        "__future__",
        "contextlib",
        "dataclasses",
        "importlib",
        "logging",
        "os",
        "pathlib",
        "platform",
        "sys",
        "threading",
        "weakref",
    ),
    *("time", "typing", "numpy", "qt", "slicer", "vtk", "qmedsam", "QMedSAMSegmentLib", "SegmentEditorEffects"),
}
EFFECT = LIBRARY / "SegmentEditorEffect.py"
#: Methods that C++ calls by name; a misspelt one is never called.
CONTRACT = {
    *("clone", "icon", "helpText", "setupOptionsFrame", "setMRMLDefaults", "updateGUIFromMRML", "updateMRMLFromGUI", "activate"),
    *("deactivate", "cleanup", "createCursor", "processInteractionEvents", "sourceVolumeNodeChanged", "interactionNodeModified"),
}

every = pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def _code(path: Path) -> str:
    """Source without docstrings and comments."""
    tree = _tree(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value = ast.Constant("")
    return ast.unparse(tree)


@every
def test_python_39_syntax_with_lazy_annotations(path: Path) -> None:
    assert any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in _tree(path).body)


@every
def test_nothing_heavy_is_imported_at_file_scope(path: Path) -> None:
    for node in _tree(path).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        else:
            continue
        for name in names:
            assert name.split(".")[0] in LIGHT, f"{path.name} imports {name} at file scope"


@every
def test_no_forbidden_idioms(path: Path) -> None:
    code = _code(path)
    assert not re.search(r"Get(RAS)?Bounds\b", code), "bounds forget an ROI's rotation: use its eight corners"
    assert not re.search(r"\bgetNode\(|GetFirstNodeByName|getFirstNodeByName|getNodes\(", code), "nodes are referenced, not named"
    assert not re.search(r"except\s*:", code), "a bare except hides what went wrong"
    assert not re.search(r"\.exec_?\(|processEvents", code), "no event loop of our own: the user could change the scene in it"
    assert "GetMasterVolumeNode" not in code and "masterVolumeNodeChanged" not in code, "deprecated"
    assert "pip_install(" not in code, "it installs declared dependencies, OpenVINO's telemetry among them"


@every
def test_the_main_window_may_be_absent(path: Path) -> None:
    """``mainWindow()`` is only ever kept in a name that is compared with None."""
    code = _code(path)
    for match in re.finditer(r"^(.*)slicer\.util\.mainWindow\(\)(.*)$", code, re.MULTILINE):
        name = re.fullmatch(r"\s*(\w+) = ", match.group(1))
        assert name and match.group(2) == "", match.group(0)
        assert re.search(rf"\b{name.group(1)} is (not )?None", code[match.end() : match.end() + 200])


def test_importing_the_library_needs_no_qt_and_comes_before_set_python_source() -> None:
    registration = _code(MODULE / "QMedSAMSegment.py").split("def registerEditorEffect")[1]
    assert registration.index("from QMedSAMSegmentLib import SegmentEditorEffect") < registration.index(".setPythonSource(")
    package = _tree(LIBRARY / "__init__.py")
    imported = [n for n in package.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert {getattr(n, "module", None) or n.names[0].name for n in imported} == {"__future__", "typing"}


def test_nobody_imports_the_effects_file_past_the_package() -> None:
    """``import QMedSAMSegmentLib.SegmentEditorEffect`` would bind the module where C++ looks for the class."""
    for path in FILES:
        if path != LIBRARY / "__init__.py":
            for node in ast.walk(_tree(path)):
                if isinstance(node, ast.ImportFrom):
                    assert node.module not in ("SegmentEditorEffect", "QMedSAMSegmentLib.SegmentEditorEffect"), path
                if isinstance(node, ast.Import):
                    assert all(alias.name != "QMedSAMSegmentLib.SegmentEditorEffect" for alias in node.names), path


def _effect() -> ast.ClassDef:
    return next(node for node in _tree(EFFECT).body if isinstance(node, ast.ClassDef))


def _method(name: str) -> ast.FunctionDef:
    return next(node for node in _effect().body if isinstance(node, ast.FunctionDef) and node.name == name)


def test_the_effect_has_the_methods_that_are_called_by_name() -> None:
    assert {node.name for node in _effect().body if isinstance(node, ast.FunctionDef)} >= CONTRACT


def test_event_handlers_return_a_boolean_on_every_way() -> None:
    method = _method("processInteractionEvents")
    returns = [node for node in ast.walk(method) if isinstance(node, ast.Return)]
    assert returns and isinstance(method.body[-1], ast.Return)
    for node in returns:
        constant = isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool)
        assert constant or (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "bool")


def test_defaults_touch_no_widget() -> None:
    """They run before the options frame exists."""
    code = ast.unparse(_method("setMRMLDefaults"))
    assert "panel" not in code and "table" not in code and "setParameterDefault" in code


def test_the_name_is_api_and_not_translated() -> None:
    code = ast.unparse(_method("__init__"))
    assert "scriptedEffect.name = 'QMedSAM'" in code
    assert code.index("scriptedEffect.requireSegments") < code.index("AbstractScriptedSegmentEditorEffect.__init__")


def test_class_attributes_hold_no_state() -> None:
    """One instance per editor: a node kept on the class would be shared."""
    kinds = (ast.FunctionDef, ast.Expr)
    assert all(isinstance(node, kinds) for node in _effect().body)


def test_undo_is_saved_once_per_action() -> None:
    calls = [re.findall(r"\.saveStateForUndo\(\)", _code(path)) for path in FILES]
    # A run's and a correction's write ask their writer, that the editor; all ROIs, and a box without one, make segments.
    assert sum(map(len, calls)) == 5
    assert _code(LIBRARY / "correction.py").count("saveStateForUndo()") == 1
    assert _code(LIBRARY / "runs.py").count("saveStateForUndo()") == 1
