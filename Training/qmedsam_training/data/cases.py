"""Labelled cases (a manifest's, or pairs of image and label map in folders), and every object on every usable slice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence, Tuple, Union, cast

import numpy as np
from qmedsam import QMedSAMError, Volume
from qmedsam.evaluation.cases import Case, case_of, components, read_manifest
from qmedsam.files.labelled import LabelMap
from qmedsam.files.layouts import Pair
from qmedsam.files.layouts import paired as pairs_of_folders
from qmedsam.frames import Frame
from qmedsam.geometry import View
from qmedsam.intensity import Intensity, known_modality

from ..config import DataConfig, FolderConfig
from .splitting import held_out
from .volumes import VolumeCache

#: Sources whose targets a box cannot prompt (thin lines, hardly visible ones); the data's own README names them.
NOT_PROMPTABLE = ("fives", "hvdropdb_ridge", "cpaisd_stroke")
#: A slice is listed when it holds this many pixels of an object, and this share of what the fullest slice holds.
_LEAST_AREA, _LEAST_SHARE = 12, 0.02
#: Fewest rows and columns of a slice: a volume that is thinner along an axis is looked at along the others alone.
_LEAST_SIDE = 8


@dataclass(frozen=True)
class Target:
    """One object on one slice."""

    case: int
    view_axis: int
    index: int
    component: int


@dataclass(frozen=True)
class Loaded:
    """A case in memory. ``parts``: masks of its objects' crops, and the crops in kji."""

    volume: Volume
    intensity: Intensity
    parts: List[Tuple[np.ndarray, Tuple[slice, ...]]]

    @classmethod
    def of(cls, case: Case) -> Loaded:
        volume, labels = case.load()
        return cls(volume, Intensity.of(volume, volume.modality), _parts_of(case, labels))

    def axes(self, is_3d: bool) -> List[int]:
        """Those whose slices a box can be drawn on."""
        views = [View.of(self.volume, axis) for axis in ((0, 1, 2) if is_3d else (2,))]
        return [view.axis for view in views if min(view.shape_yx) >= _LEAST_SIDE]

    @property
    def bytes(self) -> int:
        return self.volume.array_kji.nbytes + sum(mask.nbytes for mask, _ in self.parts)


class Cases:
    """Labelled cases with every object on every usable slice listed; volumes stay in a bounded cache.

    Args:
        cases: rows of a manifest, or pairs from folders.
        slices_per_object: how many slices of a 3D object are listed per view (evenly spread); 2D has its one.
        cache_mib: of volumes kept in memory.

    Attributes:
        targets: per group, per case, what can be prompted.
        skipped: cases that could not be read, with the reason.
    """

    def __init__(self, cases: Sequence[Case], slices_per_object: int = 24, cache_mib: float = 1024) -> None:
        self.cases = list(cases)
        self.cache: VolumeCache[Loaded] = VolumeCache(
            lambda n: Loaded.of(self.cases[cast(int, n)]), lambda loaded: loaded.bytes, cache_mib
        )
        self._bytes = 0
        self.targets: Dict[str, List[List[Target]]] = {}
        self.skipped: List[Tuple[str, str]] = []
        for number, case in enumerate(self.cases):
            try:
                loaded = Loaded.of(case)
            except QMedSAMError as error:
                self.skipped.append((case.case_id, str(error)))
                continue
            is_3d = case.is_3d and loaded.volume.shape_ijk[2] > 1
            self.cases[number] = replace(case, is_3d=is_3d)  # a folder's pictures were taken for volumes
            self._bytes += loaded.bytes
            if not self.cache.full:  # workers are forked: what is here they all share
                self.cache.keep(number, loaded)
            targets = [
                Target(number, axis, index, c)
                for c, (mask, crop) in enumerate(loaded.parts)
                for axis in loaded.axes(is_3d)
                for index in _usable(mask, crop, axis, slices_per_object)
            ]
            if targets:
                self.targets.setdefault(case.group, []).append(targets)

    def to_come(self, forked: bool) -> int:
        """Bytes by which a process's cache still grows: a worker's where the one that it shares does not hold all."""
        return 0 if not forked or self._bytes <= self.cache.bytes else min(self._bytes, self.cache.limit)

    def view(self, target: Target) -> View:
        """Of the target's slice."""
        return View.of(self.cache[target.case].volume, target.view_axis)

    def pixels(self, target: Target, view: View) -> np.ndarray:
        """The target's slice as it is stored."""
        return view.slice_of(self.cache[target.case].volume.array_kji, target.index)

    def intensity(self, target: Target) -> Intensity:
        """Of the target's volume."""
        return self.cache[target.case].intensity

    def draw(self, target: Target, view: View, frame: Frame) -> Tuple[np.ndarray, np.ndarray]:
        """The target's slice through a frame, in 0..1, and the pixels on the slice; as the engine does it."""
        return frame.sample(self.pixels(target, view), self.intensity(target).apply)

    def mask(self, target: Target, view: View, first: Optional[int] = None, last: Optional[int] = None) -> np.ndarray:
        """The object on the target's slice, or its projection onto it from the slices ``first..last`` (both included)."""
        part, crop = self.cache[target.case].parts[target.component]
        out = np.zeros(view.shape_yx, np.float32)
        along = 2 - target.view_axis
        start = (target.index if first is None else first) - crop[along].start
        stop = (target.index if last is None else last) - crop[along].start + 1
        window = [slice(None)] * 3
        window[along] = slice(max(start, 0), max(stop, 0))
        rest = [crop[a] for a in (0, 1, 2) if a != along]
        out[rest[0], rest[1]] = part[tuple(window)].any(axis=along)
        return out

    def span(self, target: Target) -> Tuple[int, int]:
        """First and last slice of the object in the target's view."""
        crop = self.cache[target.case].parts[target.component][1][2 - target.view_axis]
        return crop.start, crop.stop - 1

    def others(self, target: Target) -> List[Target]:
        """Other objects on the same slice."""
        return [
            replace(target, component=c)
            for c, (_, crop) in enumerate(self.cache[target.case].parts)
            if c != target.component and crop[2 - target.view_axis].start <= target.index < crop[2 - target.view_axis].stop
        ]


#: Objects of every label map that this process has searched, as bits: folds load the same cases again, and a cache forgets.
_SEARCHED: Dict[Tuple[Case, int], List[Tuple[np.ndarray, Tuple[int, ...], Tuple[slice, ...]]]] = {}


def _parts_of(case: Case, labels: Union[LabelMap, np.ndarray]) -> List[Tuple[np.ndarray, Tuple[slice, ...]]]:
    """The objects of a label map; searched for once, as every label costs a pass over the volume."""
    key = (replace(case, split=""), case.mask.stat().st_mtime_ns)
    if key not in _SEARCHED:
        found = components(labels, case.is_3d and len(labels) > 1)
        _SEARCHED[key] = [(np.packbits(mask), mask.shape, crop) for _, mask, crop in found]
    return [
        (np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool), crop) for bits, shape, crop in _SEARCHED[key]
    ]


def _usable(mask: np.ndarray, crop: Tuple[slice, ...], axis: int, count: int) -> List[int]:
    """Slices along an ijk axis that hold enough of an object, at most ``count``, evenly spread."""
    along = 2 - axis
    area = mask.sum(axis=tuple(a for a in (0, 1, 2) if a != along))
    usable = np.flatnonzero(area >= max(_LEAST_AREA, _LEAST_SHARE * area.max()))
    if not len(usable):  # a thin object, seen along an axis that never shows much of it
        return []
    return [int(s) + crop[along].start for s in usable[np.unique(np.linspace(0, len(usable) - 1, count).astype(int))]]


def labelled_cases(config: DataConfig, split: str = "train") -> List[Case]:
    """Every promptable case that a configuration names; folders belong to the split ``train``.

    Raises:
        QMedSAMError: a manifest or folder without cases, or a split that is not there.
    """
    cases = read_manifest(config.manifest, split) if config.manifest else []
    if split == "train":
        for folder in config.folders:
            cases += paired(folder)
    elif not config.manifest:
        raise QMedSAMError(f"Folders of images have no split '{split}'.", "There are 'held-out' and 'train'.")
    return [case for case in cases if case.source not in NOT_PROMPTABLE]


def paired(folder: FolderConfig) -> List[Case]:
    """Images and label maps of the same name; ``liver_03_0000.nii.gz`` belongs to ``liver_03.nii.gz``.

    Raises:
        QMedSAMError: a folder is missing, no pair was found, or a label map has no image.
    """
    source, modality = folder.source or folder.images.resolve().parent.name, known_modality(folder.modality)
    pairs = pairs_of_folders(folder.images, folder.labels)
    if not pairs:
        raise QMedSAMError(
            f"No image in '{folder.images}' has a label map of its name in '{folder.labels}'.",
            "Pairs have the same name; nnU-Net's _0000 may follow the image's.",
        )
    return [case_of(Pair(*pair, split="train"), source, modality) for pair in pairs]


def patients_of(cases: Sequence[Case]) -> Dict[str, List[str]]:
    """Of every source."""
    patients: Dict[str, List[str]] = {}
    for case in cases:
        patients.setdefault(case.source, []).append(case.patient_id)
    return patients


def split_off(cases: Sequence[Case], config: DataConfig) -> Tuple[List[Case], List[Case]]:
    """Cut a part of the training cases off by patient, to select checkpoints on. Deterministic."""
    away = held_out(patients_of(cases), config)
    kept: List[Case] = []
    held: List[Case] = []
    for case in cases:
        (held if (case.source, case.patient_id) in away else kept).append(case)
    return kept, held
