"""Which files of a folder are volumes, and which boxes and segmentations belong to which of them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Tuple

from .dicom_masks import mask_file
from .kinds import known_kind
from .paths import name_of

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
#: BIDS: the last part of a mask's name, and entities that say which mask it is, not of which image.
_BIDS_MASKS = ("dseg", "mask", "probseg")
_BIDS_OWN = ("desc", "label", "atlas", "seg", "res")
#: Files that are looked into for DICOM before a folder is taken for none.
_LOOKED_AT = 5


@dataclass(frozen=True)
class Neighbours:
    """What lies in a folder; everything by name.

    Attributes:
        volumes: image files, in their order.
        boxes: box files of a volume (a file, or a DICOM folder in this one).
        segmentations: the same for segmentations.
        loose_boxes: box files that no volume's name fits.
    """

    volumes: Dict[Path, None] = field(default_factory=dict)
    boxes: Dict[Path, List[Path]] = field(default_factory=dict)
    segmentations: Dict[Path, List[Path]] = field(default_factory=dict)
    loose_boxes: List[Path] = field(default_factory=list)


def look_into(folder: Path) -> Neighbours:
    """Sort the files of a folder. A companion belongs to the volume with the longest name that its own begins with."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.is_file()]
    series = [path for path in entries if path.is_dir() and holds_dicom(path)]
    objects = [path for path in series if mask_file(path)]  # archives put a SEG into a folder of its own
    series = [path for path in series if path not in objects]
    named = [path for path in files if path.name.lower().endswith(_SEGMENTATIONS) or is_bids_mask(path)] + objects
    images = [path for path in files if path.name.lower().endswith(_IMAGES) and path not in named]
    names = {path: name_of(path) for path in [*images, *series]}  # once: it asks the disk, and a folder may hold thousands
    taken = set(names.values())
    # any beginning: the longest name that fits 'ct_seg_2' may be that of another label map, 'ct_seg'
    labels = dict.fromkeys(
        path for path in images if any(_LABELS.match(names[path][len(cut) :]) for cut in _cuts(names[path]) if cut in taken)
    )
    found = Neighbours(dict.fromkeys(path for path in images if path not in labels))
    owners: Dict[str, Path] = {}
    for path in [*found.volumes, *series]:
        owners.setdefault(names[path], path)
    of_bids = {tuple(sorted(bids_entities(path).items())): path for path in reversed(images) if path.name.startswith("sub-")}
    for path in [*named, *labels]:
        owner = _owner(path, owners) or (_bids_owner(path, of_bids) if is_bids_mask(path) else None)
        if owner is None and path in objects and len(series) == 1:
            owner = series[0]
        if owner:
            found.segmentations.setdefault(owner, []).append(path)
    for path in files:  # a SEG beside its series; the slices of a series lie beside none, and are not opened
        owner = _owner(path, owners) if path.name.lower().endswith(".dcm") else None
        if owner in series and mask_file(path):
            found.segmentations.setdefault(owner, []).append(path)
    for path in files:
        if path.name.lower().endswith(".json") and _holds_boxes(path):
            owner = _owner(path, owners)
            (found.boxes.setdefault(owner, []) if owner else found.loose_boxes).append(path)
    return found


def is_bids_mask(path: Path) -> bool:
    """Whether a file is called as BIDS calls masks: ``sub-01_desc-brain_mask``, ``sub-01_dseg``."""
    return path.name.startswith("sub-") and name_of(path).rpartition("_")[2] in _BIDS_MASKS


def bids_entities(path: Path) -> Dict[str, str]:
    """What a BIDS name says which image it is (``sub``, ``ses``, ``acq``...), without what tells one mask of it from another."""
    parts = (part.partition("-") for part in name_of(path).split("_"))
    return {key: value for key, dash, value in parts if dash and key not in _BIDS_OWN}


def holds_dicom(folder: Path) -> bool:
    """Whether DICOM files lie directly in a folder, also without meta headers; the ``DICOMDIR`` of a CD holds no image."""
    looked = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                known = entry.name.lower().endswith((*_IMAGES, ".json", ".csv", ".txt")) or entry.name.upper() == "DICOMDIR"
                if entry.name.startswith(".") or known or not entry.is_file():
                    continue
                if known_kind(Path(entry.path)) == "dicom":
                    return True
                looked += 1
                if looked == _LOOKED_AT:
                    break
    except OSError:
        return False
    return False


def _owner(path: Path, owners: Mapping[str, Path]) -> Optional[Path]:
    return next((owners[cut] for cut in _cuts(name_of(path)) if cut in owners), None)


def _bids_owner(path: Path, images: Mapping[Tuple[Tuple[str, str], ...], Path]) -> Optional[Path]:
    own = {key: value for key, value in bids_entities(path).items() if key != "space" or value not in ("orig", "individual")}
    return images.get(tuple(sorted(own.items())))


def _cuts(name: str) -> Iterator[str]:
    """What a volume may be called to which a file belongs: the whole name and all before any separator, the longest first."""
    yield name
    yield from (name[:n] for n in range(len(name) - 1, 0, -1) if name[n] in _SEPARATORS)


def _holds_boxes(path: Path) -> bool:
    """Not so the metadata that dcm2niix and BIDS put beside an image; a damaged file is taken for boxes and fails as such."""
    if path.name.lower().endswith(".mrk.json"):
        return True
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError):
        return True
    return isinstance(content, list) or (isinstance(content, dict) and bool({"boxes", "markups"} & content.keys()))
