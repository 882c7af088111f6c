"""Every setting of a configuration, read off the code: the table of the README."""

from __future__ import annotations

from typing import Any, Iterator, List, Tuple, Type, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .config import TrainConfig


def table() -> str:
    """Markdown: name, default, what may stand there, and what it means; sections with a dot."""
    lines = ["| setting | default | values | what it is |", "|---|---|---|---|"]
    for name, field in _settings(TrainConfig):
        row = (f"`{name}`", _default(field), _values(field), field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines)


def _settings(model: Type[BaseModel], before: str = "") -> Iterator[Tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None or getattr(field.annotation, "__origin__", None) is list:
            yield before + name, field
        if inner is not None:
            yield from _settings(inner, f"{before}{name}{'[]' if _is_list(field) else ''}.")


def _is_list(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is list


def _model_in(kind: Any) -> Any:
    """A section's class, perhaps optional or in a list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for found in map(_model_in, get_args(kind)) if found is not None), None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(needed)"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return str(value).lower()
    return (
        "none" if value is None else "empty" if value in ([], {}) else ", ".join(value) if isinstance(value, list) else str(value)
    )


def _values(field: FieldInfo) -> str:
    choices = [str(choice) for choice in _choices(field.annotation)]
    if choices:
        return ", ".join(choices)
    signs = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    bounds: List[str] = []
    for constraint in field.metadata:
        bounds += [f"{sign} {getattr(constraint, name)}" for name, sign in signs.items() if hasattr(constraint, name)]
    return " ".join(bounds)


def _choices(kind: Any) -> Tuple[Any, ...]:
    arguments = get_args(kind)
    if arguments and all(isinstance(a, str) for a in arguments):
        return arguments
    return next((found for found in map(_choices, arguments) if found), ())
