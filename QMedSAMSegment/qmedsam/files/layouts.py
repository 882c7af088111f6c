"""Folders and lists of images with their masks as others lay them out: nnU-Net, Decathlon, MONAI, BIDS, two folders of pairs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ..errors import QMedSAMError
from ..intensity import MODALITIES
from .neighbours import bids_entities, holds_dicom, is_bids_mask, look_into
from .paths import name_of

#: Folder of images and folder of masks beside it, in small letters, and the split that their names tell.
_FOLDERS = (
    ("imagestr", "labelstr", "train"),
    ("imagesval", "labelsval", "validation"),
    ("imagests", "labelsts", "test"),
    ("images", "labels", ""),
    ("images", "masks", ""),
    ("images", "segmentations", ""),
    ("image", "label", ""),
    ("image", "mask", ""),
    ("imgs", "masks", ""),
)
_SPLITS = {
    **dict.fromkeys(("training", "train"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_IMAGE_KEYS, _MASK_KEYS = ("image", "images", "img"), ("label", "mask", "seg", "segmentation", "labels")
#: What a mask's name has beyond its image's, and nnU-Net's first channel.
_MASK_END = re.compile(r"[-_. ]?(segs?|segmentation|labels?|labelmap|masks?|truth|gt)$", re.IGNORECASE)
_CHANNEL = re.compile(r"_0000$")
#: Sequences of MR, as channels are called.
_MR = re.compile(r"(t1|t2|flair|adc|dwi|pd|swi|mri?)", re.IGNORECASE)
#: Of several BIDS images that a mask may belong to, the first.
_BIDS_IMAGES = ("T1w", "T2w", "FLAIR", "ct", "CT", "pet")
_BIDS_MODALITIES = {"ct": "CT", "pet": "PET"}
_SHOWN = 3


@dataclass(frozen=True)
class Pair:
    """An image and a mask of it.

    Attributes:
        name: says which it is.
        image: file or DICOM folder.
        mask: whatever :func:`~qmedsam.files.labelled.read_label_map` takes.
        modality: as in manifests; ``""`` where nothing says it.
        split: ``train``, ``validation``, ``test`` or ``""``.
        patient: whose it is.
        names: of the labels.
    """

    name: str
    image: Path
    mask: Path
    modality: str = ""
    split: str = ""
    patient: str = ""
    names: Tuple[Tuple[int, str], ...] = ()


def pairs_of(path: Path) -> Optional[List[Pair]]:
    """The pairs of a folder or of a list in JSON; None where neither is laid out in a known way.

    Known are a ``dataset.json`` of nnU-Net or of the Medical Segmentation Decathlon (the file or its folder), other data
    lists of MONAI, BIDS with derivatives, and two folders (``imagesTr`` and ``labelsTr``, ``images`` and ``masks`` and so on).
    Of several channels the first is the image.

    Raises:
        QMedSAMError: a list or folder of that kind without a pair, or with masks whose image is missing.
    """
    if path.is_file():
        content = _json(path)
        return None if content is None else _listed(path, content)
    if not path.is_dir():
        return None
    listed = path / "dataset.json"
    if listed.is_file():
        found = pairs_of(listed)
        if found is not None:
            return found
    if (path / "dataset_description.json").is_file() or any(p.is_dir() and p.name.startswith("sub-") for p in path.iterdir()):
        return _bids(path)
    return _two_folders(path) or None


def beside(path: Path) -> List[Pair]:
    """Images with one segmentation beside them under their name, in a folder and those below it."""
    pairs = []
    for folder in [path, *sorted(p for p in path.rglob("*") if p.is_dir() and not p.name.startswith("."))]:
        for image, masks in look_into(folder).segmentations.items():
            if len(masks) == 1:
                pairs.append(Pair((image.parent.relative_to(path) / name_of(image)).as_posix(), image, masks[0]))
    return pairs


def paired(images: Path, masks: Path) -> List[Tuple[str, Path, Path]]:
    """Images and masks of two folders by name: ``name, image, mask``.

    A mask has the image's name, or that without nnU-Net's ``_0000``, or a word for a mask behind it. The whole name counts
    first: pairs may be numbered from ``_0000`` on.

    Raises:
        QMedSAMError: a folder is missing, or a mask has no image (an image without a mask is just not labelled).
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise QMedSAMError(f"There is no folder '{folder}'.", "Correct its path.")
    whole = {name_of(p): p for p in _visible(images)}
    first = {_CHANNEL.sub("", name): p for name, p in whole.items() if _CHANNEL.search(name)}
    found, alone = [], []
    for mask in _visible(masks):
        name = name_of(mask)
        short = _MASK_END.sub("", name)
        image = whole.get(name) or first.get(name) or whole.get(short) or first.get(short)
        (alone.append(mask.name) if image is None else found.append((name, image, mask)))
    if alone:
        raise QMedSAMError(
            f"{_some(alone)} in '{masks}' {'has' if len(alone) == 1 else 'have'} no image of the same name in '{images}'.",
            "Pairs have the same name (nnU-Net's _0000 may follow the image's, _mask the mask's). Move masks without one away.",
        )
    return found


def _visible(folder: Path) -> List[Path]:
    files = [p for p in folder.iterdir() if not p.name.startswith(".") and p.suffix.lower() not in (".json", ".txt", ".csv")]
    return sorted(p for p in files if p.is_file() or holds_dicom(p))


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _json(path: Path) -> Any:
    if path.suffix.lower() != ".json":
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError):
        return None


def _listed(path: Path, content: Any) -> Optional[List[Pair]]:
    """Pairs of a data list; None where it is some other JSON."""
    base = path.parent
    about = content if isinstance(content, Mapping) else {}
    if isinstance(content, list):
        lists = {"": content} if content and all(isinstance(e, Mapping) and _first(e, _MASK_KEYS) for e in content) else {}
    else:
        lists = {key: about[key] for key in about if key in _SPLITS and isinstance(about[key], list)}
    names, modality = _label_names(about.get("labels")), _modality(about.get("channel_names", about.get("modality")))
    pairs = []
    for key, entries in lists.items():
        for entry in entries:
            image, mask = (_first(entry, keys) if isinstance(entry, Mapping) else None for keys in (_IMAGE_KEYS, _MASK_KEYS))
            if isinstance(image, str) and isinstance(mask, str):
                source = _channel(base / image)
                pairs.append(Pair(name_of(base / image), source, base / mask, modality, _SPLITS.get(key, "")))
    if not lists and isinstance(about.get("dataset"), Mapping):  # nnU-Net with files of any name
        for name, entry in about["dataset"].items():
            image, mask = _first(entry, ("images",)), _first(entry, ("label",))
            if isinstance(image, str) and isinstance(mask, str):
                pairs.append(Pair(name, base / image, base / mask, modality, "train"))
    elif not lists and ("channel_names" in about or "file_ending" in about):
        pairs = [replace(pair, modality=modality) for pair in _two_folders(base)]
    elif not lists:
        return None
    pairs = [replace(pair, names=names, patient=pair.name) for pair in pairs]
    if not pairs:
        raise QMedSAMError(f"'{path.name}' lists no image with a mask.", "Each entry names an 'image' and a 'label'.")
    return _unique(pairs)


def _first(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value = next((entry[key] for key in keys if key in entry), None)
    return value[0] if isinstance(value, list) and value else value


def _channel(image: Path) -> Path:
    """The file, or nnU-Net's first channel of it: its list leaves the number out."""
    name = name_of(image)
    numbered = image.with_name(f"{name}_0000{image.name[len(name) :]}")
    return numbered if not image.exists() and numbered.exists() else image


def _label_names(labels: Any) -> Tuple[Tuple[int, str], ...]:
    """``{"liver": 1}`` (nnU-Net) or ``{"1": "liver"}`` (Decathlon); regions of several labels are no names of one."""
    found = []
    for key, value in labels.items() if isinstance(labels, Mapping) else ():
        name, number = (key, value) if isinstance(value, int) else (value, key)
        if isinstance(name, str) and str(number).isdecimal() and int(number) > 0:
            found.append((int(number), name))
    return tuple(sorted(found))


def _modality(channels: Any) -> str:
    first = channels.get("0", "") if isinstance(channels, Mapping) else channels
    word = str(first or "").strip()
    return MODALITIES.get(word.upper(), "MR" if _MR.match(word) else "")


def _two_folders(path: Path) -> List[Pair]:
    folders = {p.name.lower(): p for p in path.iterdir() if p.is_dir()}
    pairs = []
    for images, masks, split in _FOLDERS:
        if images in folders and masks in folders:
            found = paired(folders[images], folders[masks])
            pairs += [Pair(_MASK_END.sub("", name) or name, image, mask, "", split) for name, image, mask in found]
    return _unique([replace(pair, patient=pair.name) for pair in pairs])


def _unique(pairs: List[Pair]) -> List[Pair]:
    """With names that differ: the same name in two splits gets the split's before it."""
    seen: Dict[str, int] = {}
    for pair in pairs:
        seen[pair.name] = seen.get(pair.name, 0) + 1
    result, count = [], {}  # type: ignore[var-annotated]
    for pair in pairs:
        name = f"{pair.split}/{pair.name}" if seen[pair.name] > 1 and pair.split else pair.name
        count[name] = count.get(name, 0) + 1
        result.append(replace(pair, name=f"{name} ({count[name]})" if count[name] > 1 else name))
    return result


def _bids(root: Path) -> List[Pair]:
    """Every mask with the image that has its entities; of several the first of :data:`_BIDS_IMAGES`."""
    images: Dict[str, List[Path]] = {}
    masks = []
    for path in _bids_files(root):
        if is_bids_mask(path):
            if not name_of(path).endswith("_probseg"):
                masks.append(path)
        else:
            images.setdefault(bids_entities(path).get("sub", ""), []).append(path)
    pairs = []
    for mask in masks:
        own = bids_entities(mask)
        fitting = [p for p in images.get(own.get("sub", ""), []) if _fits(bids_entities(p), own)]
        if fitting:
            image = min(fitting, key=lambda p: _rank(p, mask))
            suffix = name_of(image).rpartition("_")[2]
            modality = _BIDS_MODALITIES.get(suffix.lower(), "MR" if image.parent.name in ("anat", "dwi", "func", "perf") else "")
            pairs.append(Pair(name_of(mask), image, mask, modality, "", "sub-" + own["sub"]))
    return _unique(pairs)


def _bids_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("sub-*")):
        if path.name.lower().endswith((".nii.gz", ".nii")) and path.is_file() and "_" in path.name:
            yield path


def _fits(image: Mapping[str, str], mask: Mapping[str, str]) -> bool:
    """Whether all that an image's name says is also said by the mask's, and both lie in one space."""
    if any(mask.get(key) != value for key, value in image.items() if key not in ("desc", "suffix", "space", "res")):
        return False
    space = mask.get("space", "")
    return image.get("space", "") == ("" if space in ("orig", "individual", "T1w", "T2w") else space)


def _rank(image: Path, mask: Path) -> Tuple[bool, int, int, str]:
    suffix = name_of(image).rpartition("_")[2]
    order = _BIDS_IMAGES.index(suffix) if suffix in _BIDS_IMAGES else len(_BIDS_IMAGES)
    space = bids_entities(mask).get("space", "")
    # the more entities the image shares, the nearer it is
    return suffix != space and image.parent != mask.parent, -len(bids_entities(image)), order, image.as_posix()
