"""Lists of cases: CSV as a spreadsheet saves it, and JSONL."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from ..errors import QMedSAMError, encodable, shown
from ..files import format_of, name_of
from ..files.tables import Row, read_text, table_of
from ..following import parse_frame_index
from ..intensity import known_modality, parse_window
from .settings import Case, suffix_of

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
    "filename": "volume",
    "file": "volume",
    "path_mask": "segmentation",
    "mask": "segmentation",
    "case_id": "name",
}


#: Columns of a box, both ends included: left, top, right, bottom, and for volumes the first and the last slice.
_EDGES: Tuple[Tuple[str, ...], ...] = (
    ("x0", "y0", "x1", "y1", "z0", "z1"),
    ("i0", "j0", "i1", "j1", "k0", "k1"),
    ("x1", "y1", "x2", "y2", "z1", "z2"),
    ("xmin", "ymin", "xmax", "ymax", "zmin", "zmax"),
    ("x_min", "y_min", "x_max", "y_max", "z_min", "z_max"),
    ("left", "top", "right", "bottom", "first", "last"),
)
#: Names of a box's own name, in a list that holds boxes.
_LABELS = ("label", "class", "class_name", "object")


def read_list(path: Path, folder: Path, format: str) -> List[Case]:
    """Cases from a list.

    Args:
        path: ``.csv`` (separated by ``,``, ``;`` or tabs, the first line names the columns), ``.tsv``, or ``.jsonl`` (an object
            a line). Fields, all but the first optional: ``volume``, ``boxes`` (one file or, in JSONL, a list of files or of
            boxes), ``segmentation``, ``modality``, ``model``, ``window`` (``WIDTH,LEVEL``, or a name), ``series``,
            ``frame_index``, ``name``, ``output``. Others are passed over. Inputs are relative to the list, ``output`` to
            ``folder``.
            A CSV may hold the boxes themselves, a row each: ``image,x0,y0,x1,y1`` (pixels from 0, both ends included; for
            volumes ``z0`` and ``z1`` too) and, if wanted, ``label``, the box's name. Rows of one image are one case.
        folder: of the outputs.
        format: of outputs that are not named.

    Returns:
        A case per row (or image), in the list's order; one with a mistake carries its ``problem``.

    Raises:
        QMedSAMError: no such file, not a text, no row, or no column ``volume``.
    """
    text = read_text(path, "a list of cases")
    rows = _json_rows(text) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(text, path)
    cases = [_case(row, f"line {line} of '{path.name}'", path.parent.absolute(), folder, format) for line, row in rows]
    if not cases:
        raise QMedSAMError(f"'{path.name}' lists no case.", "Give a line per case, below the names of the columns in a CSV.")
    return cases


def _csv_rows(text: str, path: Path) -> List[Row]:
    columns, rows = table_of(text, path.name)
    if "volume" not in {_NAMES.get(column) for column in columns}:
        raise QMedSAMError(
            f"'{path.name}' has no column 'volume'.",
            "Its first line must name the columns: volume,boxes,... or image,x0,y0,x1,y1.",
        )
    edges = next((edges for edges in _EDGES if set(edges[:4]) <= set(columns)), None)
    return _with_boxes(rows, edges, path) if edges else rows


def _with_boxes(rows: Sequence[Row], edges: Tuple[str, ...], path: Path) -> List[Tuple[int, Dict[str, Any]]]:
    """Rows of one image as one row with all its boxes."""
    images: Dict[str, Tuple[int, Dict[str, Any]]] = {}
    for line, row in rows:
        volume = next((value for column, value in row.items() if _NAMES.get(column) == "volume"), "")
        merged = images.setdefault(volume or f"line {line}", (line, {**row, "boxes": []}))[1]
        texts = [row.get(edge, "") for edge in edges]
        try:
            left, top, right, bottom = map(float, texts[:4])
            depth = [float(text) for text in texts[4:] if text]
            numbers = [left, top, *depth[:1], right, bottom, *depth[1:]]
            merged["boxes"].append({"ijk": numbers, "name": next((row[key] for key in _LABELS if row.get(key)), "")})
        except ValueError:
            merged["problem"] = f"Line {line} of '{path.name}' is no box ({', '.join(filter(None, texts)) or 'no numbers'})."
    return list(images.values())


def _json_rows(text: str) -> Iterator[Tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except (ValueError, RecursionError):
                yield line, None


def _case(row: Any, where: str, base: Path, folder: Path, format: str) -> Case:
    failed = Case(where, base, folder / f"{where}{suffix_of(format, base)}")  # never written
    if not isinstance(row, Mapping):
        return Case(**{**failed.__dict__, "problem": f"The {where} is not a JSON object."})
    values: Dict[str, Any] = {}
    for key, value in row.items():
        known = _NAMES.get(str(key or "").strip().lower())
        value = value.strip() if isinstance(value, str) else value
        if known and value not in (None, "", []):
            values.setdefault(known, value)
    try:
        if row.get("problem") and isinstance(row.get("boxes"), list):
            raise QMedSAMError(row["problem"], "Give numbers.")
        return _parsed(values, where, base, folder, format)
    except QMedSAMError as error:
        name = shown(values.get("name") or values.get("volume") or "") or failed.name
        return Case(**{**failed.__dict__, "name": name, "problem": str(error)})


def _parsed(values: Dict[str, Any], where: str, base: Path, folder: Path, format: str) -> Case:
    boxes = values.pop("boxes", [])
    boxes = boxes if isinstance(boxes, list) else [boxes]
    drawn: Tuple[Tuple[Tuple[float, ...], str], ...] = ()
    if boxes and not any(isinstance(box, str) for box in boxes):
        flat = all(isinstance(number, (int, float)) for number in boxes)
        drawn = tuple(_drawn(box, where) for box in ([boxes] if flat else boxes))
        boxes = []
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
    output = values.get("output") or _default_output(values, base, suffix_of(format, volume))
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
        drawn=drawn,
        frame_index=parse_frame_index(values.get("frame_index")),
    )
    if not case.has_boxes and case.segmentation is None:
        if volume.suffix.lower() != ".npz":
            raise QMedSAMError(f"There are no boxes for '{values['volume']}' in {where}.", "Name boxes or a segmentation.")
        return Case(**{**case.__dict__, "boxes": (volume,)})
    return case


def _drawn(box: Any, where: str) -> Tuple[Tuple[float, ...], str]:
    """A box of a list: its numbers, or an object with them and a name."""
    name = ""
    if isinstance(box, Mapping):
        name = str(next((box[key] for key in ("name", *_LABELS) if box.get(key) not in (None, "")), ""))
        box = box.get("ijk", box.get("box"))
    right = isinstance(box, list) and len(box) in (4, 6) and all(isinstance(v, (int, float)) and v == v for v in box)
    if not right:
        raise QMedSAMError(
            f"A box in {where} is not four or six numbers.", "Give [x0, y0, x1, y1], in volumes [i0, j0, k0, ...]."
        )
    return tuple(float(v) for v in box), name


def _default_output(values: Dict[str, str], base: Path, suffix: str) -> str:
    """By the case's name, else by its volume's place below the list; never out of the folder of the outputs."""
    if "name" in values:
        parts = [part for part in values["name"].replace("\\", "/").split("/") if part not in ("", ".", "..")]
    else:
        relative = Path(values["volume"])
        inside = not relative.is_absolute() and ".." not in relative.parts
        parts = [*(relative.parent.parts if inside else ()), name_of(base / relative)]
    return "/".join(parts or ["case"]) + suffix
