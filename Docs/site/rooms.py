"""Pages of the programming interface: one per room of the engine, from its docstrings."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "QMedSAMSegment" / "qmedsam"


def rooms() -> Dict[str, List[str]]:
    """Every room beside its modules, e.g. ``strategies`` with ``qmedsam.strategies.items`` and the like."""
    found: Dict[str, List[str]] = {}
    for path in sorted(ENGINE.iterdir()):
        if path.is_dir() and (path / "__init__.py").is_file():
            files = sorted(path.rglob("*.py"))
        elif path.suffix == ".py" and not path.name.startswith("__"):
            files = [path]
        else:
            continue
        found[path.stem] = [".".join(file.relative_to(ENGINE.parent).with_suffix("").parts) for file in files]
        found[path.stem] = [module.removesuffix(".__init__") for module in found[path.stem]]
    del found["commands"]  # what they do is said by --help
    return found


def page_of(room: str, modules: List[str]) -> str:
    """Markdown for mkdocstrings: the room, then all modules of it."""
    lines = [f"# qmedsam.{room}", ""]
    for module in modules:
        options = ["heading_level: 2"]
        package = ENGINE.parent.joinpath(*module.split("."), "__init__.py")
        if package.is_file():  # what it only hands on is said where it is made
            options.append(f"members: {_made_in(package) or 'false'}")
        lines += [f"::: {module}", f"    options: {{{', '.join(options)}}}", ""]
    return "\n".join(lines)


def _made_in(path: Path) -> List[str]:
    """Classes, functions and constants that a file defines."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if name[0] != "_"]


def public_page() -> str:
    """What ``import qmedsam`` gives, and what a script inside Slicer takes."""
    lines = ["# qmedsam", "", "What most programs need. Everything else has a page of its own, room by room.", ""]
    for name in ("Segmenter", "Segmentation", "Volume", "Box", "ModelStore", "QMedSAMError"):
        lines += [f"::: qmedsam.{name}", "    options: {heading_level: 2}", ""]
    lines += ["## Inside Slicer", "", "::: QMedSAMSegmentLib.logic.QMedSAMSegmentLogic", "    options: {heading_level: 3}", ""]
    return "\n".join(lines)
