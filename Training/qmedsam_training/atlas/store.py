"""The buffer, its file, and the table of what can be prompted in it."""

from __future__ import annotations

import io
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set, Tuple

import numpy as np
import torch
from qmedsam import QMedSAMError
from torch import Tensor

from ..data.splitting import Patient, chance_of

#: Hounsfield units of the 256 codes: 3 HU a code about the abdomen's window and coarse outside, for any window.
HU_KNOTS = ((-1024.0, 0.0), (-200.0, 50.0), (300.0, 215.0), (1500.0, 255.0))
#: Pictures also lie here halved, again and again, so that a large object on a large picture is averaged and not picked at.
LEVELS = 3
#: A picture is halved while its shorter side has this many pixels.
_LEAST_HALVED = 16
#: A source of fewer patients holds nobody out.
_LEAST_PATIENTS = 5


@dataclass
class Plane:
    """An array in the file: ``kji`` (or ``3 x j x i`` colours as three planes), how it is packed, and its bytes."""

    shape: Tuple[int, ...]
    packed: bytes
    coding: str  # "zlib", "webp" (a picture), "webp-slices" (a volume's slices below each other)


@dataclass
class Packed:
    """A case as it lies in the file.

    Attributes:
        group: modality and source.
        patient: whose it is, ``source/name``.
        values: grey values or colours as codes of a byte.
        labels: objects, numbered from 1.
        regions: homogeneous regions of single slices, numbered from 1: ``(slice, map)``; a map may be coarser.
        spacing_mm: of i, j and k.
        hounsfield: whether the codes are those of :data:`HU_KNOTS`.
        is_3d: whether slices follow each other.
    """

    group: str
    patient: str
    values: Plane
    labels: Plane
    regions: List[Tuple[int, Plane]]
    spacing_mm: Tuple[float, float, float]
    hounsfield: bool
    is_3d: bool


def pack(array: np.ndarray, coding: str = "zlib") -> Plane:
    """An array for the file. WebP, for bytes alone, costs a fifth to a tenth of the room and a little of the grain."""
    if coding == "zlib":
        return Plane(array.shape, zlib.compress(np.ascontiguousarray(array).tobytes(), 6), coding)
    from PIL import Image

    picture = array.reshape(-1, array.shape[-1]) if coding == "webp-slices" or array.ndim == 2 else np.moveaxis(array, 0, -1)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "webp", quality=90, method=2)
    return Plane(array.shape, stream.getvalue(), coding)


def unpack(plane: Plane, kind: str) -> np.ndarray:
    """The array of a plane; ``kind`` is its numpy type."""
    if plane.coding == "zlib":
        return np.frombuffer(zlib.decompress(plane.packed), kind).reshape(plane.shape)
    from PIL import Image

    with Image.open(io.BytesIO(plane.packed)) as picture:
        array = np.asarray(picture.convert("RGB"))
    if plane.coding == "webp-slices" or len(plane.shape) == 2:
        return np.ascontiguousarray(array[..., 0]).reshape(plane.shape)
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def write_atlas(path: Path, cases: Sequence[Packed]) -> None:
    """Write cases into one file: a JSON index of 8 + n bytes, then the packed planes."""
    blobs: List[bytes] = []
    position = 0

    def place(plane: Plane) -> Dict[str, Any]:
        nonlocal position
        blobs.append(plane.packed)
        entry = {"shape": plane.shape, "coding": plane.coding, "at": position, "bytes": len(plane.packed)}
        position += len(plane.packed)
        return entry

    index = [
        {
            "group": c.group,
            "patient": c.patient,
            "values": place(c.values),
            "labels": place(c.labels),
            "regions": [[n, place(plane)] for n, plane in c.regions],
            "spacing_mm": c.spacing_mm,
            "hounsfield": c.hounsfield,
            "is_3d": c.is_3d,
        }
        for c in cases
    ]
    head = json.dumps(index).encode()
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        stream.writelines(blobs)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


@dataclass
class Atlas:
    """Everything on one device.

    Attributes:
        values: ``uint8``, all cases one after another.
        labels: ``int16``, likewise.
        columns: of the table of objects, each a tensor with a row per object; see :func:`_add`.
        group: of every object, an index into ``groups``.
        groups: their names.
        patients: of every case (the column ``case``), ``source/name``.
        weight: with which an object is drawn: groups by the root of their number of cases, cases and objects evenly.
    """

    values: Tensor
    labels: Tensor
    columns: Dict[str, Tensor]
    group: Tensor
    groups: List[str]
    patients: List[str]
    weight: Tensor

    def to(self, device: torch.device) -> Atlas:
        """The same on a device."""
        columns = {name: column.to(device) for name, column in self.columns.items()}
        moved = (self.values.to(device), self.labels.to(device), columns, self.group.to(device))
        return Atlas(*moved, self.groups, self.patients, self.weight.to(device))

    def of_patients(self, patients: Set[str]) -> Tensor:
        """Which rows of the table are theirs, boolean."""
        cases = torch.tensor([patient in patients for patient in self.patients], device=self.group.device)
        return cases[self.columns["case"]]


def held_out(patients: Sequence[str], share: float) -> Set[str]:
    """The patients that are not trained on: of every source of five or more about a share, by what their names hash to.

    The same on every machine; a case that is added moves nobody else.
    """
    sources: Dict[str, Set[str]] = {}
    for patient in patients:
        sources.setdefault(_parted(patient)[0], set()).add(patient)
    large = [own for own in sources.values() if len(own) >= _LEAST_PATIENTS]
    return {patient for own in large for patient in own if chance_of(_parted(patient)) < share}


@dataclass
class _Builder:
    values: List[np.ndarray] = field(default_factory=list)
    labels: List[np.ndarray] = field(default_factory=list)
    rows: List[Dict[str, float]] = field(default_factory=list)
    at: int = 0
    labels_at: int = 0

    def put(self, array: np.ndarray) -> int:
        start = self.at
        self.values.append(np.ascontiguousarray(array).reshape(-1))
        self.at += array.size
        return start

    def put_labels(self, array: np.ndarray) -> int:
        start = self.labels_at
        self.labels.append(np.ascontiguousarray(array, dtype=np.int16).reshape(-1))
        self.labels_at += array.size
        return start


def _parted(patient: str) -> Patient:
    source, _, name = patient.partition("/")
    return source, name


def read_atlas(path: Path, threads: int = 4) -> Atlas:
    """Unpack a file of :func:`write_atlas`, on the CPU.

    Raises:
        QMedSAMError: it is none, is damaged, or holds nothing.
    """
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    try:
        return _read(json.loads(content[8 : 8 + size]), content, 8 + size, threads)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, zlib.error) as error:
        raise QMedSAMError(
            f"'{path.name}' is no atlas, or is damaged.", "Make it again with: qmedsam-train atlas build."
        ) from error


def _read(index: List[Dict[str, Any]], content: bytes, start: int, threads: int) -> Atlas:

    def plane(entry: Dict[str, Any]) -> Plane:
        at = start + entry["at"]
        return Plane(tuple(entry["shape"]), content[at : at + entry["bytes"]], entry["coding"])

    def opened(entry: Dict[str, Any]) -> Tuple[np.ndarray, np.ndarray, List[Tuple[int, np.ndarray]]]:
        regions = [(n, unpack(plane(p), "int16")) for n, p in entry["regions"]]
        return unpack(plane(entry["values"]), "uint8"), unpack(plane(entry["labels"]), "int16"), regions

    builder = _Builder()
    groups: List[str] = []
    counts: Dict[int, int] = {}
    with ThreadPoolExecutor(threads) as pool:
        for number, (entry, (values, labels, regions)) in enumerate(zip(index, pool.map(opened, index))):
            if entry["group"] not in groups:
                groups.append(entry["group"])
            group = groups.index(entry["group"])
            counts[group] = counts.get(group, 0) + 1
            _add(builder, entry, number, group, values, labels, regions)
    if not builder.rows:
        raise ValueError("no object")
    names = list(builder.rows[0])
    table = {name: torch.tensor(np.array([row[name] for row in builder.rows], np.float64)) for name in names}
    columns = {name: column if name in _REAL else column.long() for name, column in table.items()}
    group_of = columns["group"]
    # Regions are a class of their own, so they have weights of their own.
    per_case: Dict[Tuple[int, int], int] = {}
    for row in builder.rows:
        key = (int(row["case"]), int(row["region"]))
        per_case[key] = per_case.get(key, 0) + 1
    weight = torch.tensor(
        [counts[int(r["group"])] ** -0.5 / per_case[(int(r["case"]), int(r["region"]))] for r in builder.rows],
        dtype=torch.float64,
    )
    values_ = torch.from_numpy(np.concatenate(builder.values))
    labels_ = torch.from_numpy(np.concatenate(builder.labels))
    return Atlas(values_, labels_, columns, group_of, groups, [str(entry["patient"]) for entry in index], weight)


#: Columns that are no whole numbers.
_REAL = {"mm_i", "mm_j", "mm_k", "ratio_x", "ratio_y"}


def _add(
    builder: _Builder,
    entry: Dict[str, Any],
    number: int,
    group: int,
    values: np.ndarray,
    labels: np.ndarray,
    regions: List[Tuple[int, np.ndarray]],
) -> None:
    """Rows of a case's objects and regions.

    Columns: ``case``, ``group``, ``is_3d``, ``hounsfield``, ``region``; how many ``levels`` the values have, where each begins
    (``at_0`` ...) with its rows and columns (``rows_0``, ``columns_0`` ...) and what lies between two colours there
    (``colour_0`` ..., 0 for grey); what lies between two slices (``area``); ``ni``, ``nj``, ``nk`` and the spacing ``mm_i`` ...;
    of its labels where they begin (``labels_at``), their ``label_rows`` and ``label_columns``, how many label pixels a pixel
    has (``ratio_x``, ``ratio_y``), the object's ``label`` and its bounds ``i0`` (first) to ``i1`` (one beyond the last),
    ``j0`` ..., in pixels of the labels.
    """
    from scipy import ndimage

    colour = values.ndim == 3 and not entry["is_3d"]
    nk, nj, ni = (1, *values.shape[-2:]) if not entry["is_3d"] else values.shape
    common: Dict[str, float] = {
        "case": number,
        "group": group,
        "is_3d": int(entry["is_3d"]),
        "hounsfield": int(entry["hounsfield"]),
        "ni": ni,
        "nj": nj,
        "nk": nk,
        "area": ni * nj,
    }
    common.update({f"mm_{axis}": mm for axis, mm in zip("ijk", entry["spacing_mm"])})
    pyramid = [values]
    while len(pyramid) < LEVELS and not entry["is_3d"] and min(pyramid[-1].shape[-2:]) >= _LEAST_HALVED:
        pyramid.append(_halved(pyramid[-1]))
    common["levels"] = len(pyramid)
    for n, level in enumerate(pyramid):
        rows, across = level.shape[-2:]
        between = rows * across if colour else 0
        common.update({f"at_{n}": builder.put(level), f"rows_{n}": rows, f"columns_{n}": across, f"colour_{n}": between})
    for n in range(len(pyramid), LEVELS):  # never looked at; a table has every column
        common.update({f"{name}_{n}": common[f"{name}_0"] for name in ("at", "rows", "columns", "colour")})

    def objects(found: np.ndarray, region: bool, k: int) -> None:
        start = builder.put_labels(found)
        rows, across = found.shape[-2:]
        whole = found if found.ndim == 3 else found[None]
        for label, crop in enumerate(ndimage.find_objects(whole), start=1):
            if crop is None:
                continue
            bounds = {f"{axis}{n}": v for axis, s in zip("kji", crop) for n, v in ((0, s.start), (1, s.stop))}
            if region:
                bounds.update(k0=k, k1=k + 1)
            builder.rows.append(
                {
                    **common,
                    "region": int(region),
                    "labels_at": start,
                    "label_rows": rows,
                    "label_columns": across,
                    "ratio_x": across / ni,
                    "ratio_y": rows / nj,
                    "label": label,
                    **bounds,
                }
            )

    objects(labels, False, 0)
    for k, found in regions:
        objects(found, True, k)


def _halved(picture: np.ndarray) -> np.ndarray:
    """Means of two by two pixels; an odd last row or column is left out."""
    rows, columns = (n // 2 for n in picture.shape[-2:])
    quarters = picture[..., : rows * 2, : columns * 2].reshape(*picture.shape[:-2], rows, 2, columns, 2).astype(np.uint16)
    return ((quarters.sum(axis=(-3, -1)) + 2) // 4).astype(np.uint8)
