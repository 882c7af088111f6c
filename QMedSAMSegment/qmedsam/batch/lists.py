"""Lists of cases: CSV as a spreadsheet saves it, and JSONL."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple

from ..errors import QMedSAMError
from ..files import format_of, name_of
from ..files.header import encodable, shown
from ..files.tables import Row, read_text, table_of
from ..following import parse_frame_index
from ..intensity import known_modality, parse_window
from .settings import Case

#: Letters of a path, and bytes of one of its names with room for a suffix: file systems end at 4096 and 255.
_LONGEST, _LONGEST_NAME = 2000, 240

LISTS = (".csv", ".tsv", ".jsonl", ".ndjson")

#: Other names of a field: those of the manifests that ``qmedsam evaluate`` reads.
_NAMES = {
    **{
        name: name
        for name in ("volume", "boxes", "segmentation", "modality", "model", "window", "series", "name", "output", "frame_index")
    },
    "path_image": "volume",
    "image": "volume",
    "path_mask": "segmentation",
    "mask": "segmentation",
    "case_id": "name",
}


def read_list(path: Path, folder: Path, suffix: str) -> List[Case]:
    """Cases from a list.

    Args:
        path: ``.csv`` (separated by ``,``, ``;`` or tabs, the first line names the columns), ``.tsv``, or ``.jsonl`` (an object
            a line). Fields, all but the first optional: ``volume``, ``boxes`` (one file or, in JSONL, a list), ``segmentation``,
            ``modality``, ``model``, ``window`` (``WIDTH,LEVEL``, or a name), ``series``, ``frame_index``, ``name``, ``output``.
            Others are passed over. Inputs are relative to the list, ``output`` to ``folder``.
        folder: of the outputs.
        suffix: of outputs that are not named.

    Returns:
        A case per row, in the list's order; a row with a mistake carries its ``problem``.

    Raises:
        QMedSAMError: no such file, not a text, no row, or no column ``volume``.
    """
    text = read_text(path, "a list of cases")
    rows = _json_rows(text) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(text, path)
    cases = [_case(row, f"line {line} of '{path.name}'", path.parent.absolute(), folder, suffix) for line, row in rows]
    if not cases:
        raise QMedSAMError(f"'{path.name}' lists no case.", "Give a line per case, below the names of the columns in a CSV.")
    return cases


def _csv_rows(text: str, path: Path) -> List[Row]:
    columns, rows = table_of(text, path.name)
    if "volume" not in {_NAMES.get(column) for column in columns}:
        raise QMedSAMError(f"'{path.name}' has no column 'volume'.", "Its first line must name the columns: volume,boxes,...")
    return rows


def _json_rows(text: str) -> Iterator[Tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except (ValueError, RecursionError):
                yield line, None


def _case(row: Any, where: str, base: Path, folder: Path, suffix: str) -> Case:
    failed = Case(where, base, folder / f"{where}{suffix}")  # never written
    if not isinstance(row, Mapping):
        return Case(**{**failed.__dict__, "problem": f"The {where} is not a JSON object."})
    values: Dict[str, Any] = {}
    for key, value in row.items():
        known = _NAMES.get(str(key or "").strip().lower())
        value = value.strip() if isinstance(value, str) else value
        if known and value not in (None, "", []):
            values.setdefault(known, value)
    try:
        return _parsed(values, where, base, folder, suffix)
    except QMedSAMError as error:
        name = shown(values.get("name") or values.get("volume") or "") or failed.name
        return Case(**{**failed.__dict__, "name": name, "problem": str(error)})


def _parsed(values: Dict[str, Any], where: str, base: Path, folder: Path, suffix: str) -> Case:
    boxes = values.pop("boxes", [])
    boxes = boxes if isinstance(boxes, list) else [boxes]
    window = values.pop("window", None)
    if isinstance(values.get("frame_index"), int):  # a number in JSON
        values["frame_index"] = str(values["frame_index"])
    if isinstance(window, list):
        window = ",".join(map(str, window))
    for key, value in [*values.items(), *(("boxes", value) for value in boxes)]:
        if not isinstance(value, str) or "\0" in value or encodable(value) != value:
            raise QMedSAMError(f"The field '{key}' of {where} is not a text.", "Put it in quotes.")
        if len(value) > _LONGEST or any(len(part.encode()) > _LONGEST_NAME for part in re.split(r"[/\\\\]", value)):
            raise QMedSAMError(f"The field '{key}' of {where} is too long.", "No file can be called so.")
    if "volume" not in values:
        raise QMedSAMError(f"There is no volume in {where}.", "Name one.")
    if "modality" in values and values["modality"] != "auto":
        known_modality(values["modality"])
    volume = base / values["volume"]
    output = values.get("output") or _default_output(values, base, suffix)
    named = values.get("name") or output[: -len(format_of(output))] or where
    case = Case(
        named,
        volume,
        folder / output,
        tuple(base / name for name in boxes),
        base / values["segmentation"] if "segmentation" in values else None,
        values.get("series"),
        values.get("modality"),
        values.get("model"),
        None if window is None else parse_window(str(window)),
        frame_index=parse_frame_index(values.get("frame_index")),
    )
    if not boxes and case.segmentation is None:
        if volume.suffix.lower() != ".npz":
            raise QMedSAMError(f"There are no boxes for '{values['volume']}' in {where}.", "Name boxes or a segmentation.")
        return Case(**{**case.__dict__, "boxes": (volume,)})
    return case


def _default_output(values: Dict[str, str], base: Path, suffix: str) -> str:
    """By the case's name, else by its volume's place below the list; never out of the folder of the outputs."""
    if "name" in values:
        parts = [part for part in values["name"].replace("\\", "/").split("/") if part not in ("", ".", "..")]
    else:
        relative = Path(values["volume"])
        inside = not relative.is_absolute() and ".." not in relative.parts
        parts = [*(relative.parent.parts if inside else ()), name_of(base / relative)]
    return "/".join(parts or ["case"]) + suffix
