"""The cases of a folder, read by the engine's one reader, and the targets in them: what their segments are called."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np
from qmedsam import QMedSAMError
from qmedsam.errors import shown
from qmedsam.evaluation.cases import MIN_PIXELS_2D, MIN_VOXELS_3D, Case, components, read_manifest
from qmedsam.files.dicom_masks import codes_of_segments, mask_file
from qmedsam.files.labelled import LabelMap
from qmedsam.files.nrrd import read_nrrd_header
from qmedsam.terminology import code_of_tags, folded

from ..data.splitting import chance_of
from .settings import FEW, LEAST

#: Cases from which on one part is held out once; below all are held out in turn.
_FOLDS = 3


@dataclass(frozen=True)
class Taught:
    """A case to learn from.

    Attributes:
        number: from 1; what reports and cards call it.
        case: with the names of its labels complete.
        digests: of the contents of its image and its mask.
        voxels: of its image.
        objects: how many it has of each target.
    """

    number: int
    case: Case
    digests: Tuple[str, str]
    voxels: int
    objects: Mapping[str, int]

    @property
    def key(self) -> str:
        """Changes when one of its files does, or how they are understood."""
        about = (self.case.modality, self.case.is_3d, self.case.names, self.digests)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    @property
    def patient(self) -> Tuple[str, str]:
        """Whose it is."""
        return self.case.source, self.case.patient_id


@dataclass(frozen=True)
class Lessons:
    """All that is learned from.

    Attributes:
        cases: readable ones with at least one object.
        codes: of each target, in standard terminologies, as far as files say them.
        notes: on what was understood and left out, a sentence each.
    """

    cases: Sequence[Taught]
    codes: Mapping[str, Sequence[str]]
    notes: Sequence[str] = field(default=())

    @property
    def targets(self) -> List[str]:
        """Names, in alphabetic order."""
        return sorted({target for case in self.cases for target in case.objects})

    @property
    def is_3d(self) -> bool:
        """Volumes, or pictures."""
        return self.cases[0].case.is_3d

    @property
    def modalities(self) -> List[str]:
        """Of the cases; empty where one has none that is known."""
        found = {taught.case.modality for taught in self.cases}
        return [] if "" in found else sorted(found)

    def objects(self, target: str) -> Tuple[int, int]:
        """How many of a target there are, and in how many cases."""
        counts = [case.objects.get(target, 0) for case in self.cases]
        return sum(counts), sum(count > 0 for count in counts)

    def folds(self) -> List[Set[Tuple[str, str]]]:
        """The patients that are held out together, in turn; each is in one of them."""
        patients = sorted({case.patient for case in self.cases}, key=chance_of)
        return [set(patients[n::_FOLDS]) for n in range(min(_FOLDS, len(patients)))]


def read_lessons(
    paths: Sequence[Path],
    names: Optional[Mapping[int, str]] = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Lessons:
    """The labelled cases of folders or lists, joined.

    An image that is there several times is one patient's, and a case that is there twice counts once: what was learned from
    must not be among what is held out.

    Args:
        paths: each whatever :func:`qmedsam.evaluation.cases.read_manifest` takes; of a list with splits its split ``train``.
        names: of label values, for masks that do not name them; 0: of all others.
        told: called with done and total cases.

    Raises:
        QMedSAMError: fewer than :data:`.settings.LEAST` patients, pictures among volumes, targets whose names differ by case or
            blanks alone, or nothing readable at all.
    """
    cases = [case for number, path in enumerate(paths, start=1) for case in _listed(path, number if len(paths) > 1 else 0)]
    usable: List[Taught] = []
    notes: List[str] = []
    spelled: Dict[str, str] = {}
    codes: Dict[str, Set[str]] = {}
    for done, case in enumerate(cases):
        told(done, len(cases))
        try:
            one, said = read_case(case, len(usable) + 1, dict(names or {}))
        except QMedSAMError as error:
            notes.append(f"Left out '{shown(case.case_id)}': {error}")
            continue
        notes += said
        if not one.objects:
            least = f"{MIN_VOXELS_3D} voxels" if one.case.is_3d else f"{MIN_PIXELS_2D} pixels"
            notes.append(f"Left out '{shown(case.case_id)}': none of its segments has an object of at least {least}.")
            continue
        for target in one.objects:
            first = spelled.setdefault(folded(target), target)
            if first != target:
                raise QMedSAMError(
                    f"The targets '{shown(first)}' and '{shown(target)}' have names that differ by capitals or blanks alone.",
                    "Give them one name where they are the same structure, else clearly different ones.",
                )
        for target, code in _codes(one.case).items():
            codes.setdefault(target, set()).add(code)
        usable.append(one)
    told(len(cases), len(cases))
    usable = _joined(usable, notes)
    _check(usable, notes, paths)
    return Lessons(usable, {target: sorted(found) for target, found in codes.items()}, notes)


def _listed(path: Path, number: int) -> List[Case]:
    """Of a folder or list; ``number``: of several, whose patients are others though they may be called alike."""
    cases = read_manifest(path)
    if any(case.split for case in cases):
        cases = [case for case in cases if case.split in ("", "train")]
    if not number:
        return cases
    place = (path if path.is_dir() else path.absolute().parent).resolve().name
    return [replace(case, case_id=f"{place}/{case.case_id}", source=f"{number}/{case.source}") for case in cases]


def _joined(cases: Sequence[Taught], notes: List[str]) -> List[Taught]:
    """Without cases that are there twice, and with one patient for one image."""
    result: List[Taught] = []
    first: Dict[Tuple[str, ...], Taught] = {}
    same: Dict[Tuple[str, str], Tuple[str, str]] = {}

    def owner(patient: Tuple[str, str]) -> Tuple[str, str]:
        while patient in same:
            patient = same[patient]
        return patient

    for one in cases:
        twin = first.get(one.digests)
        if twin is not None:
            notes.append(f"Left out '{shown(one.case.case_id)}': it is '{shown(twin.case.case_id)}' again.")
            continue
        other = first.setdefault(one.digests[:1], one)
        if owner(other.patient) != owner(one.patient):
            same[owner(one.patient)] = owner(other.patient)
            notes.append(f"'{shown(one.case.case_id)}' has the image of '{shown(other.case.case_id)}': held out together.")
        first[one.digests] = one
        result.append(replace(one, number=len(result) + 1))
    owners = [owner(one.patient) for one in result]
    return [replace(one, case=replace(one.case, source=a, patient_id=b)) for one, (a, b) in zip(result, owners)]


def labels_of(case: Case, labels: LabelMap) -> Dict[int, str]:
    """What each label of a case is called, its own names before the list's."""
    return {**dict(case.names), **labels.names}


def read_case(case: Case, number: int, names: Mapping[int, str]) -> Tuple[Taught, List[str]]:
    """A case with its objects counted, and notes on how it was understood.

    Raises:
        QMedSAMError: it cannot be read.
    """
    volume, labels = case.load()
    is_3d = case.is_3d and len(volume.array_kji) > 1
    called = {**{value: text for value, text in labels_of(case, labels).items() if text.strip()}, **names}
    values = sorted({int(value) for layer in labels.layers for value in np.unique(layer) if value})
    called = {value: (called.get(value) or names.get(0, f"label {value}")).strip() for value in values}
    case = replace(case, is_3d=is_3d, modality=volume.modality, names=tuple(called.items()))
    counts = Counter(called[label] for label, _, _ in components(labels, is_3d))
    notes = [f"'{shown(case.case_id)}': {note}" for note in labels.notes]
    return Taught(number, case, (_digest(case.image), _digest(case.mask)), volume.array_kji.size, dict(counts)), notes


def _digest(place: Path) -> str:
    """Of a file's content, or that of all files of a folder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else (place,):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _codes(case: Case) -> Dict[str, str]:
    """Of the segments of a ``.seg.nrrd`` or DICOM SEG, by their names."""
    targets = {name for _, name in case.names}
    if not case.mask.name.lower().endswith(".seg.nrrd"):
        seg = mask_file(case.mask)
        found = codes_of_segments(seg) if seg else {}
        return {name: code for name, code in found.items() if name in targets}
    keys = read_nrrd_header(case.mask).keys
    found = {}
    for key, name in keys.items():
        number, _, field_ = key.partition("_")
        code = code_of_tags(keys.get(f"{number}_Tags", "")) if field_ == "Name" and number.startswith("Segment") else ""
        if code and name.strip() in targets:
            found[name.strip()] = code
    return found


def _check(cases: Sequence[Taught], notes: Sequence[str], paths: Sequence[Path]) -> None:
    if not cases:
        where = " and ".join(f"'{path}'" for path in paths)
        raise QMedSAMError(
            f"{where} {'hold' if len(paths) > 1 else 'holds'} no case to learn from.",
            notes[0] if notes else "Put volumes and segmentations there.",
        )
    flat = [taught.number for taught in cases if not taught.case.is_3d]
    if 0 < len(flat) < len(cases):
        raise QMedSAMError(
            f"{len(flat)} of the {len(cases)} cases are single pictures and the others are volumes.",
            "Teach them apart: each in a folder of its own.",
        )
    patients = len({taught.patient for taught in cases})
    if patients < LEAST:
        left = f" {len(notes)} were left out or come with a note; the first: {notes[0]}" if notes else ""
        raise QMedSAMError(
            f"{patients} usable case{'' if patients == 1 else 's'} cannot both teach and show what was learned.{left}",
            f"Add cases of other patients: {LEAST} at least, {FEW} are a good start.",
        )
