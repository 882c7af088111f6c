"""What a taught model says of itself: manifest and card. Cases are numbers there, never names."""

from __future__ import annotations

from typing import Any, Dict, List

from qmedsam.models import Model, shipped_folder

from .cases import Lessons
from .plan import Plan
from .report import Findings

#: Before the models that anybody can use: it is asked for its targets alone.
_PRIORITY = 10
#: The weights of which shipped model a checkpoint holds.
_SHIPPED = {"volume-160": "qmedsam-volume", "compact-160": "qmedsam-compact"}


def license_of(base: str) -> str:
    """Of the weights that were started from, as far as they are a shipped model's."""
    folder = shipped_folder() / _SHIPPED.get(base, base)
    return Model.read(folder).manifest.license if base in _SHIPPED and folder.is_dir() else "its own"


def fields_of(lessons: Lessons, found: Findings, base: str, plan: Plan) -> Dict[str, Any]:
    """Fields of the manifest."""
    targets = [{"name": target, "codes": list(lessons.codes.get(target, ()))} for target in lessons.targets]
    names = ", ".join(lessons.targets)
    return {
        "title": f"Taught: {names}"[:120],
        "license": f"the user's own; {base}: {license_of(base)}",
        "description": f"{base}, taught with {len(lessons.cases)} cases of its user; used for {names} alone.",
        "modalities": lessons.modalities or ["*"],
        "dimension": 3 if lessons.is_3d else 2,
        "priority": _PRIORITY,
        "targets": targets,
        "scores": {**found.facts(), "command": "qmedsam-train teach", "steps": plan.lesson.steps},
        "data": [
            {"name": f"{len(lessons.cases)} cases of the user", "license": "the user's"},
            {"name": base, "license": license_of(base)},
        ],
    }


def card_of(name: str, lessons: Lessons, found: Findings, base: str, plan: Plan) -> str:
    """Text of the model card."""
    lines: List[str] = [
        f"# {name}",
        "",
        f"Made by its user with `qmedsam-train teach`: {base}, whose decoder was taught with {len(lessons.cases)} cases. It is",
        f"the user's own; the weights of {base} stay under their licence ({license_of(base)}).",
        "Research software: not a medical device, not for diagnosis.",
        "",
        "It is used for segments of these names (or codes) where no model is named, and for nothing else:",
        "",
    ]
    for target in lessons.targets:
        objects, cases = lessons.objects(target)
        codes = ", ".join(lessons.codes.get(target, ()))
        lines.append(f"- {target}: {objects} objects in {cases} cases" + (f", {codes}" if codes else ""))
    lines += [
        "",
        f"Modality: {', '.join(lessons.modalities) or 'unknown'}. {plan.lesson.steps} steps, {plan.frames} frames of each case.",
        "",
        "## What it is worth",
        "",
        found.markdown(),
        "## By case",
        "",
        "| case | target | ellipse | before | taught |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(found.outcomes, key=lambda row: (row.case, row.target)):
        lines.append(f"| {row.case} | {row.target} | {row.ellipse:.3f} | {row.before:.3f} | {row.taught:.3f} |")
    return "\n".join(lines) + "\n"
