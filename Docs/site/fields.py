"""Pages of what can be written into files: a training stage, a model's manifest, the parameters of Slicer's module."""

from __future__ import annotations

import json
import typing
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Dict, Iterator, List, Type

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[2]


def table(header: List[str], rows: List[List[str]]) -> List[str]:
    """A Markdown table; bars within cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines] + [""]


# A training stage


def training_page() -> str:
    """Every section of a stage's YAML, from the models that check it."""
    from qmedsam_training.config import TrainConfig

    lines = ["# Training configuration", ""]
    lines += ["A stage is a YAML file ([examples](../../Training/configs)); unknown keys are refused.", ""]
    for path, model in _sections(TrainConfig, ""):
        lines += [f"## {path or 'The stage'}", "", (model.__doc__ or "").strip(), ""]
        lines += table(["key", "type", "default", "meaning"], [_row(name, field) for name, field in model.model_fields.items()])
    return "\n".join(lines)


def _sections(model: Type[BaseModel], path: str) -> Iterator[typing.Tuple[str, Type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            yield from _sections(inner, f"{path}.{name}".lstrip("."))


def _models_in(annotation: Any) -> List[Type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _row(name: str, field: FieldInfo) -> List[str]:
    if _models_in(field.annotation):
        kind = "sections" if "List" in str(field.annotation) else "section"
    else:
        kind = _type(field.annotation)
    bounds = [
        f"{sign} {getattr(bound, key):g}"
        for bound in field.metadata
        for key, sign in _BOUNDS.items()
        if getattr(bound, key, None) is not None
    ]
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if field.is_required():
        written = "required"
    elif isinstance(default, BaseModel):
        written = "its defaults"
    else:
        written = f"`{json.dumps(default, default=str)}`"
    return [f"`{name}`", ", ".join([kind, *bounds]), written, field.description or ""]


_WORDS = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _type(annotation: Any) -> str:
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is typing.Union:
        return " or ".join(_type(part) for part in parts)
    if origin is list:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return "mapping"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        annotation.__name__, annotation.__name__.lower()
    )


# A model's manifest


def manifest_page() -> str:
    """Every field of ``manifest.json``, from the schema that checks it."""
    schema = json.loads((ROOT / "QMedSAMSegment" / "qmedsam" / "manifest.schema.json").read_text(encoding="utf-8"))
    lines = ["# Model manifest", ""]
    lines += [
        "`manifest.json` in a model's folder; other keys are refused. As a"
        " [schema](../../QMedSAMSegment/qmedsam/manifest.schema.json), and that of the"
        " [shipped model](../../Resources/Models/qmedsam-compact/manifest.json).",
        "",
    ]
    return "\n".join(lines + table(["field", "type", "required", "meaning"], list(_properties(schema, ""))))


def _properties(schema: Dict[str, Any], prefix: str) -> Iterator[List[str]]:
    for name, about in schema.get("properties", {}).items():
        kind = "one of " + ", ".join(f"`{value}`" for value in about["enum"]) if "enum" in about else about.get("type", "any")
        required = "yes" if name in schema.get("required", []) else ""
        yield [f"`{prefix}{name}`", kind, required, about.get("description", "")]
        yield from _properties(about, f"{prefix}{name}.")


# Slicer's command line module

_GROUPING = {"label", "description"}


def slicer_page() -> str:
    """Every parameter of QMedSAM Batch, from the XML that Slicer makes its panel of."""
    root = ElementTree.parse(ROOT / "QMedSAMBatch" / "QMedSAMBatch.xml").getroot()
    lines = ["# QMedSAM Batch", "", str(root.findtext("description")), ""]
    lines += [
        "Parameters of `slicer.cli.run` and of `python QMedSAMBatch.py --help`: [how to use it](../HowTo/SlicerCLI.md).",
        "",
    ]
    for group in root.findall("parameters"):
        rows = []
        for element in group:
            if element.tag in _GROUPING:
                continue
            flag = element.findtext("longflag")
            choices = ", ".join(f"`{choice.text}`" for choice in element.findall("element"))
            default = element.findtext("default")
            meaning = str(element.findtext("description")) + (f" ({choices})" if choices else "")
            rows.append(
                [
                    f"`{element.findtext('name')}`",
                    f"`--{flag}`" if flag else "result",
                    element.tag,
                    f"`{default}`" if default else "",
                    meaning,
                ]
            )
        lines += [f"## {group.findtext('label')}", "", str(group.findtext("description")), ""]
        lines += table(["parameter", "flag", "kind", "default", "meaning"], rows)
    return "\n".join(lines)
