"""Which files of a folder are volumes, and which boxes and segmentations belong to which of them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from ..files import name_of

#: Suffixes of files that may be volumes; others are only looked at as parts of a DICOM folder.
_IMAGES = (
    *(".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".npz"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
)
#: Suffixes of segmentations that are never volumes.
_SEGMENTATIONS = (".seg.nrrd", ".seg.nii.gz", ".seg.nii")
#: What follows a volume's name in the name of its label map.
_LABELS = re.compile(r"[-_. ](segs?|segmentation|labels?|labelmap|masks?|truth)($|[-_. \d])", re.IGNORECASE)
_SEPARATORS = "-_. "
#: Files that are looked into for DICOM's mark before a folder is taken for none.
_LOOKED_AT = 5


@dataclass(frozen=True)
class Neighbours:
    """What lies in a folder; everything by name.

    Attributes:
        volumes: image files.
        boxes: box files of a volume (a file, or a DICOM folder in this one).
        segmentations: the same for segmentations.
        loose_boxes: box files that no volume's name fits.
    """

    volumes: List[Path] = field(default_factory=list)
    boxes: Dict[Path, List[Path]] = field(default_factory=dict)
    segmentations: Dict[Path, List[Path]] = field(default_factory=dict)
    loose_boxes: List[Path] = field(default_factory=list)


def look_into(folder: Path) -> Neighbours:
    """Sort the files of a folder. A companion belongs to the volume with the longest name that its own begins with."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.is_file()]
    series = [path for path in entries if path.is_dir() and holds_dicom(path)]
    named = [path for path in files if path.name.lower().endswith(_SEGMENTATIONS)]
    images = [path for path in files if path.name.lower().endswith(_IMAGES) and path not in named]
    found = Neighbours()
    labels = set()
    for path in images:
        # any of them: the longest name that fits 'ct_seg_2' may be that of another label map, 'ct_seg'
        fits = _fitting(path, [p for p in [*images, *series] if p != path])
        if any(_LABELS.match(name_of(path)[len(name_of(owner)) :]) for owner in fits):
            labels.add(path)
    found.volumes.extend(path for path in images if path not in labels)
    owners = [*found.volumes, *series]
    for path in [*named, *sorted(labels)]:
        owner = _owner(path, owners)
        if owner:
            found.segmentations.setdefault(owner, []).append(path)
    for path in files:
        if path.name.lower().endswith(".json") and _holds_boxes(path):
            owner = _owner(path, owners)
            (found.boxes.setdefault(owner, []) if owner else found.loose_boxes).append(path)
    return found


def holds_dicom(folder: Path) -> bool:
    """Whether DICOM files lie directly in a folder; the directory of a CD (``DICOMDIR``) holds no image."""
    looked = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                known = entry.name.lower().endswith((*_IMAGES, ".json", ".csv", ".txt")) or entry.name.upper() == "DICOMDIR"
                if entry.name.startswith(".") or known or not entry.is_file():
                    continue
                with open(entry.path, "rb") as stream:
                    if stream.read(132)[128:] == b"DICM":
                        return True
                looked += 1
                if looked == _LOOKED_AT:
                    break
    except OSError:
        return False
    return False


def _owner(path: Path, volumes: Sequence[Path]) -> Optional[Path]:
    return max(_fitting(path, volumes), key=lambda v: len(name_of(v)), default=None)


def _fitting(path: Path, volumes: Sequence[Path]) -> List[Path]:
    name = name_of(path)
    return [v for v in volumes if name.startswith(name_of(v)) and name[len(name_of(v)) :][:1] in ("", *_SEPARATORS)]


def _holds_boxes(path: Path) -> bool:
    """Not so the metadata that dcm2niix and BIDS put beside an image; a damaged file is taken for boxes and fails as such."""
    if path.name.lower().endswith(".mrk.json"):
        return True
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError):
        return True
    return isinstance(content, list) or (isinstance(content, dict) and bool({"boxes", "markups"} & content.keys()))
